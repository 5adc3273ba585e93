"""Figures of a predictions table, per cell and per subject.

A table has a row a cell: `path`, `label` (1 positive, 0 negative), `logit` (of the positive class) and, where
known, `subject`. The decision is positive where the logit is at least 0, that is where its sigmoid is at
least 0.5; everything is computed from the logit, so the predictions of any model will do. A figure that is
undefined (AUROC of one class, say) is None, never NaN.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.predictions import (
    arrays,
    has_subjects,
    plain_subjects,
    sigmoid,
    validate_predictions,
)

BINS = 15
CELLS_A_BIN = 10


def cell_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Figures over the cells of a table.

    Returns:
        `accuracy, balanced_accuracy, f1_weighted, auroc, sensitivity, specificity, ece, loss` (mean binary
        cross-entropy, in nats), `majority_accuracy` (share of the table's most frequent class), `n_images`
        and `n_subjects` (None where a cell has no subject). Rates are fractions of 1.
    Raises:
        InputError: as `validate_predictions`.
    """
    label, logit = arrays(table)
    called = logit >= 0
    correct = called == label
    return {
        "accuracy": float(correct.mean()),
        **_rates(label, called),
        "f1_weighted": _f1_weighted(label, called),
        "auroc": auroc(label, logit),
        "ece": calibration_error(decision_confidence(logit), correct),
        "loss": float(np.logaddexp(0, np.where(label, -logit, logit)).mean()),
        "majority_accuracy": _majority(label) / len(label),
        "n_images": len(label),
        "n_subjects": int(plain_subjects(table).nunique()) if has_subjects(table) else None,
    }


def subject_metrics(table: pd.DataFrame) -> dict[str, Any] | None:
    """Figures over the subjects of a table, each subject counting once; None where a cell has no subject.

    Returns:
        `n`; `accuracy`, `balanced_accuracy`, `sensitivity` and `specificity` of the majority vote; `auroc` of
        the mean logit; `mean_cell_accuracy`, the mean over subjects of the share of correctly called cells.
        Where a subject has cells of both classes it has no label: all but the last and `n` are None.
    Raises:
        InputError: as `validate_predictions`.
    """
    if not has_subjects(table):
        validate_predictions(table)
        return None
    subjects = subject_table(table)
    figures: dict[str, Any] = dict.fromkeys(
        ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc")
    )
    if subjects["label"].notna().all():
        label = subjects["label"].to_numpy(dtype=bool)
        vote = subjects["vote"].to_numpy(dtype=bool)
        figures["accuracy"] = float((vote == label).mean())
        figures |= _rates(label, vote)
        figures["auroc"] = auroc(label, subjects["mean_logit"])
    return {"n": len(subjects), **figures, "mean_cell_accuracy": float(subjects["accuracy"].mean())}


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


def better_than_majority(table: pd.DataFrame) -> bool:
    """Whether the accuracy lies above the majority rate by more than chance would explain: the lower end of
    its 95 % Wilson interval is above the share of the table's most frequent class.

    The interval takes cells of one subject as independent, which they are not: it is too narrow, so this
    errs towards "better".

    Raises:
        InputError: as `validate_predictions`.
    """
    label, logit = arrays(table)
    correct = int(((logit >= 0) == label).sum())
    return wilson_interval(correct, len(label))[0] > _majority(label) / len(label)


def auroc(label: ArrayLike, score: ArrayLike) -> float | None:
    """Area under the ROC curve of a score `[n]` for labels `[n]`: the chance that a positive scores above a
    negative, ties counting half (Mann-Whitney U by midranks; Hanley and McNeil 1982). None for one class."""
    positive = np.asarray(label, dtype=bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = pd.Series(np.asarray(score, dtype=float)).rank().to_numpy()
    u = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


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
    label, logit = arrays(table)
    return np.bincount(2 * label + (logit >= 0), minlength=4).reshape(2, 2).astype(np.int64)


def _rates(label: NDArray[np.bool_], called: NDArray[np.bool_]) -> Mapping[str, float | None]:
    sensitivity = float(called[label].mean()) if label.any() else None
    specificity = float((~called[~label]).mean()) if not label.all() else None
    both = sensitivity is not None and specificity is not None
    return {
        "balanced_accuracy": (sensitivity + specificity) / 2 if both else None,  # type: ignore[operator]
        "sensitivity": sensitivity,
        "specificity": specificity,
    }


def _f1_weighted(label: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    """F1 of each class, weighted by its cells. A class with no cell and no call has F1 0 and weight 0."""
    total = 0.0
    for positive in (True, False):
        hits = int(((label == positive) & (called == positive)).sum())
        cells, calls = int((label == positive).sum()), int((called == positive).sum())
        total += cells * (2 * hits / (cells + calls)) if cells else 0.0
    return total / len(label)


def _majority(label: NDArray[np.bool_]) -> int:
    return int(max(label.sum(), (~label).sum()))
