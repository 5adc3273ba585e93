"""The freezing dial: the stages of a network before one of them are frozen, the rest trains.

A network is any `nn.Module` whose `stages` are an `nn.Sequential` of named stages, the last one `head`.
"""

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from leukemia.errors import InputError

_PLAIN = (bool, int, float, str, type(None))
LAST = "last"  # names the last stage before the head in every network
LIBRARIES = ("torch", "torchvision", "timm", "leukemia", "builtins")  # whose code is not hashed


def stage_names(net: Any) -> list[str]:
    """The names of a network's stages, in the order of the data."""
    return list(net.stages._modules)


def check_stage(net: Any, key: str, stage: str) -> str:
    """The stage's own name; `last` is the last stage before the head.

    Raises:
        InputError: if the network has no such stage; `key` is the setting that names it.
    """
    names = stage_names(net)
    if stage == LAST:
        return names[-2]
    if stage not in names:
        raise InputError(f"{key}={stage} is not a stage: use one of {', '.join(names)}, or {LAST}")
    return stage


def freeze(net: Any, trainable_from: str) -> None:
    """Freeze the stages before `trainable_from` and thaw the others.

    A frozen stage has no gradients and stays in eval mode whatever `train()` is told, so its BatchNorm statistics stay.
    Parameters outside of the stages never train.
    """
    first = stage_names(net).index(check_stage(net, "trainable_from", trainable_from))
    net.requires_grad_(False)
    for place, stage in enumerate(net.stages):
        stage.requires_grad_(place >= first)
        for module in stage.modules():
            module.__dict__.pop("train", None)
        stage.train(place >= first and net.training)
        if place < first:
            for module in stage.modules():  # each, because a network may hold them under a second name
                module.__dict__["train"] = partial(_stays_in_eval_mode, module)
    net.trainable_from = stage_names(net)[first]


def prefix(net: Any) -> "Prefix":
    """The frozen stages of a network; without a frozen stage it hands its input on."""
    return Prefix(*list(net.stages)[: _boundary(net)])


def suffix(net: Any) -> "Suffix":
    """The stages behind the frozen ones: `suffix(net)(prefix(net)(images))` is the whole network."""
    return Suffix(*list(net.stages)[_boundary(net) :])


class Prefix(nn.Sequential):
    """Frozen stages: normalised images (N, 3, H, W) to the activations at the boundary, without a graph."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(images)


class Suffix(nn.Sequential):
    """The stages that train: activations at the boundary to logits (N,).

    The head computes in full precision, also under autocast: logits in bf16 would tie.
    """

    def forward(self, values: Tensor) -> Tensor:
        return self.outputs(values)[0]

    def outputs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (N,), and the values that the head takes (N, ...)."""
        *body, head = self
        for stage in body:
            values = stage(values)
        values = values.float()
        with torch.autocast(values.device.type, enabled=False):
            logits = head(values)
        if logits.shape[1:].numel() != 1:
            raise InputError(
                f"the head of model.net gives values of shape {tuple(logits.shape)} for {len(values)} cells: "
                "let it give one logit for each, (N, 1)"
            )
        return logits.flatten(), values


def pooled(values: Tensor) -> Tensor:
    """The values that a head takes as features (N, D): maps (N, D, H, W) and tokens (N, T, D) by their means."""
    if values.ndim == 3:
        return values.mean(dim=1)
    return values.flatten(2).mean(dim=2) if values.ndim > 3 else values


def multiply_adds(stages: nn.Module, image: Tensor) -> int:
    """Those of stages for one normalised image (1, 3, H, W)."""
    from torch.utils.flop_counter import FlopCounterMode  # here, because prediction does without it

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stages(image)
    return counter.get_total_flops() // 2


def follow_within_an_epoch(stages: nn.Module, batches: float) -> None:
    """Raise the momentum of BatchNorm so that at most a quarter of its running statistics is older than an epoch.

    At PyTorch's 0.1 this holds from 14 batches an epoch on. With fewer, validation would see statistics of earlier
    weights for many epochs, and early stopping would end the run. Training itself does not use them.

    Args:
        stages: those that train.
        batches: of an epoch.
    """
    for module in stages.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, 1 - 0.25 ** (1 / max(batches, 1)))


def prefix_hash(net: Any) -> str:
    """A hash of all that the frozen stages compute with: code, settings, weights, buffers and the normalisation."""
    digest = hashlib.blake2b(repr(net.normalisation).encode(), digest_size=12)
    for name, stage in list(net.stages._modules.items())[: _boundary(net)]:
        digest.update(f"{name} {stage}".encode())
        for module in stage.modules():
            digest.update(repr(_settings(module)).encode())
        for kind in own_classes(stage):
            digest.update(_source(kind).encode())
        for key, tensor in (*stage.named_parameters(), *stage.named_buffers()):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def own_classes(stages: nn.Module) -> list[type]:
    """The classes of modules that are a user's own, and not of `LIBRARIES`."""
    kinds = {kind for module in stages.modules() for kind in type(module).__mro__}
    return sorted((kind for kind in kinds if kind.__module__.partition(".")[0] not in LIBRARIES), key=str)


def thawed_from(trainable_from: str, unfreeze: Mapping[int, str], epoch: int) -> str:
    """The first stage that trains in an epoch (from 1) of a schedule; it follows from the epoch alone."""
    due = [stage for start, stage in sorted(unfreeze.items()) if start <= epoch]
    return due[-1] if due else trainable_from


def check_schedule(net: Any, trainable_from: str, unfreeze: Mapping[int, str] | None) -> dict[int, str]:
    """The schedule {epoch from 2: stage}, if each entry thaws an earlier stage than the one before.

    Raises:
        InputError: if not.
    """
    if unfreeze is not None and not isinstance(unfreeze, Mapping):
        raise InputError(
            f"model.unfreeze={unfreeze} is not a schedule: use epochs and stages, as {{3: layer4}}"
        )
    names = stage_names(net)
    schedule: dict[int, str] = {}
    before = names.index(check_stage(net, "model.trainable_from", trainable_from))
    for epoch, stage in sorted((unfreeze or {}).items(), key=lambda item: str(item[0]).zfill(9)):
        if not isinstance(epoch, int) or epoch < 2:
            raise InputError(
                f"model.unfreeze: {epoch!r} is not an epoch: use whole numbers from 2 up, as {{3: layer4}}"
            )
        place = names.index(check_stage(net, f"model.unfreeze[{epoch}]", stage))
        if place >= before:
            raise InputError(
                f"model.unfreeze[{epoch}]={stage} thaws nothing: {names[before]} trains already; name an earlier stage"
            )
        schedule[epoch], before = names[place], place
    return schedule


def _boundary(net: Any) -> int:
    """How many stages are frozen."""
    first = getattr(net, "trainable_from", None)
    return 0 if first is None else stage_names(net).index(first)


def _stays_in_eval_mode(stage: nn.Module, mode: bool = True) -> nn.Module:
    return stage


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, and the names of its functions; those of another type are left out."""
    found: dict[str, Any] = {}
    for name, value in sorted(vars(module).items()):
        if inspect.isfunction(value) or inspect.isbuiltin(value):
            found[name] = value.__qualname__
        elif name != "training" and all(isinstance(each, _PLAIN) for each in _each(value)):
            found[name] = value
    return found


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def _source(kind: type) -> str:
    """The code of a class: of its whole module, because it may call functions there; in a notebook of its methods."""
    try:
        return inspect.getsource(sys.modules[kind.__module__])
    except (KeyError, OSError, TypeError):
        plain = {name: value for name, value in vars(kind).items() if isinstance(value, _PLAIN)}
        return f"{plain} {[_code(value) for value in vars(kind).values() if inspect.isfunction(value)]}"


def _code(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        constants = [value for value in function.__code__.co_consts if isinstance(value, _PLAIN)]
        return f"{function.__qualname__} {function.__code__.co_code.hex()} {constants}"
