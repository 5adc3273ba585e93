"""The freezing dial: the stages of a network before one of them are frozen, the rest trains.

A network is any `nn.Module` whose `stages` are an `nn.Sequential` of named stages, the last one `head`.
"""

import hashlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from leukemia.errors import InputError

LAST = "last"  # names the last stage before the head in every network
LIBRARIES = ("torch", "torchvision", "timm", "leukemia")  # their versions name their code


def stage_names(net: Any) -> list[str]:
    """The names of a network's stages, in the order of the data."""
    return [name for name, _ in net.stages.named_children()]


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
    """
    first = stage_names(net).index(check_stage(net, "trainable_from", trainable_from))
    for place, stage in enumerate(net.stages):
        stage.requires_grad_(place >= first)
        stage.__dict__.pop("train", None)
        stage.train(place >= first and net.training)
        if place < first:
            stage.__dict__["train"] = partial(_stays_in_eval_mode, stage)
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
        *body, head = self
        for stage in body:
            values = stage(values)
        with torch.autocast(values.device.type, enabled=False):
            return head(values.float()).flatten()


def prefix_hash(net: Any) -> str:
    """A hash of everything that the frozen stages compute with: code, weights, buffers and the normalisation."""
    digest = hashlib.blake2b(repr(net.normalisation).encode(), digest_size=12)
    for name, stage in list(net.stages.named_children())[: _boundary(net)]:
        digest.update(f"{name} {stage}".encode())
        for kind in sorted({type(module) for module in stage.modules()}, key=str):
            if kind.__module__.partition(".")[0] not in LIBRARIES:
                digest.update(_source(kind).encode())
        for key, tensor in stage.state_dict().items():
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # a class of a notebook cell
        return kind.__qualname__
