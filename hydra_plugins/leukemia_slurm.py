"""`hydra/launcher=slurm`: run a sweep as one array of SLURM jobs, one device per job.

hydra-submitit-launcher submits the jobs. The code here waits for them. It reads their results and the queue, because
small clusters have no accounting. A job that ends without a result does not stop the others.
"""

import logging
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)
EVERY = 5.0  # seconds between two checks of the results; every sixth check asks the queue too
LATE = 60.0  # seconds until a result is visible through a shared file system


class SlurmLauncher(Launcher):
    """Submits a sweep and waits for it. Its settings: conf/hydra/launcher/slurm.yaml."""

    def __init__(self, requeue_killed: int = 3, **settings: Any) -> None:
        self.requeue_killed = requeue_killed
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from leukemia.errors import InputError

        try:
            from hydra_plugins.hydra_submitit_launcher.submitit_launcher import (
                SlurmLauncher as SubmititLauncher,
            )
        except ImportError:
            raise InputError("hydra/launcher=slurm needs an extra: pip install 'leukemia[slurm]'") from None
        if (self.settings.get("gpus_per_node") or 0) > 1:
            raise InputError(
                f"hydra.launcher.gpus_per_node={self.settings['gpus_per_node']}: a job of a sweep uses one device; "
                "use 1, or null on a cluster without GPUs"
            )
        self.config = config
        self.launcher = SubmititLauncher(**self.settings)
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        executor = self._executor()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        state = Singleton.get_state()
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, str(number), state)
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        jobs = executor.map_array(Job(self.launcher), *zip(*arguments, strict=True))
        array = jobs[0].job_id.partition("_")[0]
        log.info(
            "%d jobs are submitted as %s; their logs are in %s", len(jobs), array, executor.folder.parent
        )
        try:
            return _results(jobs, array)
        except (SystemExit, KeyboardInterrupt):
            log.info("the jobs continue: watch them with `leukemia report`, end them with: scancel %s", array)
            raise

    def _executor(self) -> Any:
        import submitit

        settings: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in self.settings.items()
        }
        folder = settings.pop("submitit_folder")
        executor = submitit.AutoExecutor(
            folder=folder, cluster="slurm", slurm_max_num_timeout=settings.pop("max_num_timeout")
        )
        common = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "stderr_to_stdout")
        settings["setup"] = [*(settings.get("setup") or []), self._requeue_if_killed()]
        settings["additional_parameters"] = {"requeue": True, **(settings.get("additional_parameters") or {})}
        executor.update_parameters(
            tasks_per_node=1,
            nodes=1,
            **{key if key in common else f"slurm_{key}": value for key, value in settings.items()},
        )
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        return executor

    def _requeue_if_killed(self) -> str:
        """A line of the job's script: queue the job again if a signal killed its process and nobody ended the job."""
        return (
            f'trap \'code=$?; if [ $code -gt 128 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.requeue_killed} ] '
            '&& [ "$(squeue -h -o %T -j $SLURM_JOB_ID)" = RUNNING ]; then scontrol requeue $SLURM_JOB_ID; fi; '
            "exit $code' EXIT"
        )


class Job:
    """The content of one SLURM job: one run of the sweep, which answers SIGTERM as every run does."""

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher

    def __call__(self, *arguments: Any) -> JobReturn:
        from leukemia.train import prepare_process

        prepare_process()
        return self.launcher(*arguments)

    def checkpoint(self, *arguments: Any) -> Any:
        """For submitit, when the time is out: queue the same job again. It continues from last.ckpt."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _results(jobs: Sequence[Any], array: str) -> list[JobReturn]:
    """Wait for the jobs. A job that ends without a result gives None."""
    results: dict[str, JobReturn] = {}
    missing_since: dict[str, float] = {}
    look = 0
    while len(results) < len(jobs):
        before = len(results)
        queued = _queued(array) if look % 6 == 0 else None
        for job in jobs:
            if job.job_id in results:
                continue
            if job.paths.result_pickle.exists():
                results[job.job_id] = _result(job)
            elif queued is not None and job.job_id in queued:
                missing_since.pop(job.job_id, None)
            elif queued is not None:
                since = missing_since.setdefault(job.job_id, time.monotonic())
                if time.monotonic() - since > LATE:
                    log.warning("job %s ended without a result: see its log", job.job_id)
                    results[job.job_id] = JobReturn()
        if len(results) > before:
            log.info("%d of %d jobs have ended", len(results), len(jobs))
        if len(results) < len(jobs):
            time.sleep(EVERY)
        look += 1
    for result in results.values():
        if result.status != JobStatus.COMPLETED:  # the run's folder holds its status
            result.status, result.return_value = JobStatus.COMPLETED, None
    return [results[job.job_id] for job in jobs]


def _result(job: Any) -> JobReturn:
    try:
        return job.results()[0]
    except Exception as error:  # of submitit, with the message of the job
        log.warning("job %s: %s", job.job_id, error)
        return JobReturn()


def _queued(array: str) -> set[str] | None:
    """The ids of the array's jobs that wait or run; None if SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return set() if "Invalid job id" in done.stderr else None
    return set(done.stdout.split())
