"""Shrunk covariances of many cells, and of all cells but one fold after another, at flat memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK = 1024  # cells that are held in double precision at once


@dataclass(frozen=True)
class Sums:
    """Those of vectors x: their number, x, (D,), and x x', (D, D)."""

    count: int
    first: Floats
    second: Floats

    @classmethod
    def of(cls, values: NDArray[np.floating], base: Floats) -> "Sums":
        """Of `values`, (N, D), less `base`, (D,)."""
        first, second = np.zeros(len(base)), np.zeros((len(base), len(base)))
        for block in blocks(values, base):
            first += block.sum(axis=0)
            second += block.T @ block
        return cls(len(values), first, second)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.count - other.count, self.first - other.first, self.second - other.second)


def shrunk(sums: Sums, fourth: float) -> Floats:
    """The covariance (D, D) of vectors, shrunk towards a multiple of the identity (Ledoit and Wolf 2004, Journal of
    Multivariate Analysis 88, lemma 3.2 to 3.5). scikit-learn's takes several copies of all vectors.

    Args:
        sums: of the vectors.
        fourth: the mean of the fourth power of their distance from their mean.
    """
    mean, size = sums.first / sums.count, len(sums.first)
    covariance = sums.second / sums.count - np.outer(mean, mean)
    scale, squares = np.trace(covariance) / size, (covariance**2).sum()
    away = (squares - size * scale**2) / size  # from the multiple of the identity
    noise = min((fourth - squares) / size / sums.count, away)
    share = noise / away if noise > 0 else 0.0
    return np.asarray((1 - share) * covariance + share * scale * np.eye(size))


def without_each_fold(
    values: NDArray[np.floating], fold: NDArray[np.integer]
) -> Iterator[tuple[Floats, Floats]]:
    """The mean, (D,), and the shrunk covariance, (D, D), of all vectors outside of fold 0, of fold 1 and so on, and
    last of all vectors.

    Args:
        values: (N, D).
        fold: of each vector, from 0 up, (N,).
    """
    base = values.mean(axis=0, dtype=np.float64)
    whole = Sums.of(values, base)
    for held in (*range(int(fold.max()) + 1), -1):
        sums = whole - Sums.of(values[fold == held], base)
        mean = base + sums.first / sums.count
        squares = np.concatenate([(block**2).sum(axis=1) for block in blocks(values, mean)])
        yield mean, shrunk(sums, float((squares[fold != held] ** 2).mean()))


def blocks(values: NDArray[np.floating], base: Floats) -> Iterator[Floats]:
    """`values`, (N, D), less `base`, (D,), some cells after others."""
    for start in range(0, len(values), BLOCK):
        yield values[start : start + BLOCK] - base
