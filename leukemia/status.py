"""status.json: what a run is doing, or how it ended, and on which machine with which versions."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import torch

from leukemia.errors import InputError
from leukemia.runs import Run

PACKAGES = ("leukemia", "torch", "torchvision", "pytorch-lightning", "hydra-core", "torchmetrics", "numpy")


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Keep status.json true while the run goes on, and when it ends in whatever way."""
    before = run.status.get("seconds", 0.0) if (run.folder / "status.json").is_file() else 0.0
    started = time.time()
    facts = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }

    def write(status: str, error: str | None = None) -> None:
        seconds = round(before + time.time() - started, 1)
        finished = None if status == "running" else time.strftime("%Y-%m-%dT%H:%M:%S%z")
        run.write_json(
            "status.json",
            {"status": status, "error": error, **facts, "finished": finished, "seconds": seconds},
        )

    write("running")
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        with suppress(InputError):  # on a full disk it stays `running`
            write("interrupted")
        raise
    except BaseException as error:
        with suppress(InputError):
            write("failed", f"{type(error).__name__}: {error}")
        raise
    write("done")


def record_refusal(run: Run, config: dict[str, Any], error: Exception) -> None:
    """Let a run that was refused before it began be seen in its sweep's report; a run that is there stays."""
    if not (run.folder / "status.json").exists():
        run.write_config(config)
        run.write_json("status.json", {"status": "failed", "error": f"{type(error).__name__}: {error}"})
