"""Faults are injected into processes of their own, forked from one that has imported everything: they start at once."""

import multiprocessing
import os
import runpy
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

INJECTED = str(Path(__file__).with_name("injected.py"))
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["leukemia.train", "leukemia.reporting.html", "pytorch_lightning.loggers"])


@pytest.fixture
def start(tmp_path, cache) -> Iterator[Callable[..., tuple[BaseProcess, Path]]]:
    """Start `leukemia-train` with a fault of injected.py: the process, and the file that its output goes to."""
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
    """`leukemia-train` with a fault; its exit code (negative: the signal that killed it) and its output."""

    def call(fault: str, *overrides: object) -> tuple[int, str]:
        process, said = start(fault, *overrides)
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode, said.read_text(errors="replace")

    return call


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mount a disk in memory, of a size as `2m`: its folder. Also `ro` binds; skips where nothing can be mounted."""
    mounted = []

    def mount(*options: str, name: str = "disk") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def command(demo_root) -> Callable[..., list[str]]:
    """Overrides of a run of three epochs on stored activations."""

    def of(*more: object) -> list[str]:
        return [
            f"data.root={demo_root}",
            "data.image_size=32",
            "data.batch_size=16",
            "data.augment=views",
            "model.weights=none",
            "model.trainable_from=head",
            "trainer=cpu",
            "trainer.precision=32-true",
            "trainer.max_epochs=3",
            *map(str, more),
        ]

    return of


@pytest.fixture(scope="session")
def undisturbed(demo_root, tmp_path_factory):
    """What `command` gives."""
    from leukemia.config import compose
    from leukemia.train import train

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return train(compose(command.__wrapped__(demo_root)()), folder)
