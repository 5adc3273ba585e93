"""The parts of a run by `_target_`: the kind that belongs in each place, and their building."""

import traceback
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from leukemia.errors import InputError
from leukemia.models.targets import NAMED, TARGET, check_settings, locate, plain_settings

PARTS = ("net", "criterion", "optimizer", "scheduler")  # of the model
KINDS = {  # of parts that are subclasses of one; elsewhere functions are taken too
    "data": "leukemia.data.datamodule.CellDataModule",
    "model": "leukemia.models.classifier.CellClassifier",
    "model.optimizer": "torch.optim.Optimizer",
    "trainer": "pytorch_lightning.Trainer",
    "callbacks": "pytorch_lightning.Callback",
    "logger": "pytorch_lightning.loggers.Logger",
}
GROUPS = {f"model.{part}": f"model/{part}" for part in PARTS}


def build(node: Mapping[str, Any], key: str, **arguments: Any) -> Any:
    """The object that a node's `_target_` names, made of the node's settings and the arguments.

    Args:
        node: `_target_` and plain settings.
        key: where it stands in the configuration; it decides which classes may be built, see `KINDS`.
        arguments: given by code; the node's own settings go before them.

    Raises:
        InputError: for a target of another kind, an unknown setting, or a value that the constructor refuses.
    """
    found, settings = checked_target(node, key)
    name = f"{key} ({node[TARGET]})"
    try:
        return found(**{**arguments, **settings})
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of a constructor that may be a user's own
        if isinstance(error, ModuleNotFoundError) and error.name:  # a library may raise it without a name
            raise InputError(f"{name} needs the package {error.name}: pip install {error.name}") from None
        text = " ".join(str(error).split()) or type(error).__name__
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if last.filename == __file__ else f" ({Path(last.filename).name}, line {last.lineno})"
        raise InputError(f"{name} refuses its settings: {type(error).__name__}: {text}{place}") from error


def checked_target(node: Mapping[str, Any], key: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class or function of a node, if it is of the kind that belongs there, and its settings, if it takes them."""
    if not isinstance(node, Mapping) or not node.get(TARGET):
        remedy = (
            f"choose a file of conf/{GROUPS[key]}, as {GROUPS[key]}=own" if key in GROUPS else
            f"name a class or function, or leave {key} out with ~{key}"
        )  # fmt: skip
        raise InputError(f"{key} has no {TARGET}: {remedy}")
    found, group = locate(node[TARGET], key), key.partition(".")[0]
    name = KINDS.get(group if group in ("callbacks", "logger") else key)
    kind = name and locate(name, key)
    if kind and not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(
            f"{key}.{TARGET}={node[TARGET]} is not built: it is not a subclass of {kind.__qualname__}"
        )
    settings = plain_settings(node, key)
    check_settings(found, settings, key)
    return found, settings


def part_of(node: Mapping[str, Any], key: str) -> Any:
    """A part that is called later: a class of parts is built, a function is bound to its settings.

    A criterion function that needs no more arguments than its settings gives the criterion; an optimizer is always
    bound, and so is a scheduler.
    """
    found, settings = checked_target(node, key)
    if key in ("model.optimizer", "model.scheduler"):
        return partial(found, **settings)
    if isinstance(found, type) or (key == "model.criterion" and _makes_the_criterion(found, settings)):
        part = build(node, key)
    else:
        part = partial(found, **settings) if settings else found
    if not callable(part):
        raise InputError(f"{key} ({node[TARGET]}) gives a {type(part).__name__}, which cannot be called")
    return part


def _makes_the_criterion(function: Callable[..., Any], settings: Mapping[str, Any]) -> bool:
    """Whether a function needs nothing beside its settings, as one that makes a criterion; else it is the criterion."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):  # a compiled function
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    required = [name for name, parameter in parameters.items() if parameter.default is Parameter.empty]
    return kinds <= {*NAMED, Parameter.VAR_KEYWORD} and not {*required} - {*settings, "kwargs"}
