"""Tests that a rate lies below a bound, valid for any number of observations, and the smallest certifiable bound."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_p_values(log_kept: ArrayLike, n: int, bound: float) -> NDArray[np.float64]:
    """P-value of "the mean of n independent losses in [0, 1] is at least `bound`".

    A player who bets against that hypothesis with the largest stake that cannot leave him in debt has, after
    losses X_1 ... X_n, the wealth prod (1 - X_i) / (1 - bound). Its expectation is at most 1 under the
    hypothesis (independence, and the inequality of the means where the X_i are not alike), so its inverse is a
    p-value by Markov's inequality: the betting test of Waudby-Smith and Ramdas (2024, JRSS B 86, 1-27) with
    the fixed bet 1 / (1 - bound). It does not depend on the order of the losses, it is monotone in each, and
    with no loss at all it is (1 - bound)^n, the smallest that any test can give. A loss of exactly 1 ends the bet.

    Args:
        log_kept: sum over the n losses of log(1 - loss), any shape; -inf where a loss is 1.
        n: number of losses.
        bound: above 0 and below 1.
    """
    return np.exp(np.minimum(n * math.log1p(-bound) - np.asarray(log_kept, dtype=float), 0.0))


def binomial_p_values(errors: ArrayLike, n: int, bound: float) -> NDArray[np.float64]:
    """P-value of "the rate is at least `bound`" after so many errors in n independent trials (Clopper and Pearson
    1934, exact); errors of any shape."""
    from scipy.stats import binom

    return np.asarray(binom.cdf(np.asarray(errors), n, bound), dtype=float)


def floor(n: int, error: float) -> float:
    """The smallest bound that any test can certify from n independent observations without a single error, wrong
    with probability `error` at most: 1 - error^(1/n).

    >>> [round(floor(n, 0.025), 3) for n in (13, 47, 72)]
    [0.247, 0.075, 0.05]
    """
    return 1 - error ** (1 / n) if n else 1.0


def needed(bound: float, error: float) -> int:
    """How many independent observations, all without error, the bound needs at least.

    >>> needed(0.05, 0.025)
    72
    """
    return max(1, math.ceil(math.log(error) / math.log1p(-bound) - 1e-9))
