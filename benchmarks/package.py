"""Contender "package": a run of this package, from an empty cache to metrics.json.

`python benchmarks/package.py TASK.json` trains the run of the task and prints a line of JSON. The parts are
measured from outside: the trainer is wrapped here. The feature pass times itself (metrics.json).
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


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    stopwatch = add_to_every_trainer(Stopwatch())
    start = now()
    run = leukemia.training.run.train(compose(task["overrides"]), Path(task["run"]))
    seconds = now() - start
    cells = pd.read_csv(run.folder / "cells.csv")
    Path(task["lists"]).write_text(json.dumps(lists(cells, Path(task["base"]))))
    history = pd.read_csv(run.folder / "history.csv")
    embedding = run.embedding or {"cells": 0, "seconds_per_cell": 0.0}
    result = {
        "seconds": seconds,
        "cells": len(cells),
        "train_cells": int((cells["split"] == "train").sum()),
        "feature_seconds": embedding["cells"] * embedding["seconds_per_cell"],
        "feature_cells": embedding["cells"],
        "epochs": stopwatch.epochs,
        "training": stopwatch.training,
        "val_accuracy": float(history["val/accuracy"].iloc[-1]),
        "peak_gb": peak_gb(),
    }
    print(json.dumps(result))


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
