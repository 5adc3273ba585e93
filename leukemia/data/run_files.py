"""The structure of a run folder's files, checked once, so that their readers get typed values."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leukemia.data.pixels import RESIZES
from leukemia.errors import InputError, is_whole, quoted
from leukemia.evaluation.policy import TTA

RESERVED = ("unsure", "review", "artefact", "poor quality")  # decisions on a cell that are not a class
ENGINES = ("torch", "openvino")  # of frozen stages, see `leukemia.models.engine`
SPLITS = ("train", "val", "test")
LONGEST_PATH = 4096  # of Linux
LARGEST_SIDE = 4096  # pixels of a picture that a network takes


@dataclass(frozen=True)
class RunData:
    """The settings of a run's data.

    Attributes:
        root: the data folder or file.
        classes: the names of class 0 and class 1.
        image_size, resize, native_size: how a picture becomes pixels, see `leukemia.data.pixels.fit`.
        tta: `none` or `d4`, of the run's own predictions.
    """

    root: Path
    classes: tuple[str, str]
    image_size: int
    resize: str
    native_size: int | None
    tta: str

    @property
    def folder(self) -> Path:
        """The folder that the paths of cells are relative to."""
        return self.root.parent if os.path.isfile(self.root) else self.root  # a Path refuses long names


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Check the parts of config.yaml that a command which goes on with the run compares with its own settings.

    Raises:
        InputError: naming the key.
    """
    for group in ("data", "model", "trainer", "callbacks", "logger"):
        if not isinstance(config.get(group), Mapping | None):
            raise _impossible(where, group, config[group], "a mapping of settings")
    trainer = config.get("trainer") or {}
    for name, kinds, words in (
        ("devices", int | str | list | None, "a number of devices, a list of them or a text"),
        ("num_nodes", int | None, "a whole number"),
        ("max_epochs", int | None, "a whole number"),
    ):
        if not isinstance(trainer.get(name), kinds):
            raise _impossible(where, f"trainer.{name}", trainer[name], words)


def run_data(config: Mapping[str, Any], where: str) -> RunData:
    """The settings of the data in a run's configuration.

    Raises:
        InputError: if one is missing or impossible; `where` names the file.
    """
    data = config.get("data")
    if not isinstance(data, Mapping):
        raise _impossible(where, "data", data, "a mapping of settings")
    root, native = data.get("root"), data.get("native_size")
    if not isinstance(root, str) or not 0 < len(root) < LONGEST_PATH or "\0" in root:
        raise _impossible(where, "data.root", root, "a folder")
    if native is not None and not is_whole(native, 1, LARGEST_SIDE):
        raise _impossible(where, "data.native_size", native, "null or a number of pixels")
    return RunData(
        root=Path(root),
        classes=class_names(data.get("classes"), f"{where}: data.classes"),
        image_size=checked_image_size(data.get("image_size"), f"{where}: data.image_size"),
        resize=_one_of(data.get("resize"), RESIZES, where, "data.resize"),
        native_size=native,
        tta=_one_of(data.get("tta", "none"), TTA, where, "data.tta"),
    )


def run_engine(config: Mapping[str, Any], where: str) -> str:
    """`model.engine` of a run's configuration."""
    model = config.get("model")
    engine = model.get("engine", "torch") if isinstance(model, Mapping) else "torch"
    return _one_of(engine, ENGINES, where, "model.engine")


def run_precision(config: Mapping[str, Any], where: str) -> str:
    """`trainer.precision` of a run's configuration."""
    trainer = config.get("trainer")
    precision = trainer.get("precision") if isinstance(trainer, Mapping) else None
    if not isinstance(precision, str) or len(precision) > 40:
        raise _impossible(where, "trainer.precision", precision, "a precision such as 32-true")
    return precision


def class_names(value: Any, where: str) -> tuple[str, str]:
    """Two names of classes that differ and are not one of RESERVED.

    Raises:
        InputError: for anything else.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(f"{where} is {quoted(value)}: two names are needed, of class 0 and class 1")
    if not all(isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() for name in value):
        raise InputError(f"{where} is {quoted(value)}: a class has a name of 1 to 100 letters")
    negative, positive = value
    if negative == positive:
        raise InputError(f"{where} is {quoted(value)}: they have to differ")
    if taken := [name for name in value if name.lower() in RESERVED]:
        raise InputError(
            f"{where} has a class {quoted(taken[0])}: this name means a decision, choose another"
        )
    return negative, positive


def checked_image_size(value: Any, where: str) -> int:
    """A number of pixels.

    Raises:
        InputError: for anything else.
    """
    if not is_whole(value, 1, LARGEST_SIDE):
        raise InputError(f"{where} is {quoted(value)}: a whole number from 1 to {LARGEST_SIDE:,} is needed")
    return int(value)


def check_metrics(metrics: Mapping[str, Any], where: str) -> None:
    """Check the parts of metrics.json that are not shown as they are.

    Raises:
        InputError: naming the key.
    """
    if metrics.get("classes") is not None:
        class_names(metrics["classes"], f"{where}: classes")
    if metrics.get("split") is not None:
        _one_of(metrics["split"], SPLITS, where, "split")
    if not isinstance(metrics.get("subjects"), Mapping | None):
        raise _impossible(where, "subjects", metrics["subjects"], "metrics over subjects, or null")
    for name in ("leaks", "best_epoch"):
        if metrics.get(name) is not None and not is_whole(metrics[name], 0, 10**12):
            raise _impossible(where, name, metrics[name], "a whole number")
    for name in ("epoch_chosen_here", "synthetic"):
        if not isinstance(metrics.get(name), bool | None):
            raise _impossible(where, name, metrics[name], "true or false")


def check_status(status: Mapping[str, Any], where: str) -> None:
    """Check the parts of status.json that the next session goes on with.

    Raises:
        InputError: naming the key.
    """
    seconds, sessions = status.get("seconds") or 0, status.get("sessions") or []
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e12:
        raise _impossible(where, "seconds", seconds, "a number of seconds")
    if not isinstance(sessions, list) or not all(isinstance(session, Mapping) for session in sessions):
        raise _impossible(where, "sessions", sessions, "a list of sessions")


def check_history(table: pd.DataFrame, where: str) -> None:
    """Check that a table has a row of numbers for each epoch.

    Raises:
        InputError: naming the column.
    """
    if "epoch" not in table:
        raise InputError(f"{where} has no column epoch")
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{where}: the column {quoted(name)} has to hold numbers")
    epochs = table["epoch"]
    if not (epochs.notna().all() and (epochs % 1 == 0).all() and (epochs >= 1).all() and epochs.is_unique):
        raise InputError(f"{where}: the column epoch has to count up from 1, each epoch once")


def check_cells(table: pd.DataFrame, where: str) -> None:
    """Check that a table names each cell once, with its split and its hash.

    Raises:
        InputError: naming the column.
    """
    needed = ("path", "subject", "label", "split", "pixel_hash")
    if missing := [name for name in needed if name not in table]:
        raise InputError(f"{where} has no column {', '.join(missing)}")
    for name in ("path", "split", "pixel_hash"):
        if table[name].isna().any():
            raise InputError(
                f"{where}: the column {name} is empty in row {int(table[name].isna().argmax()) + 1}"
            )
    if not table["path"].is_unique:
        raise InputError(
            f"{where} has a cell twice: {quoted(table['path'][table['path'].duplicated()].iloc[0])}"
        )
    if not table["label"].isin([-1, 0, 1]).all():
        raise InputError(f"{where}: the column label has to hold 1, 0, or -1 where the class is unknown")


def _one_of(value: Any, known: Collection[str], where: str, name: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise _impossible(where, name, value, f"one of {', '.join(known)}")
    return value


def _impossible(where: str, name: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{where}: {name} is {quoted(value)}, and {wanted} is needed")
