"""Parameter groups by stage, and learning-rate schedules per batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from leukemia.errors import InputError, is_number, name_of, unwrapped
from leukemia.models.freezing import check_stage, stage_names
from leukemia.models.targets import parameters_of


def parameter_groups(
    net: Any, trainable_from: str, stage_lr: Mapping[str, float] | None = None, decays: bool = True
) -> list[dict[str, Any]]:
    """Optimizer groups, one a stage, and one more for the parameters of a stage that take no weight decay.

    Args:
        net: the network.
        trainable_from: the first stage that ever trains; stages before it are in no group.
        stage_lr: {stage: learning rate} where it differs from the optimizer's.
        decays: whether the optimizer takes `weight_decay`; parameters with one dimension (biases, BatchNorm) have none.
    """
    first = stage_names(net).index(trainable_from)
    groups: list[dict[str, Any]] = []
    for name, stage in list(net.stages._modules.items())[first:]:
        parameters = list(stage.parameters())
        rate = {"lr": stage_lr[name]} if stage_lr and name in stage_lr else {}
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups.append({"name": name, "params": matrices, **rate})
        no_decay = {"weight_decay": 0.0} if decays else {}
        groups.append({"name": f"{name}-no_decay", "params": vectors, **rate, **no_decay})
    return groups


def build_optimizer(make: Callable[..., Any], groups: list[dict[str, Any]], fused: bool) -> Optimizer:
    """The optimizer of these groups, with PyTorch's fused kernels where its class has them on any device.

    Raises:
        InputError: if its class refuses the settings, or gives something else.
    """
    given = getattr(make, "keywords", {})
    has_fused = _is_kind(make, Adam, AdamW, SGD) and "fused" in parameters_of(make)
    if fused and has_fused and not {"fused", "foreach", "differentiable"} & set(given):
        make = partial(make, fused=True)
    for key in ("lr", "weight_decay"):
        if key in given:
            check_number(f"model.optimizer.{key}", given[key], positive=key == "lr")
    optimizer = _called(make, "model.optimizer", groups)
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"model.optimizer ({name_of(make)}) gives a {type(optimizer).__name__} and not an Optimizer"
        )
    return optimizer


def head_rate(make: Callable[..., Any], factor: float) -> dict[str, float]:
    """{head: its learning rate}, the factor times that of the optimizer; empty where the optimizer's is not known."""
    known = parameters_of(make).get("lr")
    rate = getattr(make, "keywords", {}).get("lr", getattr(known, "default", None))
    return {"head": factor * rate} if isinstance(rate, int | float) and factor != 1 else {}


def takes_weight_decay(make: Callable[..., Any]) -> bool:
    return "weight_decay" in parameters_of(make)


def build_scheduler(
    make: Callable[..., Any], optimizer: Optimizer, epochs: int, steps_per_epoch: int, monitor: str, mode: str
) -> dict[str, Any]:
    """Lightning's scheduler configuration.

    `epochs` and `steps_per_epoch` are given where the signature has them. A scheduler that takes `steps_per_epoch`
    steps after each batch, any other after each epoch. `ReduceLROnPlateau` follows the monitored metric.

    Raises:
        InputError: if its class refuses the settings, or gives something that is not a scheduler.
    """
    takes, given = parameters_of(make), getattr(make, "keywords", {})
    known: dict[str, Any] = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    if _is_kind(make, ReduceLROnPlateau):
        known["mode"] = mode
    extra = {key: value for key, value in known.items() if key in takes and key not in given}
    scheduler = _called(make, "model.scheduler", optimizer, **extra)
    if not isinstance(scheduler, LRScheduler):
        raise InputError(
            f"model.scheduler ({name_of(make)}) gives a {type(scheduler).__name__} and not an LRScheduler"
        )
    interval = "step" if "steps_per_epoch" in takes else "epoch"
    return {"scheduler": scheduler, "interval": interval, "monitor": monitor}


def try_step(make_optimizer: Callable[..., Any], make_scheduler: Callable[..., Any] | None) -> None:
    """Take a step with two small parameters, because some settings are only refused there.

    Raises:
        InputError: for such a setting.
    """
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    no_decay = {"weight_decay": 0.0} if takes_weight_decay(make_optimizer) else {}
    groups: list[dict[str, Any]] = [
        {"name": "head", "params": parameters[:1]},
        {"name": "head-no_decay", "params": parameters[1:], **no_decay},
    ]
    optimizer = build_optimizer(make_optimizer, groups, fused=False)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
        value.backward()
        return value

    made = make_scheduler and build_scheduler(make_scheduler, optimizer, 2, 2, "val/loss", "min")
    _called(optimizer.step, "model.optimizer", loss, name=name_of(make_optimizer))
    if made is not None:
        metrics = (1.0,) if isinstance(made["scheduler"], ReduceLROnPlateau) else ()
        _called(made["scheduler"].step, "model.scheduler", *metrics, name=name_of(make_scheduler))


def depends_on_epochs(make: Callable[..., Any] | None) -> bool:
    """Whether a schedule is another one where a run has more epochs."""
    return make is not None and bool({"epochs", "total_steps", "T_max"} & set(parameters_of(make)))


def cosine(optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0.0) -> LambdaLR:
    """Linear warm-up, then half a cosine to 0 at the last epoch (Loshchilov and Hutter 2017, SGDR, equation 5 without
    restarts)."""

    def factor(epoch: float) -> float:
        progress = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return _after_warmup(optimizer, steps_per_epoch, warmup_epochs, factor)


def step(
    optimizer: Optimizer,
    steps_per_epoch: int,
    step_epochs: Sequence[int] = (),
    step_factor: float = 0.1,
    warmup_epochs: float = 0.0,
) -> LambdaLR:
    """Linear warm-up, then the rate times `step_factor` after each of `step_epochs`."""
    if not isinstance(step_epochs, Sequence) or not step_epochs or isinstance(step_epochs, str):
        raise InputError(
            f"model.scheduler.step_epochs={step_epochs}: name the epochs after which the rate drops, as [2,4]"
        )
    for epoch in step_epochs:
        check_number("model.scheduler.step_epochs", epoch, positive=True)
    check_number("model.scheduler.step_factor", step_factor, positive=True)

    def factor(epoch: float) -> float:
        return step_factor ** sum(epoch >= at for at in step_epochs)

    return _after_warmup(optimizer, steps_per_epoch, warmup_epochs, factor)


def warmup(optimizer: Optimizer, steps_per_epoch: int, warmup_epochs: float = 1.0) -> LambdaLR:
    """Linear warm-up, then a constant rate."""
    return _after_warmup(optimizer, steps_per_epoch, warmup_epochs, lambda epoch: 1.0)


def check_number(key: str, value: Any, positive: bool) -> None:
    """Refuse what is not a finite number, from 0 up or above 0.

    Raises:
        InputError: naming the key.
    """
    if not is_number(value) or not (value > 0 if positive else value >= 0) or not value < math.inf:
        raise InputError(
            f"{key}={value} is out of range: use a number {'above 0, as 1e-4' if positive else 'from 0 up'}"
        )


def check_stage_lr(net: Any, stage_lr: Mapping[str, float] | None) -> dict[str, float]:
    """{stage: learning rate} with the network's own stage names.

    Raises:
        InputError: for an unknown stage or a value that is not a learning rate.
    """
    if stage_lr is not None and not isinstance(stage_lr, Mapping):
        raise InputError(f"model.stage_lr={stage_lr} has no stages: use stages and rates, as {{head: 1e-2}}")
    rates = {check_stage(net, "model.stage_lr", stage): rate for stage, rate in (stage_lr or {}).items()}
    for stage, rate in rates.items():
        check_number(f"model.stage_lr.{stage}", rate, positive=True)
    return rates


def _after_warmup(
    optimizer: Optimizer, steps_per_epoch: int, warmup_epochs: float, factor: Callable[[float], float]
) -> LambdaLR:
    check_number("model.scheduler.warmup_epochs", warmup_epochs, positive=False)

    def at_step(number: int) -> float:
        epoch = number / steps_per_epoch
        return max(epoch, 1e-3 * warmup_epochs) / warmup_epochs if epoch < warmup_epochs else factor(epoch)

    return LambdaLR(optimizer, at_step)


def _is_kind(make: Any, *kinds: type) -> bool:
    make = unwrapped(make)
    return isinstance(make, type) and issubclass(make, kinds)


def _called(make: Callable[..., Any], key: str, *arguments: Any, name: str = "", **extra: Any) -> Any:
    try:
        return make(*arguments, **extra)
    except InputError:
        raise
    except Exception as error:  # of a library or a user's own code
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{key} ({name or name_of(make)}) refuses its settings: {text}") from error
