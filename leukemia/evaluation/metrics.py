"""The metric registry, and the metrics of a predictions table per cell and per subject.

A table has a row a cell: `path`, `label` (1 positive, 0 negative), `logit` (of the positive class) and, where
known, `subject`. A cell is called positive where its logit is at least 0. Every metric follows from label and
logit, so the predictions of any model will do. An undefined metric (AUROC of one class) is None, never NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.errors import InputError
from leukemia.evaluation.predictions import (
    arrays,
    has_subjects,
    plain_subjects,
    sigmoid,
    validate_predictions,
)

Labels = NDArray[np.bool_]
Logits = NDArray[np.float64]

BINS = 15
CELLS_A_BIN = 10


@dataclass(frozen=True)
class Metric:
    """A metric: its name, its definition, and how it is shown.

    Attributes:
        name: its key in metrics.json and in the columns of tables.
        function: of label `[n]` (True positive) and logit `[n]`; None where undefined.
        title: in words.
        format: `percent` for a share that is shown in %, `fraction` for a plain number.
        direction: `max` where higher is better, `min` where lower is.
        monitorable: whether it is computed at the end of each epoch, as `val/NAME`.
    """

    name: str
    function: Callable[[Labels, Logits], float | None]
    title: str
    format: str
    direction: str
    monitorable: bool = True


def accuracy(label: Labels, logit: Logits) -> float:
    return float(((logit >= 0) == label).mean())


def sensitivity(label: Labels, logit: Logits) -> float | None:
    return float((logit[label] >= 0).mean()) if label.any() else None


def specificity(label: Labels, logit: Logits) -> float | None:
    return float((logit[~label] < 0).mean()) if not label.all() else None


def balanced_accuracy(label: Labels, logit: Logits) -> float | None:
    rates = sensitivity(label, logit), specificity(label, logit)
    return None if rates[0] is None or rates[1] is None else (rates[0] + rates[1]) / 2


def f1_weighted(label: Labels, logit: Logits) -> float:
    """F1 of each class, weighted by its cells: the metric of the C-NMC challenge."""
    from sklearn.metrics import f1_score

    return float(f1_score(label, logit >= 0, average="weighted", zero_division=0))


def auroc(label: Labels, logit: Logits) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, logit)) if label.any() and not label.all() else None


def ece(label: Labels, logit: Logits) -> float:
    """Calibration error of the decision's confidence."""
    return calibration_error(decision_confidence(logit), (logit >= 0) == label)


def loss(label: Labels, logit: Logits) -> float:
    """Mean binary cross-entropy, in nats."""
    return float(np.logaddexp(0, np.where(label, -logit, logit)).mean())


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, "Accuracy", "percent", "max"),
        Metric("balanced_accuracy", balanced_accuracy, "Balanced accuracy", "percent", "max"),
        Metric("f1_weighted", f1_weighted, "Weighted F1", "percent", "max"),
        Metric("auroc", auroc, "AUROC", "fraction", "max"),
        Metric("sensitivity", sensitivity, "Sensitivity", "percent", "max"),
        Metric("specificity", specificity, "Specificity", "percent", "max"),
        Metric("ece", ece, "ECE", "fraction", "min", monitorable=False),
        Metric("loss", loss, "Loss", "fraction", "min"),
    )
}
# Over subjects the same definitions hold, of a subject's vote or mean logit instead of a cell's logit.
SUBJECT_METRICS = {
    **{
        name: replace(METRICS[name], title=f"Vote {METRICS[name].title.lower()}", monitorable=False)
        for name in ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
    },
    "auroc": replace(METRICS["auroc"], title="AUROC of the mean logit", monitorable=False),
    "mean_cell_accuracy": Metric(
        "mean_cell_accuracy", lambda _, share: float(share.mean()), "Mean share of correct cells", "percent",
        "max", monitorable=False,
    ),
}  # fmt: skip


def monitored_names() -> list[str]:
    """The metrics that can be monitored: `val/loss` first, then `val/accuracy` and the others."""
    names = [metric.name for metric in METRICS.values() if metric.monitorable]
    return [f"val/{name}" for name in sorted(names, key=lambda name: METRICS[name].direction == "max")]


def direction(monitor: str) -> str:
    """Whether a monitored metric, as `val/loss`, is best at its `min` or its `max`.

    Raises:
        InputError: if it is not one of `monitored_names()`.
    """
    if monitor not in monitored_names():
        raise InputError(f"monitor={monitor} does not exist: use one of {', '.join(monitored_names())}")
    return METRICS[monitor.removeprefix("val/")].direction


def cell_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Metrics over the cells of a table.

    Returns:
        Each of `METRICS`, `majority_accuracy` (share of the table's most frequent class), `n_images` and
        `n_subjects` (None where a cell has no subject). Rates are fractions of 1.
    Raises:
        InputError: as `validate_predictions`.
    """
    label, logit = arrays(table)
    return {
        **{name: metric.function(label, logit) for name, metric in METRICS.items()},
        "majority_accuracy": max(float(label.mean()), float((~label).mean())),
        "n_images": len(label),
        "n_subjects": int(plain_subjects(table).nunique()) if has_subjects(table) else None,
    }


def subject_metrics(table: pd.DataFrame) -> dict[str, Any] | None:
    """Metrics over the subjects of a table, each subject counting once; None where a cell has no subject.

    Returns:
        `n`, and each of `SUBJECT_METRICS`: rates are of the majority vote, `auroc` is of the mean logit,
        `mean_cell_accuracy` is the mean over subjects of the share of correctly called cells. A subject with
        cells of both classes has no label: then all but `n` and the last are None.
    Raises:
        InputError: as `validate_predictions`.
    """
    if not has_subjects(table):
        validate_predictions(table)
        return None
    subjects = subject_table(table)
    labelled = bool(subjects["label"].notna().all())
    label = subjects["label"].fillna(0).to_numpy(dtype=bool)
    scores = {"auroc": subjects["mean_logit"], "mean_cell_accuracy": subjects["accuracy"]}
    vote = subjects["vote"] - 0.5
    return {"n": len(subjects)} | {
        name: metric.function(label, scores.get(name, vote).to_numpy())
        if labelled or name == "mean_cell_accuracy"
        else None
        for name, metric in SUBJECT_METRICS.items()
    }


def subject_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a subject, by subject: `label` (missing where its cells have both), `n` cells, `share_positive`
    (of its cells called positive), `mean_logit`, `vote` (1 or 0; a tie goes by the mean logit), `accuracy`
    (share of its cells called correctly).

    Raises:
        InputError: as `validate_predictions`.
    """
    label, logit = arrays(table)
    cells = pd.DataFrame({
        "subject": plain_subjects(table).to_numpy(),
        "label": label.astype(int),
        "logit": logit,
        "called": (logit >= 0).astype(int),
        "correct": (logit >= 0) == label,
    })  # fmt: skip
    groups = cells.groupby("subject", sort=True)
    n, positive, mean_logit = groups.size(), groups["called"].sum(), groups["logit"].mean()
    one_label = groups["label"].min() == groups["label"].max()
    return pd.DataFrame({
        "label": groups["label"].min().astype("Int64").where(one_label),
        "n": n,
        "share_positive": positive / n,
        "mean_logit": mean_logit,
        "vote": ((2 * positive > n) | ((2 * positive == n) & (mean_logit >= 0))).astype(int),
        "accuracy": groups["correct"].mean(),
    })  # fmt: skip


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int | None = None) -> float:
    """Expected calibration error of a decision's confidence `[n]`, given where it was `correct` `[n]`: mean
    over cells of |accuracy - mean confidence| of the cell's bin (Naeini et al. 2015; equal-mass bins as in
    Nixon et al. 2019), see `confidence_bins`."""
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    surplus = np.bincount(confidence_bins(confidence, bins), weights=correct - confidence)
    return float(np.abs(surplus).sum() / len(confidence))


def confidence_bins(confidence: ArrayLike, bins: int | None = None) -> NDArray[np.int64]:
    """The bin of each confidence `[n]`, from 0, ascending.

    A bin takes an equal share of the cells by rank, and cells of equal confidence share the bin of their
    middle rank, so neither the order of the rows nor a confidence of exactly 1 matters. There are 15 bins,
    fewer where a bin would hold under 10 cells, or as many as `bins` says.
    """
    confidence = np.asarray(confidence, dtype=float)
    n = len(confidence)
    count = bins or max(1, min(BINS, n // CELLS_A_BIN))
    middle = pd.Series(confidence).rank().to_numpy() - 0.5
    return (middle * count / n).astype(np.int64)


def decision_confidence(logit: ArrayLike) -> NDArray[np.float64]:
    """The probability of the class that is decided on, `[n]`, 0.5 to 1."""
    return sigmoid(np.abs(np.asarray(logit, dtype=float)))


def confusion(table: pd.DataFrame) -> NDArray[np.int64]:
    """Counts of cells `[2, 2]`: rows are the true class, columns the called one, negative first.

    Raises:
        InputError: as `validate_predictions`.
    """
    from sklearn.metrics import confusion_matrix

    label, logit = arrays(table)
    return np.asarray(confusion_matrix(label, logit >= 0, labels=[False, True]), dtype=np.int64)
