"""How far two who judged the same cells agree."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukemia.app.decisions import UNSURE
from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.kappa import Kappa, cohens_kappa


@dataclass(frozen=True)
class Agreement:
    """Two judges on the cells that both judged.

    Attributes:
        first, second: who, in words.
        counts: cells by the class of the first (row) and of the second (column), negative before positive: (2, 2).
        unsure: cells that are left out, because one of the two is unsure.
        share, low, high: of the cells on which they agree, with Wilson's interval; None without cells.
        kappa: Cohen's, with its interval.
    """

    first: str
    second: str
    counts: NDArray[np.int64]
    unsure: int
    share: float | None
    low: float | None
    high: float | None
    kappa: Kappa

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def differ(self) -> int:
        return self.n - int(np.trace(self.counts))


def agreement(
    first: Mapping[str, str],
    second: Mapping[str, str],
    classes: tuple[str, str],
    names: tuple[str, str],
    confidence: float = 0.95,
) -> Agreement:
    """Compare two judges.

    Args:
        first, second: by cell, a class or `unsure`; only cells of both count.
        classes: negative and positive.
        names: of the two.
        confidence: of the intervals.
    """
    both = first.keys() & second.keys()
    unsure = sum(UNSURE in (first[cell], second[cell]) for cell in both)
    counts = np.array(
        [
            [sum(first[cell] == one and second[cell] == other for cell in both) for other in classes]
            for one in classes
        ]
    )
    n, same = int(counts.sum()), int(np.trace(counts))
    share = same / n if n else None
    low, high = wilson_interval(same, n, confidence) if n else (None, None)
    return Agreement(*names, counts, unsure, share, low, high, cohens_kappa(counts, confidence))
