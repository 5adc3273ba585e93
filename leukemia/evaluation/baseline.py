"""What a model has to beat: logistic regression on numbers that need no network."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def baseline_logits(fitted: ArrayLike, label: ArrayLike, reported: ArrayLike) -> NDArray[np.float64]:
    """The logits, (M,), of a logistic regression (ridge penalty 1, standardised features).

    Args:
        fitted: features of the cells that it is fitted on, (N, features).
        label: their labels, 1 positive, (N,). Where they are of one class, every cell is called that.
        reported: features of the cells that are scored, (M, features).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    positive = np.asarray(label, dtype=bool)
    if positive.all() or not positive.any():
        certain = np.log(len(positive) + 1)  # the rule of succession
        return np.full(len(np.asarray(reported)), certain if positive.all() else -certain)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(np.asarray(fitted, dtype=float), positive)
    return np.asarray(regression.decision_function(np.asarray(reported, dtype=float)), dtype=np.float64)
