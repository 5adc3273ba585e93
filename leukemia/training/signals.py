"""Ctrl-C and SIGTERM: outside of training they end the program at once, within it after the step that is under way."""

import logging
import signal
import sys
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from leukemia.data.loader import CellLoader
from leukemia.runs import Run
from leukemia.terminal import leave

log = logging.getLogger(__name__)


class _State:
    waits = False  # whether a step is under way that should come to its end
    received = 0  # the number of a signal that waits for that


def install() -> None:
    """Let Ctrl-C and SIGTERM end this program with 130 and 143."""
    _State.waits, _State.received = False, 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _receive)


def leave_if_asked() -> None:
    """End the program if a signal came and did not end it: an exit that is raised while Python clears away an object
    is lost. The next run of a sweep asks."""
    if _State.received:
        _State.waits = False
        sys.exit(128 + _State.received)


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
        _State.waits = trainer.world_size == 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _State.received and trainer.world_size == 1 and not trainer.is_last_batch:
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
        _State.waits = False
        leave_if_asked()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        _State.waits = False


def _receive(number: int, frame: FrameType | None) -> None:
    waits = _State.waits and not _State.received
    _State.received = number
    if not waits:
        leave(number, frame)
    name = signal.Signals(number).name
    log.info("%s: the run is left after this step, and at once when the signal comes again", name)
