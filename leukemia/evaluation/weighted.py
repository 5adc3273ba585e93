"""The metrics of `metrics`, computed for many weightings of the cells at once."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukemia.evaluation.metrics import METRICS, confidence_bins, decision_confidence, subject_table
from leukemia.evaluation.predictions import arrays, clusters, plain_subjects

Values = dict[str, NDArray[np.float64]]  # of each metric and draw, NaN where undefined
Weighted = tuple[NDArray[np.intp], Callable[[NDArray[np.float64]], Values]]


def weighted_rates(table: pd.DataFrame) -> Weighted:
    """A row of each independent unit (see `clusters`), and a function from their weights `[draws, units]` to the rates
    of their decisions: accuracy, balanced accuracy, sensitivity, specificity."""
    label, logit = arrays(table)
    _, rows, unit = np.unique(clusters(table)[1].astype(str), return_index=True, return_inverse=True)
    counts = np.stack([np.bincount(unit, of) for of in _confusion(label, logit >= 0).T], axis=1)
    return rows, lambda weights: _rates(weights @ counts)


def weighted_cell_metrics(table: pd.DataFrame) -> Weighted:
    """The rows of a table (all), and a function from their weights `[draws, rows]` to each of `metrics.METRICS`. AUROC
    is the mean within folds where a column `fold` tells models apart."""
    label, logit = arrays(table)
    called = logit >= 0
    losses = np.logaddexp(0, np.where(label, -logit, logit))
    confidence = decision_confidence(logit)
    bins = confidence_bins(confidence)
    surplus = np.zeros((len(table), bins.max() + 1))
    surplus[np.arange(len(table)), bins] = (called == label) - confidence
    counts = _confusion(label, called)
    folds = _folds(table, np.arange(len(table)))

    def weighted(weights: NDArray[np.float64]) -> Values:
        n = weights.sum(axis=1)
        hits, alarms, misses, passes = (weights @ counts).T
        f1 = [  # of a class times its cells; 0 without any cell and call, as in `metrics`
            np.nan_to_num(_share(cells * 2 * right, 2 * right + misses + alarms))
            for right, cells in ((hits, hits + misses), (passes, passes + alarms))
        ]
        found = {
            **_rates(weights @ counts),
            "f1_weighted": (f1[0] + f1[1]) / n,
            "auroc": _auroc(label, logit, folds, weights),
            "ece": np.abs(weights @ surplus).sum(axis=1) / n,
            "loss": weights @ losses / n,
        }
        return {name: found[name] for name in METRICS}

    return np.arange(len(table)), weighted


def weighted_subject_metrics(table: pd.DataFrame) -> Weighted:
    """A row of each subject, and a function from their weights `[draws, subjects]` to each of
    `metrics.SUBJECT_METRICS`."""
    subjects = subject_table(table)
    names = plain_subjects(table).to_numpy()
    rows = pd.Series(np.arange(len(table)), index=names).groupby(level=0).first().loc[subjects.index]
    label = subjects["label"].fillna(0).to_numpy(dtype=bool)
    vote = subjects["vote"].to_numpy(dtype=bool)
    own, logit = subjects["accuracy"].to_numpy(), subjects["mean_logit"].to_numpy()
    have_labels = bool(subjects["label"].notna().all())
    folds = _folds(table, rows.to_numpy())
    if "fold" in table and len(set(zip(names, table["fold"], strict=True))) > len(rows):  # of several folds
        folds = [np.arange(len(rows))]
    counts = _confusion(label, vote)

    def weighted(weights: NDArray[np.float64]) -> Values:
        found = {**_rates(weights @ counts), "auroc": _auroc(label, logit, folds, weights)}
        if not have_labels:
            found = {name: np.full(len(weights), np.nan) for name in found}
        return {**found, "mean_cell_accuracy": weights @ own / weights.sum(axis=1)}

    return rows.to_numpy(), weighted


def _confusion(label: NDArray[np.bool_], called: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Hits, false alarms, misses and passes of each row, `[rows, 4]`."""
    found = np.stack([label & called, ~label & called, label & ~called, ~label & ~called], axis=1)
    return found.astype(float)


def _rates(counts: NDArray[np.float64]) -> Values:
    """The rates of each draw, from its weighted `_confusion`, `[draws, 4]`."""
    hits, alarms, misses, passes = counts.T
    sensitivity, specificity = _share(hits, hits + misses), _share(passes, passes + alarms)
    return {
        "accuracy": (hits + passes) / (hits + alarms + misses + passes),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
    }


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _auroc(
    label: NDArray[np.bool_],
    score: NDArray[np.float64],
    folds: list[NDArray[np.intp]],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The weighted Mann-Whitney statistic of each draw, as the mean over the folds that have both classes."""
    total, defined = np.zeros(len(weights)), np.zeros(len(weights))
    for rows in folds:
        order = rows[np.argsort(score[rows], kind="stable")]
        starts = np.flatnonzero(np.append(True, np.diff(score[order]) > 0))  # of ties
        positive = np.add.reduceat(weights[:, order] * label[order], starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * ~label[order], starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        area = _share((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))
        total += np.nan_to_num(area)
        defined += ~np.isnan(area)
    return _share(total, defined)


def _folds(table: pd.DataFrame, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Places among these rows, by fold."""
    if "fold" not in table:
        return [np.arange(len(rows))]
    fold = pd.factorize(table["fold"].to_numpy()[rows])[0]
    return [np.flatnonzero(fold == number) for number in range(fold.max() + 1)]
