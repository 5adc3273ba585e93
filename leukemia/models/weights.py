"""Where a network's weights come from: torchvision's ImageNet weights, a file, or chance."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from leukemia.errors import InputError
from leukemia.storage.torch_files import read_torch_file, reason_of

log = logging.getLogger(__name__)


def load_weights(net: nn.Module, weights: str, imagenet: Callable[[], Any]) -> None:
    """Fill a network.

    Args:
        net: with `stages`; its `published` names are those of published weights.
        weights: `imagenet`, `none` (the network stays as it is), or the path of a checkpoint or of a state dict
            (.safetensors or torch's), half precision too. A head of another size is left out, and the log says so.
        imagenet: gives the published weights, an entry of one of torchvision's enumerations.

    Raises:
        InputError: if the download fails, the file holds no weights, or its keys do not fit (they are listed).
    """
    if weights == "none":
        return
    if weights == "imagenet":
        entry = imagenet()
        state, source = _download(entry), f"{entry.url.rsplit('/', 1)[-1]}"
    else:
        state, source = read_state_dict(Path(str(weights)).expanduser()), str(weights)
    fill_weights(net, state, source)


def fill_weights(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load tensors under published names; a head of another size is left out, and the log says so.

    Raises:
        InputError: if the names or shapes do not fit (they are listed).
    """
    own = net.state_dict()
    ours = {_published(name, net): name for name in own}
    given = {ours.get(name, name): tensor for name, tensor in state.items()}
    is_head = {name: name.startswith("stages.head.") for name in own}
    misfit = [name for name in given if name in own and given[name].shape != own[name].shape]
    if left_out := [name for name in misfit if is_head[name]]:
        log.info("%s: its head has another size (%s) and is left out", source, list(given[left_out[0]].shape))
        given = {name: tensor for name, tensor in given.items() if not is_head.get(name, False)}
    missing = [n for n in own if n not in given and not is_head[n] and not n.endswith("num_batches_tracked")]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for what, names in (
            ("missing", sorted(_published(name, net) for name in missing)),
            ("unknown", sorted(name for name in given if name not in own)),
            ("of another shape", [
                f"{_published(name, net)} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
                for name in misfit if name not in left_out
            ]),
        )
        if names
    ]  # fmt: skip
    if problems:
        raise InputError(
            f"model.net.weights={source} does not fit this network: {'; '.join(problems)}. Is it of another network?"
        )
    net.load_state_dict({**own, **{name: tensor.to(own[name].dtype) for name, tensor in given.items()}})


def published_state(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network under the names of published weights, as torchvision's."""
    return {_published(name, net): tensor for name, tensor in net.state_dict().items()}


def read_state_dict(path: Path, published: str = "imagenet") -> dict[str, Tensor]:
    """The tensors of a state dict or checkpoint. No code is unpickled; safetensors cannot carry code at all.

    Args:
        path: of the file.
        published: the word for published weights, named where there is no file.

    Raises:
        InputError: if the file is missing or holds no weights.
    """
    if not path.is_file():
        raise InputError(
            f"model.net.weights={path}: no such file; give a state dict or checkpoint, {published} or none"
        )
    try:
        content = read_torch_file(path)
    except InputError as error:
        raise InputError(
            f"model.net.weights={path} holds no weights that can be read safely ({error}); "
            "give a .safetensors file, or one that torch.load(..., weights_only=True) opens"
        ) from None
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    values = list(content.values()) if isinstance(content, dict) else []
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise InputError(
            f"model.net.weights={path} holds no weights: expected names and tensors, as a state dict"
        )
    if any(name.startswith("net.") for name in content):  # a checkpoint of ours: without the criterion
        content = {name: tensor for name, tensor in content.items() if name.startswith("net.")}
    return {_without_wrappers(name): tensor for name, tensor in content.items()}


def _download(weights: Any) -> dict[str, Tensor]:
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


def _without_wrappers(name: str) -> str:
    while name.startswith(("module.", "model.", "net.")):  # as DDP, wrappers and our checkpoints name them
        name = name.split(".", 1)[1]
    return name


def _published(name: str, net: nn.Module) -> str:
    """The published name of a parameter, from its own, which begins with `stages.`."""
    own = name.removeprefix("stages.")
    for ours, theirs in getattr(net, "published", {}).items():
        if own.startswith(ours):
            return theirs + own[len(ours) :]
    return own if getattr(net, "published", {}) else name
