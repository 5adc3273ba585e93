"""A sweep on a real SLURM: jobs that are killed, preempted or out of time continue and end as undisturbed ones."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from leukemia.reporting.results import read_status, results_table
from leukemia.reporting.summary import states
from leukemia.runs import Run, Sweep

pytestmark = pytest.mark.slurm
GRID = ("model.trainable_from=head,layer4", "seed=0,1")
JOBS = (
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=20",
    "hydra.launcher.array_parallelism=2",
)
TRAIN = (sys.executable, "-m", "leukemia.train", "-m")


@pytest.fixture
def sweep(small) -> list[str]:
    """Four runs, long enough to be interrupted."""
    return [
        *small,
        *GRID,
        "trainer.max_epochs=30",
        "callbacks.early_stopping.patience=100",
        "data.augment=full",
    ]


@pytest.mark.timeout(900)
def test_jobs_killed_preempted_and_out_of_time_end_with_the_numbers_of_an_undisturbed_sweep(
    slurm, sweep, tmp_path
):
    environment = {**slurm.environment, "LEUKEMIA_CACHE": str(tmp_path / "cache")}
    # With resume=restart too, a job that is queued again continues.
    command = [*TRAIN, *sweep, *JOBS, f"hydra.sweep.dir={tmp_path}/jobs", "resume=restart"]
    with open(tmp_path / "output", "w") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        jobs = tmp_path / "jobs"
        first, second, third, _ = wait_for(lambda: Sweep(jobs).planned, tmp_path, slurm)
        builders = set()

        def both_trained() -> bool:
            builders.update(path.name for path in (tmp_path / "cache").glob(".pixels-*.tmp-*"))
            return all(trained_epochs(jobs / name) > 1 for name in (first, second))

        wait_for(both_trained, tmp_path, slurm)
        assert len(builders) <= 1
        assert states(results_table(Sweep(jobs))) == "4 runs: 2 running, 2 pending"

        array = slurm.call("squeue", "-h", "-o", "%F").split()[0]
        process_of(array, 0).send_signal(signal.SIGKILL)
        slurm.call("scontrol", "requeue", f"{array}_1")
        cut = [trained_epochs(jobs / name) for name in (first, second)]
        assert all(number < 30 for number in cut), "they were done before they were cut"
        wait_for(lambda: read_status(Run(jobs / second))["status"] == "interrupted", tmp_path, slurm)
        wait_for(lambda: trained_epochs(jobs / third) > 1, tmp_path, slurm)
        slurm.call("scancel", "--signal=USR2", f"{array}_2")  # what a job gets whose time is nearly out
        assert started.wait(600) == 0, (tmp_path / "output").read_text()
    finally:
        started.terminate()
        started.wait(30)
    assert (jobs / "report.html").is_file()
    assert [read_status(run)["status"] for run in Sweep(jobs).runs] == ["done"] * 4
    assert told(jobs).count(" goes on") == 3
    assert told(jobs).count(" starts") == 4
    assert len(list((tmp_path / "cache").glob("pixels-*"))) == 1

    assert_same_as_undisturbed(Sweep(jobs), sweep, tmp_path)


@pytest.mark.timeout(900)
def test_jobs_that_slurm_itself_preempts_or_ends_for_their_time_go_on(slurm, sweep, tmp_path):
    sweep, jobs = [*sweep, "model.trainable_from=layer4", "trainer.max_epochs=60"], tmp_path / "jobs"
    short = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10"]
    with open(tmp_path / "output", "w") as output:
        started = subprocess.Popen(
            [*TRAIN, *sweep, *JOBS, *short, f"hydra.sweep.dir={jobs}"],
            env=slurm.environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        first, second = wait_for(lambda: Sweep(jobs).planned, tmp_path, slurm)
        wait_for(lambda: all(trained_epochs(jobs / name) > 1 for name in (first, second)), tmp_path, slurm)
        slurm.call("sbatch", "--partition=urgent", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1")
        wait_for(lambda: told(jobs).count(" goes on") == 2, tmp_path, slurm)
        assert told(jobs).count("DUE TO PREEMPTION") >= 2
        assert told(jobs).count("SIGTERM: the run is left after this step") >= 2  # which has its checkpoint
        # A suspended process cannot answer, so SLURM ends the job.
        process_of(slurm.call("squeue", "-h", "-o", "%F").split()[0], 0).suspend()
        assert trained_epochs(jobs / first) < 60
        wait_for(lambda: "this job is timed-out" in told(jobs), tmp_path, slurm)
        assert started.wait(600) == 0, (tmp_path / "output").read_text()
    finally:
        started.terminate()
        started.wait(30)
    assert told(jobs).count(" goes on") >= 3
    assert told(jobs).count(" starts") == 2
    assert_same_as_undisturbed(Sweep(jobs), sweep, tmp_path)


def assert_same_as_undisturbed(sweep: Sweep, settings, tmp_path) -> None:
    undisturbed = [*TRAIN, *settings, f"hydra.sweep.dir={tmp_path}/here"]
    subprocess.run(undisturbed, env=dict(os.environ), check=True, timeout=600, stdout=subprocess.DEVNULL)
    for name in sweep.planned:
        here, there = Run(tmp_path / "here" / name), Run(sweep.folder / name)
        pd.testing.assert_frame_equal(here.history, there.history)
        pd.testing.assert_frame_equal(here.predictions, there.predictions)
        assert here.metrics == there.metrics


def told(jobs) -> str:
    """The output of a sweep's jobs."""
    return "".join(path.read_text() for path in (jobs / ".submitit").rglob("*_log.out"))


def trained_epochs(folder) -> int:
    return len(Run(folder).history) if (folder / "history.csv").is_file() else 0


def process_of(array: str, task: int) -> psutil.Process:
    """The process that trains in a job of an array."""
    for process in psutil.process_iter():
        try:
            environment, command = process.environ(), process.cmdline()
        except psutil.Error:
            continue
        if (
            (environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID"))
            == (array, str(task))
            and "submitit.core._submit" in command
            and "srun" not in command[0]
        ):
            return process
    raise AssertionError(f"no process of job {array}_{task}")


def wait_for(found, tmp_path, slurm, seconds: float = 300):
    """Wait until `found` is true and return its value."""
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            logs = [path.read_text()[-2000:] for path in tmp_path.rglob("*_log.*")]
            pytest.fail(
                "\n".join([(tmp_path / "output").read_text(), *logs, slurm.call("squeue"), slurm.logs()])
            )
        time.sleep(0.05)
    return value
