"""Selective prediction: the risk among the most certain cells."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.predictions import arrays

RISKS = (0.01, 0.02, 0.05, 0.10)


def risk_coverage(certainty: ArrayLike, wrong: ArrayLike) -> pd.DataFrame:
    """The risk-coverage curve (El-Yaniv and Wiener 2010): a row for each number of cells that are decided, the most
    certain first: `coverage`, the share that is decided, `risk`, the share of those that is wrong, and `whole`,
    whether a threshold can stop there. Cells of equal certainty share their errors evenly, so the order of the
    rows does not matter.

    Args:
        certainty: `[n]`, of any scale.
        wrong: `[n]`, whether the decision is.
    """
    certainty, wrong = np.asarray(certainty, dtype=float), np.asarray(wrong, dtype=float)
    order = np.argsort(-certainty, kind="stable")
    ranked = certainty[order]
    whole = np.append(ranked[1:] < ranked[:-1], True)
    shared = pd.Series(wrong[order]).groupby(np.cumsum(whole) - whole).transform("mean").to_numpy()
    place = np.arange(1, len(order) + 1)
    return pd.DataFrame({"coverage": place / len(order), "risk": np.cumsum(shared) / place, "whole": whole})


def aurc(curve: pd.DataFrame) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages (Geifman, Uziel and El-Yaniv 2019)."""
    return float(curve["risk"].mean())


def augrc(curve: pd.DataFrame) -> float:
    """Area under the generalised risk-coverage curve: the mean over coverages of the share of all cells that are
    decided wrongly, coverage x risk (Traub et al. 2024); 0.5 at most."""
    return float((curve["risk"] * curve["coverage"]).mean())


def coverage_at_risk(curve: pd.DataFrame, risk: float) -> float:
    """The largest coverage that a threshold reaches with at most this risk on these cells; 0 if there is none."""
    reached = curve["coverage"][curve["whole"] & (curve["risk"] <= risk + 1e-12)]
    return float(reached.max()) if len(reached) else 0.0


def certainty_of(table: pd.DataFrame) -> NDArray[np.float64]:
    """The certainty of each decision of a table: |logit|. With a column `fold` it is the rank among the cells of its
    model, from 0 to 1, because logits of several models are not on one scale."""
    certainty = np.abs(arrays(table)[1])
    if "fold" not in table:
        return certainty
    ranks = pd.Series(certainty).groupby(table["fold"].to_numpy()).rank(pct=True)
    return np.asarray(ranks, dtype=np.float64)


def curve_of(table: pd.DataFrame) -> pd.DataFrame:
    """The risk-coverage curve of a predictions table; decisions are made at logit 0."""
    label, logit = arrays(table)
    return risk_coverage(certainty_of(table), (logit >= 0) != label)


def selective_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """`aurc`, `augrc`, and `coverage_at_risk` for RISKS (keys are text), on the cells of the table."""
    curve = curve_of(table)
    at_risk = {f"{risk:g}": coverage_at_risk(curve, risk) for risk in RISKS}
    return {"aurc": aurc(curve), "augrc": augrc(curve), "coverage_at_risk": at_risk}
