"""The LightningModule: a staged ResNet with one logit, its loss, its curves and its optimiser."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.utilities import dim_zero_cat

from leukemia.data.loader import Batch
from leukemia.data.transforms import normalise
from leukemia.errors import DivergedError, InputError
from leukemia.models.metrics import EpochMetrics
from leukemia.models.optim import OPTIMIZERS, check_optimisation, parameter_groups, schedule_factor
from leukemia.models.resnet import StagedResNet, check_schedule, thawed_from
from leukemia.models.weights import load_weights

CLASS_WEIGHTS = ("none", "balanced")


def metric_names(split: str) -> list[str]:
    """The names under which the figures of `train` or `val` are logged; those of `val` can be monitored."""
    return [f"{split}/{name}" for name in EpochMetrics.NAMES]


class CellClassifier(pl.LightningModule):
    """Classifies cells: pixels (N, S, S, 3) to the logit of the positive class (N,).

    Args:
        depth: 18, 34, 50, 101 or 152.
        trainable_from: the first stage that trains, of stem, layer1 to layer4, head.
        unfreeze: a schedule {epoch from 2: stage}, that thaws earlier stages later on.
        weights: `imagenet`, `none` or a path; see `load_weights`.
        lr: learning rate.
        stage_lr: {stage: learning rate} where it differs.
        optimizer: `adam` or `adamw`.
        weight_decay: of parameters with two dimensions or more.
        schedule: `none`, `cosine` or `step`; see `schedule_factor`.
        warmup_epochs: linear warm-up, in epochs.
        step_epochs: the epochs after which a step schedule drops the rate.
        step_factor: by which it drops.
        class_weights: `balanced` weighs the positive class by n_negative / n_positive of the training split.
        classes: the names of class 0 and class 1.

    Raises:
        InputError: for settings that cannot be.
    """

    def __init__(
        self,
        depth: int = 18,
        trainable_from: str = "layer4",
        unfreeze: Mapping[int, str] | None = None,
        weights: str = "imagenet",
        lr: float = 3e-4,
        stage_lr: Mapping[str, float] | None = None,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        schedule: str = "none",
        warmup_epochs: float = 0.0,
        step_epochs: Sequence[int] | None = None,
        step_factor: float = 0.1,
        class_weights: str = "none",
        classes: Sequence[str] = ("HEM", "ALL"),
    ) -> None:
        super().__init__()
        self.unfreeze_at = check_schedule(trainable_from, unfreeze)
        check_optimisation(lr, stage_lr, optimizer, weight_decay, schedule, warmup_epochs, step_epochs)
        if not isinstance(step_factor, int | float) or not 0 < step_factor <= 1:
            raise InputError(
                f"model.scheduler.step_factor={step_factor} is out of range: use a number above 0 and up to 1"
            )
        if class_weights not in CLASS_WEIGHTS:
            raise InputError(
                f"model.class_weights={class_weights} is unknown: use one of {', '.join(CLASS_WEIGHTS)}"
            )
        self.save_hyperparameters(
            {
                "depth": depth,
                "trainable_from": trainable_from,
                "unfreeze": self.unfreeze_at or None,
                "weights": weights,
                "lr": lr,
                "stage_lr": dict(stage_lr) if stage_lr else None,
                "optimizer": optimizer,
                "weight_decay": weight_decay,
                "schedule": schedule,
                "warmup_epochs": warmup_epochs,
                "step_epochs": list(step_epochs) if step_epochs else None,
                "step_factor": step_factor,
                "class_weights": class_weights,
                "classes": list(classes),
            },
            logger=False,
        )
        self.trainable_from = trainable_from
        self.net = StagedResNet(depth, trainable_from)
        load_weights(self.net, depth, weights)
        self.positive_weight: Tensor
        self.register_buffer("positive_weight", torch.ones(()), persistent=False)
        self.first_bad_step: Tensor
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)
        self.train_metrics, self.val_metrics = EpochMetrics(), EpochMetrics()
        self.confusion: Tensor | None = None
        self.history: list[dict[str, float]] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3), 0 to 255, to logits (N,)."""
        return self.net(normalise(pixels))

    def logits(self, batch: Batch) -> Tensor:
        """The logits (N,) of a batch of pixels, or of features, which are pixels behind the frozen stages."""
        return self.net.suffix(batch["features"]) if "features" in batch else self(batch["pixels"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.logits(batch).float()
        weight = self.positive_weight if self.hparams["class_weights"] == "balanced" else None
        loss = functional.binary_cross_entropy_with_logits(logits, batch["label"], pos_weight=weight)
        bad_now = ~torch.isfinite(loss.detach()) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad_now, self.global_step, self.first_bad_step)
        self.train_metrics.update(logits.detach(), batch["label"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_metrics.update(self.logits(batch).float(), batch["label"])

    def on_fit_start(self) -> None:
        if self.unfreeze_at and self.trainer.world_size > 1:
            raise InputError(
                "model.unfreeze cannot run on several processes: stages thawed later are not synchronised; "
                "use one device, or a static model.trainable_from"
            )
        if self.hparams["class_weights"] == "balanced":
            cells = self.trainer.datamodule.cells  # type: ignore[attr-defined]
            positive = cells.loc[cells["split"] == "train", "label"].mean()
            self.positive_weight.fill_((1 - positive) / positive)

    def on_train_start(self) -> None:
        self.on_train_epoch_start()  # which Lightning leaves out where a run goes on within an epoch

    def on_train_epoch_start(self) -> None:
        self.net.freeze(thawed_from(self.trainable_from, self.unfreeze_at, self.current_epoch + 1))
        self.train()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # the steps that Lightning writes down
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # Looking at the loss makes a GPU wait, so there it is looked at now and then.
        due = self.device.type == "cpu" or batch_idx % 50 == 0 or self.trainer.is_last_batch
        if due and (step := int(self.first_bad_step)) >= 0:
            self._stop(f"the training loss is not finite at step {step}")

    def on_train_epoch_end(self) -> None:
        figures, _ = self.train_metrics.finish()
        self.log_dict({f"train/{name}": value for name, value in figures.items()}, sync_dist=True)
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        curves = {
            name: logged[name] for split in ("train", "val") for name in metric_names(split) if name in logged
        }
        self.history.append({"epoch": self.current_epoch + 1, "lr": max(self._rates()), **curves})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        if self.train_metrics.logits:  # within an epoch
            checkpoint["train_metrics"] = [
                dim_zero_cat(values).cpu()
                for values in (self.train_metrics.logits, self.train_metrics.labels)
            ]
        # The weights are in the checkpoint: to open it, nothing has to be loaded or downloaded again.
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "weights": "none"}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        if "train_metrics" in checkpoint:
            self.train_metrics.update(*(values.to(self.device) for values in checkpoint["train_metrics"]))

    def on_validation_epoch_end(self) -> None:
        figures, self.confusion = self.val_metrics.finish()
        if not torch.isfinite(figures["loss"]):
            self._stop(f"the validation loss is not finite after step {self.global_step}")
        self.log_dict({f"val/{name}": value for name, value in figures.items()}, sync_dist=True)

    def _stop(self, what: str) -> None:
        raise DivergedError(
            f"{what} (epoch {self.current_epoch + 1}, learning rate {max(self._rates()):g}): "
            "lower model.optimizer.lr or model.stage_lr, add model.scheduler.warmup_epochs, or use trainer.precision=32-true"
        )

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.trainer.optimizers[0].param_groups]

    def configure_optimizers(self) -> Any:
        settings = self.hparams
        earliest = thawed_from(self.trainable_from, self.unfreeze_at, max(self.unfreeze_at, default=1))
        groups = parameter_groups(
            self.net, earliest, settings["lr"], settings["stage_lr"], settings["weight_decay"]
        )
        optimizer = OPTIMIZERS[settings["optimizer"]](groups, fused=True)
        if settings["schedule"] == "none" and not settings["warmup_epochs"]:
            return optimizer
        epochs = self.trainer.max_epochs or 1
        factor = schedule_factor(
            settings["schedule"],
            epochs,
            settings["warmup_epochs"],
            settings["step_epochs"] or (),
            settings["step_factor"],
        )
        steps = self.trainer.estimated_stepping_batches / epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
