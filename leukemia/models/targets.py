"""Parts by `_target_`: find a class or function, check its settings, and build a network from a stranger's file."""

import builtins
import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from torch import nn

from leukemia.errors import InputError

TARGET = "_target_"
FAMILIES = ("leukemia.models.resnet.resnet",)  # functions that build a network from plain values
LIBRARIES = ("torch", "torchvision", "timm")  # whose `nn.Module` classes a file may name
OURS = ("leukemia", *LIBRARIES, "pytorch_lightning", "torchmetrics")  # never looked for in the current folder
TRUST = "LEUKEMIA_TRUST"  # packages of the user's own whose networks a file may name, as mylab,otherlab


def locate(target: Any, key: str) -> Any:
    """The class or function with this dotted name; the current folder is searched last, for a user's own target.

    Raises:
        InputError: if there is none, or it belongs to Python's standard library; `key` is the setting that names it.
    """
    parts = str(target).split(".")
    if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("__") for part in parts):
        raise InputError(f"{key}.{TARGET}={target} is not a dotted name: use PACKAGE.NAME")
    if parts[0] in sys.stdlib_module_names or hasattr(builtins, parts[0]):
        raise InputError(f"{key}.{TARGET}={target} is not built: the standard library has no such part")
    found, missing = None, ""
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        try:
            found = _import(name, own=parts[0] not in OURS)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise InputError(
                    f"{key}.{TARGET}={target} needs the package {error.name}: pip install it"
                ) from None
            missing = error.name
            continue
        except Exception as error:  # a user's module raises what it likes
            raise InputError(
                f"{key}.{TARGET}={target}: {name} cannot be imported ({_short(error)})"
            ) from error
        break
    if found is None:
        raise InputError(
            f"{key}.{TARGET}={target}: there is no module {missing}; install it, or put its file into the current folder"
        )
    for part in parts[end:]:
        if not hasattr(found, part):
            raise InputError(f"{key}.{TARGET}={target}: {name} has no {part}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    home = str(getattr(found, "__module__", None) or "").partition(".")[0]
    if not callable(found) or home in sys.stdlib_module_names:
        raise InputError(
            f"{key}.{TARGET}={target} is not built: it is not a class or function of a library or your own"
        )
    return found


def check_settings(found: Any, settings: Iterable[str], key: str) -> None:
    """Refuse settings that a class or function does not take.

    Raises:
        InputError: naming the setting, the near names, and the `~key` that drops it.
    """
    try:
        parameters = signature(found).parameters
    except (TypeError, ValueError):
        return
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in settings:
        if name not in parameters:
            raise InputError(
                f"{key} ({found.__module__}.{found.__qualname__}) has no setting {name}"
                f"{did_you_mean(name, parameters)}; drop it with ~{key}.{name}"
            )


def plain_settings(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The settings of a node without its `_target_`.

    Raises:
        InputError: for an instruction (a name that begins with `_`) or a target within the node.
    """
    settings = {str(name): value for name, value in node.items() if name not in (TARGET, "_partial_")}
    for name, value in settings.items():
        if name.startswith("_"):
            raise InputError(f"{key} has no setting {name}: `{TARGET}` is the only instruction here")
        if _holds_target(value):
            raise InputError(
                f"{key}.{name} holds a {TARGET} of its own, and only whole parts are built: write a function that builds it"
            )
    return settings


def network_from_file(node: Any, source: str) -> nn.Module:
    """The network that a checkpoint or run folder names, with random weights.

    It is built by a function of FAMILIES, or by an `nn.Module` class that is defined in LIBRARIES or in a package that
    the environment variable LEUKEMIA_TRUST names. Nothing else is imported or called.

    Raises:
        InputError: for anything else, with the remedy.
    """
    key = f"{source}: network"
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise InputError(
            f"{source} does not say how its network is built: load it with CellClassifier.load_from_checkpoint(PATH, net=NET)"
        )
    if "_partial_" in node:
        raise InputError(f"{key} has no setting _partial_")
    settings = plain_settings(node, key)
    target = node[TARGET]
    package = target.partition(".")[0]
    own = [name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip()]
    remedy = (
        f"if you know where it comes from, set {TRUST}={package}"
        if package.isidentifier()
        else "it is not trusted"
    )
    if target not in FAMILIES and package not in (*LIBRARIES, *own):
        raise InputError(f"{source} asks for the network {target[:200]}, which is not trusted: {remedy}")
    found = locate(target, key)
    if target not in FAMILIES:
        home = str(getattr(found, "__module__", "")).partition(".")[0]
        if not (isinstance(found, type) and issubclass(found, nn.Module) and home in (*LIBRARIES, *own)):
            raise InputError(
                f"{source} asks for the network {target[:200]}, which is not an nn.Module class of a trusted package"
            )
    check_settings(found, settings, key)
    try:
        net = found(**settings)
    except InputError:
        raise
    except Exception as error:  # settings of a stranger's file
        raise InputError(f"{source}: its network {target} refuses its settings ({_short(error)})") from None
    if getattr(net, "node", None) is None:
        net.node = dict(node)
    return net


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean A or B?", or nothing where no known name comes near."""
    known = list(known)
    by_last = {key.rpartition(".")[2]: key for key in known}
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    near += [by_last[key] for key in difflib.get_close_matches(name.rpartition(".")[2], list(by_last), n=2)]
    unique = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(unique)}?" if unique else ""


def _import(name: str, own: bool) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if not own or error.name != name.partition(".")[0] or here in sys.path:
            raise
    sys.path.append(here)
    try:
        return import_module(name)
    finally:
        sys.path.remove(here)


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return TARGET in value or any(map(_holds_target, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_target, value))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
