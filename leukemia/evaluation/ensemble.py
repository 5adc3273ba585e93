"""Several networks as one model: the mean of their logits, and how far they disagree."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.predictions import sigmoid


def combined(logits: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """The scores of cells by an ensemble.

    Args:
        logits: of each member, (members, cells).

    Returns:
        `logit`, the mean over the members, and of several members `probability_sd`, the standard deviation of their
        probabilities: (cells,) each.
    """
    of_members = np.asarray(logits, dtype=np.float64)
    found = {"logit": of_members.mean(axis=0)}
    if len(of_members) > 1:
        found["probability_sd"] = sigmoid(of_members).std(axis=0, ddof=1)
    return found
