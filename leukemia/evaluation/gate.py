"""The gate: cells that are unlike the training cells go to review, whatever the network says of them.

A cell has *checks*: handcrafted features, each to both sides, and the distance of its pooled features from those of the
training cells. A check counts in units of the training cells: 0 at their median, 1 where all but `share` of them lie.
The score of a cell is its largest check, and one limit holds for the score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
SHARE = 0.01  # of cells like the training cells that may be stopped, mean over subjects
FOLDS = 10
NETWORK = "network"  # the check on pooled features
# Each handcrafted feature: the least difference that counts as 1, and words for a larger and for a smaller value.
HANDCRAFTED: dict[str, tuple[float, str, str]] = {
    "area": (0.01, "larger", "smaller"),
    "red": (2, "redder", "less red"),
    "green": (2, "greener", "less green"),
    "blue": (2, "bluer", "less blue"),
    "roundness": (0.01, "rounder", "less round"),
    "sharpness": (0.05, "sharper", "more blurred"),
    "contrast": (1, "richer in contrast", "poorer in contrast"),
    "off_centre": (0.01, "farther from the centre", "nearer to the centre"),
    "border": (0.01, "more cut by the border of the picture", "less cut by the border of the picture"),
    "background": (2, "on a brighter background", "on a darker background"),
}


@dataclass(frozen=True)
class Unlike:
    """How unlike the training cells some cells are.

    Attributes:
        by: the largest check of each cell over the limit, (N,); a cell above 1 is stopped.
        check: the name of that check, (N,): `network`, or `area+` for a larger and `area-` for a smaller area.
    """

    by: Floats
    check: NDArray[np.str_]

    @property
    def stopped(self) -> NDArray[np.bool_]:
        """Which cells go to review, (N,). A value that is not a number is stopped too."""
        return ~(self.by <= 1)


@dataclass(frozen=True)
class Gate:
    """The limits of a network's training cells.

    Attributes:
        low, middle, high: of each handcrafted feature, in the order of HANDCRAFTED, (F,).
        centre: mean of the pooled features, (D,).
        whitening: pooled features to a space where the distance from the centre counts, (D, D).
        distance_middle, distance_high: of the training cells' distances.
        limit: of the score.
        about: facts of the fit, in plain values.
        cells: `cell_hash` of each training cell, ascending, (cells,).
    """

    low: Floats
    middle: Floats
    high: Floats
    centre: NDArray[np.float32]
    whitening: NDArray[np.float32]
    distance_middle: float
    distance_high: float
    limit: float
    about: Mapping[str, Any]
    cells: NDArray[np.uint64]

    def distance(self, features: ArrayLike) -> Floats:
        """The Mahalanobis distance of pooled features (N, D) from the training cells, (N,)."""
        return _distance(np.asarray(features, dtype=np.float64), self.centre, self.whitening)

    def unlike(self, handcrafted: ArrayLike, features: ArrayLike) -> Unlike:
        """How unlike the training cells some cells are.

        Args:
            handcrafted: `leukemia.data.handcrafted.measure` of the pixels as the network takes them, (N, F).
            features: pooled features of the network, (N, D).
        """
        return self.unlike_at(handcrafted, self.distance(features))

    def unlike_at(self, handcrafted: ArrayLike, distance: ArrayLike) -> Unlike:
        """As `unlike`, with the distances of pooled features, (N,)."""
        names, values = _checks(handcrafted, distance, self._scale)
        largest = np.where(np.isnan(values), np.inf, values).argmax(axis=1)
        by = values[np.arange(len(values)), largest] / self.limit
        return Unlike(by, np.array(names)[largest])

    def words(self, check: str) -> str:
        """A check in words, as `larger than 99 % of the training cells`."""
        rest = f"than {100 * (1 - self.share):g} % of the training cells"
        if check == NETWORK:
            return f"farther {rest} from their centre, as the network sees them"
        return f"{HANDCRAFTED[check[:-1]][1 if check.endswith('+') else 2]} {rest}"

    @property
    def share(self) -> float:
        """The share of cells like the training cells that was asked to be stopped at most."""
        return float(self.about["share"])

    @property
    def _scale(self) -> "_Scale":
        return _Scale(self.low, self.middle, self.high, self.distance_middle, self.distance_high)


def fit_gate(
    handcrafted: ArrayLike,
    features: ArrayLike,
    units: ArrayLike,
    cells: ArrayLike,
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
        cells: `cell_hash` of each cell, (N,).
        share: of cells like these that may be stopped, as a mean over units.
    """
    shape, deep = np.asarray(handcrafted, dtype=np.float64), np.asarray(features, dtype=np.float64)
    number = np.unique(np.asarray(units, dtype=str), return_inverse=True)[1]
    n = int(number.max()) + 1
    weight = 1 / np.bincount(number)[number] / n  # every unit counts as one
    fold = np.random.default_rng(0).permutation(n)[number] % min(FOLDS, n)
    distance, score = np.zeros(len(deep)), np.zeros(len(deep))
    for held in range(fold.max() + 1):
        distance[fold == held] = _distance(deep[fold == held], *_reference(deep[fold != held]))
    for held in range(fold.max() + 1):
        rest, here = fold != held, fold == held
        scale = _scale(shape[rest], distance[rest], weight[rest], share)
        score[here] = _checks(shape[here], distance[here], scale)[1].max(axis=1)
    guaranteed = max(share, 1 / (n + 1))
    order = np.argsort(-score, kind="stable")
    stopped = np.cumsum(weight[order])  # the share at a limit just below each score
    allowed = np.flatnonzero((n * stopped + 1) / (n + 1) > guaranteed + 1e-12)
    limit = float(score[order[allowed[0]]])
    scale = _scale(shape, distance, weight, share)
    centre, whitening = _reference(deep)
    about = {
        "share": share,
        "guaranteed_share": guaranteed,
        "stopped_share": float(weight[score > limit].sum()),
        "n_units": n,
        "n_cells": len(deep),
    }
    hashes = np.unique(np.asarray(cells, dtype=np.uint64))
    return Gate(
        scale.low, scale.middle, scale.high, centre.astype(np.float32), whitening.astype(np.float32),
        scale.distance_middle, scale.distance_high, limit, about, hashes,
    )  # fmt: skip


@dataclass(frozen=True)
class _Scale:
    """The training cells at 0 and 1 of each check."""

    low: Floats
    middle: Floats
    high: Floats
    distance_middle: float
    distance_high: float


def _checks(handcrafted: ArrayLike, distance: ArrayLike, scale: _Scale) -> tuple[list[str], Floats]:
    """The names of all checks, and their values, (N, checks)."""
    shape, far = np.asarray(handcrafted, dtype=np.float64), np.asarray(distance, dtype=np.float64)
    least = np.array([floor for floor, *_ in HANDCRAFTED.values()])
    more = (shape - scale.middle) / np.maximum(scale.high - scale.middle, least)
    less = (scale.middle - shape) / np.maximum(scale.middle - scale.low, least)
    far = (far - scale.distance_middle) / (scale.distance_high - scale.distance_middle)
    names = [f"{name}{sign}" for sign in "+-" for name in HANDCRAFTED]
    return [*names, NETWORK], np.column_stack([more, less, far])


def _scale(shape: Floats, distance: Floats, weight: Floats, share: float) -> _Scale:
    low, middle, high = (_quantile(shape, weight, at) for at in (share, 0.5, 1 - share))
    near, far = (float(_quantile(distance[:, None], weight, at)[0]) for at in (0.5, 1 - share))
    return _Scale(low, middle, high, near, max(far, near * (1 + 1e-6) + 1e-6))


def _quantile(values: Floats, weight: Floats, at: float) -> Floats:
    """The weighted quantile of each column, (F,)."""
    order = np.argsort(values, axis=0)
    reached = np.cumsum(weight[order], axis=0) >= at * weight.sum() - 1e-12
    return np.take_along_axis(values, order, axis=0)[reached.argmax(axis=0), np.arange(values.shape[1])]


def _reference(features: Floats) -> tuple[Floats, Floats]:
    """The centre of pooled features, (D,), and the matrix (D, D) to the space where the distance from it counts."""
    from sklearn.covariance import ledoit_wolf

    centre = features.mean(axis=0)
    covariance, _ = ledoit_wolf(features - centre, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    return centre, vectors / np.sqrt(np.maximum(values, 1e-12))


def _distance(features: Floats, centre: ArrayLike, whitening: ArrayLike) -> Floats:
    moved = (features - np.asarray(centre, dtype=np.float64)) @ np.asarray(whitening, dtype=np.float64)
    return np.asarray(np.linalg.norm(moved, axis=1), dtype=np.float64)
