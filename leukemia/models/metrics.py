"""The figures of one split over one epoch, kept by torchmetrics across batches and processes."""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_confusion_matrix,
    binary_recall,
    binary_specificity,
    multiclass_accuracy,
    multiclass_f1_score,
)
from torchmetrics.utilities import dim_zero_cat


class EpochMetrics(Metric):
    """Collects logits (N,) and labels (N,); the figures are computed once, when the epoch ends.

    `loss` is the plain cross-entropy, whatever the class weights in training, so that runs compare.
    """

    NAMES = ("loss", "accuracy", "balanced_accuracy", "f1_weighted", "auroc", "sensitivity", "specificity")
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

    def compute(self) -> tuple[dict[str, Tensor], Tensor]:
        """The figures by name, and the confusion matrix (label, decision)."""
        logits, labels = dim_zero_cat(self.logits), dim_zero_cat(self.labels).int()
        # Decisions go in as decisions: torchmetrics takes a batch of logits within [0, 1] for probabilities.
        decisions = (logits >= 0).int()
        figures = {
            "loss": functional.binary_cross_entropy_with_logits(logits, labels.float()),
            "accuracy": binary_accuracy(decisions, labels),
            "balanced_accuracy": multiclass_accuracy(decisions, labels, num_classes=2, average="macro"),
            "f1_weighted": multiclass_f1_score(decisions, labels, num_classes=2, average="weighted"),
            "auroc": binary_auroc(torch.sigmoid(logits.double()), labels),
            "sensitivity": binary_recall(decisions, labels),
            "specificity": binary_specificity(decisions, labels),
        }
        return figures, binary_confusion_matrix(decisions, labels)

    def finish(self) -> tuple[dict[str, Tensor], Tensor]:
        """What `compute` gives; the next epoch starts empty."""
        found = self.compute()
        self.reset()
        return found
