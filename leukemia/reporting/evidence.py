"""From a run, a sweep or any table to the predictions of each setting, as `evaluation` takes them, with their
caveats."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.bootstrap import accuracy_interval, compare, evaluate
from leukemia.evaluation.calibration import calibration_metrics
from leukemia.evaluation.ensemble import mean_predictions
from leukemia.evaluation.gate import stopped_cells
from leukemia.evaluation.predictions import checked, plain_splits, read_predictions, validate_predictions
from leukemia.evaluation.selective import selective_metrics
from leukemia.reporting import words
from leukemia.reporting.results import TABLE_CLASSES, class_names, combinations, read_settings, results_table
from leukemia.runs import Ensemble, Run, Sweep

POOLED = ("subject_kfold", "image")  # protocols whose folds have test splits of their own

MOST_PAIRED = 6


@dataclass(frozen=True)
class SettingResult:
    """One setting and its predictions.

    Attributes:
        name: in words.
        replicates: a table for each seed; with the test splits of its folds pooled, and then a column `fold`. Folds
            that report on the same cells are replicates too.
        baselines: the same of the handcrafted baseline (see `leukemia.evaluation.baseline`); None where a run has no
            baseline.csv.
        classes: the names of class 0 and class 1.
        marks: caveats to print next to the metrics.
        runs: the names of its runs.
        pooled: whether several models' test splits stand in one table.
        over: the difference of the replicates: seeds, folds, or seeds and folds.
        names: of the replicates.
        settings: as `combinations` gives them; empty for a table.
    """

    name: str
    replicates: list[pd.DataFrame]
    baselines: list[pd.DataFrame] | None
    classes: tuple[str, str]
    marks: list[str]
    runs: list[str]
    pooled: bool
    over: str = "seeds"
    names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def setting_results(target: Path | Ensemble, problems: list[str] | None = None) -> list[SettingResult]:
    """The settings of a run folder, a sweep folder or a csv of predictions, with their predictions.

    Args:
        target: the folder or the file; or some runs of a sweep.
        problems: takes the errors of settings that cannot be used, while the others are read; by default the first
            such setting raises.

    Raises:
        InputError: if it is neither, or holds no usable predictions.
    """
    if isinstance(target, Ensemble):
        sweep: Sweep | Ensemble = target
    else:
        target = Path(target)
        if target.suffix.lower() == ".csv" or (target.is_file() and target.suffix != ".ckpt"):
            return [_of_table(target)]
        sweep = Sweep(target)
    found, unread = usable_settings(results_table(sweep), sweep.runs)
    if unread and (problems is None or not found):
        raise InputError("; ".join(unread))
    if problems is not None:
        problems += unread
    if not found:
        raise InputError(f"{sweep.folder} holds no finished run: there are no predictions to evaluate")
    return found


def usable_settings(results: pd.DataFrame, runs: Sequence[Run]) -> tuple[list[SettingResult], list[str]]:
    """The settings of a results table whose predictions can be used, and the errors of the others."""
    by_name = {run.name: run for run in runs}
    found, unread = [], []
    for settings, rows in combinations(results):
        try:
            found.append(result_of_setting(settings, rows, by_name))
        except InputError as problem:
            unread.append(f"{words.describe(settings)}: {problem}")
    return found, unread


def result_of_setting(settings: dict[str, Any], rows: pd.DataFrame, by_name: dict[str, Run]) -> SettingResult:
    """One setting, from its rows of a results table and the runs by name.

    Raises:
        InputError: if predictions cannot be used.
    """
    runs = [by_name[name] for name in rows["run"]]
    tables = _replicates(rows, [predictions_of(run) for run in runs])
    found = [(run, run.baseline) for run in runs]
    known = [_checked(run, table, "baseline.csv") for run, table in found if table is not None]
    baselines = list(_replicates(rows, known).values()) if len(known) == len(runs) else None
    several = any(len(set(table["fold"])) > 1 for table in tables.values() if "fold" in table)
    name, marks = words.describe(settings), [*words.marks(rows), *_missing_folds(rows, runs)]
    return SettingResult(
        name,
        list(tables.values()),
        baselines,
        class_names(rows),
        marks,
        list(rows["run"]),
        several,
        _over(rows),
        tuple(tables),
        settings,
    )


def metrics_of(model: SettingResult) -> dict[str, Any]:
    """The output of `leukemia evaluate` for a setting: intervals, calibration and selective prediction (of the first
    replicate), marks, and the baselines: the majority class, and the handcrafted baseline with its intervals and the
    model's difference to it."""
    first = model.replicates[0]
    baseline = None
    if model.baselines:
        baseline = {
            "cells": evaluate(model.baselines)["cells"],
            "model_minus_baseline": compare(model.baselines, model.replicates),
        }
    return {
        "name": model.name,
        "runs": model.runs,
        "classes": list(model.classes),
        "marks": model.marks,
        "epoch_chosen_here": any(mark.startswith(words.CHOSEN_HERE) for mark in model.marks),
        "over": model.over,
        **evaluate(model.replicates),
        "majority_accuracy": float(max(first["label"].mean(), 1 - first["label"].mean())),
        "baseline": baseline,
        "calibration": calibration_metrics(first),
        "selective": selective_metrics(first),
        "unlike": stopped_cells(first),
    }


def ensemble_result(settings: Sequence[SettingResult]) -> tuple[SettingResult, list[SettingResult]]:
    """The ensemble of all replicates of some settings, and its members, on the cells that all of them report on.

    With pooled folds a member is a seed: the logit of a cell is the mean over the seeds of its fold, none of which has
    seen the cell.

    Raises:
        InputError: if there are fewer than two members, or they share no cell.
    """
    members = [
        replace(setting, name=f"{setting.name}, {name}", replicates=[table], baselines=None)
        for setting in settings
        for name, table in zip(setting.names, setting.replicates, strict=True)
    ]
    if len(members) < 2:
        raise InputError(
            f"an ensemble needs two models of the same cells, and there is one ({members[0].name}): the folds of a "
            "k-fold have test cells of their own. Train several seeds (seed=0,1,2)"
        )
    table = mean_predictions([member.replicates[0] for member in members])
    marks = list(dict.fromkeys(mark for setting in settings for mark in setting.marks))
    marks = [mark for mark in marks if not mark.startswith(words.NOT_BETTER)]  # of a member
    unit, ends = accuracy_interval(table)
    share = float(table["label"].mean())
    if ends is None or ends[0] <= max(share, 1 - share):
        low, high = ends or (None, None)
        marks.append(words.not_better(low, high, unit))
    most = max(len(member.replicates[0]) for member in members)
    if len(table) < most:
        marks.append(f"{words.count(most - len(table), 'cell')} that not all members report on are left out")

    def shared(of: pd.DataFrame) -> pd.DataFrame:
        return of[of["path"].isin(table["path"])].reset_index(drop=True)

    baselines = [shared(of) for of in settings[0].baselines[:1]] if settings[0].baselines else None
    ensemble = replace(
        settings[0], name=f"Ensemble of {len(members)} models", replicates=[table], baselines=baselines, marks=marks,
        runs=[run for setting in settings for run in setting.runs], pooled=any(of.pooled for of in settings),
    )  # fmt: skip
    return ensemble, [replace(member, replicates=[shared(member.replicates[0])]) for member in members]


def comparison(first: SettingResult, second: SettingResult) -> dict[str, Any]:
    """The paired, clustered difference of two settings on the same cells, second minus first, with the marks of both:
    a mark of one alone names it. Settings of one name are named by their runs.

    Raises:
        InputError: if they do not report on the same cells.
    """
    names = [first.name, second.name]
    if names[0] == names[1] and first.runs != second.runs:
        names = [", ".join(model.runs) for model in (first, second)]
    both = [mark for mark in first.marks if mark in second.marks]
    of_each = [
        (mark, name) for name, model in zip(names, (first, second), strict=True) for mark in model.marks
    ]
    alone = [f"{mark} ({name})" for mark, name in of_each if mark not in both]
    marks = sorted([*both, *alone], key=lambda mark: not mark.startswith(words.LEAKS))  # a leak first
    differences = compare(first.replicates, second.replicates)
    return {"first": names[0], "second": names[1], "marks": marks, **differences}


def comparisons(models: Sequence[SettingResult]) -> list[dict[str, Any]]:
    """The differences of those settings that report on the same cells: each pair, or with more than MOST_PAIRED
    settings the first with each other one."""
    firsts = models if len(models) <= MOST_PAIRED else models[:1]
    found = []
    for place, first in enumerate(firsts):
        for second in models[place + 1 :]:
            try:
                found.append(comparison(first, second))
            except InputError:  # other cells, as of another split
                continue
    return found


def predictions_of(model: Run | Ensemble) -> pd.DataFrame:
    """The predictions of a run, or of an ensemble (see `mean_predictions`), checked, with the `group` of each cell
    where the run folder tells it.

    Raises:
        InputError: if they cannot be used.
    """
    if isinstance(model, Ensemble):
        _ = model.data, model.cells  # which refuse members that do not fit together
    return _checked(model.members[0], model.predictions, "predictions.csv")


def _missing_folds(rows: pd.DataFrame, runs: Sequence[Run]) -> list[str]:
    """The caveat for missing folds, where folds have test splits of their own."""
    folds_of: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        if row["protocol"] in POOLED:
            folds_of.setdefault(words.value(row["seed"]), []).append(words.value(row["fold"]))
    of_each = {tuple(sorted(folds)) for folds in folds_of.values()}
    if len(of_each) > 1:
        said = "; ".join(f"seed {seed}: {', '.join(sorted(folds))}" for seed, folds in folds_of.items())
        return [f"seeds of different folds ({said})"]
    wanted = read_settings(runs[0]).get("data.num_folds")
    return [f"{len(folds)} of {wanted} folds" for folds in of_each if wanted and len(folds) < wanted]


def _over(rows: pd.DataFrame) -> str:
    by_fold = ~rows["protocol"].isin([*POOLED, "official"])  # folds that are replicates; official has none
    seeds, folds = (len(set(values)) > 1 for values in (rows["seed"], rows["fold"][by_fold]))
    return {(True, True): "seeds and folds", (False, True): "folds"}.get((seeds, folds), "seeds")


def _checked(run: Run, table: pd.DataFrame, name: str) -> pd.DataFrame:
    checked(table, run.folder / name)
    if not (run.folder / "cells.csv").is_file():
        return table
    cells = run.cells.set_index("path")
    return table.assign(group=table["path"].map(cells["group"])) if "group" in cells else table


def _of_table(path: Path) -> SettingResult:
    table = read_predictions(path)
    table, marks = _reported(table, path)
    # A column `fold` of a user's table does not mean several models.
    table = table.drop(columns="fold", errors="ignore")
    return SettingResult(path.stem, [table], None, TABLE_CLASSES, marks, [str(path)], False)


def _reported(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the reported split, and its marks: test before val before any other, and train only where it is the
    only split."""
    if "split" not in table:
        return table, []
    split = plain_splits(table)
    if (split == "").all():
        return table, []
    if (split == "").any():
        raise InputError(
            f"{path}: {(split == '').sum():,} of {words.count(len(split), 'row')} have no split, as row "
            f"{int((split == '').argmax()) + 1:,}: name the split of every cell, or of none"
        )
    order = {"test": 0, "val": 1, "train": 3}
    kept, *others = sorted(dict.fromkeys(split), key=lambda name: order.get(name, 2))
    marks = {"train": [words.TRAINED], "val": [words.CHOSEN_HERE]}.get(kept, [])
    if others:
        left_out = words.count(int((split != kept).sum()), "cell")
        marks = [*marks, f"split {kept} only, {left_out} of {', '.join(others)} left out"]
    return table[split == kept].reset_index(drop=True), marks


def _replicates(rows: pd.DataFrame, tables: list[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of some runs, a row of the results each, put together by seed (by seed and fold, where folds do not
    have test splits of their own), by name."""
    parts: dict[Any, list[pd.DataFrame]] = {}
    for row, table in zip(rows.to_dict("records"), tables, strict=True):
        pooled = row["protocol"] in POOLED
        key: tuple[Any, ...] = (row["seed"],) if pooled else (row["seed"], row["fold"])
        parts.setdefault(key, []).append(table.assign(fold=row["fold"]) if pooled else table)
    folds = len({key[1:] for key in parts}) > 1
    found = {}
    for key, of_key in sorted(parts.items(), key=str):
        name = f"seed {key[0]}" + (f", fold {key[1]}" if folds else "")
        found[name] = pd.concat(of_key, ignore_index=True)
    for table in found.values():
        validate_predictions(table)
    return found
