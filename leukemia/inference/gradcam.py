"""Where a network looks: Grad-CAM heat maps, and how much of them falls on the black background."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from leukemia.data.handcrafted import is_background
from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.models.resnet import STAGES, StagedResNet

AT_ONCE = 32  # cells: a graph of layer4 is kept for each
PLACE = 32  # pixels of the picture for one value of layer4, each way


def heat_maps(
    model: CellClassifier, pixels: NDArray[np.uint8], positive: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Grad-CAM of what speaks for a class (Selvaraju et al., ICCV 2017, eq. 1 and 2).

    It is taken at the end of `layer4`, whatever trains: the last stage that trains and has a place for each part
    of the picture. With `trainable_from=head` only the linear layer behind it trains, and `layer4`, though frozen,
    is the last that has places. A map has one value for 32 pixels of the picture each way (7x7 at 224) and is
    enlarged smoothly.

    Args:
        model: its mode and gradients are left as they were found; it is explained in eval mode and full precision.
        pixels: uint8 (N, S, S, 3), as `leukemia.data.pixels.fit` gives them.
        positive: bool (N,), whether the positive class is explained, or the negative one; None for the class that
            the network decides on, which is the sign of its logit. A recalibrated probability can be on the other
            split of 0.5: say then which class it names.

    Returns:
        float32 (N, S, S): each cell's map from 0, its lowest value, to 1, its highest; all 0 where nothing speaks
        for the class, or where the picture is a single place (32 pixels).

    Raises:
        InputError: if the package `grad-cam` is not installed.
    """
    grad_cam = _grad_cam()
    if not len(pixels):
        return np.zeros(pixels.shape[:3], np.float32)
    targets: list[Callable[[Tensor], Tensor]] = [torch.abs] * len(pixels)  # the decision is the sign
    if positive is not None:
        targets = [torch.positive if named else torch.negative for named in np.asarray(positive, dtype=bool)]
    was_training, device = model.training, next(model.parameters()).device
    with torch.inference_mode(False), torch.enable_grad():
        traced = _TracedFromLayer4(model.net)
        gradients = [parameter.grad for parameter in traced.parameters()]
        cam = grad_cam(model=traced, target_layers=[model.net.net.layer4])
        try:
            maps = []
            for start in range(0, len(pixels), AT_ONCE):
                chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + AT_ONCE])).to(device)
                maps.append(cam(normalise(chunk), targets=targets[start : start + AT_ONCE]))
        finally:
            cam.activations_and_grads.release()
            for parameter, gradient in zip(traced.parameters(), gradients, strict=True):
                parameter.grad = gradient
            model.train(was_training)
    return np.clip(np.concatenate(maps), 0, 1).astype(np.float32)


def on_background(heat: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of each heat map that lies on black background: (N,), from 0 to 1, nan for an empty map.

    A network that looks there has learned the mask and not the cell. Compare with that of `cell_alone`, the least
    to expect, and with `background`, the share that a map of one even value has.

    Args:
        heat: (N, S, S), 0 or more.
        pixels: uint8 (N, S, S, 3) of the same cells.
    """
    total = heat.sum(axis=(1, 2), dtype=np.float64)
    outside = np.where(is_background(pixels), heat, 0).sum(axis=(1, 2), dtype=np.float64)
    return np.divide(outside, total, out=np.full(len(heat), np.nan), where=total > 0)


def cell_alone(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The heat map of a network that looks at the cell, at all of it and at nothing else: (N, S, S), 0 to 1.

    As coarse as `heat_maps` are, for a map of 7x7 values reaches over the edge of a cell however well it is meant:
    what `on_background` gives for this one is the least to expect.

    Args:
        pixels: uint8 (N, S, S, 3).
    """
    cell = torch.from_numpy(~is_background(pixels)).float()[:, None]
    places = functional.adaptive_avg_pool2d(cell, -(-pixels.shape[1] // PLACE))
    enlarged = functional.interpolate(places, size=pixels.shape[1:3], mode="bilinear", align_corners=False)
    return enlarged[:, 0].numpy()


def background(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of each picture (N, S, S, 3) that is black background: (N,), from 0 to 1."""
    return is_background(pixels).mean(axis=(1, 2))


class _TracedFromLayer4(nn.Module):
    """The network with a graph from layer4 on, also where that is frozen, and none before."""

    def __init__(self, net: StagedResNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            for stage in STAGES[:4]:
                images = self.net.run_stage(stage, images)
        return self.net.run_stage("head", self.net.run_stage("layer4", images.requires_grad_())).flatten()


def _grad_cam() -> Any:
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:
        raise InputError(
            f"heat maps need the package grad-cam ({error}): pip install 'leukemia[explain]'"
        ) from None
    return GradCAM
