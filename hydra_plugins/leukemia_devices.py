"""`hydra/launcher=devices`: run a sweep's jobs side by side on this machine, one device per job.

Other launchers do not fit. joblib's does not assign devices, and one killed process ends its sweep. submitit's local
launcher starts all jobs at once on the same devices.
"""

import logging
import multiprocessing
import os
import re
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from filelock import FileLock, Timeout
from hydra import version
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from leukemia.storage.cores import cores

log = logging.getLogger(__name__)
SPAWN = multiprocessing.get_context("spawn")
LOOK = 2.0  # seconds between two checks of devices that other sweeps use
LEAVE = 60.0  # seconds that a run may take to end when the sweep ends


class DeviceLauncher(Launcher):
    """Runs a sweep on the devices of this machine. Its settings: conf/hydra/launcher/devices.yaml."""

    def __init__(self, devices: int | str = "auto") -> None:
        self.devices = devices

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        places = places_for(self.devices)
        logs = Path(self.config.hydra.sweep.dir).absolute() / ".logs"
        logs.mkdir(parents=True, exist_ok=True)
        where = ", ".join(place.name for place in places)
        log.info("%d runs on %s; their output is in %s", len(job_overrides), where, logs)
        waiting = deque(range(len(job_overrides)))
        running: dict[int, Running] = {}
        returns: dict[int, JobReturn] = {}
        try:
            while waiting or running:
                for place in places:
                    if waiting and place.take():
                        index = waiting.popleft()
                        number, overrides = initial_job_idx + index, list(job_overrides[index])
                        running[index] = self._start(place, number, overrides, logs / f"run-{number + 1}.log")
                        log.info("run %d starts on %s", number + 1, place.name)
                ends = [run.process.sentinel for run in running.values()]
                wait(ends, timeout=LOOK if waiting else None) if ends else threading.Event().wait(LOOK)
                for index, run in list(running.items()):
                    if not run.process.is_alive():
                        returns[index] = running.pop(index).end()
                        code = run.process.exitcode
                        how = "has ended" if code == 0 else f"was ended ({_how(code)})"
                        log.info(
                            "run %d %s; %d of %d",
                            initial_job_idx + index + 1,
                            how,
                            len(returns),
                            len(job_overrides),
                        )
        finally:
            for run in running.values():
                run.process.terminate()
            for run in running.values():
                run.process.join(LEAVE)
                run.process.kill()
                run.end()
        return [returns[index] for index in range(len(job_overrides))]

    def _start(self, place: "Place", number: int, overrides: list[str], output: Path) -> "Running":
        receiver, sender = SPAWN.Pipe(duplex=False)
        arguments = (self.hydra_context, self.config, overrides, number, output, sender)
        process = SPAWN.Process(target=run_in_child, args=arguments, name=f"run {number + 1}")
        with _environment(place.environment):
            process.start()
        sender.close()
        return Running(process, receiver, place, overrides)


@dataclass
class Place:
    """One device, or one share of the processor. It takes one run at a time.

    Attributes:
        name: for people.
        environment: environment variables of the run's process.
        lock: held during a run, so that another sweep on this machine takes another device; None for the processor.
    """

    name: str
    environment: dict[str, str]
    lock: FileLock | None = None
    taken: bool = False

    def take(self) -> bool:
        """Take the place; False if it is in use."""
        if self.taken:
            return False
        try:
            if self.lock is not None:
                self.lock.acquire(timeout=0)
        except Timeout:
            return False
        self.taken = True
        return True

    def free(self) -> None:
        self.taken = False
        if self.lock is not None:
            self.lock.release()


@dataclass
class Running:
    """A run in its process."""

    process: SpawnProcess
    receiver: Connection
    place: Place
    overrides: list[str]

    def end(self) -> JobReturn:
        """Free the place and return the run's result, which is None if its process was killed."""
        value = None
        try:
            if self.receiver.poll():
                value = self.receiver.recv()
        except EOFError:
            pass
        self.process.join()
        self.receiver.close()
        self.place.free()
        result = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        result.return_value = value
        return result


def places_for(devices: int | str) -> list[Place]:
    """The places of a sweep: each GPU that CUDA_VISIBLE_DEVICES shows, or shares of the processor.

    Args:
        devices: how many; `auto` means all GPUs, or one place on the processor.

    Raises:
        InputError: if `devices` is not a positive number, or is more than the number of GPUs.
    """
    import torch

    from leukemia.errors import InputError

    if devices != "auto" and (not isinstance(devices, int) or devices < 1):
        raise InputError(f"hydra.launcher.devices={devices}: use auto or a number from 1 up")
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    gpus = list(dict.fromkeys(named))[:count] if named else [str(index) for index in range(count)]
    if gpus:
        if devices != "auto" and int(devices) > len(gpus):
            raise InputError(
                f"hydra.launcher.devices={devices}, and {len(gpus)} GPUs are visible: a device takes one run"
            )
        chosen = gpus if devices == "auto" else gpus[: int(devices)]
        return [Place(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name}, _lock(name)) for name in chosen]
    number = 1 if devices == "auto" else int(devices)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // number))}
    return [Place(f"processor share {k + 1} of {number}", threads) for k in range(number)]


def run_in_child(
    hydra_context: HydraContext,
    config: DictConfig,
    overrides: list[str],
    number: int,
    output: Path,
    sender: Connection,
) -> None:
    """Run one job of the sweep in this process, which ends when the sweep's process ends."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    from leukemia.train import prepare_process, run_hydra_job

    prepare_process()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(version, "base_at_least"):  # Hydra 1.3; 1.4 has one behaviour
        version.setbase("1.3")
    setup_globals()
    Plugins.instance()  # registers the plugins' configurations
    job_config = hydra_context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id, job_config.hydra.job.num = str(number), number
    done = run_job(
        hydra_context=hydra_context,
        task_function=run_hydra_job,
        config=job_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    sender.send(done.return_value)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _lock(name: str) -> FileLock:
    file = f"leukemia-device-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.lock"
    return FileLock(Path(tempfile.gettempdir()) / file, mode=0o666)


def _how(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
