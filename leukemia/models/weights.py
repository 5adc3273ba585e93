"""Where a network's weights come from: torchvision's ImageNet weights, a file, or chance."""

import logging
import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from leukemia.errors import InputError
from leukemia.models.resnet import StagedResNet
from leukemia.storage.torch_files import read_torch_file, reason_of

log = logging.getLogger(__name__)


def load_weights(model: StagedResNet, depth: int, weights: str) -> None:
    """Fill a network.

    Args:
        model: of the given depth.
        depth: names torchvision's weights.
        weights: `imagenet` (IMAGENET1K_V1 at every depth, so that depths compare on equal terms), `none`
            (as initialised), or the path of a state dict (.safetensors or torch's) or of a checkpoint, half
            precision too. A head of another
            size is left out, and said.

    Raises:
        InputError: if the download fails, the file holds no weights, or its keys do not fit (they are listed).
    """
    if weights == "none":
        return
    if weights == "imagenet":
        state, source = _imagenet(depth), f"resnet{depth} IMAGENET1K_V1"
    else:
        state, source = read_state_dict(Path(weights).expanduser()), weights
    _fill(model, state, source)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict or checkpoint under torchvision's names, no code being unpickled. Of the formats
    safetensors is the one to prefer: it cannot carry code at all.

    Raises:
        InputError: if the file is missing or holds no weights.
    """
    if not path.is_file():
        raise InputError(
            f"model.net.weights={path}: no such file; give a state dict or checkpoint, imagenet or none"
        )
    try:
        content = read_torch_file(path)
    except InputError as error:
        raise InputError(
            f"model.net.weights={path} holds no weights that can be read safely ({error}); "
            "give a .safetensors file, or one that torch.load(..., weights_only=True) opens"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise InputError(
            f"model.net.weights={path} holds no weights: expected names and tensors, as a state dict"
        )
    return {_torchvision_name(name): tensor for name, tensor in content.items()}


def _imagenet(depth: int) -> dict[str, Tensor]:
    weights = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        # What lies in torch's folder already is not hashed again: it is opened as plain data too.
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        file = weights.url.rsplit("/", 1)[-1]
        reason = reason_of(error)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"model.net.weights=imagenet: {file} could not be loaded ({reason}). Put {file} (from {weights.url}) into "
            f"{folder}, or use model.net.weights=PATH or model.net.weights=none"
        ) from None


def _torchvision_name(name: str) -> str:
    while name.startswith(("module.", "model.", "net.")):  # as DDP, wrappers and our checkpoints name them
        name = name.split(".", 1)[1]
    return name


def _fill(model: StagedResNet, state: dict[str, Tensor], source: str) -> None:
    own = model.net.state_dict()
    head = {
        name
        for name in state
        if name.startswith("fc.") and name in own and state[name].shape != own[name].shape
    }
    if head:
        log.info("%s: its head has another size (%s) and is left out", source, list(state["fc.weight"].shape))
    given = {name: tensor for name, tensor in state.items() if name not in head}
    missing = sorted(name for name in own if name not in state and not name.startswith("fc."))
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unknown = sorted(name for name in given if name not in own)
    misfit = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", misfit))
        if names
    ]
    if problems:
        raise InputError(
            f"model.net.weights={source} does not fit this network: {'; '.join(problems)}. Is it of another depth?"
        )
    model.net.load_state_dict(
        {**own, **{name: tensor.to(own[name].dtype) for name, tensor in given.items() if name in own}}
    )
