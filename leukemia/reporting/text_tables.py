"""The report's tables as they are printed: the same strings in HTML and in Markdown."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from leukemia.reporting import words
from leukemia.reporting.results import combinations, setting_columns
from leukemia.reporting.words import fraction, percent, points, whole

Columns = dict[str, Callable[[Any], str]]

FIGURES: Columns = {
    "Accuracy %": lambda run: percent(run["accuracy"]),
    "Above majority, points": lambda run: points(run["accuracy"] - run["majority_accuracy"]),
    "Balanced accuracy %": lambda run: percent(run["balanced_accuracy"]),
    "Weighted F1 %": lambda run: percent(run["f1_weighted"]),
    "AUROC": lambda run: fraction(run["auroc"]),
    "Sensitivity %": lambda run: percent(run["sensitivity"]),
    "Specificity %": lambda run: percent(run["specificity"]),
    "ECE": lambda run: fraction(run["ece"]),
    "Loss": lambda run: fraction(run["loss"]),
    "Cells": lambda run: whole(run["n_images"]),
}
TRAINING: Columns = {
    "Best epoch": lambda run: whole(run["best_epoch"]),
    "Train accuracy %": lambda run: percent(run["train_accuracy"]),
    "Train–validation gap, points": lambda run: points(run["train_val_gap"]),
    "Time": lambda run: words.duration(run["seconds"]),
}
SUBJECTS: Columns = {
    "Subjects": lambda run: whole(run["subjects.n"]),
    "Vote accuracy %": lambda run: percent(run["subjects.accuracy"]),
    "Vote balanced accuracy %": lambda run: percent(run["subjects.balanced_accuracy"]),
    "Vote sensitivity %": lambda run: percent(run["subjects.sensitivity"]),
    "Vote specificity %": lambda run: percent(run["subjects.specificity"]),
    "AUROC of the mean logit": lambda run: fraction(run["subjects.auroc"]),
    "Mean share of correct cells %": lambda run: percent(run["subjects.mean_cell_accuracy"]),
}


@dataclass
class Printed:
    """A table of strings: the first `words` columns hold words, the rest numbers, and `marks` per row."""

    columns: list[str]
    words: int
    rows: list[list[str]] = field(default_factory=list)
    marks: list[list[str]] = field(default_factory=list)

    @property
    def common_marks(self) -> list[str]:
        """Marks that all rows bear, to be said once, above the table."""
        return [mark for mark in (self.marks or [[]])[0] if all(mark in row for row in self.marks)]

    @property
    def own_marks(self) -> list[list[str]]:
        """The other marks of each row."""
        return [[mark for mark in row if mark not in self.common_marks] for row in self.marks]


def grid_table(results: pd.DataFrame) -> Printed:
    """A row a combination: its mean accuracy ± sd over seeds and folds, beside the majority class and, where
    the classes are C-NMC's, the seed study's accuracy for that setting."""
    with_study = is_cnmc(results)
    columns = ["n", "Accuracy %", "Majority class %", "Above it, points"]
    columns += ["Seed study %", "Difference to it, points"] if with_study else []
    table = _by_combination(results, [*columns, "Train–validation gap, points"])
    for row, (settings, runs) in zip(table.rows, combinations(results), strict=True):
        accuracy, majority = runs["accuracy"].mean(), runs["majority_accuracy"].mean()
        row += [whole(len(runs)), _mean(runs, "accuracy"), percent(majority), points(accuracy - majority)]
        if with_study:
            study = words.SEED_STUDY.get((settings["depth"], settings["trainable_from"]))
            row += [percent(study), points(None if study is None else accuracy - study)]
        row += [_mean(runs, "train_val_gap")]
    return table


def grid_metrics_table(results: pd.DataFrame) -> Printed:
    """A row a combination: mean ± sd over seeds and folds of the other figures."""
    columns = [
        "Balanced accuracy %",
        "Weighted F1 %",
        "AUROC",
        "Sensitivity %",
        "Specificity %",
        "ECE",
        "Loss",
    ]
    table = _by_combination(results, columns)
    for row, (_, runs) in zip(table.rows, combinations(results), strict=True):
        row += [_mean(runs, "balanced_accuracy"), _mean(runs, "f1_weighted"), _mean(runs, "auroc", fraction)]
        row += [_mean(runs, "sensitivity"), _mean(runs, "specificity")]
        row += [_mean(runs, "ece", fraction), _mean(runs, "loss", fraction)]
    return table


def study_table() -> Printed:
    """The seed study's figures beside the majority class of its cells."""
    columns = ["Network", "Trains from", "Accuracy %", "Above majority class, points"]
    columns += ["Train–validation gap, points"]
    table = Printed(columns, 2)
    for (depth, stage), accuracy in words.SEED_STUDY.items():
        above = accuracy - words.SEED_STUDY_MAJORITY
        gap = words.SEED_STUDY_GAP.get((depth, stage))
        table.rows.append([words.network(depth), stage, percent(accuracy), points(above), points(gap)])
        table.marks.append([words.CHOSEN_HERE, *([words.NO_BETTER] if stage == "head" else [])])
    return table


def metrics_table(results: pd.DataFrame) -> Printed:
    """A row a finished run: the figures of the reported cells."""
    return _by_run(results, FIGURES)


def training_table(results: pd.DataFrame) -> Printed:
    """A row a finished run: how its training went."""
    return _by_run(results, TRAINING)


def subjects_table(results: pd.DataFrame) -> Printed:
    """A row a finished run whose reported cells have subjects, each subject counting once."""
    return _by_run(results[results["subjects.n"].notna()], SUBJECTS)


def failures_table(results: pd.DataFrame) -> Printed:
    """A row a run without figures: its state, and the error if there was one."""
    table = Printed(["Run", "State", "Error"], 3)
    for run in results[results["accuracy"].isna()].to_dict("records"):
        table.rows.append([run["run"], run["status"], words.value(run["error"])])
        table.marks.append([])
    return table


def is_cnmc(results: pd.DataFrame) -> bool:
    """Whether the classes of all finished runs are C-NMC's and their cells no synthetic ones, so that the seed
    study can stand beside them."""
    finished = results[results["accuracy"].notna()]
    return set(finished["classes"]) == {words.SEED_STUDY_CLASSES} and not is_synthetic(finished)


def is_synthetic(results: pd.DataFrame) -> bool:
    """Whether any finished run is on the demo's cells."""
    return bool((results["synthetic"] == True).any())  # noqa: E712  missing where a run does not say


def _by_combination(results: pd.DataFrame, columns: list[str]) -> Printed:
    """A table whose rows have their settings and marks, and no numbers yet."""
    others = setting_columns(results)[2:]
    table = Printed(["Network", "Trains from", *others, *columns], 2 + len(others))
    for settings, runs in combinations(results):
        named = [words.value(settings[name]) for name in ("trainable_from", *others)]
        table.rows.append([words.network(settings["depth"]), *named])
        table.marks.append(words.marks(runs))
    return table


def _by_run(results: pd.DataFrame, columns: Columns) -> Printed:
    table = Printed(["Run", "Setting", *columns], 2)
    for settings, runs in combinations(results):
        for index, run in runs.iterrows():
            figures = [text(run) for text in columns.values()]
            table.rows.append([run["run"], words.describe_run(settings, run), *figures])
            table.marks.append(words.marks(runs.loc[[index]]))
    return table


def _mean(runs: pd.DataFrame, metric: str, form: Callable[..., str] = percent) -> str:
    """Mean and spread of a metric over runs, and over how many where it is undefined for some of them."""
    values = runs[metric].dropna()
    text = form(values.mean(), values.std(ddof=1))
    return text if len(values) in (0, len(runs)) else f"{text} (n {len(values)})"
