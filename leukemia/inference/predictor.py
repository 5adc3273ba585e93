"""From picture files to decisions, whatever gives the logits. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from leukemia.data.handcrafted import measure
from leukemia.data.pixels import cell_hashes, decode, fit
from leukemia.errors import InputError, check_one_of
from leukemia.evaluation.ensemble import combined
from leukemia.evaluation.gate import Gate, Unlike, gated_decisions, strictest
from leukemia.evaluation.policy import TTA, Policy
from leukemia.runs import open_model

ONNX = ".onnx"  # the suffix of an exported model
# The numbers that a predictor may give for a cell. With a gate: `Unlike.by` and `Unlike.check`, and whether a stopped
# cell is one of the training cells.
SCORES = ("logit", "probability_sd", "unlike_by", "unlike_check", "trained_on")
TRAINED = " (a training cell)"
NO_GATE = (
    "has no gate.json: nothing tells whether these cells are like the training cells. Train it again with "
    "`leukemia-train`; a finished run only lacks the last step"
)
Outputs = list[tuple[NDArray[np.float64], NDArray[np.float64] | None]]


class Predictor(ABC):
    """A trained network, or an ensemble of several, that is ready to score cells.

    Attributes:
        name: of the run, sweep or file.
        classes: the names of class 0 and class 1.
        policy: the triage policy beside it; None where there is none.
        gates: of each network; None where it has none.
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
        gates: Sequence[Gate | None] = (),
    ) -> None:
        check_one_of("tta", tta, TTA)
        self.name, self.classes, self.policy, self.gates = name, classes, policy, tuple(gates)
        self.image_size, self.resize, self.native_size, self.tta = image_size, resize, native_size, tta
        fitted = policy.fitted_on.get("views", TTA[tta]) if policy else TTA[tta]
        other = next(known for known, count in TTA.items() if count == fitted)
        if other != tta:
            raise InputError(
                f"the triage policy of {name} is for logits with tta={other} and not with tta={tta}: "
                f"use {other}, or move its triage.json aside"
            )

    @abstractmethod
    def member_outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Pixels, uint8 (N, S, S, 3), to each network's logits of the positive class, float64 (N,), and the distances
        (N,) of its pooled features, see `Gate.distance`; None where it has no gate."""

    def scores(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """Pixels, uint8 (N, S, S, 3), to the numbers of SCORES that this predictor knows, float64 (N,) each. With
        several networks, a cell is stopped where the gate of any stops it."""
        outputs = self.member_outputs(pixels)
        found = combined([logit for logit, _ in outputs])
        if not self.has_gate:
            return found
        shape = measure(pixels)
        gated = [
            (gate, gate.unlike_at(shape, far))
            for gate, (_, far) in zip(self.gates, outputs, strict=True)
            if gate is not None and far is not None
        ]
        unlike = strictest([each for _, each in gated])
        known = np.zeros(len(pixels), dtype=bool)
        trained = np.concatenate([gate.cells for gate, _ in gated])
        known[unlike.stopped] = np.isin(cell_hashes(pixels[unlike.stopped]), trained)
        return {**found, "unlike_by": unlike.by, "unlike_check": unlike.check, "trained_on": known}

    def unlike_words(self, scores: Mapping[str, NDArray[np.float64]]) -> list[str | None]:
        """The reason why the gate stops each cell of some `scores`, (N,); None where it does not."""
        first = next((gate for gate in self.gates if gate is not None), None)
        if first is None:
            return [None] * len(scores["logit"])
        check = np.nan_to_num(scores["unlike_check"]).astype(int)
        said = Unlike(scores["unlike_by"], check).words(first.share)
        known = scores["trained_on"]
        return [f"{why}{TRAINED}" if why and own else why for why, own in zip(said, known == 1, strict=True)]

    @property
    def has_gate(self) -> bool:
        """Whether any of its networks has a gate."""
        return any(gate is not None for gate in self.gates)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Pixels, uint8 (N, S, S, 3), to the logits of the positive class, float64 (N,)."""
        return self.scores(pixels)["logit"]

    def pixels(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of a picture file as the network takes them, (S, S, 3).

        Raises:
            InputError: if it cannot be read.
        """
        return fit(decode(path), self.image_size, self.resize, self.native_size)

    def decide(
        self, logit: NDArray[np.float64], unlike_by: NDArray[np.float64] | None = None
    ) -> NDArray[np.str_]:
        """The decision on each logit (N,): a class, or `review`; without a policy the class at probability 0.5.

        Args:
            logit: of each cell.
            unlike_by: as in `scores`; cells that the gate stops are reviewed.
        """
        if self.policy is None:
            decided = np.where(logit >= 0, self.classes[1], self.classes[0])
        else:
            decided = self.policy.decide(logit, self.classes)
        return decided if unlike_by is None else gated_decisions(decided, unlike_by)

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
