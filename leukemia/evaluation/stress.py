"""A model on the same cells after a shift: paired differences, and whether certified bounds still hold."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.bootstrap import DRAWS, compare
from leukemia.evaluation.policy import REVIEW, Policy
from leukemia.evaluation.predictions import arrays, clusters
from leukemia.evaluation.thresholds import rates_hold
from leukemia.evaluation.weighted import Values, Weighting, sums, weighted_cell_metrics

NAMES = ("0", "1")  # of the classes, in a decision
METRICS = ("accuracy", "auroc", "ece")
RATES = ("missed", "false_alarm", "released", "stopped")


def decisions(logit: ArrayLike, stopped: ArrayLike, policy: Policy) -> NDArray[np.str_]:
    """The decision on each cell, `0`, `1` or `review`: that of the policy, and review where the gate stops it."""
    return np.where(stopped, REVIEW, policy.decide(logit, NAMES))


def measured(
    before: pd.DataFrame, after: pd.DataFrame, policy: Policy | None, draws: int = DRAWS
) -> dict[str, Any]:
    """The metrics of shifted cells, and their differences from the same cells without the shift.

    Args:
        before, after: predictions tables of the same cells with a column `stopped`, whether the gate stops a cell.
        policy: the triage policy, or None.
        draws: of the bootstrap over subjects.

    Returns:
        For each of METRICS, and with a policy each of RATES, `value`, `difference`, `low` and `high`; with a policy
        `holds`: for `missed` and `false_alarm` whether the certified bound holds (None where it sets no limit), by the
        test that certified it.
    """

    def of(table: pd.DataFrame, unit: NDArray[np.intp], units: int) -> Weighting:
        return _weighted(table, unit, units, policy)

    apart = compare([before], [after], draws=draws, of=of)
    values = of(after, np.arange(len(after)), len(after))(np.ones((1, len(after))))
    found: dict[str, Any] = {
        name: {"value": None if np.isnan(value := values[name][0]) else float(value), **apart[name]}
        for name in (METRICS if policy is None else (*METRICS, *RATES))
    }
    if policy is not None:
        decided = decisions(arrays(after)[1], after["stopped"], policy)
        found["holds"] = rates_hold(after, decided, policy)
    return found


def safe_until(ways: Sequence[Sequence[float]], holds: Callable[[float], bool]) -> list[float | None]:
    """The last strength of each direction up to which all hold; None where the first does not.

    Each direction is a fixed sequence of tests that ends at the first failure, so within it no correction is needed.
    """
    found: list[float | None] = []
    for way in ways:
        last = None
        for strength in way:
            if not holds(strength):
                break
            last = strength
        found.append(last)
    return found


def all_hold(entry: Mapping[str, Any]) -> bool:
    """Whether no bound fails in what `measured` gives with a policy."""
    return False not in entry["holds"].values()


def not_shown_to_fall(entry: Mapping[str, Any]) -> bool:
    """Whether the interval of the difference in accuracy, in what `measured` gives, does not lie below 0."""
    high = entry["accuracy"]["high"]
    return high is None or high >= 0


def _weighted(table: pd.DataFrame, unit: NDArray[np.intp], units: int, policy: Policy | None) -> Weighting:
    metrics = weighted_cell_metrics(table, unit, units)
    if policy is None:
        return metrics
    label, logit = arrays(table)
    decided = decisions(logit, table["stopped"], policy)
    clustered = policy.unit == "subject"
    own = clusters(table)[1] if clustered else table["path"].to_numpy(dtype=object)
    parts = {}  # of each rate, its numerator and denominator by row
    for name, of_class, wrong in (("missed", label, NAMES[0]), ("false_alarm", ~label, NAMES[1])):
        size = pd.Series(of_class).groupby(own).transform("sum").to_numpy(dtype=float)
        share = np.divide(of_class, size, out=np.zeros(len(label)), where=size > 0)  # of its unit
        parts[name] = share * (decided == wrong), share
    everything = np.ones(len(label))
    parts["released"] = (decided != REVIEW).astype(float), everything
    parts["stopped"] = table["stopped"].to_numpy(dtype=float), everything
    of_units = {name: sums(np.stack(part, axis=1), unit, units) for name, part in parts.items()}

    def weighted(weights: NDArray[np.float64]) -> Values:
        found = metrics(weights)
        for name, part in of_units.items():
            some, whole = (weights @ part).T
            with np.errstate(invalid="ignore"):
                found[name] = some / whole
        return found

    return weighted
