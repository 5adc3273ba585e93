"""The network seam: named stages from a picture to one logit, and the checks that any network must pass."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.models.freezing import prefix, suffix

# Mean and standard deviation of red, green and blue.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMS = {
    "batch": nn.modules.batchnorm._BatchNorm,
    "layer": nn.LayerNorm,
    "group": nn.GroupNorm,
    "rms": nn.RMSNorm,
}


@dataclass(frozen=True)
class TokenGrid:
    """Where a network of tokens has places: for Grad-CAM, which then weighs the patch tokens as a map.

    Attributes:
        stage: the name of a stage.
        layer: the name of a module within it, whose output is tokens (N, before_patches + side * side, C).
        before_patches: the number of tokens before the patch tokens, as class token and registers.
        side: height and width of the grid of patches.
    """

    stage: str
    layer: str
    before_patches: int
    side: int


class StagedNetwork(nn.Module):
    """A network as a sequence of named stages, the last one `head`.

    Args:
        stages: in the order of the data. A stage owns its parameters once and hands on one tensor; `head` gives (N, 1).
        normalisation: mean and standard deviation of red, green and blue, for values from 0 to 1.
        node: the family function and the plain values that build this network again, for the checkpoint.
        published: how the names of parameters begin here and in published weights, as {"head.": "fc."}.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
        node: Mapping[str, Any] | None = None,
        published: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(OrderedDict(stages))
        self.normalisation = normalisation
        self.node = dict(node) if node else None
        self.published = dict(published or {})
        self.token_grid: TokenGrid | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N,)."""
        return suffix(self)(prefix(self)(images))


def check_network(net: Any) -> Any:
    """The network itself, if it keeps the promises of the seam; its `normalisation` becomes tuples of numbers.

    Raises:
        InputError: if it has no named stages that end in `head`, if stages share tensors, or without a normalisation.
    """
    name, network = type(net).__name__, net
    if not isinstance(net, nn.Module):
        raise InputError(f"model.net is a {name} and not an nn.Module: give a network with `stages`")
    stages: Any = getattr(net, "stages", None)
    if not isinstance(stages, nn.Sequential) or len(stages) < 2:
        raise InputError(
            f"{name} has no `stages`: set self.stages to an nn.Sequential of two or more named stages, the last one "
            "`head`"
        )
    if (last := list(stages._modules)[-1]) != "head":
        raise InputError(
            f"the last stage of {name} is {last}: name it `head`, and let it give one logit (N, 1)"
        )
    _check_owners(name, stages)
    if not list(stages[-1].parameters()):
        raise InputError(
            f"the head of {name} has no parameters: let it end in a layer that learns, as nn.Linear"
        )
    try:
        mean, deviation = (tuple(map(float, values)) for values in network.normalisation)
        sound = len(mean) == len(deviation) == 3 and all(map(math.isfinite, mean)) and min(deviation) > 0
        if sound and network.normalisation != (mean, deviation):
            network.normalisation = (mean, deviation)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        sound = False
    if not sound:
        raise InputError(
            f"{name} has no `normalisation`: set self.normalisation to mean and standard deviation of red, green and "
            f"blue, as {IMAGENET}"
        )
    return network


def check_input(net: nn.Module, image_size: int) -> None:
    """Try a network on one black picture, so that it is refused before the pictures are decoded.

    Raises:
        InputError: if it fails on pictures of this size, or does not give one logit.
    """
    training = net.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            pixel_logits(net.eval(), torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8))
    except InputError:
        raise
    except Exception as error:  # of a user's own code
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"model.net ({type(net).__name__}) cannot take pictures of data.image_size={image_size}: {text}"
        ) from error
    finally:
        net.train(training)


def network_size(net: nn.Module) -> dict[str, Any]:
    """`parameters`, `megabytes` of the tensors as they are stored, and `norm`: the kinds of normalisation layers, as
    batch or layer. Batch statistics are those of one laboratory, so they are known not to travel."""
    tensors = net.state_dict().values()
    found = [kind for kind, layer in NORMS.items() if any(isinstance(each, layer) for each in net.modules())]
    return {
        "parameters": sum(each.numel() for each in net.parameters()),
        "megabytes": sum(each.numel() * each.element_size() for each in tensors) / 1e6,
        "norm": " and ".join(found) or "none",
    }


def _check_owners(name: str, stages: nn.Sequential) -> None:
    """Refuse stages that share parameters or buffers: one of them cannot be frozen without the other."""
    owners: dict[int, str] = {}
    for stage, module in zip(stages._modules, stages, strict=True):
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            owner = owners.setdefault(id(tensor), stage)
            if owner != stage:
                raise InputError(
                    f"the stages {owner} and {stage} of {name} share {key}: let each stage own its layers"
                )


def pixel_logits(net: Any, pixels: Tensor) -> Tensor:
    """Pixels (N, S, S, 3), 0 to 255, to logits (N,)."""
    return pixel_outputs(net, pixels)[0]


def pixel_outputs(
    net: Any, pixels: Tensor, frozen: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Pixels (N, S, S, 3), 0 to 255, to logits (N,), and to the values that the head takes (N, ...).

    `frozen` computes the frozen stages, as `leukemia.models.engine.Frozen` does; by default they run as they are.
    """
    values = (frozen or prefix(net))(normalise(pixels, *net.normalisation))
    return suffix(net).outputs(values)
