"""A sweep on SLURM, without SLURM: scripts stand for its commands. tests/slurm runs sweeps on a real one."""

import os
import subprocess
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins import leukemia_slurm
from hydra_plugins.leukemia_slurm import SlurmLauncher
from leukemia.errors import InputError


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Call it with a shell line per command: these scripts come first on the PATH. No wait is long."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(leukemia_slurm, "EVERY", 0.0)
    monkeypatch.setattr(leukemia_slurm, "LATE", 0.0)

    def write(**scripts: str) -> None:
        for name, line in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)

    return write


def job(folder, number: int, result: JobReturn | None = None):
    """A job of the array 7, as submitit hands it out; with a result it has ended."""
    pickle = folder / f"7_{number}_result.pkl"
    if result is not None:
        pickle.touch()
    paths = SimpleNamespace(result_pickle=pickle)
    return SimpleNamespace(job_id=f"7_{number}", paths=paths, results=lambda: [result])


def done(value: float) -> JobReturn:
    returned = JobReturn(status=JobStatus.COMPLETED)
    returned.return_value = value
    return returned


def test_a_sweep_is_one_array_of_jobs_with_one_task_and_the_settings_of_the_launcher(
    slurm, leukemia_train, small, tmp_path
):
    slurm(sbatch="echo Submitted batch job 7", srun="", squeue="echo Invalid job id >&2; exit 1")
    code, out, err = leukemia_train(
        "-m", *small, "seed=0,1,2", "hydra/launcher=slurm", "hydra.launcher.partition=gpu",
        "hydra.launcher.array_parallelism=2", "hydra.launcher.timeout_min=30", "hydra.launcher.mem_gb=5",
        "hydra.launcher.setup=[module load cuda]", f"hydra.sweep.dir={tmp_path}/sweep",
    )  # fmt: skip
    assert code == 1
    assert "3 jobs are submitted as 7" in out
    assert err.count("failed: ") == 3  # they ended without a result
    (script,) = (tmp_path / "sweep" / ".submitit").rglob("*_submission.sh")
    lines = script.read_text().splitlines()
    wanted = (
        "array=0-2%2",
        "partition=gpu",
        "time=30",
        "mem=5GB",
        "gpus-per-node=1",
        "requeue",
        "ntasks-per-node=1",
    )
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
    assert lines.index("module load cuda") < lines.index(SlurmLauncher()._requeue_if_killed())


@pytest.mark.parametrize(
    ("code", "state", "restarts", "requeued"),
    [
        (137, "RUNNING", 0, True),
        (137, "RUNNING", 3, False),  # often enough
        (1, "RUNNING", 0, False),  # the run has failed
        (143, "COMPLETING", 0, False),  # scancel, or its time is out
    ],
)
def test_a_job_whose_process_was_killed_is_queued_again_three_times(
    slurm, tmp_path, code, state, restarts, requeued
):
    slurm(squeue=f"echo {state}", scontrol=f"echo $* > {tmp_path}/scontrol")
    script = f"{SlurmLauncher(requeue_killed=3)._requeue_if_killed()}\nexit {code}"
    environment = {**os.environ, "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts)}
    assert subprocess.run(["bash", "-c", script], env=environment).returncode == code
    assert (tmp_path / "scontrol").exists() == requeued
    assert not requeued or (tmp_path / "scontrol").read_text() == "requeue 12\n"


def test_a_job_that_ends_without_a_result_or_fails_does_not_stop_the_others(slurm, tmp_path, caplog):
    slurm(squeue="echo 7_0")
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = ValueError("wrong")
    waiting = job(tmp_path, 0)
    calls = iter(range(100))
    waiting.paths = SimpleNamespace(result_pickle=SimpleNamespace(exists=lambda: next(calls) > 8))
    waiting.results = lambda: [done(0.25)]
    returns = leukemia_slurm._results(
        [waiting, job(tmp_path, 1), job(tmp_path, 2, failed), job(tmp_path, 3, done(0.5))], "7"
    )
    assert [returned.return_value for returned in returns] == [0.25, None, None, 0.5]
    assert "job 7_1 ended without a result" in caplog.text


def test_a_queue_that_does_not_answer_ends_no_job(slurm):
    slurm(squeue="echo Unable to contact slurm controller >&2; exit 1")
    assert leukemia_slurm._queued("7") is None
    slurm(squeue="echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert leukemia_slurm._queued("7") == set()


def test_several_gpus_for_one_job_are_refused():
    with pytest.raises(InputError, match=r"gpus_per_node=4.*uses one device; use 1"):
        SlurmLauncher(gpus_per_node=4).setup(hydra_context=None, task_function=None, config=None)
