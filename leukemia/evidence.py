"""From a run, a sweep or anybody's table to what `evaluation` takes: the predictions of each model, with what has to
be said beside their figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.bootstrap import compare, evaluate
from leukemia.evaluation.calibration import calibration_figures
from leukemia.evaluation.predictions import read_predictions, validate_predictions
from leukemia.evaluation.selective import selective_figures
from leukemia.reporting import words
from leukemia.reporting.tables import combinations, results_table
from leukemia.runs import Run, Sweep

POOLED = ("subject_kfold", "image")  # splits whose folds have test sides of their own
TABLE_CLASSES = ("negative", "positive")


@dataclass(frozen=True)
class Model:
    """One setting and its predictions.

    Attributes:
        name: in words.
        replicates: a table for each seed; with the test sides of its folds pooled, and then a column `fold`.
        classes: the names of class 0 and class 1.
        marks: what has to be said beside its figures.
        runs: the names of its runs.
        pooled: whether several models' test sides stand in one table.
    """

    name: str
    replicates: list[pd.DataFrame]
    classes: tuple[str, str]
    marks: list[str]
    runs: list[str]
    pooled: bool


def models_of(target: Path) -> list[Model]:
    """The models of a run folder, a sweep folder (one for each setting) or a csv of predictions.

    Raises:
        InputError: if it is none of them, or holds no predictions that can be used.
    """
    target = Path(target)
    if target.is_file():
        return [_of_table(target)]
    sweep = Sweep(target)
    results = results_table(sweep)
    by_name = {run.name: run for run in sweep.runs}
    found = [_of_setting(settings, rows, by_name) for settings, rows in combinations(results)]
    if not found:
        raise InputError(f"{target} holds no finished run: there are no predictions to evaluate")
    return found


def figures_of(model: Model) -> dict[str, Any]:
    """What `leukemia evaluate` says of a model: intervals, calibration and selective prediction (of the first seed),
    marks."""
    first = model.replicates[0]
    return {
        "name": model.name,
        "runs": model.runs,
        "classes": list(model.classes),
        "marks": model.marks,
        "epoch_chosen_here": any(mark.startswith(words.CHOSEN_HERE) for mark in model.marks),
        **evaluate(model.replicates),
        "majority_accuracy": float(max(first["label"].mean(), 1 - first["label"].mean())),
        "calibration": calibration_figures(first),
        "selective": selective_figures(first),
    }


def comparison(first: Model, second: Model) -> dict[str, Any]:
    """The paired, clustered difference of two models on the same cells, second minus first.

    Raises:
        InputError: if they do not report on the same cells.
    """
    return {"first": first.name, "second": second.name, **compare(first.replicates, second.replicates)}


def predictions_of(run: Run) -> pd.DataFrame:
    """The predictions of a run, checked, with the `group` of each cell where the run folder tells it.

    Raises:
        InputError: if they cannot be used.
    """
    try:
        validate_predictions(run.predictions)
    except InputError as error:
        raise InputError(f"{run.folder / 'predictions.csv'}: {error}") from None
    if not (run.folder / "cells.csv").is_file():
        return run.predictions
    groups = run.cells.set_index("path")["group"]
    return run.predictions.assign(group=run.predictions["path"].map(groups))


def _of_table(path: Path) -> Model:
    table = read_predictions(path)
    marks = []
    if "side" in table and table["side"].notna().any():
        sides = list(dict.fromkeys(table["side"].dropna()))
        kept = "test" if "test" in sides else sides[0]
        if len(sides) > 1:
            marks.append(f"side {kept} only, of {', '.join(sides)}")
        table = table[table["side"] == kept].reset_index(drop=True)
        if kept == "val":
            marks.append(words.CHOSEN_HERE)
    return Model(path.stem, [table], TABLE_CLASSES, marks, [str(path)], False)


def _of_setting(settings: dict[str, Any], rows: pd.DataFrame, by_name: dict[str, Run]) -> Model:
    replicates: dict[tuple[Any, ...], list[pd.DataFrame]] = {}
    for row in rows.to_dict("records"):
        pooled = row["split"] in POOLED
        table = predictions_of(by_name[str(row["run"])])
        if pooled:
            table = table.assign(fold=row["fold"])
        replicates.setdefault((row["seed"], *([] if pooled else [row["fold"]])), []).append(table)
    tables = [pd.concat(parts, ignore_index=True) for _, parts in sorted(replicates.items(), key=str)]
    for table in tables:
        validate_predictions(table)
    names = str(rows["classes"].iloc[0]).split("/")
    classes = (names[0], names[1]) if len(names) == 2 else TABLE_CLASSES
    several = any(len(set(table["fold"])) > 1 for table in tables if "fold" in table)
    name = words.describe(settings)
    return Model(name, tables, classes, words.marks(rows), list(rows["run"]), several)
