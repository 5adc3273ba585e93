"""The gate: cells that are unlike the training cells go to review, whatever the network says of them.

A cell has *checks*: handcrafted features, each to both sides, and the distance of its pooled features from those of the
training cells. A check counts in units of the training cells: 0 at their median, 1 where all but `share` of them lie.
The score of a cell is its largest check or, where several are above 1, their 3-norm. One limit holds for the score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.errors import InputError, quoted
from leukemia.evaluation.covariance import blocks, without_each_fold
from leukemia.evaluation.policy import REVIEW
from leukemia.evaluation.predictions import has_subjects, plain_subjects

Floats = NDArray[np.float64]
SHARE = 0.01  # of cells like the training cells that may be stopped, mean over subjects
FOLDS = 10
NUMBERS = ("share", "guaranteed_share", "n_units", "n_cells")
ABOUT = (*NUMBERS, "stopped_share", "unit")  # facts of a gate
# Each handcrafted feature: the least difference that counts as 1, and words for a larger and for a smaller value.
HANDCRAFTED: dict[str, tuple[float, str, str]] = {
    "area": (0.01, "larger", "smaller"),
    "red": (2, "redder", "less red"),
    "green": (2, "greener", "less green"),
    "blue": (2, "bluer", "less blue"),
    "roundness": (0.01, "rounder", "less round"),
    "hue": (2, "of a redder hue", "of a bluer hue"),
    "sharpness": (0.05, "sharper", "more blurred"),
    "contrast": (1, "richer in contrast", "poorer in contrast"),
    "off_centre": (0.01, "farther from the centre", "nearer to the centre"),
    "border": (0.01, "more cut by the border of the picture", "less cut by the border of the picture"),
    "background": (2, "on a brighter background", "on a darker background"),
}

# `area+` for a larger area than that of the training cells, `area-` for a smaller one, ...; `network`: pooled features.
CHECKS = (*(f"{name}{sign}" for sign in "+-" for name in HANDCRAFTED), "network")


@dataclass(frozen=True)
class Unlike:
    """How unlike the training cells some cells are.

    Attributes:
        by: the score of each cell over the limit, (N,); a cell above 1 is stopped.
        check: the number of its largest check in CHECKS, (N,).
    """

    by: Floats
    check: NDArray[np.int64]

    @property
    def stopped(self) -> NDArray[np.bool_]:
        """Which cells go to review, (N,). A value that is not a number is stopped too."""
        return ~(self.by <= 1)  # not `> 1`, for NaN

    def words(self, share: float) -> list[str | None]:
        """The check that stops each cell, as `larger than 99 % of the training cells`; None where none does.

        Args:
            share: of the gate.
        """
        cells = zip(self.check.tolist(), self.stopped, strict=True)
        return [_words(number, share) if stop else None for number, stop in cells]


@dataclass(frozen=True)
class Gate:
    """The limits of a network's training cells.

    Attributes:
        scale: the training cells at 0 and 1 of each check.
        centre: mean of the pooled features, (D,).
        whitening: pooled features to a space where the distance from the centre counts, (D, D).
        limit: of the score.
        about: facts of the fit, in plain values; see ABOUT.
        cells: `leukemia.data.pixels.cell_hashes` of the training cells, ascending, (cells,).
    """

    scale: "_Scale"
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]
    limit: float
    about: Mapping[str, Any]
    cells: NDArray[np.uint64]

    def distance(self, features: ArrayLike) -> Floats:
        """The Mahalanobis distance of pooled features (N, D) from the training cells, (N,)."""
        from threadpoolctl import threadpool_limits

        whitening, centre = self.whitening.astype(np.float64), self.centre.astype(np.float64)
        with threadpool_limits(1, "blas"):  # as in fit_gate
            moved = (block @ whitening for block in blocks(np.asarray(features), centre))
            return np.concatenate([np.empty(0), *(np.linalg.norm(each, axis=1) for each in moved)])

    def network_check(self, distance: ArrayLike) -> Floats:
        """The check on distances (N,), in units of the training cells."""
        return self.scale.network(np.asarray(distance, dtype=np.float64))

    def unlike(self, handcrafted: ArrayLike, features: ArrayLike) -> Unlike:
        """How unlike the training cells some cells are.

        Args:
            handcrafted: `leukemia.data.handcrafted.measure` of the pixels as the network takes them, (N, F).
            features: pooled features of the network, (N, D).
        """
        return self.unlike_at(handcrafted, self.distance(features))

    def unlike_at(self, handcrafted: ArrayLike, distance: ArrayLike) -> Unlike:
        """As `unlike`, with the distances of pooled features, (N,)."""
        values = _checks(handcrafted, distance, self.scale)
        largest = np.where(np.isnan(values), np.inf, values).argmax(axis=1)
        return Unlike(_score(values) / self.limit, largest)

    @property
    def share(self) -> float:
        return float(self.about["share"])

    def to_json(self) -> dict[str, Any]:
        """The content of gate.json, but for the names of other files."""
        columns = zip(self.scale.low, self.scale.middle, self.scale.high, strict=True)
        ends = {name: list(map(float, of)) for name, of in zip(HANDCRAFTED, columns, strict=True)}
        ends["network"] = [self.scale.distance_middle, self.scale.distance_high]
        return {**self.about, "limit": self.limit, "checks": ends}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Gate":
        """The gate in the content of a gate.json and the arrays of its gate.npz.

        Raises:
            InputError: if it is not one.
        """
        try:
            ends = {name: np.array(list(map(float, content["checks"][name]))) for name in HANDCRAFTED}
            low, middle, high = np.stack(list(ends.values())).T
            near, far = map(float, content["checks"]["network"])
            scale = _Scale(low, middle, high, near, far)
            about = {name: content[name] for name in ABOUT}
            limit = float(content["limit"])
            centre, whitening, cells = (np.asarray(arrays[name]) for name in ("centre", "whitening", "cells"))
            sound = (
                (low <= middle).all()
                and (middle <= high).all()
                and near < far
                and 0 < limit < 1e9
                and all(isinstance(about[name], int | float) and 0 < about[name] < 1e9 for name in NUMBERS)
                and about["share"] < 1
                and isinstance(about["unit"], str)
                and centre.ndim == cells.ndim == 1
                and whitening.shape == (len(centre), len(centre))
                and cells.dtype == np.uint64
                and {centre.dtype, whitening.dtype} == {np.dtype(np.float32)}
                and np.isfinite([*low, *middle, *high, near, far]).all()
                and bool(np.isfinite(centre).all() and np.isfinite(whitening).all())
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"this is not a gate as training writes it: {quoted(error)}") from None
        if not sound:
            raise InputError("this is not a gate as training writes it: its numbers are not possible")
        return cls(scale, centre, whitening, limit, about, cells)


def gated_decisions(decisions: ArrayLike, by: ArrayLike) -> NDArray[np.str_]:
    """Decisions (N,) with the stopped cells (see `Unlike`) sent to review. No cell is released for it, so no rate of
    missed cells and of false alarms can rise."""
    return np.where(np.asarray(by, dtype=np.float64) <= 1, np.asarray(decisions), REVIEW)


def stopped_cells(table: pd.DataFrame) -> dict[str, Any] | None:
    """The stopped cells of a predictions table with the column `unlike_by` (see `Unlike.by`), for reports.

    Returns:
        `n_cells`, `stopped`, `why` (how many for each reason in the column `unlike`) and, where subjects are known,
        `subjects`: the name, `stopped` and `n` of each subject with a stopped cell, the most affected first. None
        without the column.
    """
    if "unlike_by" not in table:
        return None
    by = pd.to_numeric(table["unlike_by"], "coerce")
    if by.isna().all():
        return None
    stopped = ~(by <= 1)
    why = table["unlike"][stopped].fillna("unknown") if "unlike" in table else pd.Series(dtype=object)
    found = {"n_cells": len(table), "stopped": int(stopped.sum()), "why": why.value_counts().to_dict()}
    if not has_subjects(table):
        return {**found, "subjects": None}
    groups = stopped.groupby(plain_subjects(table).to_numpy()).agg(["sum", "size"])
    worst = groups[groups["sum"] > 0].sort_values("sum", ascending=False, kind="stable")
    subjects = [
        {"subject": str(name), "stopped": int(of["sum"]), "n": int(of["size"])}
        for name, of in worst.iterrows()
    ]
    return {**found, "subjects": subjects}


def fit_gate(
    handcrafted: ArrayLike,
    features: ArrayLike,
    units: ArrayLike,
    cells: ArrayLike,
    unit: str = "subject",
    share: float = SHARE,
) -> Gate:
    """The gate of some training cells.

    Each unit (subject) is scored against a reference without it. The limit is the smallest score at which the expected
    share of a new unit's cells above it is at most `share`: with n units, (share stopped * n + 1) / (n + 1) (conformal
    risk control; Angelopoulos, Bates, Fisch, Lei and Schuster 2024, ICLR). Below 1 / share - 1 units it is the largest
    score of all, and the guaranteed share is 1 / (n + 1).

    Args:
        handcrafted: as `Gate.unlike` takes them, (N, F).
        features: as `Gate.unlike` takes them, (N, D).
        units: the subject of each cell, or what else is independent, (N,).
        cells: `leukemia.data.pixels.cell_hashes` of the cells, (N,).
        unit: what the units are.
        share: of cells like these that may be stopped, as a mean over units.
    """
    from scipy.linalg import solve_triangular
    from threadpoolctl import threadpool_limits

    shape, deep = np.asarray(handcrafted, dtype=np.float64), np.asarray(features)
    number = np.unique(np.asarray(units, dtype=str), return_inverse=True)[1]
    n = int(number.max()) + 1
    weight = 1 / np.bincount(number)[number] / n  # every unit counts as one
    fold = np.random.default_rng(0).permutation(n)[number] % min(FOLDS, n)
    distance, score = np.zeros(len(deep)), np.zeros(len(deep))
    # Threads of OpenBLAS wait for each other: beside a busy process they take a hundred times as long as one.
    with threadpool_limits(1, "blas"):
        for held, (centre, covariance) in enumerate(without_each_fold(deep, fold)):
            factor = _factor(covariance)
            if held <= fold.max():  # the last ones are of all cells
                of_fold = blocks(deep[fold == held], centre)
                moved = (solve_triangular(factor, block.T, lower=True) for block in of_fold)
                distance[fold == held] = np.concatenate([np.linalg.norm(each, axis=0) for each in moved])
        whitening = solve_triangular(factor, np.eye(len(factor)), lower=True).T
    for held in range(fold.max() + 1):
        rest, here = fold != held, fold == held
        scale = _scale(shape[rest], distance[rest], weight[rest], share)
        score[here] = _score(_checks(shape[here], distance[here], scale))
    guaranteed = max(share, 1 / (n + 1))
    order = np.argsort(-score, kind="stable")
    stopped = np.cumsum(weight[order])  # the share at a limit just below each score
    allowed = np.flatnonzero((n * stopped + 1) / (n + 1) > guaranteed + 1e-12)
    limit = float(score[order[allowed[0]]])
    scale = _scale(shape, distance, weight, share)
    about = {
        "unit": unit,
        "share": share,
        "guaranteed_share": guaranteed,
        "stopped_share": float(weight[score > limit].sum()),
        "n_units": n,
        "n_cells": len(deep),
    }
    hashes = np.unique(np.asarray(cells, dtype=np.uint64))
    return Gate(scale, centre.astype(np.float32), whitening.astype(np.float32), limit, about, hashes)


def strictest(found: Sequence[Unlike]) -> Unlike:
    """Of several networks, the one that finds each cell most unlike its training cells."""
    by = np.stack([each.by for each in found])
    first = np.where(np.isnan(by), np.inf, by).argmax(axis=0)
    rows = np.arange(by.shape[1])
    return Unlike(by[first, rows], np.stack([each.check for each in found])[first, rows])


@dataclass(frozen=True)
class _Scale:
    """The training cells at 0 and 1 of each check."""

    low: Floats
    middle: Floats
    high: Floats
    distance_middle: float
    distance_high: float

    def network(self, distance: Floats) -> Floats:
        return (distance - self.distance_middle) / (self.distance_high - self.distance_middle)


def _words(check: int, share: float) -> str:
    rest = f"than {100 * (1 - share):g} % of the training cells"
    name, sign = CHECKS[check][:-1], CHECKS[check][-1]
    if name not in HANDCRAFTED:
        return f"farther {rest} from their centre, as the network sees them"
    return f"{HANDCRAFTED[name][1 if sign == '+' else 2]} {rest}"


def _checks(handcrafted: ArrayLike, distance: ArrayLike, scale: _Scale) -> Floats:
    """The values of all CHECKS, (N, checks)."""
    shape, far = np.asarray(handcrafted, dtype=np.float64), np.asarray(distance, dtype=np.float64)
    least = np.array([floor for floor, *_ in HANDCRAFTED.values()])
    more = (shape - scale.middle) / np.maximum(scale.high - scale.middle, least)
    less = (scale.middle - shape) / np.maximum(scale.middle - scale.low, least)
    return np.column_stack([more, less, scale.network(far)])


def _score(checks: Floats) -> Floats:
    """The score of each cell from its checks, (N,): a small change in several features counts for more than in one."""
    above = np.where(checks > 1, checks, 0)
    return np.asarray(np.maximum(checks.max(axis=1), np.cbrt((above**3).sum(axis=1))))


def _scale(shape: Floats, distance: Floats, weight: Floats, share: float) -> _Scale:
    low, middle, high = (_quantile(shape, weight, at) for at in (share, 0.5, 1 - share))
    near, far = (float(_quantile(distance[:, None], weight, at)[0]) for at in (0.5, 1 - share))
    return _Scale(low, middle, high, near, max(far, near * (1 + 1e-6) + 1e-6))


def _factor(covariance: Floats) -> Floats:
    """The Cholesky factor of a covariance, (D, D), also of one that rounding has made indefinite."""
    size, ridge = len(covariance), 1e-10
    while True:
        more = 1e-12 + ridge * np.trace(covariance) / size
        try:
            return np.linalg.cholesky(covariance + more * np.eye(size))
        except np.linalg.LinAlgError:
            if ridge > 1:
                raise
            ridge *= 100


def _quantile(values: Floats, weight: Floats, at: float) -> Floats:
    """The weighted quantile of each column, (F,)."""
    order = np.argsort(values, axis=0)
    reached = np.cumsum(weight[order], axis=0) >= at * weight.sum() - 1e-12
    return np.take_along_axis(values, order, axis=0)[reached.argmax(axis=0), np.arange(values.shape[1])]
