"""What both training contenders are timed with; nothing of this package."""

from itertools import pairwise

import pytorch_lightning as pl
from clock import now


class Stopwatch(pl.Callback):
    """Seconds of each epoch, its validation and checkpoints included, and of its training batches alone."""

    def __init__(self) -> None:
        self.marks: list[float] = []  # the start of each epoch, and the end of the last
        self.training: list[float] = []
        self.first_batch = 0.0

    @property
    def epochs(self) -> list[float]:
        return [end - start for start, end in pairwise(self.marks)]

    def on_train_epoch_start(self, *_: object) -> None:
        self.marks.append(now())

    def on_train_batch_start(self, trainer: pl.Trainer, module: object, batch: object, number: int) -> None:
        if number == 0:
            self.first_batch = now()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.is_last_batch:
            self.training.append(now() - self.first_batch)

    def on_train_end(self, *_: object) -> None:
        self.marks.append(now())
