"""The engine of the frozen stages: they are inference alone, so their BatchNorm is folded into the convolutions.

Training, the feature cache, `predict`, `stress` and the page compute frozen stages here, so that a cell has the same
activations wherever they are computed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from leukemia.models.freezing import Prefix

TOLERANCE = 1e-3  # of the largest activation; folding moves it by about 1e-6


class Frozen:
    """Frozen stages as an engine computes them: normalised images (N, 3, H, W) to the activations at the boundary.

    It follows its network: where a tensor of the stages has changed, the next call folds them anew.
    """

    def __init__(self, prefix: Prefix) -> None:
        self.prefix, self._engine = prefix, prefix
        self._state: list[Any] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if (state := _state(self.prefix)) != self._state:
            self._engine, self._state = folded(self.prefix, images[:1]), state
        return self._engine(images)


def name() -> str:
    """The engine and its version, for the feature cache and the run folder."""
    return f"torch {torch.__version__}"


def folded(prefix: Prefix, image: Tensor) -> Prefix:
    """The stages with BatchNorm folded into the convolutions before it (Jacob et al., CVPR 2018, eq. 14).

    Stages whose code cannot be traced, or without such a pair, stay as they are. So do all where the activations of
    `image`, (1, 3, H, W), would differ.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        image = image.clone()  # of no inference mode
        found = Prefix(*map(_folded, prefix))
        expected, values = prefix(image), found(image)
        error = (values - expected).abs().max() if values.shape == expected.shape else torch.inf
        return found if error <= TOLERANCE * expected.abs().max() else prefix


def _folded(stage: nn.Module) -> nn.Module:
    try:
        graph = fuse(stage)
    except Exception:  # of a user's own code, or code that branches on its values
        return stage
    return graph if _norms(graph) < _norms(stage) else stage


def _norms(stage: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in stage.modules())


def _state(prefix: Prefix) -> list[Any]:
    """Changes with every tensor of the stages that is written, moved or replaced."""
    tensors = (*prefix.parameters(), *prefix.buffers())
    return [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors]
