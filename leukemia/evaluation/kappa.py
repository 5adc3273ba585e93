"""Agreement of two raters beyond chance."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-12  # a variance below is 0


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its interval; None where it is undefined, because both raters gave one label alone. The ends
    alone are None where the interval cannot be estimated."""

    value: float | None
    low: float | None
    high: float | None


def cohens_kappa(counts: ArrayLike, confidence: float = 0.95) -> Kappa:
    """Cohen's kappa (1960) of two raters, (observed - expected agreement) / (1 - expected agreement), and its
    interval.

    The interval is value +- z standard errors, with the large-sample variance of Fleiss, Cohen and Everitt (1969,
    Psychological Bulletin 72, equation 13). Where the raters agree on every cell that variance is zero, and the low
    end is that of the goodness-of-fit interval of Donner and Eliasziw (1992, Statistics in Medicine 11), which keeps
    its width. Where it is zero though they differ (one rater gave one label alone, or they differ on every cell) no
    interval can be estimated. Cells are taken as independent: cells of one subject are not, so it is rather too narrow.

    Args:
        counts: cells by label of the first (row) and of the second rater (column), square.
        confidence: of the interval.

    >>> found = cohens_kappa([[20, 5], [10, 15]])
    >>> [round(number, 3) for number in (found.value, found.low, found.high)]
    [0.4, 0.151, 0.649]
    """
    counts = np.asarray(counts, dtype=float)
    n = counts.sum()
    if n == 0:
        return Kappa(None, None, None)
    share = counts / n
    first, second = share.sum(axis=1), share.sum(axis=0)
    observed, expected = float(np.trace(share)), float(first @ second)
    if expected == 1:
        return Kappa(None, None, None)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    value = (observed - expected) / (1 - expected)
    if observed == 1:
        return Kappa(1.0, _low_without_disagreement(first, n, z), 1.0)
    variance = _variance(share, first, second, observed, expected)
    if variance < ROUNDING:
        return Kappa(value, None, None)
    half = z * math.sqrt(variance / n)
    return Kappa(value, max(-1.0, value - half), min(1.0, value + half))


def _variance(
    share: NDArray[np.float64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    observed: float,
    expected: float,
) -> float:
    """n times the variance of kappa."""
    agreeing = np.diag(share) * ((1 - expected) - (first + second) * (1 - observed)) ** 2
    crossed = share * (second[:, None] + first[None, :]) ** 2
    apart = (crossed.sum() - np.trace(crossed)) * (1 - observed) ** 2
    last = (observed * expected - 2 * expected + observed) ** 2
    return max(0.0, float(agreeing.sum() + apart - last)) / (1 - expected) ** 4


def _low_without_disagreement(share: NDArray[np.float64], n: float, z: float) -> float:
    """The kappa at which no disagreement among n cells is just z standard deviations away, for labels of these
    shares: chi-square of the counts against p_i (p_i + kappa (1 - p_i)), and 2 p_i p_j (1 - kappa) off the diagonal,
    summed over those."""
    from scipy.optimize import brentq

    share = share[share > 0]

    def beyond(kappa: float) -> float:
        agreeing = share * (share + kappa * (1 - share))
        apart = 1 - agreeing.sum()
        return n * float(((share - agreeing) ** 2 / agreeing).sum() + apart) - z**2

    return float(brentq(beyond, 0, 1)) if beyond(0) > 0 else 0.0
