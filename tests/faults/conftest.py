"""Faults are injected into child processes. They are forked from a process with all imports, so they start at once."""

import multiprocessing
import os
import runpy
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
import torch

from leukemia.config import compose
from leukemia.models.checkpoint import read_checkpoint
from leukemia.runs import Run
from leukemia.training.run import train

INJECTED = str(Path(__file__).with_name("injected.py"))
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "leukemia.training.run",
        "leukemia.training.sweep",
        "leukemia.reporting.html",
        "pytorch_lightning.loggers",
    ]
)


@pytest.fixture
def start(tmp_path, cache) -> Iterator[Callable[..., tuple[BaseProcess, Path]]]:
    """Start `leukemia-train` with a fault of injected.py. Return the process and the file of its output."""
    started = []

    def call(fault: str, *overrides: object) -> tuple[BaseProcess, Path]:
        said = tmp_path / f"said-{len(started)}"
        arguments = (str(said), os.environ["LEUKEMIA_CACHE"], fault, *map(str, overrides))
        process = CONTEXT.Process(
            target=runpy.run_path, args=(INJECTED,), kwargs={"init_globals": {"ARGUMENTS": arguments}}
        )
        process.start()
        started.append(process)
        return process, said

    yield call
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def run_with(start) -> Callable[..., tuple[int, str]]:
    """Run `leukemia-train` with a fault. Return its exit code (negative: the signal that killed it) and its output."""

    def call(fault: str, *overrides: object) -> tuple[int, str]:
        process, said = start(fault, *overrides)
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode, said.read_text(errors="replace")

    return call


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mount a disk with these options and return its folder. Skip the test where mounting is not allowed."""
    mounted = []

    def mount(*options: str, name: str = "disk") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        if not any("remount" in option for option in options):
            mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def command(demo_root) -> Callable[..., list[str]]:
    """Overrides of a run of three epochs with a feature cache."""

    def of(*more: object) -> list[str]:
        return [
            f"data.root={demo_root}",
            "data.image_size=32",
            "data.batch_size=16",
            "data.augment=d4",
            "model.net.weights=none",
            "model.trainable_from=head",
            "trainer=cpu",
            "trainer.precision=32-true",
            "trainer.max_epochs=3",
            *map(str, more),
        ]

    return of


@pytest.fixture(scope="session")
def undisturbed(command, tmp_path_factory) -> Run:
    """The run of `command`, undisturbed."""
    return train(compose(command()), tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Run, Run], None]:
    """Compare two runs: the same weights, history, predictions and metrics, to the bit."""

    def compare(one: Run, other: Run) -> None:
        one, other = Run(one.folder), Run(other.folder)
        first, second = (read_checkpoint(run.last_checkpoint)["state_dict"] for run in (one, other))
        assert all(torch.equal(first[name], second[name]) for name in first)
        pd.testing.assert_frame_equal(one.history, other.history)
        pd.testing.assert_frame_equal(one.predictions, other.predictions)
        assert one.metrics == other.metrics
        assert one.status["status"] == other.status["status"] == "done"

    return compare
