"""A triage policy: which cells are released, and as which class. `triage` chooses it, `predict` applies it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukemia.errors import InputError, is_number, quoted
from leukemia.evaluation.predictions import sigmoid

REVIEW = "review"
UNITS = ("subject", "cell")
TTA = {"none": 1, "d4": 8}  # test-time augmentation, and its number of transforms


@dataclass(frozen=True)
class Policy:
    """Cells at or below `low` are released as the negative class, cells at or above `high` as the positive one,
    the rest go to review.

    Attributes:
        low, high: thresholds on the raw logit, low < high; None where no cell is released as that class.
        slope, intercept: of the recalibration, logit -> slope * logit + intercept; None where unknown.
        max_missed: bound of the share of positive cells that are released as negative.
        max_false_alarm: bound of the share of negative cells that are released as positive.
        confidence: with which both bounds hold together.
        unit: `subject`: the rates are means over subjects; `cell`: over independent cells.
        certified: whether the bounds are guaranteed.
        why_not: the reason, where they are not.
        released: share of the cells of `fitted_on` that are released.
        fitted_on: the cells that the thresholds were chosen on, in words and numbers.

    Raises:
        InputError: for impossible values.
    """

    low: float | None
    high: float | None
    slope: float | None
    intercept: float | None
    max_missed: float
    max_false_alarm: float
    confidence: float
    unit: str
    certified: bool
    why_not: str | None = None
    released: float = 0.0
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("low", "high", "slope", "intercept"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and abs(value) < 1e100):
                raise InputError(f"{name}={quoted(value)} of the triage policy is not a finite number")
        shares = ("max_missed", "max_false_alarm", "confidence", "released")
        possible = {name: is_number(share := getattr(self, name)) and 0 <= share <= 1 for name in shares}
        possible["certified"] = isinstance(self.certified, bool)
        possible["why_not"] = isinstance(self.why_not, str | None)
        facts = self.fitted_on
        possible["fitted_on"] = isinstance(facts, Mapping) and facts.get("views", 1) in TTA.values()
        for name, is_possible in possible.items():
            if not is_possible:
                raise InputError(f"{name}={quoted(getattr(self, name))} of the triage policy is not possible")
        if self.slope is not None and self.slope < 0:
            raise InputError(f"slope={self.slope} of the triage policy would reverse its probabilities")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise InputError(
                f"the triage policy has low={self.low} and high={self.high}: low has to lie below high"
            )
        if self.unit not in UNITS:
            raise InputError(
                f"unit={quoted(self.unit)} of the triage policy is unknown: use {' or '.join(UNITS)}"
            )

    def decide(self, logit: ArrayLike, classes: Sequence[str]) -> NDArray[np.str_]:
        """The decision on each logit `[n]`: a name of `classes` (negative, positive) or `review`."""
        logit = np.asarray(logit, dtype=float)
        as_negative = logit <= (-np.inf if self.low is None else self.low)
        as_positive = logit >= (np.inf if self.high is None else self.high)
        return np.select([as_negative, as_positive], list(classes), REVIEW)

    def calibrated(self, logit: ArrayLike) -> NDArray[np.float64] | None:
        """The calibrated probability of the positive class `[n]`; None where no calibration is known."""
        if self.slope is None or self.intercept is None:
            return None
        return sigmoid(self.slope * np.asarray(logit, dtype=float) + self.intercept)

    def to_json(self) -> dict[str, Any]:
        """The content of triage.json."""
        plain = asdict(self)
        thresholds = {name: plain.pop(name) for name in ("low", "high")}
        calibration = {name: plain.pop(name) for name in ("slope", "intercept")}
        return {"thresholds": thresholds, "calibration": calibration, **plain}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Policy":
        """The policy in the content of a triage.json.

        Raises:
            InputError: if it is not one.
        """
        try:
            others = dict(content)
            return cls(**others.pop("thresholds"), **others.pop("calibration"), **others)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"this is not a triage policy as `leukemia triage` writes it: {quoted(error)}"
            ) from None
