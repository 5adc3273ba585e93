"""The figures of one side over one epoch, kept by torchmetrics across batches and processes."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryConfusionMatrix,
    BinaryRecall,
    BinarySpecificity,
    MulticlassAccuracy,
    MulticlassF1Score,
)


class Curves(nn.Module):
    """Accumulates logits (N,) and labels (N,).

    `loss` is the plain cross-entropy, whatever the class weights in training, so that runs compare.
    """

    NAMES = ("loss", "accuracy", "balanced_accuracy", "f1_weighted", "auroc", "sensitivity", "specificity")

    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # by default it leaves out what is no number
        self.auroc = BinaryAUROC()
        self.confusion = BinaryConfusionMatrix()
        self.decisions = MetricCollection(
            {
                "accuracy": BinaryAccuracy(),
                "balanced_accuracy": MulticlassAccuracy(2, average="macro"),
                "f1_weighted": MulticlassF1Score(2, average="weighted"),
                "sensitivity": BinaryRecall(),
                "specificity": BinarySpecificity(),
            }
        )

    def update(self, logits: Tensor, labels: Tensor) -> None:
        # Decisions go in as decisions: torchmetrics takes a batch of logits within [0, 1] for probabilities.
        decisions, labels = (logits >= 0).int(), labels.int()
        self.loss.update(
            functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        )
        self.auroc.update(torch.sigmoid(logits.double()), labels)
        self.confusion.update(decisions, labels)
        self.decisions.update(decisions, labels)

    def finish(self) -> tuple[dict[str, Tensor], Tensor]:
        """The figures by name, and the confusion matrix (label, decision); the next epoch starts empty."""
        figures = {"loss": self.loss.compute(), "auroc": self.auroc.compute(), **self.decisions.compute()}
        confusion = self.confusion.compute()
        for metric in (self.loss, self.auroc, self.confusion, self.decisions):
            metric.reset()
        return figures, confusion
