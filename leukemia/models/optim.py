"""Optimisers and schedules: who learns, how fast, and when."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from leukemia.errors import InputError
from leukemia.models.resnet import STAGES, StagedResNet, check_stage

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("none", "cosine", "step")


def parameter_groups(
    model: StagedResNet,
    trainable_from: str,
    lr: float,
    stage_lr: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Optimizer groups, one a stage, and one more for the parameters of a stage that take no weight decay.

    Args:
        model: the network.
        trainable_from: the first stage that ever trains; stages before it are in no group.
        lr: learning rate of the stages that `stage_lr` does not name.
        stage_lr: {stage: learning rate}.
        weight_decay: of parameters with two dimensions or more; biases and BatchNorm have none.
    """
    groups = []
    for stage in STAGES[STAGES.index(trainable_from) :]:
        parameters = [parameter for module in model.modules_of(stage) for parameter in module.parameters()]
        rate = (stage_lr or {}).get(stage, lr)
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups.append({"name": stage, "params": matrices, "lr": rate, "weight_decay": weight_decay})
        groups.append({"name": f"{stage}-no_decay", "params": vectors, "lr": rate, "weight_decay": 0.0})
    return groups


def schedule_factor(
    schedule: str,
    epochs: int,
    warmup_epochs: float = 0.0,
    step_epochs: Sequence[int] = (),
    step_factor: float = 0.1,
) -> Callable[[float], float]:
    """The factor on every learning rate after a (fractional) number of epochs.

    Linear warm-up to 1 over `warmup_epochs`; then `none` stays at 1, `cosine` falls to 0 at `epochs` as half a
    cosine (Loshchilov and Hutter 2017, SGDR, equation 5 without restarts), `step` multiplies by `step_factor`
    after each of `step_epochs`.
    """

    def factor(epoch: float) -> float:
        if epoch < warmup_epochs:
            return max(epoch, 1e-3 * warmup_epochs) / warmup_epochs
        if schedule == "cosine":
            progress = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
            return 0.5 * (1 + math.cos(math.pi * progress))
        if schedule == "step":
            return step_factor ** sum(epoch >= step for step in step_epochs)
        return 1.0

    return factor


def check_optimisation(
    lr: float,
    stage_lr: Mapping[str, float] | None,
    optimizer: str,
    weight_decay: float,
    schedule: str,
    warmup_epochs: float,
    step_epochs: Sequence[int] | None,
) -> None:
    """Raise InputError, naming the key, for what cannot be."""
    if optimizer not in OPTIMIZERS:
        raise InputError(f"model/optimizer={optimizer} is unknown: use one of {', '.join(OPTIMIZERS)}")
    if schedule not in SCHEDULES:
        raise InputError(f"model/scheduler={schedule} is unknown: use one of {', '.join(SCHEDULES)}")
    for stage in stage_lr or {}:
        check_stage("model.stage_lr", stage)
    rates = {
        "model.optimizer.lr": lr,
        **{f"model.stage_lr.{stage}": rate for stage, rate in (stage_lr or {}).items()},
    }
    for key, rate in rates.items():
        if not _is_number(rate) or not 0 < rate < math.inf:
            raise InputError(f"{key}={rate} is no learning rate: use a number above 0, as 1e-4")
    for key, number in (
        ("model.optimizer.weight_decay", weight_decay),
        ("model.scheduler.warmup_epochs", warmup_epochs),
    ):
        if not _is_number(number) or not 0 <= number < math.inf:
            raise InputError(f"{key}={number} is out of range: use a number from 0 up")
    if (schedule == "step") != bool(step_epochs):
        raise InputError(
            f"model/scheduler={schedule} with model.scheduler.step_epochs={step_epochs}: a step schedule, and no other, "
            "needs the epochs after which the rate drops, as model.scheduler.step_epochs=[2,4]"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
