"""Intervals that respect that cells of one subject belong together: a bootstrap of subjects within class.

Several tables of one model (seeds) share the draws, and so do two models that are compared.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukemia.errors import InputError
from leukemia.evaluation.intervals import auroc_interval, weighted_interval, wilson_interval
from leukemia.evaluation.predictions import arrays, clusters, has_subjects, plain_subjects
from leukemia.evaluation.subjects import by_subject
from leukemia.evaluation.weighted import (
    Values,
    Weighting,
    weighted_cell_metrics,
    weighted_rates,
    weighted_subject_metrics,
)

DRAWS = 2000
CONFIDENCE = 0.95  # of intervals
AT_ONCE = 4_000_000  # weights of units in memory at once, in double precision
MOST = 200_000_000  # weights of units; with more than 100,000 units there are fewer draws
SAME = 1e-12  # rounding: draws that differ by less are equal
PARTS = ("sensitivity", "specificity")  # of both accuracies

Summary = dict[str, dict[str, float | None]]
Ends = tuple[float, float]
Of = Callable[[pd.DataFrame, NDArray[np.intp], int], Weighting]  # see `weighted_rates`


def evaluate(
    replicates: Sequence[pd.DataFrame], draws: int = DRAWS, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[str, Any]:
    """Every metric of a model with its interval.

    The percentile bootstrap draws the independent units (groups of subjects that share pictures, else subjects, else
    cells) with replacement within each class (Davison and Hinkley 1997, section 3.8, the first strategy for clusters).
    With n units in a class the interval is too narrow by a factor of about sqrt(1 - 1/n). A biased metric, as
    calibration error, has an interval that is widened to hold it.

    Where all draws are equal, because no cell was called wrongly, a share has the score interval (see `intervals`) of
    as many units. Where that is so of sensitivity or specificity, accuracy and balanced accuracy are widened to hold
    the interval of the weighted sum of the two (`intervals.weighted_interval`; the weights are the shares of the
    classes, or a half each). Calibration error and log loss then have no interval, nor has a difference.

    Args:
        replicates: tables of the same model, one a seed; each as `metrics` takes it. With a column `fold`, the
            predictions of several models stand in one table: metrics at a threshold pool them, and AUROC is the mean
            within folds, because their logits are not on one scale.
        draws: of the bootstrap; of more than 100,000 units fewer, down to 200.
        confidence: of the intervals.
        seed: of the draws.

    Returns:
        `unit` that is drawn (`group`, `subject` or `cell`), `too_narrow` (subjects are unknown), `no_intervals` (the
        reason, where a class has fewer than two units that can vary: one alone of its kind, all positive, all negative
        or both, is in every draw; else None), `draws`, `confidence`, `n_images`, `n_subjects`; `cells` and `subjects`
        (None where they are unknown): for each metric `value`, `low`, `high` (None where undefined), and with several
        replicates `value` is their mean beside `sd`, `lowest`, `highest`; `by_subject`, see there.
    Raises:
        InputError: as `validate_predictions`.
    """
    resampling = _Resampling(replicates, draws, seed)
    first = replicates[0]
    known = all(has_subjects(table) for table in replicates)
    n_subjects = int(plain_subjects(first).nunique()) if known else None
    rows = by_subject(replicates, confidence) if known else None
    share = float(np.mean(arrays(first)[0]))
    values = [resampling.values(table, weighted_cell_metrics) for table in replicates]
    cells = resampling.summary(values, confidence, share)
    subjects = None
    if rows is not None:
        share = float(np.mean([row["label"] == 1 for row in rows]))
        values = [resampling.values(table, weighted_subject_metrics) for table in replicates]
        subjects = resampling.summary(values, confidence, share)
    return {
        "unit": resampling.unit,
        "too_narrow": resampling.unit == "cell",
        "no_intervals": resampling.no_intervals,
        "draws": len(resampling.weights),
        "confidence": confidence,
        "n_images": len(first),
        "n_subjects": n_subjects,
        "cells": cells,
        "subjects": {"n": n_subjects, **subjects} if subjects else None,
        "by_subject": rows,
    }


def accuracy_interval(table: pd.DataFrame) -> tuple[str, Ends | None]:
    """The unit that is drawn and the interval of accuracy, as `evaluate` gives them, without the other metrics.

    Raises:
        InputError: as `validate_predictions`.
    """
    resampling = _Resampling([table])
    rates = resampling.values(table, weighted_rates)
    found = resampling.summary([rates], CONFIDENCE, float(arrays(table)[0].mean()))["accuracy"]
    low, high = found["low"], found["high"]
    return resampling.unit, None if low is None or high is None else (low, high)


def compare(
    first: Sequence[pd.DataFrame],
    second: Sequence[pd.DataFrame],
    draws: int = DRAWS,
    of: Of = weighted_cell_metrics,
) -> dict[str, dict[str, float | None]]:
    """The differences of two models on the same cells, second minus first: `difference`, `low`, `high` for each metric
    of `of`, by default those over cells. Both are evaluated on the same draws, so that a subject that is hard for both
    cancels. As many replicates of both are paired in their order; otherwise all have to be of the same cells.

    Raises:
        InputError: if their cells or labels are not the same.
    """
    if len(first) == len(second):
        pairs = list(zip(first, second, strict=True))
    else:
        pairs = [(first[0], table) for table in [*first[1:], *second]]
    for one, other in pairs:
        _same_cells(one, other)
    resampling = _Resampling([*first, *second], draws)
    means = [_mean([resampling.values(table, of) for table in model]) for model in (first, second)]
    apart = {name: means[1][name] - means[0][name] for name in means[0]}
    differences = resampling.summary([apart], CONFIDENCE)
    return {
        name: {"difference": found["value"], "low": found["low"], "high": found["high"]}
        for name, found in differences.items()
    }


def paired_rates(tables: Sequence[pd.DataFrame]) -> tuple[list[Summary], list[Summary]]:
    """Sensitivity, specificity and accuracies of several sets of decisions on the same cells, and the differences of
    the later ones to the first, on the same draws.

    Args:
        tables: as `metrics` takes them; the sign of a logit is the decision.

    Raises:
        InputError: if their cells or labels are not the same.
    """
    for table in tables[1:]:
        _same_cells(tables[0], table)
    resampling = _Resampling(tables)
    share = float(arrays(tables[0])[0].mean())
    found = [resampling.values(table, weighted_rates) for table in tables]
    apart = [{name: values[name] - found[0][name] for name in values} for values in found[1:]]
    rates = [resampling.summary([values], CONFIDENCE, share) for values in found]
    return rates, [resampling.summary([values], CONFIDENCE) for values in apart]


class _Resampling:
    """Draws of the independent units of some tables, and the metrics of each draw."""

    def __init__(self, tables: Sequence[pd.DataFrame], draws: int = DRAWS, seed: int = 0) -> None:
        found = [clusters(table) for table in tables]
        names = {name for name, _ in found}
        if len(names) > 1:  # a common name for all of them
            found = [clusters(table.drop(columns="group", errors="ignore")) for table in tables]
            if len({name for name, _ in found}) > 1:
                found = [("cell", table["path"].to_numpy(dtype=object)) for table in tables]
        self.unit = found[0][0]
        units = [ids for _, ids in found]
        labels = [arrays(table)[0] for table in tables]
        cells = pd.DataFrame({"unit": np.concatenate(units), "label": np.concatenate(labels)})
        of_unit = cells.groupby("unit")["label"].agg(["min", "max"])
        self.n_positive, self.n_negative = int(of_unit["max"].sum()), int((~of_unit["min"]).sum())
        kinds = of_unit["min"].astype(int) + of_unit["max"].astype(int)  # 0, 2, and 1 where it has both
        vary = {kind: n for kind, n in kinds.value_counts().items() if n > 1}
        varying = [sum(vary.get(kind, 0) for kind in of) for of in ((1, 2), (0, 1))]
        self.no_intervals = None
        if min(varying) < 2:
            self.no_intervals = (
                f"a class has fewer than two {self.unit}s to draw from ({varying[0]} positive, {varying[1]} negative; "
                "one that is alone of its kind is in every draw)"
            )
        generator = np.random.default_rng(seed)
        draws = min(draws, max(200, MOST // len(of_unit)))
        self.weights = np.empty((draws, len(of_unit)), dtype=np.int32)
        for kind in kinds.unique():
            place = np.flatnonzero(kinds == kind)
            n = len(place)
            self.weights[:, place] = generator.multinomial(n, np.full(n, 1 / n), size=draws)
        self._unit_of = {
            id(table): of_unit.index.get_indexer(pd.Index(ids))
            for table, ids in zip(tables, units, strict=True)
        }

    def values(self, table: pd.DataFrame, of: Of) -> Values:
        """Values `[1 + draws]`: of the table itself, then of each draw (none where intervals are undefined)."""
        units = self.weights.shape[1]
        weighted = of(table, self._unit_of[id(table)], units)
        parts = [weighted(np.ones((1, units)))]
        chunk = max(1, AT_ONCE // units)
        drawn = self.weights if self.no_intervals is None else self.weights[:0]
        for start in range(0, len(drawn), chunk):
            parts.append(weighted(drawn[start : start + chunk].astype(float)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def summary(self, replicates: list[Values], confidence: float, positive: float | None = None) -> Summary:
        """Value and interval of each metric, see `evaluate`. `positive` is the share of positive cells (or subjects);
        None for differences, which have no score interval."""
        means = _mean(replicates)
        ends = {name: _percentiles(values[1:], confidence) for name, values in means.items()}
        if positive is not None and self.no_intervals is None:
            values = {name: float(of[0]) for name, of in means.items() if not np.isnan(of[0])}
            ends |= self._score_intervals(values, ends, positive, confidence)
        found: Summary = {}
        for name, of in means.items():
            value, interval = _or_none(of[0]), ends[name]
            metric = found[name] = {"value": value, "low": None, "high": None}
            if value is not None and interval is not None:
                metric |= {"low": float(min(interval[0], value)), "high": float(max(interval[1], value))}
            if len(replicates) > 1:
                own = np.array([values[name][0] for values in replicates])
                spread = {"sd": own.std(ddof=1), "lowest": own.min(), "highest": own.max()}
                metric |= {what: _or_none(number) for what, number in spread.items()}
        return found

    def _score_intervals(
        self, values: dict[str, float], drawn: dict[str, Ends | None], positive: float, confidence: float
    ) -> dict[str, Ends | None]:
        """Of metrics without spread, and of accuracies with a part that has none."""
        n_positive, n_negative = self.n_positive, self.n_negative
        n = {"sensitivity": n_positive, "specificity": n_negative}
        n |= dict.fromkeys(("f1_weighted", "mean_cell_accuracy"), n_positive + n_negative)
        found: dict[str, Ends | None] = {
            name: wilson_interval(values[name] * of, of, confidence)
            for name, of in n.items()
            if name in values and drawn[name] is None
        }
        if "auroc" in values and drawn["auroc"] is None:
            found["auroc"] = auroc_interval(values["auroc"], n_positive, n_negative, confidence)
        if not found.keys() & PARTS:
            return found
        parts = [(values[name], *ends) for name in PARTS if (ends := (drawn | found)[name]) is not None]
        for name, weight in (("accuracy", positive), ("balanced_accuracy", 0.5)):
            low, high = weighted_interval(parts, (weight, 1 - weight))
            before = drawn[name] or (low, high)
            found[name] = min(low, before[0]), max(high, before[1])
        return found


def _percentiles(draws: NDArray[np.float64], confidence: float) -> Ends | None:
    """The ends of a percentile interval; None where there are no draws, or all are the same."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return (float(low), float(high)) if high - low > SAME else None


def _mean(replicates: list[Values]) -> Values:
    return {name: np.mean([values[name] for values in replicates], axis=0) for name in replicates[0]}


def _same_cells(first: pd.DataFrame, second: pd.DataFrame) -> None:
    ours = dict(zip(first["path"], arrays(first)[0].tolist(), strict=True))
    theirs = dict(zip(second["path"], arrays(second)[0].tolist(), strict=True))
    alone = ours.keys() ^ theirs.keys()
    if alone:
        raise InputError(
            f"the two report on different cells ({len(alone):,} are in one alone, as {min(alone)}): a paired "
            "comparison needs the same ones"
        )
    differ = [path for path in ours if ours[path] != theirs[path]]
    if differ:
        raise InputError(f"the two have different labels for {len(differ):,} cells, as {differ[0]}")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
