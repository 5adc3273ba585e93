"""Baselines for a model to beat: the majority class, and logistic regression on handcrafted features."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.bootstrap import accuracy_interval
from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.predictions import arrays, has_subjects


def against_majority(table: pd.DataFrame) -> dict[str, Any]:
    """Whether a table shows that a model is better than the majority class, for metrics.json.

    Returns:
        `better_than_majority`: whether the 95 % interval of accuracy lies above the share of the most frequent class.
        `accuracy_interval`: [low, high]; None where too few subjects leave it undefined.
        `accuracy_interval_unit`: the independent unit: `group` or `subject` (bootstrap, see
        `bootstrap.evaluate`), or `cell` where subjects are unknown (Wilson's interval, too narrow).
    Raises:
        InputError: as `validate_predictions`.
    """
    label, logit = arrays(table)
    if has_subjects(table):
        unit, ends = accuracy_interval(table)
    else:
        unit, ends = "cell", wilson_interval(int(((logit >= 0) == label).sum()), len(label))
    majority = max(label.mean(), 1 - label.mean())
    return {
        "better_than_majority": ends is not None and bool(ends[0] > majority),
        "accuracy_interval": None if ends is None else list(ends),
        "accuracy_interval_unit": unit,
    }


def baseline_logits(fitted: ArrayLike, label: ArrayLike, reported: ArrayLike) -> NDArray[np.float64]:
    """The logits, (M,), of a logistic regression (ridge penalty 1, standardised features).

    Args:
        fitted: features of the cells to fit on, (N, features).
        label: their labels, 1 positive, (N,). With one class alone, every cell is called that.
        reported: features of the cells to predict, (M, features).
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
