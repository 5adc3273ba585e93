"""The network seam: named stages from a picture to one logit, and the checks that any network must pass."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.models.freezing import prefix, suffix

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of red, green and blue


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

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N,)."""
        return suffix(self)(prefix(self)(images))


def check_network(net: Any) -> nn.Module:
    """The network itself, if it keeps the promises of the seam.

    Raises:
        InputError: if it has no named stages that end in `head`, or no normalisation.
    """
    name = type(net).__name__
    if not isinstance(net, nn.Module):
        raise InputError(f"model.net is a {name} and not an nn.Module: give a network with `stages`")
    stages = getattr(net, "stages", None)
    if not isinstance(stages, nn.Sequential) or len(stages) < 2:
        raise InputError(
            f"{name} has no `stages`: set self.stages to an nn.Sequential of two or more named stages, the last one `head`"
        )
    if (last := list(dict(stages.named_children()))[-1]) != "head":
        raise InputError(
            f"the last stage of {name} is {last}: name it `head`, and let it give one logit (N, 1)"
        )
    try:
        mean, deviation = net.normalisation
        values = [float(value) for value in (*mean, *deviation)]
    except (AttributeError, TypeError, ValueError):
        values = []
    if len(values) != 6 or min(values[3:]) <= 0:
        raise InputError(
            f"{name} has no `normalisation`: set self.normalisation to mean and standard deviation of red, green and "
            f"blue, as {IMAGENET}"
        )
    return net


def pixel_logits(net: Any, pixels: Tensor) -> Tensor:
    """Pixels (N, S, S, 3), 0 to 255, to logits (N,)."""
    return suffix(net)(prefix(net)(normalise(pixels, *net.normalisation)))
