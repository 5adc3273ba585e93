"""The callbacks of every run: history.csv, pictures in its loggers, and the end of training by a signal."""

import logging
import sys
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from leukemia.data.loader import Batch, CellLoader
from leukemia.data.transforms import augment
from leukemia.models.classifier import CellClassifier
from leukemia.runs import Run
from leukemia.training.loggers import log_figure, log_images
from leukemia.training.signals import State, leave_if_asked

log = logging.getLogger(__name__)
PICTURED = 16  # cells of the first batch


class HistoryFile(Checkpoint):
    """Writes the model's history to history.csv after each epoch.

    A Checkpoint by type, because Lightning calls those after the module's own hook has added the epoch. The
    rows live in the checkpoint, so a resumed run writes each epoch once.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CellClassifier)
        self.run.write_table("history.csv", pd.DataFrame(pl_module.history))
        if not sys.stderr.isatty():
            row = pl_module.history[-1]
            names = [name for name in ("train/loss", "val/loss", "val/accuracy") if name in row]
            log.info("epoch %d: %s", row["epoch"], ", ".join(f"{name} {row[name]:.4f}" for name in names))


class Pictures(pl.Callback):
    """Shows the first batch as the network sees it and each epoch's confusion matrix, in loggers that take pictures."""

    @rank_zero_only
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == 0 and trainer.current_epoch == 0 and trainer.loggers:
            seen = _as_seen(trainer, batch).round().to(torch.uint8).cpu().numpy()
            for logger in trainer.loggers:
                log_images(logger, "train/batch", seen, 0)

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CellClassifier)
        if trainer.sanity_checking or pl_module.confusion is None or not trainer.loggers:
            return
        figure = _confusion_figure(pl_module.confusion.tolist(), pl_module.hparams["classes"])
        for logger in trainer.loggers:
            log_figure(logger, "val/confusion", figure, trainer.global_step)


def _as_seen(trainer: pl.Trainer, batch: Batch) -> Tensor:
    """The first pictures of a batch as the network sees them; features were computed of the same D4 transforms."""
    if "pixels" in batch:
        return batch["pixels"][:PICTURED]
    data = trainer.datamodule  # type: ignore[attr-defined]
    pixels = torch.from_numpy(data.pixels.images[batch["cell"].cpu().numpy()])
    return augment(pixels, data.augment, batch["seed"])[:PICTURED]


def _confusion_figure(counts: list[list[int]], classes: list[str]) -> Any:
    figure = Figure(figsize=(3, 3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues", vmin=0)
    largest = max(max(row) for row in counts) or 1
    for label, row in enumerate(counts):
        for decision, count in enumerate(row):
            colour = "white" if count > largest / 2 else "black"
            axes.text(decision, label, str(count), ha="center", va="center", color=colour)
    axes.set(xticks=[0, 1], yticks=[0, 1], xlabel="decision", ylabel="label")
    axes.set_xticklabels(classes)
    axes.set_yticklabels(classes)
    return figure


class LeaveWithCheckpoint(Checkpoint):
    """On a signal, writes last.ckpt after the step that is under way and ends the program.

    During validation the signal is answered at the end of the epoch, when last.ckpt is written anyway. A second
    signal ends the program at once, and so does the first where several processes train, for they would have to agree
    on a step: then the run goes on from its last whole epoch.

    A Checkpoint by type and the last of them in the list, for Lightning calls it when the others have written theirs.

    Args:
        run: whose last.ckpt is written.
        resumable: whether it is; without, the program ends and keeps nothing of this epoch.
    """

    def __init__(self, run: Run, resumable: bool = True) -> None:
        self.run, self.resumable = run, resumable
        self._handed_out = 0  # batches of the epoch, in a checkpoint that was written within it

    def state_dict(self) -> dict[str, int]:
        return {"handed_out": self._handed_out}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._handed_out = state_dict["handed_out"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._handed_out:  # Lightning leaves it out where it made the loader before it read the checkpoint
            assert isinstance(trainer.train_dataloader, CellLoader)
            trainer.train_dataloader.load_state_dict(self.state_dict())
            self._handed_out = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        State.waits = trainer.world_size == 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if State.received and trainer.world_size == 1 and not trainer.is_last_batch:
            self._handed_out = batch_idx + 1
            if self.resumable:
                trainer.save_checkpoint(self.run.last_checkpoint)
                log.info(
                    "last.ckpt holds epoch %d up to its batch %d", trainer.current_epoch + 1, batch_idx + 1
                )
            leave_if_asked()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        leave_if_asked()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        State.waits = False
        leave_if_asked()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        State.waits = False
