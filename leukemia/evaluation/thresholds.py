"""Choosing a triage policy whose two error rates are bounded, and the outcome of a policy on a table.

Both rates grow as more cells are released. So pointwise tests from the strictest threshold on keep the confidence
without any correction for their number (Bates et al. 2021, JACM 68, Theorem 1: fixed-sequence testing). Every
observed logit is a candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukemia.errors import InputError
from leukemia.evaluation.bounds import binomial_p_values, floor, mean_p_values, needed
from leukemia.evaluation.calibration import fit
from leukemia.evaluation.policy import REVIEW, UNITS, Policy
from leukemia.evaluation.predictions import arrays, clusters, has_subjects

NAMES = ("max_missed", "max_false_alarm")


def choose(
    table: pd.DataFrame,
    max_missed: float = 0.10,
    max_false_alarm: float = 0.20,
    confidence: float = 0.95,
    unit: str = "subject",
) -> Policy:
    """The policy that releases as many cells as both bounds allow, certified if it releases any.

    A bound of 1 disables that limit: the cells that may not be released as the other class are released as this one.
    A bound of 0 releases no cell as that class. The allowed error is split evenly between the bounds in between.
    Where a bound lies below the floor, both thresholds are None, `certified` is false and `why_not` says how many
    subjects it would need.

    Args:
        table: labelled cells that the model has not seen: neither in training nor for the choice of the epoch.
        max_missed: of positive cells released as negative.
        max_false_alarm: of negative cells released as positive.
        confidence: that both rates lie below their bounds.
        unit: `subject`: the rate is the mean over subjects of each one's own share, and cells of a subject may
            depend on each other. `cell`: the share of cells, which have to be independent.

    Raises:
        InputError: for bounds out of range, an unknown unit, missing subjects, or a table of one class.
    """
    label, logit = arrays(table)
    _check(table, label, max_missed, max_false_alarm, confidence, unit)
    units, of_units = units_of(table, unit), unit_words(table, unit)
    errors = _errors(max_missed, max_false_alarm, confidence)
    bounds = (max_missed, max_false_alarm)
    unmet = [
        f"{name} {bound:g} needs {needed(bound, error)} {of_units} without any error and there are {n}"
        for name, bound, error, n in zip(NAMES, bounds, errors, counts(table, unit), strict=True)
        if error and floor(n, error) > bound
    ]
    low = high = None
    if not unmet:
        below = _limit(logit[label], units[label], max_missed, errors[0], unit)
        above = -_limit(-logit[~label], units[~label], max_false_alarm, errors[1], unit)
        low, high = _thresholds(np.unique(logit), below, above)
        if max_missed == max_false_alarm == 0:
            unmet = ["both bounds are 0, so that no cell may be released"]
        elif low is None and high is None:
            unmet = ["no cell can be released within these bounds: the most certain errors are too certain"]
    calibration = fit(label, logit)
    policy = Policy(
        low, high, calibration.slope, calibration.intercept, max_missed, max_false_alarm, confidence, unit,
        certified=not unmet, why_not="; ".join(unmet) or None,
    )  # fmt: skip
    released = float((policy.decide(logit, ("0", "1")) != REVIEW).mean())
    positives, negatives = counts(table, unit)
    fitted_on = {"cells": len(table), "positive_units": positives, "negative_units": negatives}
    return replace(policy, released=released, fitted_on=fitted_on)


def counts(table: pd.DataFrame, unit: str) -> tuple[int, int]:
    """How many units have positive cells, and how many negative ones."""
    label, _ = arrays(table)
    units = units_of(table, unit)
    return len(np.unique(units[label])), len(np.unique(units[~label]))


def floor_lines(
    table: pd.DataFrame, max_missed: float, max_false_alarm: float, confidence: float, unit: str,
    classes: Sequence[str],
) -> list[str]:  # fmt: skip
    """The smallest rates that any test can certify from so many units, and the units that the bounds need, in
    sentences."""
    label, _ = arrays(table)
    _check(table, label, max_missed, max_false_alarm, confidence, unit)
    bounds, errors = (max_missed, max_false_alarm), _errors(max_missed, max_false_alarm, confidence)
    of_units, lines = unit_words(table, unit), []
    for what, name, bound, error, n in zip(
        ("missed", "false alarm"), reversed(classes), bounds, errors, counts(table, unit), strict=True
    ):
        said = "the bound is 0, so no cell is released that way" if bound == 0 else "no bound is asked for"
        if error:
            said = (
                f"from {n:,} {name} {of_units} without any error, the smallest rate that any test can certify is "
                f"{floor(n, error):.3f}; {bound:g} needs at least {needed(bound, error):,}"
            )
        lines.append(f"{what}: {said}")
    return lines


def rates_hold(table: pd.DataFrame, decision: NDArray[np.str_], policy: Policy) -> dict[str, bool | None]:
    """Whether the test that certifies a policy shows its bounds for these decisions (`0`, `1` or `review`) on a table:
    `missed` and `false_alarm`, None where a bound sets no limit or the class has no cell."""
    label, _ = arrays(table)
    units = units_of(table, policy.unit)
    found: dict[str, bool | None] = {}
    bounds = (policy.max_missed, policy.max_false_alarm)
    for name, of_class, wrong_as, bound, error in zip(
        ("missed", "false_alarm"),
        (label, ~label),
        "01",
        bounds,
        _errors(*bounds, policy.confidence),
        strict=True,
    ):
        wrong = pd.Series(decision[of_class] == wrong_as).groupby(units[of_class]).mean()
        if bound == 1 or wrong.empty:
            found[name] = None
        elif bound == 0:
            found[name] = not wrong.any()
        elif policy.unit == "cell":
            found[name] = bool(binomial_p_values(wrong.sum(), len(wrong), bound) <= error)
        else:
            with np.errstate(divide="ignore"):
                kept = np.log1p(-wrong).sum()
            found[name] = bool(mean_p_values(kept, len(wrong), bound) <= error * (1 + 1e-9))
    return found


def outcome(table: pd.DataFrame, policy: Policy, classes: Sequence[str]) -> pd.DataFrame:
    """The outcome of a policy on a table: a row a true class, positive first, with `cells`, `as_negative`,
    `as_positive`, `review` (cells), `wrong` (share of cells released as the other class), `wrong_by_subject` (mean over
    subjects of their own shares, those who share pictures being one, as in the bound) and `subjects` (number with a
    cell released as the other class); None where unknown."""
    label, logit = arrays(table)
    decided = policy.decide(logit, ("0", "1"))
    rows = []
    for positive in (1, 0):
        of_class = label == positive
        wrong = decided[of_class] == str(1 - positive)
        row: dict[str, Any] = {"class": classes[positive], "cells": int(of_class.sum())}
        for name, decision in (("as_negative", "0"), ("as_positive", "1"), ("review", REVIEW)):
            row[name] = int((decided[of_class] == decision).sum())
        row |= {
            "wrong": float(wrong.mean()) if of_class.any() else None,
            "wrong_by_subject": None,
            "subjects": None,
        }
        if has_subjects(table) and of_class.any():
            shares = pd.Series(wrong).groupby(clusters(table)[1][of_class]).mean()
            row |= {"wrong_by_subject": float(shares.mean()), "subjects": int((shares > 0).sum())}
        rows.append(row)
    return pd.DataFrame(rows)


def predictive_values(
    table: pd.DataFrame, policy: Policy, prevalence: float
) -> tuple[float | None, float | None]:
    """The positive and the negative predictive value of the released cells at a prevalence, by Bayes' rule; None where
    no cell is released as that class.

    Raises:
        InputError: for a prevalence outside of 0 to 1.
    """
    if not 0 < prevalence < 1:
        raise InputError(f"a prevalence of {prevalence} is out of range: use a share between 0 and 1")
    label, logit = arrays(table)
    decided = policy.decide(logit, ("0", "1"))

    def share(of_positive: bool, called: str) -> float:
        return float((decided[label == of_positive] == called).mean())

    values = []
    for called, weight in (("1", prevalence), ("0", 1 - prevalence)):
        right, wrong = weight * share(called == "1", called), (1 - weight) * share(called != "1", called)
        values.append(right / (right + wrong) if right + wrong else None)
    return values[0], values[1]


def units_of(table: pd.DataFrame, unit: str) -> NDArray[np.object_]:
    """The independent unit of each row: its cluster (see `predictions.clusters`), or with unit=cell the row itself."""
    return table["path"].to_numpy(dtype=object) if unit == "cell" else clusters(table)[1]


def unit_words(table: pd.DataFrame, unit: str) -> str:
    """The independent units in words: cells, subjects, or groups of subjects who share pictures."""
    if unit == "cell":
        return "cells"
    return "subjects" if clusters(table)[0] != "group" else "groups of subjects"


def _errors(max_missed: float, max_false_alarm: float, confidence: float) -> tuple[float, float]:
    """The error that each bound may take; 0 for a bound that needs none."""
    asked = [0 < bound < 1 for bound in (max_missed, max_false_alarm)]
    error = (1 - confidence) / max(1, sum(asked))
    return error * asked[0], error * asked[1]


def _limit(
    logit: NDArray[np.float64], units: NDArray[np.object_], bound: float, error: float, unit: str
) -> float:
    """The lowest logit of these cells that a lower threshold may not reach; inf where it may be anywhere."""
    if bound in (0, 1):
        return -math.inf if bound == 0 else math.inf
    order = np.argsort(logit, kind="stable")
    logit, codes = logit[order], pd.factorize(units[order])[0]
    n = int(codes.max()) + 1
    if unit == "cell":
        p_values = binomial_p_values(np.arange(1, len(logit) + 1), n, bound)
    else:
        sizes = np.bincount(codes)[codes]
        # Cells of the same subject before this one.
        rank = pd.Series(codes).groupby(codes).cumcount().to_numpy()
        with np.errstate(divide="ignore"):
            steps = np.log(sizes - rank - 1) - np.log(sizes - rank)
        p_values = mean_p_values(np.cumsum(steps), n, bound)
    last_of_ties = np.append(logit[1:] > logit[:-1], True)
    breaking = logit[last_of_ties & (p_values > error)]
    return float(breaking[0]) if len(breaking) else math.inf


def _thresholds(logits: NDArray[np.float64], below: float, above: float) -> tuple[float | None, float | None]:
    """The outermost thresholds among ascending logits, low < `below` and high > `above`.

    Where they would cross, every cell is released. A bounded rate beside a free one then keeps its whole limit; else
    the thresholds part at 0 (which is positive), or as near to it as the limits allow."""
    lows, highs = logits[logits < below], logits[logits > above]
    if len(lows) and len(highs) and lows[-1] >= highs[0]:
        free_low, free_high = math.isinf(below), math.isinf(above)
        if (free_low and not free_high) or (free_low == free_high and highs[0] >= 0):
            lows = logits[logits < highs[0]]
        elif (free_high and not free_low) or lows[-1] < 0:
            highs = logits[logits > lows[-1]]
        else:
            lows, highs = logits[logits < 0], logits[logits >= 0]
    return (float(lows[-1]) if len(lows) else None), (float(highs[0]) if len(highs) else None)


def _check(
    table: pd.DataFrame, label: NDArray[np.bool_], max_missed: float, max_false_alarm: float,
    confidence: float, unit: str,
) -> None:  # fmt: skip
    for name, bound in zip(NAMES, (max_missed, max_false_alarm), strict=True):
        if not 0 <= bound <= 1:
            raise InputError(f"{name}={bound} is out of range: use a share from 0 to 1, as 0.1")
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} is out of range: use a share between 0 and 1, as 0.95")
    if unit not in UNITS:
        raise InputError(f"unit={unit} is unknown: use {' or '.join(UNITS)}")
    if unit == "subject" and not has_subjects(table):
        raise InputError(
            "unit=subject needs the subject of every cell: add a column `subject`, or take unit=cell if every cell "
            "comes from a subject of its own"
        )
    if label.all() or not label.any():
        raise InputError("the table has one class only: both error rates need cells of both classes")
