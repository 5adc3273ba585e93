"""Score intervals in closed form, for independent observations. They keep their width where no error occurred and a
bootstrap has no spread."""

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share of independent trials (Wilson 1927, score interval without continuity correction).

    scipy's binomtest takes whole successes only; a mean share of n subjects is not one.

    >>> [round(end, 4) for end in wilson_interval(1228, 1867)]  # the seed study's frozen ResNet18
    [0.6359, 0.6789]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def weighted_interval(
    shares: Sequence[tuple[float, float, float]], weights: Sequence[float]
) -> tuple[float, float]:
    """Interval of a weighted sum of independent shares from their own intervals (MOVER; Newcombe 1998, Zou and Donner
    2008): with value v, ends l and u, and weight w of each, the sum of w v, minus the root of the sum of
    (w (v - l))^2, to the sum plus the root of that of (w (u - v))^2.

    Args:
        shares: value, low and high of each.
        weights: as many, that add up to 1.
    """
    centre = sum(weight * value for weight, (value, _, _) in zip(weights, shares, strict=True))
    below = math.hypot(*(w * (value - low) for w, (value, low, _) in zip(weights, shares, strict=True)))
    above = math.hypot(*(w * (high - value) for w, (value, _, high) in zip(weights, shares, strict=True)))
    return max(0.0, centre - below), min(1.0, centre + above)


def auroc_interval(
    area: float, n_positive: int, n_negative: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of an area under the ROC curve: those areas from which the observed one is at most z standard errors
    away, with the variance of Hanley and McNeil at each (Newcombe 2006, Statistics in Medicine 25, method 5)."""
    from scipy.optimize import brentq

    z, n = NormalDist().inv_cdf(0.5 + confidence / 2), (n_positive + n_negative) / 2 - 1

    def beyond(value: float) -> float:
        spread = 1 + n * (1 - value) / (2 - value) + n * value / (1 + value)
        return (value - area) ** 2 - z**2 * value * (1 - value) * spread / (n_positive * n_negative)

    least = 1e-9  # nearer to the ends the two splits differ by less than a float tells
    low = 0.0 if area < least else float(brentq(beyond, 0, min(area, 1 - least)))
    high = 1.0 if area > 1 - least else float(brentq(beyond, max(area, least), 1))
    return low, high
