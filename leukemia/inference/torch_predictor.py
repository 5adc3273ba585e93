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
from leukemia.inference.predictor import Predictor
from leukemia.models.checkpoint import load_network
from leukemia.models.network import pixel_logits
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
        super().__init__(
            name=model.name,
            classes=classes,
            policy=model.policy,
            image_size=data.image_size,
            resize=data.resize,
            native_size=native_size,
            tta=data.tta if tta is None else tta,
        )

    def member_logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        batch, found = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device), []
        for net, precision in zip(self.nets, self.precisions, strict=True):
            with torch.inference_mode(), autocast(self.device.type, precision):
                found.append(mean_logits(partial(pixel_logits, net), batch, self.tta))
        return np.stack(found)


def predict_logits(
    logits_of: Callable[[Batch], Tensor],
    batches: CellLoader,
    device: str = "cpu",
    precision: str = "32-true",
    tta: str = "none",
) -> NDArray[np.float64]:
    """The logit of each cell, in the order of the batches: (cells,).

    Args:
        logits_of: a batch to logits (N,), as `CellClassifier.logits`; its network is on the device and in eval mode.
        batches: not shuffled; of pixels for `tta=d4`.
        device: `cpu`, `cuda`, ...
        precision: as in training, see `leukemia.precision.autocast`.
        tta: `none`, or `d4` for the mean logit over the 8 D4 transforms.
    """
    name, found = batches.stored.name, [np.empty(0)]
    assert tta == "none" or name == "pixels"
    with torch.inference_mode(), autocast(device, precision):
        for batch in tqdm(batches, desc="predicting", unit="batch", disable=None, leave=False):
            found.append(mean_logits(lambda seen: logits_of({name: seen}), batch[name].to(device), tta))
    return np.concatenate(found)


def mean_logits(logits_of: Callable[[Tensor], Tensor], values: Tensor, tta: str) -> NDArray[np.float64]:
    """The mean logit of each cell over its D4 transforms: (N,). The mean is taken in double precision.

    Args:
        logits_of: values to logits (N,).
        values: (N, ...), pixels where there are several transforms.
        tta: `none` or `d4`.
    """
    seen = [logits_of(d4(values, number) if number else values) for number in range(TTA[tta])]
    return np.asarray(torch.stack(seen).double().mean(dim=0).cpu().numpy(), dtype=np.float64)


def predictions_table(cells: pd.DataFrame, logits: NDArray[np.float64]) -> pd.DataFrame:
    """`path, subject, split, label, logit, probability` of cells and their logits, (cells,) both."""
    table = cells[["path", "subject", "split", "label"]].assign(logit=np.asarray(logits, dtype=np.float64))
    return table.assign(probability=sigmoid(table["logit"]))
