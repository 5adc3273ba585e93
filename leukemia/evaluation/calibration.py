"""Calibration of probabilities, and their logistic recalibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.metrics import confidence_bins, decision_confidence, ece, loss
from leukemia.evaluation.predictions import arrays, clusters, sigmoid


@dataclass(frozen=True)
class Recalibration:
    """logit -> slope * logit + intercept; with intercept 0 it is temperature scaling by 1 / slope."""

    slope: float
    intercept: float

    def apply(self, logit: ArrayLike) -> NDArray[np.float64]:
        """Calibrated logits, as many."""
        return self.slope * np.asarray(logit, dtype=float) + self.intercept


def fit(label: ArrayLike, logit: ArrayLike, intercept: bool = True) -> Recalibration:
    """The recalibration with the least log loss (Platt 1999; Cox 1958), on cells that will not be reported.

    Targets are Platt's, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), so that it is finite where the classes part
    completely. The slope is not negative: calibration changes no order.

    Args:
        label: `[n]`, 1 positive.
        logit: `[n]`.
        intercept: whether it is free; else it is 0 (temperature scaling, Guo et al. 2017).
    """
    from scipy.optimize import minimize

    positive, logit = np.asarray(label, dtype=bool), np.asarray(logit, dtype=float)
    order = np.lexsort((positive, logit))  # so that the order of the rows cannot change sums of floats
    positive, logit = positive[order], logit[order]
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    scale = float(np.sqrt(np.mean(logit**2))) or 1.0
    scaled = logit / scale

    columns = np.stack([scaled, np.ones_like(scaled)])[: 2 if intercept else 1]  # (parameters, n)

    def log_loss(values: NDArray[np.float64]) -> float:
        fitted = values @ columns
        return float(np.mean(np.logaddexp(0, fitted) - target * fitted))

    def gradient(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.mean((sigmoid(values @ columns) - target) * columns, axis=1))

    def curvature(values: NDArray[np.float64]) -> NDArray[np.float64]:
        probability = sigmoid(values @ columns)
        return np.asarray(np.mean(probability * (1 - probability) * columns[:, None] * columns, axis=2))

    start = np.array([1.0, 0.0])[: len(columns)]
    found = minimize(
        log_loss, start, method="trust-exact", jac=gradient, hess=curvature, options={"gtol": 1e-9}
    ).x
    if found[0] < 0:  # the loss is convex, so at the bound its minimum has slope 0
        share = float(np.mean(target))
        found = np.array([0.0, np.log(share / (1 - share))])[: len(columns)]
    return Recalibration(float(found[0] / scale), float(found[1]) if intercept else 0.0)


def cross_fitted(table: pd.DataFrame, folds: int = 5) -> NDArray[np.float64] | None:
    """Calibrated logits `[n]`, each from a recalibration that was fitted without its subject (its group, where
    known; the cell itself, where subjects are not). With a column `fold`, each model is recalibrated alone.

    Returns:
        None where a class has fewer than two subjects, so that nothing can be held out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    label, logit = arrays(table)
    units = pd.factorize(clusters(table)[1])[0]
    calibrated = np.empty(len(table))
    models = table["fold"].to_numpy() if "fold" in table else np.zeros(len(table))
    for model in pd.unique(models):
        rows = np.flatnonzero(models == model)
        own, its_units = label[rows], units[rows]
        parts = min(folds, len(np.unique(its_units[own])), len(np.unique(its_units[~own])))
        if parts < 2:
            return None
        splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
        for fitted, held_out in splitter.split(rows, own, its_units):
            recalibration = fit(own[fitted], logit[rows[fitted]])
            calibrated[rows[held_out]] = recalibration.apply(logit[rows[held_out]])
    return calibrated


def calibration_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Calibration as predicted and as recalibrated.

    Returns:
        `before` and `after` (cross-fitted; None where that cannot be), each as `quality`; `slope` and `intercept`
        of the recalibration that is fitted on the whole table, for new cells, and `temperature`, 1 / slope
        where the intercept is held at 0 (None where that slope is 0). These three are None where a column `fold`
        tells several models apart, because their logits are not on one scale.
    """
    label, logit = arrays(table)
    after = cross_fitted(table)
    found: dict[str, Any] = {
        "before": quality(label, logit),
        "after": None if after is None else quality(label, after),
        **dict.fromkeys(("slope", "intercept", "temperature")),
    }
    if "fold" not in table or len(set(table["fold"])) == 1:
        whole, scaling = fit(label, logit), fit(label, logit, intercept=False)
        found |= {"slope": whole.slope, "intercept": whole.intercept}
        found["temperature"] = 1 / scaling.slope if scaling.slope else None
    return found


def quality(label: ArrayLike, logit: ArrayLike) -> dict[str, float]:
    """`ece` of the decision's confidence (see `metrics.calibration_error`), `loss` (log loss, in nats), and `brier`
    with its parts, see `brier`; of labels and logits `[n]`."""
    positive, logit = np.asarray(label, dtype=bool), np.asarray(logit, dtype=float)
    return {"ece": ece(positive, logit), "loss": loss(positive, logit), **brier(positive, sigmoid(logit))}


def brier(label: ArrayLike, probability: ArrayLike) -> dict[str, float]:
    """The Brier score of probabilities `[n]` and its decomposition `brier = miscalibration - discrimination +
    uncertainty`, free of bins: recalibrated by isotonic regression (CORP; Dimitriadis, Gneiting and Jordan 2021,
    PNAS 118). Uncertainty is the score of the base rate; discrimination is the gain of the order alone."""
    from sklearn.isotonic import IsotonicRegression

    outcome, probability = np.asarray(label, dtype=float), np.asarray(probability, dtype=float)
    best = IsotonicRegression(y_min=0, y_max=1).fit_transform(probability, outcome)
    score = float(np.mean((probability - outcome) ** 2))
    of_best = float(np.mean((best - outcome) ** 2))
    uncertainty = float(outcome.mean() * (1 - outcome.mean()))
    return {
        "brier": score,
        "miscalibration": score - of_best,
        "discrimination": uncertainty - of_best,
        "uncertainty": uncertainty,
    }


def reliability(label: ArrayLike, logit: ArrayLike, bins: int | None = None) -> pd.DataFrame:
    """The reliability diagram of the decision's confidence: a row a bin of equal mass (see
    `metrics.confidence_bins`) with `n`, mean `confidence`, `accuracy`, and its Wilson interval `low`, `high`. The
    mean of |accuracy - confidence| weighted by n is the calibration error."""
    positive, logit = np.asarray(label, dtype=bool), np.asarray(logit, dtype=float)
    confidence = decision_confidence(logit)
    cells = pd.DataFrame({
        "bin": confidence_bins(confidence, bins),
        "confidence": confidence,
        "accuracy": ((logit >= 0) == positive).astype(float),
    })  # fmt: skip
    groups = cells.groupby("bin")
    table = groups.mean().assign(n=groups.size()).reset_index(drop=True)
    hits = (table["accuracy"] * table["n"]).round().astype(int)
    ends = [wilson_interval(int(hit), int(n)) for hit, n in zip(hits, table["n"], strict=True)]
    return table.assign(low=[low for low, _ in ends], high=[high for _, high in ends])
