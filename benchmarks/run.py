"""Images a second in training: this package, a plain Lightning loop, and the limit, side by side.

`make bench` writes benchmarks/results.md. A contender is a function that trains on the training cells of one
synthetic set and gives the seconds of each epoch, from its data set-up on.
"""

import argparse
import logging
import os
import platform
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from unittest.mock import patch

import pandas as pd
import plain_loop
import pytorch_lightning as pl
import torch
from torch.nn import functional

import leukemia
from leukemia.cache import cache_dir
from leukemia.models.precision import resolve_precision

POLICIES = ("head", "layer4", "stem")
BATCH_SIZE, LR, REPEATS = 32, 3e-4, 3
RESULTS = Path(__file__).with_name("results.md")


@dataclass(frozen=True)
class Task:
    """What all contenders do; the precision is that of the package and of the limit."""

    root: Path
    cells: pd.DataFrame
    epochs: int
    size: int
    device: str
    precision: str

    def trainer(self, precision: str, clock: "Clock") -> pl.Trainer:
        of_task = {"max_epochs": self.epochs, "accelerator": self.device, "devices": 1}
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        given = {"precision": precision, "callbacks": [clock], "limit_val_batches": 0}
        return pl.Trainer(**of_task, **given, **dict.fromkeys(off, False))


class Clock(pl.Callback):
    """Starts when it is made, and takes the seconds of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.mark = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        before, self.mark = self.mark, time.perf_counter()
        self.epochs.append(self.mark - before)


def package(task: Task, policy: str) -> list[float]:
    model = leukemia.CellClassifier(18, policy, weights="none", lr=LR)
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, LEUKEMIA_CACHE=empty):
        clock = Clock()
        data = leukemia.CellDataModule(str(task.root), image_size=task.size, batch_size=BATCH_SIZE)
        task.trainer(task.precision, clock).fit(model, datamodule=data)
    return clock.epochs


def plain(task: Task, policy: str) -> list[float]:
    model = plain_loop.PlainClassifier(policy, LR)
    clock = Clock()
    paths = [task.root / path for path in task.cells["path"]]
    batches = plain_loop.loader(paths, task.cells["label"].tolist(), task.size, BATCH_SIZE)
    task.trainer("32-true", clock).fit(model, batches)
    return clock.epochs


def limit(task: Task, policy: str) -> list[float]:
    model = leukemia.CellClassifier(18, policy, weights="none", lr=LR).to(task.device).train()
    optimizer = model.configure_optimizers()
    pixels = torch.randint(256, (BATCH_SIZE, task.size, task.size, 3), dtype=torch.uint8).to(task.device)
    labels = torch.ones(BATCH_SIZE, device=task.device)
    mixed = torch.autocast(task.device, torch.bfloat16, enabled="bf16" in task.precision)
    clock = Clock()
    for _ in range(task.epochs):
        for first in range(0, len(task.cells), BATCH_SIZE):
            count = min(BATCH_SIZE, len(task.cells) - first)
            with mixed:
                logits = model(pixels[:count])
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(logits.float(), labels[:count]).backward()
            optimizer.step()
        clock.on_train_epoch_end()
    return clock.epochs


CONTENDERS = {"this package": package, "plain Lightning loop": plain, "limit": limit}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training, and write benchmarks/results.md.")
    for name, default in (("images", 240), ("epochs", 2), ("size", 224)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    root = cache_dir() / f"demo-{options.images}"
    if not root.exists():
        leukemia.write_demo(root, images=options.images)
    index = leukemia.read_index(root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision("auto", device)
    task = Task(root, index[index["split"] == "train"], options.epochs, options.size, device, precision)
    for path in index["path"]:
        (root / path).read_bytes()  # so that nobody is the first to read the disk
    limit(task, "head")  # warms up

    seconds: dict[tuple[str, str], list[list[float]]] = {}
    for repeat in range(1, REPEATS + 1):
        for policy in POLICIES:
            for name, contender in CONTENDERS.items():
                pl.seed_everything(0, verbose=False)
                taken = contender(task, policy)
                seconds.setdefault((policy, name), []).append(taken)
                print(f"{repeat}/{REPEATS} {policy:7}{name:21}", *(f"{s:8.2f} s" for s in taken), flush=True)
    page = results(task, seconds)
    RESULTS.write_text(page, encoding="utf-8")
    print(page, RESULTS, sep="\n")


def results(task: Task, seconds: dict[tuple[str, str], list[list[float]]]) -> str:
    """The page, from the seconds of each epoch of each repeat, by policy and contender."""
    images = len(task.cells)

    def rate(policy: str, name: str, epochs: slice = slice(None)) -> float:
        return images / median(fmean(run[epochs]) for run in seconds[policy, name])

    rows = []
    for policy, name in seconds:
        whole = rate(policy, name)
        parts = [rate(policy, name, slice(1)), rate(policy, name, slice(-1, None)), whole]
        ratios = [whole / rate(policy, other) for other in ("plain Lightning loop", "limit")]
        rows.append(
            " | ".join([f"| {policy} | {name}", *(f"{figure:.3g}" for figure in parts + ratios)]) + " |"
        )
    packages = ("leukemia", "torch", "torchvision", "pytorch-lightning")
    cuda = f", {torch.cuda.get_device_name()}" if task.device == "cuda" else ""
    return f"""# Training speed

Images a second, ResNet18, {images} training images of a synthetic C-NMC set at {task.size}x{task.size}, batches of
{BATCH_SIZE}, Adam, epochs without validation: {task.epochs}; medians of {REPEATS} interleaved repeats.

| trains from | | first epoch | last epoch | all epochs | times the plain loop | times the limit |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

- This package: {task.precision}, as `auto` chose; from an empty cache, so its first epoch decodes the whole set.
- Plain Lightning loop: PIL, torchvision transforms, DataLoader with 2 workers, 32-true, frozen by `requires_grad`.
- Limit: the package's training step in a bare loop, {task.precision}, on one batch that is in memory already.
- The ratios are of all epochs, the first with its set-up included; more epochs spread the set-up further.

Machine: {_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{cuda}.
Python {platform.python_version()}, {", ".join(f"{name} {version(name)}" for name in packages)}.
"""


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
