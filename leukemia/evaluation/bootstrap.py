"""Intervals that respect that cells of one subject belong together: a bootstrap of subjects within class.

Several tables of one model (seeds) share the draws, and so do two models that are compared.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.intervals import auroc_interval, balanced_interval, wilson_interval
from leukemia.evaluation.predictions import arrays, clusters, has_subjects, plain_subjects
from leukemia.evaluation.subjects import by_subject
from leukemia.evaluation.weighted import Figures, Weighted, cell_figures, subject_figures

DRAWS = 2000
AT_ONCE = 4_000_000  # weights in memory at once

Summary = dict[str, dict[str, float | None]]


def evaluate(
    replicates: Sequence[pd.DataFrame], draws: int = DRAWS, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Every figure of a model with its interval.

    The percentile bootstrap resamples what is independent (groups of subjects that share pictures, else subjects,
    else cells) with replacement within each class (Davison and Hinkley 1997, section 3.8, the first strategy for
    clusters). With n of them in a class it is narrower than it should be by about sqrt(1 - 1/n). An interval is
    widened to hold its figure where that is biased, as calibration error is; and where all draws are the same,
    because nothing was called wrongly, it is the score interval (see `intervals`) of as many units.

    Args:
        replicates: tables of the same model, one a seed; each as `metrics` takes it. With a column `fold`, the
            predictions of several models stand in one table: threshold figures pool them, and AUROC is the mean
            within folds, for their logits are not one scale.
        draws: of the bootstrap.
        confidence: of the intervals.
        seed: of the draws.

    Returns:
        `unit` (what was resampled: `group`, `subject` or `cell`), `too_narrow` (subjects are unknown), `draws`,
        `confidence`, `n_images`, `n_subjects`; `cells` and `subjects` (None where they are unknown): for each
        figure `value`, `low`, `high` (None where undefined, or where a class has fewer than two units), and with
        several replicates `value` is their mean beside `sd`, `lowest`, `highest`; `by_subject`, see there.
    Raises:
        InputError: as `validate_predictions`.
    """
    resampling = _Resampling(replicates, draws, seed)
    first = replicates[0]
    known = all(has_subjects(table) for table in replicates)
    n_subjects = int(plain_subjects(first).nunique()) if known else None
    cells, subjects = (
        resampling.summary([resampling.figures(table, of) for table in replicates], confidence)
        if told
        else None
        for of, told in ((cell_figures, True), (subject_figures, known))
    )
    return {
        "unit": resampling.unit,
        "too_narrow": resampling.unit == "cell",
        "draws": draws,
        "confidence": confidence,
        "n_images": len(first),
        "n_subjects": n_subjects,
        "cells": cells,
        "subjects": {"n": n_subjects, **subjects} if subjects else None,
        "by_subject": by_subject(replicates, confidence) if known else None,
    }


def compare(
    first: Sequence[pd.DataFrame],
    second: Sequence[pd.DataFrame],
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """The differences of two models on the same cells, second minus first: `difference`, `low`, `high` for each
    figure over cells. Both are evaluated on the same draws, so what makes a subject hard for both cancels. As many
    replicates of both are paired in their order; otherwise all have to be of the same cells.

    Raises:
        InputError: if their cells or labels are not the same.
    """
    if len(first) == len(second):
        pairs = list(zip(first, second, strict=True))
    else:
        pairs = [(first[0], table) for table in [*first[1:], *second]]
    for one, other in pairs:
        _same_cells(one, other)
    resampling = _Resampling([*first, *second], draws, seed)
    means = [_mean([resampling.figures(table, cell_figures) for table in model]) for model in (first, second)]
    differences = resampling.summary(
        [{name: means[1][name] - means[0][name] for name in means[0]}], confidence, of_shares=False
    )
    return {
        name: {"difference": figure["value"], "low": figure["low"], "high": figure["high"]}
        for name, figure in differences.items()
    }


class _Resampling:
    """Draws of what is independent in some tables, and figures of each draw."""

    def __init__(self, tables: Sequence[pd.DataFrame], draws: int, seed: int) -> None:
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
        generator = np.random.default_rng(seed)
        self.weights = np.empty((draws, len(of_unit)), dtype=np.int32)
        for kind in kinds.unique():
            place = np.flatnonzero(kinds == kind)
            n = len(place)
            self.weights[:, place] = generator.multinomial(n, np.full(n, 1 / n), size=draws)
        self._place = pd.Series(np.arange(len(of_unit)), index=of_unit.index)
        self._unit_of = {id(table): ids for table, ids in zip(tables, units, strict=True)}

    def figures(self, table: pd.DataFrame, of: Callable[[pd.DataFrame], Weighted]) -> Figures:
        """Figures `[1 + draws]`: of the table itself, then of each draw (none where intervals are undefined)."""
        rows, weighted = of(table)
        place = self._place.loc[list(self._unit_of[id(table)][rows])].to_numpy()
        parts = [weighted(np.ones((1, len(rows))))]
        chunk = max(1, AT_ONCE // max(1, len(rows)))
        drawn = self.weights if min(self.n_positive, self.n_negative) >= 2 else self.weights[:0]
        for start in range(0, len(drawn), chunk):
            parts.append(weighted(drawn[start : start + chunk, place].astype(float)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def summary(self, replicates: list[Figures], confidence: float, of_shares: bool = True) -> Summary:
        """Value and interval of each figure, see `evaluate`."""
        means = _mean(replicates)
        found: Summary = {}
        for name, values in means.items():
            value, draws = _or_none(values[0]), values[1:][~np.isnan(values[1:])]
            figure = found[name] = {"value": value, "low": None, "high": None}
            if value is not None and len(draws):
                low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
                if of_shares and low == high:
                    low, high = self._without_spread(name, means, confidence)
                figure |= {"low": float(min(low, value)), "high": float(max(high, value))}
            if len(replicates) > 1:
                own = np.array([figures[name][0] for figures in replicates])
                spread = {"sd": own.std(ddof=1), "lowest": own.min(), "highest": own.max()}
                figure |= {what: _or_none(number) for what, number in spread.items()}
        return found

    def _without_spread(self, name: str, means: Figures, confidence: float) -> tuple[float, float]:
        value, positive, negative = float(means[name][0]), self.n_positive, self.n_negative
        if name in ("ece", "loss"):
            return value, value
        if name == "auroc":
            return auroc_interval(value, positive, negative, confidence)
        if name == "balanced_accuracy":
            shares = float(means["sensitivity"][0]), float(means["specificity"][0])
            return balanced_interval(*shares, positive, negative, confidence)
        n = {"sensitivity": positive, "specificity": negative}.get(name, positive + negative)
        return wilson_interval(value * n, n, confidence)


def _mean(replicates: list[Figures]) -> Figures:
    return {name: np.mean([figures[name] for figures in replicates], axis=0) for name in replicates[0]}


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
