"""A real SLURM on this machine during the tests of this folder: two nodes by name, no accounting."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a job that was queued again waits
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=tests Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=node[1-2] MaxTime=INFINITE State=UP PriorityTier=2
"""


@dataclass(frozen=True)
class Slurm:
    """A running SLURM: its folder, and the environment for its commands."""

    folder: Path
    environment: dict[str, str]

    def call(self, *command: str) -> str:
        """Run one of its commands and return the output."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr, self.logs())
        return done.stdout

    def logs(self) -> str:
        """The last lines of its daemons."""
        return "\n".join(
            f"{path.name}: {line}"
            for path in sorted(self.folder.glob("*.log"))
            for line in path.read_text(errors="replace").splitlines()[-15:]
        )


@pytest.fixture(scope="session")
def slurm(cache) -> Iterator[Slurm]:
    """A SLURM of two nodes with two processors each, in a temporary folder. Both nodes are this machine."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if lacking := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        pytest.skip(
            f"SLURM is not installed here ({', '.join(lacking)} missing): apt-get install slurm-wlm munge"
        )
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons run as root, and these tests do not")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    host = socket.gethostname().partition(".")[0]
    ports = dict(zip(("controller_port", "first_port", "second_port"), _free_ports(3), strict=True))
    for name in ("state", "spool-node1", "spool-node2"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, **ports))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    running = Slurm(folder, {name: text for name, text in environment.items() if name not in _OF_OTHER_RUNS})
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D", "-N", "node1"],
            ["slurmd", "-D", "-N", "node2"],
        ):
            if command[0] != "munged":
                _wait_for((folder / "munge.socket").exists, running)
            with open(folder / f"{command[0]}-{len(daemons)}.out.log", "w") as output:
                daemons.append(
                    subprocess.Popen(command, env=running.environment, stdout=output, stderr=output)
                )
        _wait_for(lambda: _sinfo(running).split() == ["node1", "idle", "node2", "idle"], running)
        yield running
        subprocess.run(["scancel", "--user=root"], env=running.environment, timeout=60, check=False)
        _wait_for(lambda: not running.call("squeue", "-h").strip(), running)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


_OF_OTHER_RUNS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTEST_CURRENT_TEST")


def _sinfo(slurm: Slurm) -> str:
    done = subprocess.run(
        ["sinfo", "--Node", "-h", "-p", "tests", "-o", "%N %T"],
        env=slurm.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout


def _wait_for(ready, slurm: Slurm, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"SLURM is not ready after {seconds} seconds:\n{slurm.logs()}")
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
