"""From picture files to decisions, whatever gives the logits. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from leukemia.data.pixels import decode, fit
from leukemia.errors import InputError, check_one_of
from leukemia.evaluation.ensemble import combined
from leukemia.evaluation.policy import TTA, Policy
from leukemia.runs import open_model

ONNX = ".onnx"  # the suffix of an exported model
SCORES = ("logit", "probability_sd")  # the numbers that a predictor may give for a cell


class Predictor(ABC):
    """A trained network, or an ensemble of several, that is ready to score cells.

    Attributes:
        name: of the run, sweep or file.
        classes: the names of class 0 and class 1.
        policy: the triage policy beside it; None where there is none.
        image_size, resize, native_size: how a picture becomes pixels, see `leukemia.data.pixels.fit`.
        tta: `none`, or `d4` for the mean logit over the 8 D4 transforms.

    Raises:
        InputError: for another `tta`, or one that the policy's thresholds are not for.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, str],
        policy: Policy | None,
        image_size: int,
        resize: str,
        native_size: int | None,
        tta: str,
    ) -> None:
        check_one_of("tta", tta, TTA)
        self.name, self.classes, self.policy = name, classes, policy
        self.image_size, self.resize, self.native_size, self.tta = image_size, resize, native_size, tta
        fitted = policy.fitted_on.get("views", TTA[tta]) if policy else TTA[tta]
        other = next(known for known, count in TTA.items() if count == fitted)
        if other != tta:
            raise InputError(
                f"the triage policy of {name} is for logits with tta={other} and not with tta={tta}: "
                f"use {other}, or move its triage.json aside"
            )

    @abstractmethod
    def member_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Pixels, uint8 (N, S, S, 3), to each network's logits of the positive class, float64 (networks, N)."""

    def scores(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """Pixels, uint8 (N, S, S, 3), to the numbers of SCORES that this predictor knows, float64 (N,) each."""
        return combined(self.member_logits(pixels))

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Pixels, uint8 (N, S, S, 3), to the logits of the positive class, float64 (N,)."""
        return self.scores(pixels)["logit"]

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of a picture file as the network takes them, (S, S, 3).

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
        """The rule behind `decide`, in words."""
        if self.policy is None:
            return "probability 0.5"
        return "triage.json" if self.policy.certified else "triage.json (not certified)"


def open_predictor(target: Path | Sequence[Path], device: str = "auto", tta: str | None = None) -> Predictor:
    """The predictor of a run folder, of an ensemble, or of a file that `leukemia export` wrote.

    Args:
        target: the run folder or file; for an ensemble the sweep folder, or several run folders.
        device: `auto`, `cpu`, `cuda`, ...
        tta: `none` or `d4`; None for that of the model's own predictions.

    Raises:
        InputError: see `TorchPredictor` and `OnnxPredictor`.
    """
    # By name: both modules build on this one, and an exported model needs no torch.
    targets = [target] if isinstance(target, Path) else target
    is_file = targets[0].suffix == ONNX and len(targets) == 1
    kind, given = ("Onnx", targets[0]) if is_file else ("Torch", open_model(targets))
    module = import_module(f"leukemia.inference.{kind.lower()}_predictor")
    return cast(Predictor, getattr(module, f"{kind}Predictor")(given, device, tta))
