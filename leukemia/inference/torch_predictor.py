"""The logits of a trained network on cells. No Lightning."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from leukemia.data.loader import Batch, CellLoader
from leukemia.data.transforms import d4
from leukemia.errors import InputError, quoted
from leukemia.evaluation.policy import TTA
from leukemia.evaluation.predictions import sigmoid
from leukemia.inference.predictor import Outputs, Predictor
from leukemia.models.checkpoint import load_network
from leukemia.models.engine import Frozen, engine_name
from leukemia.models.freezing import pooled, prefix
from leukemia.models.network import pixel_outputs
from leukemia.precision import autocast
from leukemia.runs import Ensemble, Run


class TorchPredictor(Predictor):
    """The network of a run's best checkpoint, or those of an ensemble, each in the precision of its training.

    Args:
        model: a run, finished or with at least one finished epoch; or an ensemble.
        device: `cpu`, `cuda`, ..., or `auto` for a GPU where there is one.
        tta: `none` or `d4`; None for that of the run's own predictions (`data.tta`).

    Attributes:
        nets: the networks, on the device and in eval mode.
        precisions: of their training.
        engines: the name and version of that of each network's frozen stages.

    Raises:
        InputError: if a run cannot be read, its network is not trusted, the device is not there, the triage policy is
            for another `tta`, or the members of an ensemble do not agree in classes and picture settings.
    """

    def __init__(self, model: Run | Ensemble, device: str = "auto", tta: str | None = None) -> None:
        data, self.precisions = model.data, [run.precision for run in model.members]
        loaded = [load_network(run.best_checkpoint) for run in model.members]
        seen = {(one.classes, one.native_size) for one in loaded}
        if len(seen) > 1:
            raise InputError(
                f"the checkpoints of {model.folder} differ in classes or native size: {quoted(seen)}"
            )
        ((classes, native_size),) = seen
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            self.nets = [one.net.to(self.device) for one in loaded]
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device={device} cannot be used ({error}): take cpu") from None
        engines = [run.engine for run in model.members]
        self._frozen = [Frozen(prefix(net), engine) for net, engine in zip(self.nets, engines, strict=True)]
        self.engines = [engine_name(engine) for engine in engines]
        super().__init__(
            name=model.name,
            classes=classes,
            policy=model.policy,
            image_size=data.image_size,
            resize=data.resize,
            native_size=native_size,
            tta=data.tta if tta is None else tta,
            gates=[run.gate for run in model.members],
        )

    def member_outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        batch, found = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(self.device), []
        members = zip(self.nets, self._frozen, self.precisions, self.gates, strict=True)
        for net, frozen, precision, gate in members:
            outputs_of = partial(pixel_outputs, net, frozen=frozen)
            with torch.inference_mode(), autocast(self.device.type, precision):
                logit, features = mean_outputs(outputs_of, batch, self.tta)
            found.append((logit, None if gate is None else gate.distance(features)))
        return found


def predict_outputs(
    outputs_of: Callable[[Batch], tuple[Tensor, Tensor]],
    batches: CellLoader,
    device: str = "cpu",
    precision: str = "32-true",
    tta: str = "none",
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The logit of each cell, in the order of the batches, (cells,), and its pooled features, (cells, D).

    Args:
        outputs_of: as `CellClassifier.outputs`; its network is on the device and in eval mode.
        batches: not shuffled; of pixels for `tta=d4`.
        device: `cpu`, `cuda`, ...
        precision: as in training, see `leukemia.precision.autocast`.
        tta: `none`, or `d4` for the mean logit over the 8 D4 transforms.
    """
    name, done = batches.stored.name, 0
    assert tta == "none" or name == "pixels"
    logits, features = np.empty(len(batches.rows)), np.empty((len(batches.rows), 0), np.float32)
    with torch.inference_mode(), autocast(device, precision):
        for batch in tqdm(batches, desc="predicting", unit="batch", disable=None, leave=False):
            logit, feature = mean_outputs(lambda seen: outputs_of({name: seen}), batch[name].to(device), tta)
            if not done:
                features = np.empty((len(logits), feature.shape[1]), np.float32)
            here = slice(done, done := done + len(logit))
            logits[here], features[here] = logit, feature
    assert done == len(logits)
    return logits, features


def mean_outputs(
    outputs_of: Callable[[Tensor], tuple[Tensor, Tensor]], values: Tensor, tta: str
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The mean logit of each cell over its D4 transforms, (N,), and the pooled features of the cell as it is, (N, D).
    The mean is taken in double precision.

    Args:
        outputs_of: values to logits (N,) and the values that the head takes.
        values: (N, ...), pixels where there are several transforms.
        tta: `none` or `d4`.
    """
    seen = [outputs_of(d4(values, number) if number else values) for number in range(TTA[tta])]
    logits = torch.stack([logits for logits, _ in seen]).double().mean(dim=0)
    return logits.cpu().numpy(), pooled(seen[0][1]).cpu().numpy()


def predictions_table(cells: pd.DataFrame, logits: NDArray[np.float64]) -> pd.DataFrame:
    """`path, subject, split, label, logit, probability` of cells and their logits, (cells,) both."""
    table = cells[["path", "subject", "split", "label"]].assign(logit=np.asarray(logits, dtype=np.float64))
    return table.assign(probability=sigmoid(table["logit"]))
