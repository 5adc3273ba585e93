"""The LightningModule: a network with one logit, its criterion, metrics, optimizer and schedule, all given."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from leukemia.data.loader import Batch
from leukemia.data.transforms import normalise
from leukemia.errors import DivergedError, InputError, check_one_of, name_of
from leukemia.evaluation.metrics import direction
from leukemia.models import freezing, optim
from leukemia.models.engine import Frozen, check_engine, engine_name
from leukemia.models.metrics import MONITORED, EpochMetrics
from leukemia.models.network import check_network
from leukemia.models.targets import parameters_of

CLASS_WEIGHTS = ("none", "balanced")
LIBRARIES = ("torch.", "torchvision.", "timm.")  # a criterion of one's own may compare cells of both classes


class CellClassifier(pl.LightningModule):
    """Classifies cells: pixels (N, S, S, 3) to the logit of the positive class (N,).

    Args:
        net: a network with `stages` and `normalisation`, see `leukemia.models.network`.
        trainable_from: the first stage that trains, by the network's own name; `last` is the last one before the head.
        unfreeze: a schedule {epoch from 2: stage} that thaws earlier stages later on.
        stage_lr: {stage: learning rate} where it differs from the optimizer's.
        head_lr_factor: the head, which starts from random weights, learns at so many times the optimizer's rate.
        criterion: a module or function of float logits (N,) and float labels (N,) that gives the mean loss; by default
            binary cross-entropy.
        optimizer: makes the optimizer of parameter groups; by default Adam at 3e-4.
        scheduler: makes the schedule of the optimizer, see `leukemia.models.optim.build_scheduler`.
        engine: of the frozen stages, see `leukemia.models.engine.Frozen`.
        class_weights: `balanced` sets the criterion's `pos_weight` to n_negative / n_positive of the training split.
        classes: the names of class 0 and class 1.
        monitor: the metric that ReduceLROnPlateau follows.

    Raises:
        InputError: for settings that the network, the criterion or the optimizer refuses.
    """

    def __init__(
        self,
        net: nn.Module,
        trainable_from: str = "layer4",
        unfreeze: Mapping[int, str] | None = None,
        stage_lr: Mapping[str, float] | None = None,
        head_lr_factor: float = 10.0,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        engine: str = "torch",
        class_weights: str = "none",
        classes: Sequence[str] = ("HEM", "ALL"),
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        self.net = check_network(net)
        self.trainable_from = freezing.check_stage(net, "model.trainable_from", trainable_from)
        self.unfreeze_at = freezing.check_schedule(net, trainable_from, unfreeze)
        self.stage_lr = optim.check_stage_lr(net, stage_lr)
        optim.check_number("model.head_lr_factor", head_lr_factor, positive=True)
        self.engine = engine_name(check_engine(engine))
        self.criterion = nn.BCEWithLogitsLoss() if criterion is None else criterion
        self.make_optimizer = optimizer or partial(torch.optim.Adam, lr=3e-4)
        self.make_scheduler = scheduler
        self.save_hyperparameters(
            {
                "trainable_from": self.trainable_from,
                "unfreeze": self.unfreeze_at or None,
                "stage_lr": self.stage_lr or None,
                "head_lr_factor": head_lr_factor,
                "engine": engine,
                "class_weights": class_weights,
                "classes": list(classes),
                "monitor": monitor,
            },
            logger=False,
        )
        self._parts: tuple[Any, ...] = ()  # the frozen stages, and the others
        self._compiled: dict[str, Any] | None = None
        self._check(class_weights, monitor)
        self.set_boundary(self.trainable_from)
        self.pos_weight: Tensor | None = None  # of the criterion while it trains
        self.first_bad_step: Tensor
        self.register_buffer("first_bad_step", torch.tensor(-1), persistent=False)
        self.train_metrics, self.val_metrics = EpochMetrics(), EpochMetrics()
        self.confusion: Any = None  # counts (label, decision) of the last validation
        self.history: list[dict[str, float]] = []
        self.last_rate = float("nan")
        self._validated = -1  # the last epoch with a validation

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3), 0 to 255, to logits (N,)."""
        return self._parts[1](self.prefix(pixels))

    def logits(self, batch: Batch) -> Tensor:
        """The logits (N,) of a batch of pixels, or of features, which are the activations at the boundary."""
        return self._parts[1](batch["features"]) if "features" in batch else self(batch["pixels"])

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits (N,) of a batch as above, and the values that the head takes (N, ...)."""
        values = batch["features"] if "features" in batch else self.prefix(batch["pixels"])
        return self._parts[1].outputs(values)

    # The feature cache knows a network by these, and by `device`.
    @property
    def boundary(self) -> str | None:
        """The first stage that trains; None where no stage is frozen."""
        first = self.net.trainable_from
        return None if first == freezing.stage_names(self.net)[0] else str(first)

    @property
    def boundary_moves(self) -> bool:
        return bool(self.unfreeze_at)

    def prefix(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3), 0 to 255, to the activations at the boundary, without a graph."""
        return self._parts[0](normalise(pixels, *self.net.normalisation))

    @property
    def many_threads(self) -> bool:
        return getattr(self._parts[0], "many_threads", False)  # not of compiled stages

    def prefix_hash(self) -> str:
        return freezing.prefix_hash(self.net)

    def multiply_adds(self, size: int) -> int:
        image = torch.zeros(1, 3, size, size, device=self.device)
        return freezing.multiply_adds(freezing.prefix(self.net), image)

    def compile_parts(self, **options: Any) -> None:
        """Compile the frozen stages and the others, each as a whole."""
        self._compiled = options
        parts = (freezing.prefix(self.net), freezing.suffix(self.net))
        self._parts = tuple(torch.compile(part, **options) for part in parts)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.logits(batch).float()
        loss = self._loss(logits, batch["label"], self.pos_weight)
        bad_now = ~torch.isfinite(loss.detach()) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad_now, self.global_step, self.first_bad_step)
        self.train_metrics.update(logits.detach(), batch["label"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_metrics.update(self.logits(batch).float(), batch["label"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits (N,)."""
        return self.logits(batch).float()

    def on_fit_start(self) -> None:
        if self.unfreeze_at and self.trainer.world_size > 1:
            raise InputError(
                "model.unfreeze cannot run on several processes: stages thawed later are not synchronised; "
                "use one device, or a static model.trainable_from"
            )
        if self.hparams["class_weights"] == "balanced":
            cells = getattr(getattr(self.trainer, "datamodule", None), "cells", None)
            if cells is None:
                raise InputError(
                    "class_weights=balanced counts the cells of a CellDataModule: train with datamodule=..."
                )
            label = cells.loc[cells["split"] == "train", "label"]
            counts = [int((label == number).sum()) for number in (0, 1)]
            if not all(counts):
                pairs = zip(counts, self.hparams["classes"], strict=True)
                found = " and ".join(f"{count} of {name}" for count, name in pairs)
                raise InputError(
                    "model.class_weights=balanced needs training cells of both classes, and the training split has "
                    f"{found}: use model.class_weights=none, another data.fold or data.protocol, or look for the "
                    "missing class with `leukemia data check`"
                )
            negative, positive = counts
            self.pos_weight = torch.tensor(negative / positive, dtype=torch.float32, device=self.device)

    def on_train_start(self) -> None:
        self.on_train_epoch_start()  # Lightning leaves it out where a run goes on within an epoch

    def on_train_epoch_start(self) -> None:
        self.set_boundary(freezing.thawed_from(self.trainable_from, self.unfreeze_at, self.current_epoch + 1))
        freezing.follow_within_an_epoch(self._parts[1], self.trainer.num_training_batches)
        self.train()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.last_rate = max(self._rates())  # a schedule may step before the epoch ends
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
        values, _ = self.train_metrics.finish(self._loss)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, sync_dist=True)
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        # Lightning keeps the metrics of an earlier validation where this epoch has none.
        splits = ("train", "val") if self._validated == self.current_epoch else ("train",)
        names = [f"{split}/{name}" for split in splits for name in MONITORED]
        curves = {name: logged[name] for name in names if name in logged}
        self.history.append({"epoch": self.current_epoch + 1, "lr": self.last_rate, **curves})

    def on_validation_epoch_end(self) -> None:
        values, self.confusion = self.val_metrics.finish(self._loss)
        if self.trainer.sanity_checking:
            return
        if not torch.isfinite(torch.tensor(values["loss"])):
            self._stop(f"the validation loss is not finite after step {self.global_step}")
        self._validated = self.current_epoch
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        values, self.confusion = self.val_metrics.finish(self._loss)
        self.log_dict({f"test/{name}": value for name, value in values.items()}, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        if self.train_metrics.logits:  # within an epoch
            kept = (self.train_metrics.logits, self.train_metrics.labels)
            checkpoint["train_metrics"] = [dim_zero_cat(values).cpu() for values in kept]
        data = getattr(self.trainer, "datamodule", None)
        native_size = getattr(data, "native_size", None)
        checkpoint["network"] = {"node": getattr(self.net, "node", None), "native_size": native_size}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        if "train_metrics" in checkpoint:
            self.train_metrics.update(*(values.to(self.device) for values in checkpoint["train_metrics"]))

    def configure_optimizers(self) -> Any:
        trainer = self.trainer
        # Lightning clips no gradients of fused kernels in mixed precision, and they unscale those of fp16 themselves.
        precision, clips = str(trainer.precision), bool(trainer.gradient_clip_val)
        optimizer = self._optimizer(fused=precision != "16-mixed" and not (clips and "mixed" in precision))
        if self.make_scheduler is None:
            return optimizer
        epochs = steps = 1
        if {"epochs", "steps_per_epoch"} & set(parameters_of(self.make_scheduler)):
            epochs, steps = self._length()
        monitor = str(self.hparams["monitor"])
        mode = direction(monitor)
        scheduler = optim.build_scheduler(self.make_scheduler, optimizer, epochs, steps, monitor, mode)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _length(self) -> tuple[int, int]:
        """The epochs of training, and the steps of the optimizer in each."""
        trainer = self.trainer
        total = trainer.estimated_stepping_batches
        if trainer.train_dataloader is None:  # where only max_steps ends training
            trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        if not math.isfinite(total) or not math.isfinite(batches):
            raise InputError(
                "this schedule needs the length of training: set trainer.max_epochs, and use batches of a known number"
            )
        steps = max(math.ceil(batches), 1)
        return max(math.ceil(total / steps), 1), steps

    def _optimizer(self, fused: bool) -> torch.optim.Optimizer:
        last_thaw = max(self.unfreeze_at, default=1)
        earliest = freezing.thawed_from(self.trainable_from, self.unfreeze_at, last_thaw)
        decays = optim.takes_weight_decay(self.make_optimizer)
        rates = optim.head_rate(self.make_optimizer, self.hparams["head_lr_factor"]) | self.stage_lr
        groups = optim.parameter_groups(self.net, earliest, rates, decays)
        if isinstance(self.criterion, nn.Module) and (own := list(self.criterion.parameters())):
            groups.append({"name": "criterion", "params": own})
        return optim.build_optimizer(self.make_optimizer, groups, fused)

    def set_boundary(self, stage: str) -> None:
        """Freeze the stages before one; the others train."""
        if getattr(self.net, "trainable_from", None) == stage and self._parts:
            return
        freezing.freeze(self.net, stage)
        # A tuple, so that the parts are not registered as modules a second time.
        self._parts = (Frozen(freezing.prefix(self.net), self.hparams["engine"]), freezing.suffix(self.net))
        if self._compiled is not None:
            self.compile_parts(**self._compiled)

    def _loss(self, logits: Tensor, labels: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        """The mean loss; weighted for the positive class while it trains with class weights."""
        if pos_weight is None:
            return self.criterion(logits, labels)
        if not isinstance(self.criterion, nn.Module):
            return self.criterion(logits, labels, pos_weight=pos_weight)  # type: ignore[call-arg]
        self.criterion.pos_weight = pos_weight
        try:
            return self.criterion(logits, labels)
        finally:
            self.criterion.pos_weight = None  # type: ignore[assignment]  # validation and checkpoints are without it

    def _check(self, class_weights: str, monitor: str) -> None:
        """Try the parts on two cells, so that a bad setting is refused before a picture is read."""
        check_one_of("model.class_weights", class_weights, CLASS_WEIGHTS)
        direction(monitor)  # refuses one that does not exist
        name = name_of(self.criterion)
        weight = None
        if class_weights == "balanced":
            if isinstance(self.criterion, nn.Module):
                free = getattr(self.criterion, "pos_weight", 0) is None
            else:
                given = getattr(self.criterion, "keywords", {}).get("pos_weight")
                free = given is None and "pos_weight" in parameters_of(self.criterion)
            if not free:
                raise InputError(
                    f"model.class_weights=balanced sets `pos_weight`, and model.criterion ({name}) does not take it or "
                    "has one already: use model.class_weights=none, or model/criterion=bce"
                )
            weight = torch.ones(())
        try:
            logits, labels = torch.tensor([0.5, -0.5], requires_grad=True), torch.tensor([1.0, 0.0])
            with torch.random.fork_rng(devices=[]):
                loss = self._loss(logits, labels, weight)
        except Exception as error:  # of a user's own code
            raise InputError(
                f"model.criterion ({name}) cannot be called with logits (N,) and labels (N,): {error}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InputError(f"model.criterion ({name}) gives {loss!r:.80} and not one loss with a gradient")
        if name.startswith(LIBRARIES) and not self._rewards_right_logits():
            raise InputError(
                f"model.criterion ({name}) does not fit one logit a cell and labels 0 and 1: a right logit has to cost "
                "less than a wrong one in either class; use model/criterion=bce or focal, or a function of your own"
            )
        self._optimizer(fused=False)  # some refuse the shapes of the parameters
        optim.try_step(self.make_optimizer, self.make_scheduler)

    def _rewards_right_logits(self) -> bool:
        """Whether cells of one class cost less with logits of their own side. Where they do not, a loss means other
        labels (-1 and 1, class numbers, values), and training would go wrong without a word."""
        signs = torch.tensor([1.0, -1.0])
        costs = [
            [float(self._loss(2 * sign.expand(2), label.expand(2))) for sign in signs]
            for label in (signs > 0).float()
        ]
        return costs[0][0] < costs[0][1] and costs[1][1] < costs[1][0]

    def _stop(self, what: str) -> None:
        rates = f", learning rate {max(self._rates()):g}" if self.trainer.optimizers else ""
        raise DivergedError(
            f"{what} (epoch {self.current_epoch + 1}{rates}): lower model.optimizer.lr or model.stage_lr, "
            "add a warm-up (model/scheduler=warmup), or use trainer.precision=32-true"
        )

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.trainer.optimizers[0].param_groups]
