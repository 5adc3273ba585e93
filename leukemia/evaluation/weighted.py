"""The metrics of `metrics`, computed for many weightings of the cells at once."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukemia.evaluation.metrics import METRICS, confidence_bins, decision_confidence, subject_table
from leukemia.evaluation.predictions import arrays, plain_subjects

Values = dict[str, NDArray[np.float64]]  # of each metric and draw, NaN where undefined
Weighting = Callable[[NDArray[np.float64]], Values]  # of weights [draws, units]
AT_ONCE = 1_000_000  # weights of cells in memory at once


def weighted_rates(table: pd.DataFrame, unit: NDArray[np.intp], units: int) -> Weighting:
    """A function from weights `[draws, units]` to the rates of the decisions: accuracy, balanced accuracy, sensitivity,
    specificity.

    Args:
        table: as `metrics` takes it.
        unit: of each row, from 0.
        units: how many there are; some may have no row.
    """
    label, logit = arrays(table)
    counts = sums(_confusion(label, logit >= 0), unit, units)
    return lambda weights: _rates(weights @ counts)


def weighted_cell_metrics(table: pd.DataFrame, unit: NDArray[np.intp], units: int) -> Weighting:
    """A function from weights `[draws, units]` to each of `metrics.METRICS`; arguments as of `weighted_rates`. AUROC is
    the mean within folds where a column `fold` tells models apart."""
    label, logit = arrays(table)
    called = logit >= 0
    confidence = decision_confidence(logit)
    bins = confidence_bins(confidence)
    columns = np.zeros((len(table), bins.max() + 1))
    columns[np.arange(len(table)), bins] = (called == label) - confidence
    surplus = sums(columns, unit, units)
    counts = sums(_confusion(label, called), unit, units)
    losses = sums(np.logaddexp(0, np.where(label, -logit, logit))[:, None], unit, units)[:, 0]
    auroc = _auroc(label, logit, _folds(table, np.arange(len(table))), unit)

    def weighted(weights: NDArray[np.float64]) -> Values:
        of_draw = weights @ counts
        hits, alarms, misses, passes = of_draw.T
        n = of_draw.sum(axis=1)
        f1 = [  # of a class times its cells; 0 without any cell and call, as in `metrics`
            np.nan_to_num(_share(cells * 2 * right, 2 * right + misses + alarms))
            for right, cells in ((hits, hits + misses), (passes, passes + alarms))
        ]
        found = {
            **_rates(of_draw),
            "f1_weighted": (f1[0] + f1[1]) / n,
            "auroc": auroc(weights),
            "ece": np.abs(weights @ surplus).sum(axis=1) / n,
            "loss": weights @ losses / n,
        }
        return {name: found[name] for name in METRICS}

    return weighted


def weighted_subject_metrics(table: pd.DataFrame, unit: NDArray[np.intp], units: int) -> Weighting:
    """A function from weights `[draws, units]` to each of `metrics.SUBJECT_METRICS`; arguments as of
    `weighted_rates`."""
    subjects = subject_table(table)
    names = plain_subjects(table).to_numpy()
    rows = pd.Series(np.arange(len(table)), index=names).groupby(level=0).first().loc[subjects.index]
    label = subjects["label"].fillna(0).to_numpy(dtype=bool)
    vote = subjects["vote"].to_numpy(dtype=bool)
    logit = subjects["mean_logit"].to_numpy()
    have_labels = bool(subjects["label"].notna().all())
    folds = _folds(table, rows.to_numpy())
    if "fold" in table and len(set(zip(names, table["fold"], strict=True))) > len(rows):  # of several folds
        folds = [np.arange(len(rows))]
    its_unit = unit[rows]
    counts = sums(_confusion(label, vote), its_unit, units)
    own = sums(subjects[["accuracy"]].to_numpy(), its_unit, units)[:, 0]
    auroc = _auroc(label, logit, folds, its_unit)

    def weighted(weights: NDArray[np.float64]) -> Values:
        of_draw = weights @ counts
        found = {**_rates(of_draw), "auroc": auroc(weights)}
        if not have_labels:
            found = {name: np.full(len(weights), np.nan) for name in found}
        return {**found, "mean_cell_accuracy": weights @ own / of_draw.sum(axis=1)}

    return weighted


def sums(columns: NDArray[np.float64], unit: NDArray[np.intp], units: int) -> NDArray[np.float64]:
    """Columns `[rows, k]` summed over the rows of each unit, `[units, k]`: what is a sum over cells needs no cells."""
    return np.stack([np.bincount(unit, column, minlength=units) for column in columns.T], axis=1)


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
    unit: NDArray[np.intp],
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A function from weights `[draws, units]` to the weighted Mann-Whitney statistic of each draw, as the mean over
    the folds that have both classes."""
    parts = []
    for rows in folds:
        of_class = [rows[label[rows] == kind] for kind in (True, False)]
        positive, negative = (own[np.argsort(score[own], kind="stable")] for own in of_class)
        below = np.searchsorted(score[negative], score[positive], "left")  # negatives below each positive
        up_to = np.searchsorted(score[negative], score[positive], "right")
        parts.append((unit[positive], unit[negative], below, up_to))
    chunk = max(1, AT_ONCE // max(1, len(score)))

    def of_part(weights: NDArray[np.float64], part: tuple[NDArray[np.intp], ...]) -> NDArray[np.float64]:
        of_positive, of_negative, below, up_to = part
        positive = weights[:, of_positive]
        passed = np.zeros((len(weights), len(of_negative) + 1))
        np.cumsum(weights[:, of_negative], axis=1, out=passed[:, 1:])
        pairs = np.einsum("dp,dp->d", positive, passed[:, below] + passed[:, up_to]) / 2  # a tie counts half
        return _share(pairs, positive.sum(axis=1) * passed[:, -1])

    def of_draws(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found = []
        for start in range(0, len(weights), chunk):
            areas = np.stack([of_part(weights[start : start + chunk], part) for part in parts])
            found.append(_share(np.nan_to_num(areas).sum(axis=0), (~np.isnan(areas)).sum(axis=0)))
        return np.concatenate(found) if found else np.empty(0)

    return of_draws


def _folds(table: pd.DataFrame, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Places among these rows, by fold."""
    if "fold" not in table:
        return [np.arange(len(rows))]
    fold = pd.factorize(table["fold"].to_numpy()[rows])[0]
    return [np.flatnonzero(fold == number) for number in range(fold.max() + 1)]
