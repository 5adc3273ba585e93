"""Weight averaging in a run: only trained stages are averaged, and the weights that are kept are the validated ones."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from leukemia.errors import InputError

REFUSED = {
    StochasticWeightAveraging: (
        "it trains one more epoch after the last and swaps in weights that were not validated: use "
        "pytorch_lightning.callbacks.WeightAveraging (the equal average) or EMAWeightAveraging"
    ),
    LearningRateFinder: "config.yaml would not hold the rate that it finds: search over model.optimizer.lr with -m",
    BatchSizeFinder: "config.yaml would not hold the size that it finds: choose data.batch_size",
    ModelPruning: "it renames the weights, so that no checkpoint fits the network while it trains: prune an export",
    BaseFinetuning: "it freezes stages behind the feature cache's back: use model.trainable_from and model.unfreeze",
}
AFTER_VALIDATION = (
    "it updates the average at the end of an epoch, after that epoch was validated, so best.ckpt would hold weights "
    "that were not: update after steps (should_update with step_idx, update_starting_at_step)"
)
SOON = 1000  # epochs that `should_update` is asked about before training


def check_callbacks(callbacks: Iterable[pl.Callback]) -> None:
    """Refuse callbacks that cannot work in a run.

    Raises:
        InputError: with the reason and what to use.
    """
    averaging = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    for callback in callbacks:
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise InputError(f"{type(callback).__name__} does not work in a run: {reason}")
    for callback in averaging:
        if any(callback.should_update(epoch_idx=epoch) for epoch in range(SOON)):
            raise InputError(
                f"{type(callback).__name__} does not work in a run as it is set: {AFTER_VALIDATION}"
            )
    if len(averaging) > 1:
        raise InputError("a run keeps one average of its weights: leave one of the averaging callbacks out")


def adapted(callback: pl.Callback) -> pl.Callback:
    """The callback; a WeightAveraging, also one of the user's own, with the behaviour of `_AveragesTrained` before its
    own."""
    kind = type(callback)
    if isinstance(callback, WeightAveraging) and not isinstance(callback, _AveragesTrained):
        # Checkpoints name it by these.
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        callback.__class__ = type(kind.__name__, (_AveragesTrained, kind), names)
    return callback


class _AveragesTrained(WeightAveraging):
    """Leaves frozen stages out of the average, and lets the average follow the model until its first update.

    Lightning's own averages everything, which moves frozen weights by rounding (d * a + (1 - d) * a), and validates
    the initial weights before a delayed start.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            assert self._average_model is not None
            self._average_model.__class__ = _AverageOfTrained

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._device is None:  # set up before the model was moved
            assert self._average_model is not None
            self._average_model.to(pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.should_update(epoch_idx=trainer.current_epoch):
            raise InputError(f"{type(self).__name__} does not work in a run as it is set: {AFTER_VALIDATION}")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow(pl_module)
        super().on_train_end(trainer, pl_module)

    def _follow(self, pl_module: pl.LightningModule) -> None:
        if isinstance(self._average_model, _AverageOfTrained):
            self._average_model.follow(pl_module)


class _AverageOfTrained(AveragedModel):
    """An average of the parameters that train and, with `use_buffers`, of the statistics of their BatchNorm layers."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average in the model's values; its first call copies them."""
        if self.n_averaged == 0:
            self.follow(model)
        else:
            trained = _statistics(model, training=True) if self.use_buffers else set()
            pairs = [pair for pair in self._pairs(model) if pair[1].requires_grad or id(pair[1]) in trained]
            averages = [average.detach() for average, _ in pairs]
            values = [value.detach().to(average.device) for average, value in pairs]
            if self.avg_fn is not None:
                for average, value in zip(averages, values, strict=True):
                    average.copy_(self.avg_fn(average, value, self.n_averaged.to(average.device)))
            elif averages:
                average_all = self.multi_avg_fn or get_swa_multi_avg_fn()
                average_all(averages, values, self.n_averaged.to(averages[0].device))
        self.n_averaged += 1

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Copy everything that is not averaged; before the first update, everything."""
        kept = _statistics(model) if self.use_buffers else set()
        for average, value in self._pairs(model):
            if self.n_averaged == 0 or not (value.requires_grad or id(value) in kept):
                average.detach().copy_(value.detach())

    def _pairs(self, model: nn.Module) -> Iterable[tuple[Tensor, Tensor]]:
        """The average and the value of each parameter and buffer."""
        averages = chain(self.module.parameters(), self.module.buffers())
        return zip(averages, chain(model.parameters(), model.buffers()), strict=True)


def _statistics(model: nn.Module, training: bool = False) -> set[int]:
    """The ids of the running statistics of BatchNorm layers; with `training` without those of frozen stages."""
    found: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, _NormBase) and (layer.training or not training):
            found |= {id(layer.running_mean), id(layer.running_var)}
    return found
