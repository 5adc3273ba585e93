"""Checkpoints, opened without Hydra, without Lightning and without running code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from leukemia.data.run_files import checked_image_size, class_names
from leukemia.errors import InputError, quoted
from leukemia.models.freezing import freeze
from leukemia.models.network import check_network
from leukemia.models.targets import network_from_file
from leukemia.storage.torch_files import read_torch_file

if TYPE_CHECKING:
    from leukemia.models.classifier import CellClassifier


@dataclass(frozen=True)
class LoadedNetwork:
    """The network of a checkpoint.

    Attributes:
        net: on the processor, frozen as it was, in eval mode.
        node: the target and the plain values that build it again; None where only its owner can.
        classes: the names of class 0 and class 1.
        trainable_from: the first stage that trained.
        native_size: see `leukemia.data.pixels.at_native_size`.
        history: a row an epoch.
        epoch: the last one, from 1; 0 where none was finished.
    """

    net: nn.Module
    node: dict[str, Any] | None
    classes: tuple[str, str]
    trainable_from: str
    native_size: int | None
    history: list[dict[str, float]]
    epoch: int


def load_network(path: Path | str, net: nn.Module | None = None) -> LoadedNetwork:
    """The network of a checkpoint, built by the node that the checkpoint names and filled with its tensors.

    Args:
        path: of the checkpoint.
        net: the network to fill, where it is at hand; then nothing is built from the file.

    Raises:
        InputError: if the file is missing, cut short, not a checkpoint of a CellClassifier, or not trusted.
    """
    return _loaded(read_checkpoint(Path(path)), path, net)


def load_classifier(path: Path | str, net: nn.Module | None = None) -> "CellClassifier":
    """The LightningModule of a checkpoint, on the processor and in eval mode; nothing is downloaded.

    Args:
        path: of the checkpoint.
        net: see `load_network`.

    Raises:
        InputError: see `load_network`.
    """
    from leukemia.models.classifier import CellClassifier

    content = read_checkpoint(Path(path))
    loaded = _loaded(content, path, net)
    try:
        model = CellClassifier(loaded.net, **content["hyper_parameters"])
    except TypeError as error:
        raise InputError(f"{path} is not a checkpoint of a CellClassifier: {error}") from None
    model.history = loaded.history
    return model.eval()


def fill(net: nn.Module, content: dict[str, Any]) -> None:
    """Load the tensors of a checkpoint into a network of the same names and shapes."""
    state: dict[str, Tensor] = content["state_dict"]
    net.load_state_dict({name[4:]: tensor for name, tensor in state.items() if name.startswith("net.")})


def _loaded(content: dict[str, Any], path: Path | str, net: nn.Module | None) -> LoadedNetwork:
    if "network" not in content and "depth" in dict(content.get("hyper_parameters") or {}):
        raise InputError(
            f"{path} is a checkpoint of release 0.1: train it again, this release cannot read it"
        )
    try:
        about, settings, history = content["network"], content["hyper_parameters"], content["history"]
        for name, value, most in (("network", about, 1000), ("hyper_parameters", settings, 1000),
                                  ("history", history, 1_000_000)):  # fmt: skip
            _check_plain(value, most, f"{path}: {name}")
        classes = class_names(settings["classes"], f"{path}: classes")
        if not isinstance(settings["trainable_from"], str):
            raise InputError(
                f"{path}: trainable_from is {quoted(settings['trainable_from'])}, not a stage's name"
            )
        built = net is None
        net = check_network(network_from_file(about["node"], str(path)) if net is None else net)
        fill(net, content)
        freeze(net, settings["trainable_from"])
        node: Any = net.node if built else about["node"]
        native_size = about["native_size"]
        if native_size is not None:
            native_size = checked_image_size(native_size, f"{path}: native_size")
        return LoadedNetwork(
            net=net.eval(),
            node=None if node is None else dict(node),
            classes=classes,
            trainable_from=str(net.trainable_from),
            native_size=native_size,
            history=history,
            epoch=int(history[-1]["epoch"]) if history else 0,
        )
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not a checkpoint of a CellClassifier, or of another network: {quoted(error)}"
        ) from None


def _check_plain(value: Any, most: int, where: str) -> None:
    """Refuse anything but plain values, and more than `most` of them: a list that holds itself twice, and so on, is a
    few lines of a file and never ends.

    Raises:
        InputError: if so.
    """
    waiting, count = [value], 0
    while waiting:
        found = waiting.pop()
        count += 1
        if count > most or (isinstance(found, str) and len(found) > 10_000):
            raise InputError(f"{where} holds more than a checkpoint of a CellClassifier does")
        if isinstance(found, Mapping):
            waiting += [part for pair in found.items() for part in pair]
        elif isinstance(found, list | tuple):
            waiting += found
        elif not isinstance(found, str | int | float | None):
            raise InputError(f"{where} holds a {type(found).__name__}, and only plain values are read")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        InputError: if it cannot be read.
    """
    if not path.exists():
        raise InputError(
            f"{path} cannot be read (no such file: a run writes it after its first epoch; if it was lost, start the "
            "same training again)"
        )
    try:
        content = read_torch_file(path)
    except InputError as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a checkpoint")
    return content
