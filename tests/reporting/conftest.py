"""Run folders in the layout that training writes, with made-up predictions."""

from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leukemia.evaluation.baseline import against_majority
from leukemia.evaluation.metrics import cell_metrics, subject_metrics
from leukemia.reporting.html import write_report
from leukemia.runs import Run, Sweep

SKILL = {"head": 0.5, "layer4": 1.0, "stem": 1.3}


def write_run(
    folder: Path,
    depth: int = 18,
    trainable_from: str = "layer4",
    seed: int = 0,
    fold: int = 0,
    protocol: str = "official",
    status: str = "done",
    error: str | None = None,
    name: str | None = None,
    cells: int = 240,
    epochs: int = 9,
    skill: float | None = None,
    subjects: bool = True,
    leaks: int = 0,
    classes: tuple[str, str] = ("HEM", "ALL"),
    synthetic: bool = False,
    positive_share: float = 0.65,
    net: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> Run:
    """Write a run folder. `skill` moves the logits of the classes apart; `net` replaces the ResNet's node; `settings`
    are further keys by dotted name, as `model.optimizer.lr`."""
    run = Run(
        folder / (name or f"depth-{depth}_from-{trainable_from}_seed-{seed}_fold-{fold}_{len(protocol):04x}")
    )
    skill = SKILL.get(trainable_from, 0.8) + depth / 200 if skill is None else skill
    config = {
        "seed": seed, "name": folder.name, "resume": "auto", "compile": False,
        "data": {
            "root": "/data/C-NMC_Leukemia", "protocol": protocol, "fold": fold, "num_folds": 5, "split_seed": 0,
            "image_size": 224, "resize": "squash", "batch_size": 32, "positive": None, "augment": "none", "tta": "none",
            "reader": {"_target_": "leukemia.data.cnmc.cnmc"}, "classes": list(classes), "native_size": 450,
        },
        "model": {
            "_target_": "leukemia.models.classifier.CellClassifier",
            "net": net or {
                "_target_": "leukemia.models.resnet.resnet", "depth": depth, "name": None, "weights": "imagenet",
            },
            "criterion": {"_target_": "torch.nn.BCEWithLogitsLoss"},
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.0001, "weight_decay": 0.0},
            "scheduler": None, "trainable_from": trainable_from, "unfreeze": None, "stage_lr": None,
            "class_weights": "none",
        },
        "monitor": "val/loss", "mode": "min",
        "trainer": {
            "max_epochs": 30, "accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true",
        },
        "callbacks": {"early_stopping": {"patience": 5}},
    }  # fmt: skip
    for name, value in (settings or {}).items():
        *path, key = name.split(".")
        reduce(getitem, path, config)[key] = value
    run.write_config(config)
    run.write_json("status.json", {
        "status": status, "error": error, "started": "2026-01-01T10:00:00", "finished": "2026-01-01T10:03:05",
        "seconds": 185.2, "versions": {"python": "3.11.9", "torch": "2.10.0"}, "machine": "2 cores, no GPU",
    })  # fmt: skip
    random = np.random.default_rng([depth, seed, fold, len(trainable_from)])
    if status != "failed":
        run.write_table("history.csv", _history(random, skill, epochs))
    if status == "done":
        table = _predictions(random, cells, skill, subjects, positive_share)
        split = "val" if protocol == "official" else "test"
        run.write_table("predictions.csv", table.assign(split=split))
        metrics = cell_metrics(table)
        run.write_json("metrics.json", metrics | {
            "split": split, "epoch_chosen_here": split == "val", "best_epoch": min(4, epochs),
            **against_majority(table), "train_accuracy": 0.91, "train_val_gap": 0.91 - metrics["accuracy"],
            "leaks": leaks, "classes": list(classes), "synthetic": synthetic, "subjects": subject_metrics(table),
        })  # fmt: skip
    return run


def _predictions(
    random: np.random.Generator, cells: int, skill: float, subjects: bool, share: float
) -> pd.DataFrame:
    subject = random.integers(0, 12, cells)
    label = (subject < 12 * share).astype(int)
    logit = skill * (2 * label - 1) + random.normal(0, 0.3, 12)[subject] + random.normal(0, 1.2, cells)
    return pd.DataFrame({
        "path": [f"cell_{number}.bmp" for number in range(cells)],
        "subject": [f"S{number}" for number in subject] if subjects else None,
        "label": label,
        "logit": logit,
        "probability": 1 / (1 + np.exp(-logit)),
    })  # fmt: skip


def _history(random: np.random.Generator, skill: float, epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    noise = random.normal(0, 0.01, (4, epochs))
    return pd.DataFrame({
        "epoch": epoch,
        "lr": 1e-4,
        "train/loss": 0.7 * np.exp(-epoch / 6) + noise[0],
        "train/accuracy": 1 - 0.4 * np.exp(-epoch / 5) + noise[1],
        "val/loss": 0.65 - 0.1 * skill + 0.01 * (epoch - 4) ** 2 / 4 + noise[2],
        "val/accuracy": 0.62 + 0.12 * skill * (1 - np.exp(-epoch / 2)) + noise[3],
        "val/auroc": np.nan,
    })  # fmt: skip


def write_sweep(folder: Path, seeds: int = 2, **settings: Any) -> Sweep:
    """The seed study's grid: two depths by three first stages, with some seeds."""
    for depth in (18, 50):
        for stage in ("head", "layer4", "stem"):
            for seed in range(seeds):
                write_run(folder, depth=depth, trainable_from=stage, seed=seed, **settings)
    return Sweep(folder)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return write_run


@pytest.fixture(scope="session")
def make_sweep() -> Callable[..., Sweep]:
    return write_sweep


def write_many(folder: Path, runs: int) -> None:
    """Runs of 15 settings and as many seeds as needed, on 900 cells of 96 subjects."""
    subject = np.arange(900) % 96
    for number in range(runs):
        stage = ("head", "layer4", "layer3", "layer2", "layer1")[number % 5]
        lr = (1e-2, 1e-3, 1e-4)[number // 5 % 3]
        run = write_run(
            folder, name=f"run-{number}", trainable_from=stage, seed=number // 15, cells=900, protocol="holdout",
            settings={"model.optimizer.lr": lr},
        )  # fmt: skip
        label = (subject % 3 > 0).astype(int)
        run.write_table("predictions.csv", run.predictions.assign(subject=subject, label=label))


@pytest.fixture(scope="session")
def thirty_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of thirty runs."""
    folder = tmp_path_factory.mktemp("thirty")
    write_many(folder, 30)
    return write_report(folder)
