"""Parts by `_target_`: find a class or function, check its settings, and build a network from a stranger's file."""

import builtins
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.machinery import PathFinder
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from leukemia.errors import InputError, name_of, unwrapped

if TYPE_CHECKING:
    from torch import nn

TARGET = "_target_"
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
# Functions that build a network from plain values.
FAMILIES = ("leukemia.models.resnet.resnet", "leukemia.models.timm_nets.timm")
LIBRARIES = ("torch", "torchvision", "timm")  # whose `nn.Module` classes a file may name
OURS = ("leukemia", *LIBRARIES, "pytorch_lightning", "torchmetrics")  # never looked for in the current folder
PASSED_ON = {  # classes that take any keyword argument, and the function that gets them
    "pytorch_lightning.loggers.tensorboard.TensorBoardLogger": ("torch.utils.tensorboard", "SummaryWriter"),
    "pytorch_lightning.loggers.wandb.WandbLogger": ("wandb", "init"),
}
GIVE_IT = "give the network yourself, as CellClassifier.load_from_checkpoint(PATH, net=NET)"
TRUST = "LEUKEMIA_TRUST"  # packages of the user's own whose networks a file may name, as mylab,otherlab


def locate(target: Any, key: str) -> Any:
    """The class or function with this dotted name; the current folder is searched last, for a user's own target.

    Raises:
        InputError: if there is none, or it belongs to Python's standard library; `key` is the setting that names it.
    """
    parts = str(target).split(".")
    if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("__") for part in parts):
        raise InputError(f"{key}.{TARGET}={str(target)!a} is not a dotted name: use PACKAGE.NAME")
    if _is_pythons(parts[0]):
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
            f"{key}.{TARGET}={target}: there is no module {missing}; install it, or put its file into the current "
            "folder"
        )
    for part in parts[end:]:
        if not hasattr(found, part):
            raise InputError(f"{key}.{TARGET}={target}: {name} has no {part}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found) or _is_pythons(_home(found)):
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
    known = [name for name, parameter in parameters.items() if parameter.kind in NAMED]
    unknown = [name for name in settings if name not in known]
    if unknown and any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        passed_on = _passed_on(found)
        known += passed_on
        unknown = [name for name in unknown if passed_on and name not in passed_on]
    check_names(name_of(found), unknown, known, key)


def check_names(name: str, settings: Iterable[str], known: Iterable[str], key: str) -> None:
    """Refuse settings that are not among the known ones of a class or function with this name.

    Raises:
        InputError: see `check_settings`.
    """
    for unknown in settings:
        if unknown not in known:
            near = did_you_mean(unknown, known)
            raise InputError(f"{key} ({name}) has no setting {unknown}{near}; drop it with ~{key}.{unknown}")


def parameters_of(make: Callable[..., Any]) -> Mapping[str, Any]:
    """The parameters of a class or function by name; none where they are not known."""
    try:
        return signature(make).parameters
    except (TypeError, ValueError):
        return {}


def plain_settings(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The settings of a node without its `_target_`.

    Raises:
        InputError: for an instruction (a name that begins with `_`) or a target within the node. The optimizer and the
            scheduler may say that they are `_partial_`, as they always are.
    """
    always_partial = key in ("model.optimizer", "model.scheduler") and node.get("_partial_") is True
    own = {TARGET, "_partial_"} if always_partial else {TARGET}
    settings = {str(name): value for name, value in node.items() if name not in own}
    for name, value in settings.items():
        if name.startswith("_"):
            raise InputError(f"{key} has no setting {name}: `{TARGET}` is the only instruction here")
        if _holds_target(value):
            raise InputError(
                f"{key}.{name} holds a {TARGET} of its own, and only whole parts are built: "
                "write a function that builds it"
            )
    return settings


def network_from_file(node: Any, source: str) -> "nn.Module":
    """The network that a checkpoint or run folder names, with random weights.

    It is built by a function of FAMILIES, or by an `nn.Module` class that is defined in LIBRARIES or in a package that
    the environment variable LEUKEMIA_TRUST names. Nothing else is imported or called, and no weights are loaded.

    Raises:
        InputError: for anything else, with the remedy.
    """
    key = f"{source}: network"
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise InputError(f"{source} does not say how its network is built: {GIVE_IT}")
    settings = plain_settings(node, key)
    target = node[TARGET]
    shown, package = ascii(target[:200]), target.partition(".")[0]
    trusted = (*LIBRARIES, *(name.strip() for name in os.environ.get(TRUST, "").split(",")))
    if target in FAMILIES:
        found = locate(target, key)
        settings |= {"weights": "none"} if "weights" in signature(found).parameters else {}
    elif package not in trusted:
        can_be_trusted = package.isidentifier() and package != "leukemia" and not _is_pythons(package)
        remedy = f": if you know where it comes from, set {TRUST}={package}" if can_be_trusted else ""
        raise InputError(f"{source} asks for the network {shown}, which is not trusted{remedy}")
    else:
        if package in LIBRARIES and any(part.startswith("_") for part in target.split(".")):
            raise InputError(f"{source} asks for the network {shown}, whose name is private")
        from torch import nn

        found = locate(target, key)
        if not (isinstance(found, type) and issubclass(found, nn.Module) and _home(found) in trusted):
            raise InputError(
                f"{source} asks for the network {shown}, which is not an nn.Module class that is defined in a trusted "
                f"package: {GIVE_IT}"
            )
    check_settings(found, settings, key)
    try:
        net = found(**settings)
    except InputError:
        raise
    except Exception as error:  # settings of a stranger's file
        raise InputError(f"{source}: its network {target} refuses its settings ({_short(error)})") from None
    net.node = {TARGET: target, **settings}
    return net


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean A or B?", or nothing where no known name comes near."""
    known = list(known)
    by_last = {key.rpartition(".")[2]: key for key in known}
    last = name.rpartition(".")[2]
    near = [key for key in known if key.rpartition(".")[2] == last]
    near += difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    near += [by_last[key] for key in difflib.get_close_matches(last, list(by_last), n=2)]
    unique = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(unique)}?" if unique else ""


class _CurrentFolder:
    """Finds modules in a folder, for the user's own: never a library that a part may come from."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return PathFinder.find_spec(name, [self.folder]) if path is None and name not in OURS else None


def _import(name: str, own: bool) -> Any:
    """Import a module; the current folder comes last, and only for the user's own, wherever Python was started."""
    here, before = os.getcwd(), list(sys.path)
    sys.path[:] = [folder for folder in before if folder and os.path.abspath(folder) != here]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not own or error.name != name.partition(".")[0]:
            raise
        if not any(isinstance(finder, _CurrentFolder) and finder.folder == here for finder in sys.meta_path):
            sys.meta_path.append(_CurrentFolder(here))  # it stays, for what the user's module imports later
        importlib.invalidate_caches()
        return import_module(name)
    finally:
        sys.path[:] = before


def _passed_on(found: Any) -> list[str]:
    """The keyword arguments that a class of Lightning passes on; empty where they are not known."""
    for kind in getattr(found, "__mro__", ()):
        if (to := PASSED_ON.get(name_of(kind))) is not None:
            try:
                return list(signature(getattr(import_module(to[0]), to[1])).parameters)
            except ImportError:  # an extra that is not installed
                return []
    return []


def _home(found: Any) -> str:
    """The package in which a class or function is defined."""
    found = unwrapped(found)
    owner = getattr(found, "__module__", None)
    if owner is None:  # a method of an object that is compiled
        owner = type(getattr(found, "__self__", None)).__module__
    return str(owner).partition(".")[0]


def _is_pythons(name: str) -> bool:
    return name in sys.stdlib_module_names or hasattr(builtins, name)


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return TARGET in value or any(map(_holds_target, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_target, value))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
