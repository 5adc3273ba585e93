"""Contender "package": a run of this package, from an empty cache to metrics.json.

`python benchmarks/package.py TASK.json` trains the run of the task and prints a line of JSON. The parts are
measured from outside: the feature pass and the trainer are wrapped here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from clock import now, peak_gb
from stopwatch import Stopwatch

import leukemia.training.run
from leukemia.config import compose
from leukemia.data.feature_cache import FeatureCache


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    passes = time_the_feature_pass()
    stopwatch = add_to_every_trainer(Stopwatch())
    start = now()
    run = leukemia.training.run.train(compose(task["overrides"]), Path(task["run"]))
    seconds = now() - start
    cells = pd.read_csv(run.folder / "cells.csv")
    Path(task["lists"]).write_text(json.dumps(lists(cells, Path(task["base"]))))
    history = pd.read_csv(run.folder / "history.csv")
    result = {
        "seconds": seconds,
        "cells": len(cells),
        "train_cells": int((cells["split"] == "train").sum()),
        "feature_seconds": sum(seconds for seconds, _ in passes.values()),
        "feature_cells": sum(count for _, count in passes.values()),
        "epochs": stopwatch.epochs,
        "training": stopwatch.training,
        "val_accuracy": float(history["val/accuracy"].iloc[-1]),
        "peak_gb": peak_gb(),
    }
    print(json.dumps(result))


def time_the_feature_pass() -> dict[Path, tuple[float, int]]:
    """Seconds and cells of each pass, by the folder that it fills; a pass done again in fp32 counts once."""
    passes: dict[Path, tuple[float, int]] = {}
    compute = FeatureCache._compute

    def timed(features: FeatureCache, part: Any, folder: Path, *rest: Any) -> None:
        start = now()
        compute(features, part, folder, *rest)
        passes[folder] = (now() - start, len(part[0]))

    FeatureCache._compute = timed
    return passes


def add_to_every_trainer(stopwatch: Stopwatch) -> Stopwatch:
    build = leukemia.training.run.build_trainer

    def with_stopwatch(*given: Any) -> pl.Trainer:
        trainer = build(*given)
        trainer.callbacks.append(stopwatch)
        return trainer

    leukemia.training.run.build_trainer = with_stopwatch
    return stopwatch


def lists(cells: pd.DataFrame, base: Path) -> dict[str, dict[str, list]]:
    """The paths and labels of train and val, for the plain loop."""
    of_split = {split: cells[cells["split"] == split] for split in ("train", "val")}
    return {
        split: {"paths": [str(base / path) for path in rows["path"]], "labels": rows["label"].tolist()}
        for split, rows in of_split.items()
    }


if __name__ == "__main__":
    main()
