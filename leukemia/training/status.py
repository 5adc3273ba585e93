"""status.json: the state of a run, and each session's time, machine, devices, threads and versions."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from leukemia.errors import InputError
from leukemia.runs import Run, Sweep

PACKAGES = ("leukemia", "torch", "torchvision", "pytorch-lightning", "hydra-core", "torchmetrics", "numpy")


@contextmanager
def recorded(run: Run, hardware: dict[str, Any]) -> Iterator[None]:
    """Keep status.json true while the run goes on, and when it ends in whatever way.

    Args:
        run: that starts or goes on.
        hardware: that this session trains with, for `sessions`, which tells each start apart.
    """
    earlier = run.status if (run.folder / "status.json").is_file() else {}
    import torch  # here, because a sweep's callback needs the rest without

    before, sessions = earlier.get("seconds") or 0.0, earlier.get("sessions") or []
    started = time.time()
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        **hardware,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "job": slurm_job(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }

    def write(status: str, error: str | None = None) -> None:
        seconds = time.time() - started
        # A killed session has no end.
        ended = None if status == "running" else time.strftime("%Y-%m-%dT%H:%M:%S%z")
        this = {**session, "ended": ended, "seconds": ended and round(seconds, 1)}
        told = {"status": status, "error": error, "finished": ended, "seconds": round(before + seconds, 1),
                "sessions": [*sessions, this]}  # fmt: skip
        try:
            run.write_json("status.json", told)
        except InputError:
            if status == "running":
                raise
            _overwrite(run.folder / "status.json", told)

    write("running")
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        write("interrupted")
        raise
    except BaseException as error:
        write("failed", f"{type(error).__name__}: {error}")
        raise
    write("done")


def slurm_job() -> str | None:
    """The SLURM job that this process belongs to; it keeps its number when it is queued again."""
    return os.environ.get("SLURM_JOB_ID")


def begun_by_this_job(run: Run) -> bool:
    """Whether a run was begun by the SLURM job of this process, which was then queued again."""
    if slurm_job() is None or not (run.folder / "status.json").is_file():
        return False
    sessions = run.status.get("sessions") or [{}]
    return bool(sessions[-1].get("job") == slurm_job())


def record_refusal(run: Run, config: dict[str, Any], error: Exception) -> None:
    """Let a run that was refused before it began be seen in its sweep's report; a run that is there stays."""
    if not (run.folder / "status.json").exists():
        run.write_config(config)
        run.write_json("status.json", {"status": "failed", "error": f"{type(error).__name__}: {error}"})


def best_monitored(run: Run) -> float | None:
    """The monitored metric of a finished run at its best epoch; None where there is none."""
    try:
        monitor = run.config["monitor"]
        return float(run.history.set_index("epoch").loc[run.metrics["best_epoch"], monitor])
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _overwrite(path: Path, told: dict[str, Any]) -> None:
    """On a full disk the block that the file has already is all there is to write to."""
    if not path.is_symlink():
        with suppress(OSError), open(path, "r+", encoding="utf-8") as file:
            file.write(json.dumps(told))
            file.truncate()


def time_left(sweep: Sweep, number: int) -> float | None:
    """The seconds that a sweep will take from its run of this number (from 0) on, if those to come take as long as
    those that are done; None where none is."""
    planned = sweep.planned
    seconds = {run.name: _seconds_if_done(run) for run in sweep.begun if run.name in planned}
    taken = [spent for spent in seconds.values() if spent is not None]
    to_come = [name for name in planned[number:] if seconds.get(name) is None]
    return len(to_come) * sum(taken) / len(taken) if taken else None


def _seconds_if_done(run: Run) -> float | None:
    try:
        status = run.status
    except InputError:
        return None
    seconds = status.get("seconds")
    return float(seconds) if status["status"] == "done" and isinstance(seconds, int | float) else None
