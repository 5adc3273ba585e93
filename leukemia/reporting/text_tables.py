"""The report's tables as they are printed: the same strings in HTML and in Markdown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from leukemia.evaluation.metrics import METRICS, SUBJECT_METRICS, Metric
from leukemia.reporting import words
from leukemia.reporting.results import combinations, setting_columns
from leukemia.reporting.words import percent, points, whole

Columns = dict[str, Callable[[Any], str]]
ACCURACY = METRICS["accuracy"]
GAP = "Train–validation gap, points"


def _columns(metrics: Mapping[str, Metric], prefix: str = "") -> Columns:
    """Each metric of a row of the results table, under its heading."""

    def text(name: str, run: Any) -> str:
        return words.form(metrics[name])(run[prefix + name])

    return {words.heading(metric): partial(text, name) for name, metric in metrics.items()}


REPORTED: Columns = {
    **_columns(METRICS),
    "Above majority, points": lambda run: points(run["accuracy"] - run["majority_accuracy"]),
    "Cells": lambda run: whole(run["n_images"]),
}
TRAINING: Columns = {
    "Best epoch": lambda run: whole(run["best_epoch"]),
    "Train accuracy %": lambda run: percent(run["train_accuracy"]),
    GAP: lambda run: points(run["train_val_gap"]),
    "Time": lambda run: words.duration(run["seconds"]),
}
SUBJECTS: Columns = {
    "Subjects": lambda run: whole(run["subjects.n"]),
    **_columns(SUBJECT_METRICS, "subjects."),
}


@dataclass
class Printed:
    """A table of strings: the first `words` columns hold words, the others numbers; each row has its `marks`."""

    columns: list[str]
    words: int
    rows: list[list[str]] = field(default_factory=list)
    marks: list[list[str]] = field(default_factory=list)

    def add(self, row: list[str], marks: list[str]) -> None:
        self.rows.append(row)
        self.marks.append(marks)

    @property
    def common_marks(self) -> list[str]:
        """Marks of all rows, which stand once above the table."""
        return [mark for mark in (self.marks or [[]])[0] if all(mark in row for row in self.marks)]

    @property
    def own_marks(self) -> list[list[str]]:
        """The other marks of each row."""
        return [[mark for mark in row if mark not in self.common_marks] for row in self.marks]


def grid_table(results: pd.DataFrame) -> Printed:
    """A row a combination: its mean accuracy ± sd over seeds and folds, beside the majority class and, where
    the classes are C-NMC's, the seed study's accuracy for that setting."""
    with_study = is_cnmc(results)
    columns = ["n", words.heading(ACCURACY), "Majority class %", "Above it, points"]
    columns += ["Seed study %", "Difference to it, points"] if with_study else []
    table = _by_combination(results, [*columns, GAP])
    for row, (settings, runs) in zip(table.rows, combinations(results), strict=True):
        accuracy, majority = runs["accuracy"].mean(), runs["majority_accuracy"].mean()
        row += [whole(len(runs)), _mean(runs, "accuracy", percent)]
        row += [percent(majority), points(accuracy - majority)]
        if with_study:
            study = words.SEED_STUDY.get((settings["network"], settings["trainable_from"]))
            row += [percent(study), points(None if study is None else accuracy - study)]
        row += [_mean(runs, "train_val_gap", percent)]
    return table


def grid_metrics_table(results: pd.DataFrame) -> Printed:
    """A row a combination: mean ± sd over seeds and folds of the other metrics."""
    others = [metric for metric in METRICS.values() if metric != ACCURACY]
    table = _by_combination(results, list(map(words.heading, others)))
    for row, (_, runs) in zip(table.rows, combinations(results), strict=True):
        row += [_mean(runs, metric.name, words.form(metric)) for metric in others]
    return table


def study_table() -> Printed:
    """The seed study's accuracies beside the majority class of its cells."""
    columns = ["Network", "Trains from", words.heading(ACCURACY), "Above majority class, points", GAP]
    table = Printed(columns, 2)
    for (network, stage), accuracy in words.SEED_STUDY.items():
        above = accuracy - words.SEED_STUDY_MAJORITY
        gap = words.SEED_STUDY_GAP.get((network, stage))
        row = [words.network(network), stage, percent(accuracy), points(above), points(gap)]
        table.add(row, [words.CHOSEN_HERE, *words.study_not_better(accuracy)])
    return table


def metrics_table(results: pd.DataFrame) -> Printed:
    """A row a finished run: the metrics of the reported cells."""
    return _by_run(results, REPORTED)


def training_table(results: pd.DataFrame) -> Printed:
    """A row a finished run: how its training went."""
    return _by_run(results, TRAINING)


def subjects_table(results: pd.DataFrame) -> Printed:
    """A row a finished run whose reported cells have subjects, each subject counting once."""
    return _by_run(results[results["subjects.n"].notna()], SUBJECTS)


def failures_table(results: pd.DataFrame) -> Printed:
    """A row a run without metrics: its state, and its error if it has one."""
    table = Printed(["Run", "State", "Error"], 3)
    for run in results[results["accuracy"].isna()].to_dict("records"):
        table.add([run["run"], run["status"], words.value(run["error"])], [])
    return table


def is_cnmc(results: pd.DataFrame) -> bool:
    """Whether the classes of all finished runs are C-NMC's and their cells are not synthetic, so that the seed study
    can stand beside them."""
    finished = results[results["accuracy"].notna()]
    return set(finished["classes"]) == {words.SEED_STUDY_CLASSES} and not is_synthetic(finished)


def is_synthetic(results: pd.DataFrame) -> bool:
    """Whether any finished run is on the demo's cells."""
    return bool(results["synthetic"].eq(True).any())


def _by_combination(results: pd.DataFrame, columns: list[str]) -> Printed:
    """A table whose rows have their settings and marks, still without numbers."""
    others = setting_columns(results)[2:]
    names = list(map(words.setting, others))
    table = Printed(["Network", "Trains from", *names, *columns], 2 + len(others))
    for settings, runs in combinations(results):
        named = [words.value(settings[name], name) for name in ("trainable_from", *others)]
        table.add([words.network(settings["network"]), *named], words.marks(runs))
    return table


def _by_run(results: pd.DataFrame, columns: Columns) -> Printed:
    table = Printed(["Run", "Setting", *columns], 2)
    for settings, runs in combinations(results):
        for index, run in runs.iterrows():
            texts = [text(run) for text in columns.values()]
            table.add([run["run"], words.describe_run(settings, run), *texts], words.marks(runs.loc[[index]]))
    return table


def _mean(runs: pd.DataFrame, metric: str, form: Callable[..., str]) -> str:
    """Mean and spread of a metric over runs, with the number of runs where it is undefined for some."""
    values = runs[metric].dropna()
    text = form(values.mean(), values.std(ddof=1))
    return text if len(values) in (0, len(runs)) else f"{text} (n {len(values)})"
