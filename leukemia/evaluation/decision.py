"""Decision curves: the net benefit of acting on a model, against acting on every cell or on none."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.predictions import arrays, sigmoid

THRESHOLDS = np.linspace(0.01, 0.99, 99)


def net_benefit(
    label: ArrayLike, probability: ArrayLike, thresholds: ArrayLike = THRESHOLDS
) -> NDArray[np.float64]:
    """TP / n - FP / n * t / (1 - t) at each threshold t, where cells with a probability of t or more are called
    positive (Vickers and Elkin 2006, Medical Decision Making 26).

    Args:
        label: (N,), 1 positive.
        probability: (N,), of the positive class.
        thresholds: (T,), between 0 and 1.

    Returns:
        (T,), in true positives a cell.
    """
    positive, at = np.asarray(label, dtype=bool), np.asarray(thresholds, dtype=float)[:, None]
    called = np.asarray(probability, dtype=float) >= at
    hits, false = (called & positive).mean(axis=1), (called & ~positive).mean(axis=1)
    return np.asarray(hits - false * (at / (1 - at))[:, 0], dtype=np.float64)


def decision_curve(table: pd.DataFrame, thresholds: ArrayLike = THRESHOLDS) -> pd.DataFrame:
    """A row a threshold: `threshold`, and the net benefit of the `model`, of calling `all` cells positive, and `none`.

    Raises:
        InputError: as `validate_predictions`.
    """
    label, logit = arrays(table)
    return pd.DataFrame({
        "threshold": np.asarray(thresholds, dtype=float),
        "model": net_benefit(label, sigmoid(logit), thresholds),
        "all": net_benefit(label, np.ones(len(label)), thresholds),
        "none": 0.0,
    })  # fmt: skip
