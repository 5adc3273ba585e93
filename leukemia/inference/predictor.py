"""What turns picture files into decisions, wherever its logits come from. No torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukemia.data.pixels import decode, fit
from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to score cells.

    Attributes:
        name: of the run or file that it comes from.
        classes: the names of class 0 and class 1.
        policy: the triage policy beside it; None where there is none.
        image_size, resize, native_size: how a picture becomes pixels, see `leukemia.data.pixels.fit`.
        views: over how many views of a cell its logit is the mean, 1 or 8.
        logits: pixels, uint8 (N, S, S, 3), to the logits of the positive class, float64 (N,).

    Raises:
        InputError: if the policy's thresholds are of another number of views.
    """

    name: str
    classes: tuple[str, str]
    policy: Policy | None
    image_size: int
    resize: str
    native_size: int | None
    views: int
    logits: Callable[[NDArray[np.uint8]], NDArray[np.float64]]

    def __post_init__(self) -> None:
        of_policy = int(self.policy.fitted_on.get("views", self.views)) if self.policy else self.views
        if of_policy != self.views:
            raise InputError(
                f"the triage policy of {self.name} is for mean logits over {of_policy} views and not {self.views}: "
                f"use {of_policy}, or move its triage.json aside"
            )

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of a picture file as the network sees them, (S, S, 3).

        Raises:
            InputError: if it cannot be read.
        """
        return fit(decode(path), self.image_size, self.resize, self.native_size)

    def decide(self, logit: NDArray[np.float64]) -> NDArray[np.str_]:
        """The decision on each logit (N,): a class, or `review`; without a policy the class at probability 0.5."""
        if self.policy is None:
            return np.where(logit >= 0, self.classes[1], self.classes[0])
        return self.policy.decide(logit, self.classes)

    @property
    def decided_by(self) -> str:
        """What decides, in words."""
        if self.policy is None:
            return "probability 0.5"
        return "triage.json" if self.policy.certified else "triage.json (not certified)"
