"""A trained network's logits on cells."""

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from leukemia.data.batches import Batches
from leukemia.models.classifier import CellClassifier
from leukemia.models.precision import autocast


def predict_logits(
    model: CellClassifier, batches: Batches, device: str = "cpu", precision: str = "32-true"
) -> np.ndarray:
    """The logit of each cell, in the order of the batches: float64, (cells,).

    The network is in eval mode and the pictures are not varied.

    Args:
        model: is moved to the device.
        batches: not shuffled.
        device: `cpu`, `cuda`, ...
        precision: as in training, see `leukemia.models.precision.autocast`.
    """
    model = model.to(device).eval()
    logits = []
    with torch.inference_mode(), autocast(device, precision):
        for batch in tqdm(batches, desc="predicting", unit="batch", disable=None, leave=False):
            values = batch[batches.stored.name].to(device)
            logits.append(model.logits({batches.stored.name: values}).cpu().double())
    return torch.cat(logits).numpy() if logits else np.empty(0)


def predictions_table(cells: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """`path, subject, side, label, logit, probability` of cells and their logits, (cells,) both."""
    table = cells[["path", "subject", "side", "label"]].assign(logit=logits)
    return table.assign(probability=1 / (1 + np.exp(-table["logit"])))
