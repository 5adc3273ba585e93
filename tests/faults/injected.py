"""Run in a process of its own: redirect the output, inject a fault, and call `leukemia-train`."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def main(said: str, cache: str, fault: str, *overrides: str) -> None:
    os.environ["LEUKEMIA_CACHE"] = cache
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
    torch.set_num_threads(1)
    kind, _, where = fault.partition(" ")
    FAULTS[kind](where)
    from leukemia.train import main as train

    sys.argv = ["leukemia-train", *overrides]
    train()


def no_fault(_: str) -> None:
    pass


def killed_before(name: str) -> None:
    """Before a complete file replaces the old one."""
    replace = os.replace

    def killed(source: Any, target: Any, **others: Any) -> None:
        if Path(target).name == name:
            die()
        replace(source, target, **others)

    os.replace = killed


def killed_in_half_of(name: str) -> None:
    """In the middle of writing the checkpoint of the second epoch."""
    save = torch.save

    def half(content: dict[str, Any], file: Any) -> None:
        save(content, file)
        if f"/.{name}." in os.readlink(f"/proc/self/fd/{file.fileno()}") and len(content["history"]) == 2:
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            die()

    torch.save = half


def killed_at(function: str) -> None:
    """At the nth call of a function, as `leukemia.data.pixels.fit:50`."""
    place, _, number = function.partition(":")
    module, _, name = place.rpartition(".")
    owner = _named(module)
    real, calls = getattr(owner, name), iter(range(1, 10**6))

    def killed(*arguments: Any, **others: Any) -> Any:
        if next(calls) == int(number):
            die()
        return real(*arguments, **others)

    setattr(owner, name, killed)


def less_memory(megabytes: str) -> None:
    """Limit the address space to the current size and this many megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(megabytes) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def waiting(file: str) -> None:
    """Wait in training until a file exists."""
    import time

    from leukemia.models.classifier import CellClassifier

    step = CellClassifier.training_step

    def slow(self: Any, batch: Any, number: int) -> Any:
        Path(f"{file}.trains").touch()
        while not Path(file).exists():
            time.sleep(0.02)
        return step(self, batch, number)

    CellClassifier.training_step = slow


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _named(dotted: str) -> Any:
    import importlib

    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


FAULTS: dict[str, Callable[[str], None]] = {
    "none": no_fault,
    "before": killed_before,
    "half": killed_in_half_of,
    "at": killed_at,
    "memory": less_memory,
    "waiting": waiting,
}

main(*ARGUMENTS)  # type: ignore[name-defined]  # noqa: F821  set by the test
