"""A trained network's logits on cells."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from leukemia.data.loader import CellLoader
from leukemia.data.pixels import CNMC_SIZE
from leukemia.data.transforms import VIEWS, view
from leukemia.errors import InputError
from leukemia.evaluation.predictions import sigmoid
from leukemia.inference.predictor import Predictor
from leukemia.models.checkpoint import load_classifier
from leukemia.models.classifier import CellClassifier
from leukemia.precision import autocast
from leukemia.runs import Run


def predict_logits(
    model: CellClassifier,
    batches: CellLoader,
    device: str = "cpu",
    precision: str = "32-true",
    views: int = 1,
) -> np.ndarray:
    """The logit of each cell, in the order of the batches: float64, (cells,).

    The network is in eval mode and the pictures are not varied.

    Args:
        model: is moved to the device.
        batches: not shuffled; of pixels where there are several views.
        device: `cpu`, `cuda`, ...
        precision: as in training, see `leukemia.precision.autocast`.
        views: 1, or 8 for the mean logit over the flips and quarter turns.
    """
    model = model.to(device).eval()
    name = batches.stored.name
    assert views == 1 or name == "pixels"
    logits = []
    with torch.inference_mode(), autocast(device, precision):
        for batch in tqdm(batches, desc="predicting", unit="batch", disable=None, leave=False):
            values = batch[name].to(device)
            seen = [
                model.logits({name: view(values, number) if number else values}) for number in range(views)
            ]
            logits.append(torch.stack(seen).double().mean(dim=0).cpu())
    return torch.cat(logits).numpy() if logits else np.empty(0)


def predictions_table(cells: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """`path, subject, split, label, logit, probability` of cells and their logits, (cells,) both."""
    table = cells[["path", "subject", "split", "label"]].assign(logit=logits)
    return table.assign(probability=sigmoid(table["logit"]))


def torch_predictor(run: Run, device: str = "auto", views: int | None = None) -> Predictor:
    """The best checkpoint of a run as a function from pixels to logits, in the precision that it was trained in.

    Args:
        run: finished, or with one finished epoch at least.
        device: `cpu`, `cuda`, ..., or `auto` for a GPU where there is one.
        views: 1 or 8, see `predict_logits`; None for those of the run's own predictions (`data.tta`).

    Raises:
        InputError: if the run cannot be read, the device is not there, or its triage policy is of other views.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_classifier(run.best_checkpoint)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device} cannot be used ({error}): take cpu") from None
    data = run.config["data"]
    precision = str(run.config["trainer"]["precision"])
    views = int(data.get("test_views", 1)) if views is None else views
    if views not in (1, VIEWS):
        raise InputError(f"views={views} is unknown: use 1 or {VIEWS}")

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.inference_mode(), autocast(device, precision):
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
            seen = [model(view(batch, number) if number else batch) for number in range(views)]
            return np.asarray(torch.stack(seen).double().mean(dim=0).cpu().numpy(), dtype=np.float64)

    negative, positive = model.hparams["classes"]
    return Predictor(
        name=run.name,
        classes=(str(negative), str(positive)),
        policy=run.policy,
        image_size=int(data["image_size"]),
        resize=str(data.get("resize", "squash")),
        native_size=CNMC_SIZE if data.get("layout", "cnmc") == "cnmc" else None,
        views=views,
        logits=logits,
    )
