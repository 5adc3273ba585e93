"""Other tests that a mean of losses in [0, 1] lies below a bound, to compare with the one that is used."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from leukemia.evaluation.bounds import mean_p_values

Losses = NDArray[np.float64]


def hoeffding_bentkus(losses: Losses, bound: float) -> float:
    """P-value of "the mean is at least `bound`" (Bates et al. 2021, equation 8 and Proposition 3)."""
    n, mean = len(losses), float(losses.mean())
    if mean >= bound:
        return 1.0
    divergence = (1 - mean) * math.log((1 - mean) / (1 - bound)) + (mean and mean * math.log(mean / bound))
    return min(math.exp(-n * divergence), math.e * float(binom.cdf(math.ceil(n * mean), n, bound)))


def plug_in_betting(losses: Losses, bound: float, error: float) -> float:
    """P-value by the capital of predictable plug-in bets (Waudby-Smith and Ramdas 2024, equation 26), largest over
    time, in the order given; stakes are cut at 3/4 of what could ruin the player."""
    n = len(losses)
    time = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(losses)) / (time + 1)
    variance = (0.25 + np.cumsum((losses - mean) ** 2)) / (time + 1)
    before = np.append(0.25, variance[:-1])
    stake = np.minimum(np.sqrt(2 * math.log(1 / error) / (n * before)), 0.75 / (1 - bound))
    return float(min(1.0, 1 / np.exp(np.cumsum(np.log1p(stake * (bound - losses)))).max()))


def fixed_bet(losses: Losses, bound: float) -> float:
    """The one in use."""
    with np.errstate(divide="ignore"):
        return float(mean_p_values(np.log1p(-losses).sum(), len(losses), bound))
