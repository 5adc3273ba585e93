"""The metrics of one split over one epoch, collected across batches and processes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from leukemia.evaluation.metrics import METRICS, monitored_names

MONITORED = {name: METRICS[name] for name in (name.removeprefix("val/") for name in monitored_names())}


class EpochMetrics(Metric):
    """Collects logits (N,) and labels (N,); the metrics are computed once, when the epoch ends."""

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.logits.append(logits)
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """All logits and labels, (N,) both."""
        return dim_zero_cat(self.logits), dim_zero_cat(self.labels)

    def finish(
        self, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[dict[str, float], NDArray[np.int64]]:
        """The monitored metrics by name, NaN where undefined, and the confusion counts (label, decision).

        `loss` is the criterion over all cells. The next epoch starts empty.
        """
        logits, labels = self.compute()
        self.reset()
        with torch.no_grad():
            loss = float(criterion(logits, labels))
        label, logit = labels.cpu().numpy() > 0.5, logits.double().cpu().numpy()
        values: dict[str, Any] = {name: metric.function(label, logit) for name, metric in MONITORED.items()}
        values["loss"] = loss
        counts = np.bincount(2 * label + (logit >= 0), minlength=4).reshape(2, 2)
        return {name: float("nan") if value is None else value for name, value in values.items()}, counts
