"""Grad-CAM: where in a picture a network finds its evidence, and the share of it on the black background."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from leukemia.data.handcrafted import is_background
from leukemia.data.transforms import normalise
from leukemia.errors import InputError

AT_ONCE = 32  # cells: the graph behind the target is kept for each


@dataclass(frozen=True)
class Target:
    """The activation that Grad-CAM weighs.

    Attributes:
        stage: the name of the stage that it is in.
        module: whose output it is.
        places: its height and width.
        before_patches: for tokens (N, T, C) the number of those before the patch tokens; None for a map (N, C, H, W).
    """

    stage: str
    module: nn.Module
    places: tuple[int, int]
    before_patches: int | None = None

    def as_map(self, values: Tensor) -> Tensor:
        """The activation, or its gradient, as a map (N, C, H, W)."""
        if self.before_patches is None:
            return values
        return values[:, self.before_patches :].transpose(1, 2).unflatten(2, self.places)


def heat_maps(
    net: Any, pixels: NDArray[np.uint8], positive: ArrayLike | None = None, enlarge: bool = True
) -> NDArray[np.float32]:
    """Grad-CAM maps of the evidence for a class (Selvaraju et al., ICCV 2017, eq. 1 and 2).

    They are taken at the last activation that has places, see `find_target`, also where its stage is frozen. For a
    ResNet that is the end of `layer4`, with one value for 32 pixels each way (7x7 at 224); for a Vision Transformer
    the grid of patch tokens that its last block reads.

    Args:
        net: a network of the seam (`leukemia.models.network`). It is explained in eval mode and full precision; its
            mode and gradients are left as they were.
        pixels: uint8 (N, S, S, 3), as `leukemia.data.pixels.fit` gives them.
        positive: bool (N,), whether the positive class is explained, or the negative one. None for the network's own
            decision, the sign of its logit; a recalibrated probability can name the other class.
        enlarge: whether to enlarge the maps smoothly to the pictures' size, or leave a value a place.

    Returns:
        float32 (N, S, S), or (N, *places) without `enlarge`: each cell's map from 0, its lowest value, to 1, its
        highest; all 0 where there is no evidence for the class.

    Raises:
        InputError: see `find_target`.
    """
    if not len(pixels):
        return np.zeros(pixels.shape[:3], np.float32)
    target, maps = find_target(net, pixels.shape[1]), []
    device = next(net.parameters()).device
    for start in range(0, len(pixels), AT_ONCE):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + AT_ONCE])).to(device)
        values, logits, slopes = _at_target(net, target, chunk)
        sign = logits.sign()
        if positive is not None:
            named = np.asarray(positive, dtype=bool)[start : start + AT_ONCE]
            sign = torch.from_numpy(np.where(named, 1.0, -1.0)).to(logits)
        weights = (sign[:, None, None, None] * slopes).mean((2, 3), keepdim=True)  # eq. 1
        heat = _from_0_to_1((weights * values).sum(1, keepdim=True).relu())  # eq. 2
        if enlarge:
            heat = _from_0_to_1(functional.interpolate(heat, size=chunk.shape[1:3], mode="bilinear"))
        maps.append(heat[:, 0].cpu().numpy())
    return np.concatenate(maps)


def find_target(net: Any, size: int) -> Target:
    """The last activation (N, C, H, W) of more than one place before the head, of a module that is called once.

    A network with a `token_grid` (`leukemia.models.network`) names its own: tokens, read as a map.

    Args:
        net: a network of the seam.
        size: height and width of its pictures.

    Raises:
        InputError: if there is none.
    """
    if (grid := getattr(net, "token_grid", None)) is not None:
        module = net.stages.get_submodule(f"{grid.stage}.{grid.layer}")
        return Target(grid.stage, module, (grid.side, grid.side), grid.before_patches)
    found: list[Target] = []
    # Whether each module that runs now was given a map: attention within tokens was not.
    around: list[bool] = []
    name = ""

    def began(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        around.append(_is_map(*inputs[:1]))

    def ended(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if all(around) and _is_map(output):
            found.append(Target(name, module, tuple(output.shape[2:])))
        around.pop()

    with ExitStack() as hooks, _in_eval_mode(net), torch.no_grad():
        for module in net.stages[:-1].modules():
            hooks.enter_context(module.register_forward_pre_hook(began))
            hooks.enter_context(module.register_forward_hook(ended))
        image = torch.zeros(1, size, size, 3, device=next(net.parameters()).device)
        values = normalise(image, *net.normalisation)
        for name, stage in list(net.stages.named_children())[:-1]:  # noqa: B007, `ended` reads the name
            values = stage(values)
    modules = [target.module for target in found]
    once = [target for target in found if modules.count(target.module) == 1]
    if not once:
        raise InputError(
            f"Grad-CAM needs an activation (N, C, H, W) of more than one place before the head, and "
            f"{type(net).__name__} has none at {size} pixels: take another network, or a larger data.image_size"
        )
    return once[-1]


def on_background(heat: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of each heat map that lies on black background: (N,), from 0 to 1, nan for an empty map.

    A network with a large share has learned the mask and not the cell. Compare with the share of `cell_alone`, the
    least to expect, and with `background`, the share of an even map.

    Args:
        heat: (N, S, S), 0 or more.
        pixels: uint8 (N, S, S, 3) of the same cells.
    """
    total = heat.sum(axis=(1, 2), dtype=np.float64)
    outside = np.where(is_background(pixels), heat, 0).sum(axis=(1, 2), dtype=np.float64)
    return np.divide(outside, total, out=np.full(len(heat), np.nan), where=total > 0)


def cell_alone(pixels: NDArray[np.uint8], places: tuple[int, int]) -> NDArray[np.float32]:
    """The heat map of a network that looks at the whole cell and at nothing else: (N, S, S), 0 to 1.

    It is as coarse as `heat_maps`, and a map of 7x7 values reaches over the edge of a cell. So its share on the
    background is the least to expect.

    Args:
        pixels: uint8 (N, S, S, 3).
        places: of the network's `Target`.
    """
    cell = torch.from_numpy(~is_background(pixels)).float()[:, None]
    coarse = functional.adaptive_avg_pool2d(cell, places)
    enlarged = functional.interpolate(coarse, size=pixels.shape[1:3], mode="bilinear", align_corners=False)
    return enlarged[:, 0].numpy()


def background(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of each picture (N, S, S, 3) that is black background: (N,), from 0 to 1."""
    return is_background(pixels).mean(axis=(1, 2))


def _at_target(net: Any, target: Target, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The activation as a map (N, C, H, W), the logits (N,), and their gradient there (N, C, H, W). The graph begins at
    the activation, whether its stage is frozen or not."""
    kept: list[Tensor] = []

    def begin_graph(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # which a later layer may change in place

    with _in_eval_mode(net), torch.inference_mode(False), ExitStack() as hooks:
        hooks.enter_context(target.module.register_forward_hook(begin_graph))
        values = normalise(pixels, *net.normalisation)
        for name, stage in net.stages.named_children():
            with torch.set_grad_enabled(name == target.stage or bool(kept)):
                values = stage(values)
        (slopes,) = torch.autograd.grad(values.sum(), kept)
    return target.as_map(kept[0].detach()), values.detach().flatten(), target.as_map(slopes)


def _from_0_to_1(heat: Tensor) -> Tensor:
    """Each map of (N, 1, H, W) from its lowest value to its highest; 0 where it is even."""
    heat = heat - heat.amin((2, 3), keepdim=True)
    return heat / heat.amax((2, 3), keepdim=True).clamp(min=1e-7)


@contextmanager
def _in_eval_mode(net: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _is_map(values: Any = None) -> bool:
    """Whether a module's input or output has places; maps of square pictures are square."""
    return isinstance(values, Tensor) and values.ndim == 4 and values.shape[2] == values.shape[3] > 1
