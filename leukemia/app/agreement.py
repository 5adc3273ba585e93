"""Agreement of two raters on the cells that both have labelled."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.kappa import Kappa, cohens_kappa


@dataclass(frozen=True)
class Agreement:
    """Two raters on the cells that both have labelled.

    Attributes:
        first, second: names of the raters.
        counts: cells by the class of the first (row) and of the second (column), negative before positive: (2, 2).
        left_out: cells that one of the two gave no class.
        share, low, high: observed agreement with its Wilson interval; None without cells.
        kappa: Cohen's kappa with its interval.
    """

    first: str
    second: str
    counts: NDArray[np.int64]
    left_out: int
    share: float | None
    low: float | None
    high: float | None
    kappa: Kappa

    @property
    def n(self) -> int:
        return int(self.counts.sum())


def agreement(
    first: Mapping[str, str],
    second: Mapping[str, str],
    classes: tuple[str, str],
    names: tuple[str, str],
    confidence: float = 0.95,
) -> Agreement:
    """Compare two raters.

    Args:
        first, second: a class or another choice by cell; only cells of both count.
        classes: negative and positive.
        names: of the two raters.
        confidence: of the intervals.
    """
    pairs = [(label, second[cell]) for cell, label in first.items() if cell in second]
    found = Counter(pairs)
    counts = np.array([[found[one, other] for other in classes] for one in classes])
    n, same = int(counts.sum()), int(np.trace(counts))
    share = same / n if n else None
    low, high = wilson_interval(same, n, confidence) if n else (None, None)
    return Agreement(*names, counts, len(pairs) - n, share, low, high, cohens_kappa(counts, confidence))
