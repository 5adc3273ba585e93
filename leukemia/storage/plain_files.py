"""Texts, YAML and JSON from a folder of unknown origin: bounded in size, and read as plain data only."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from leukemia.errors import InputError, quoted

LARGEST = {".yaml": 1e6, ".json": 1e7, ".csv": 1e9}  # bytes; a table of a million cells has about 1e8


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a place that a link leads out of a folder, before anything is written there.

    Raises:
        InputError: if it lies elsewhere.
    """
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise InputError(
            f"{path} is a link that leads out of {folder}, to {quoted(real)}: nothing is written there; remove the link"
        )


def read_text(path: Path) -> str:
    """A text file in UTF-8, at most as large as LARGEST allows.

    Raises:
        InputError: if it cannot be read, is larger, or is not a file (a pipe would block).
        FileNotFoundError: if it does not exist.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file")
        size, most = path.stat().st_size, LARGEST.get(path.suffix, 1e7)
        if size > most:
            raise InputError(
                f"{path} has {size / 1e6:,.0f} MB, and {most / 1e6:,.0f} MB are the most that is read"
            )
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(str(path)) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML mapping of plain values. Aliases are refused, because a few lines of them can expand to gigabytes.

    Raises:
        InputError: if it is anything else; `name` says which.
    """
    try:
        value = yaml.load(text, _PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{name} is not YAML of plain values: {quoted(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name} does not hold a configuration")
    return value


def parse_json(text: str, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: if it is anything else; `name` says which.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {quoted(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name} does not hold a JSON object")
    return value


def dump_yaml(value: dict[str, Any]) -> str:
    """A mapping of plain values as YAML for `parse_yaml`, in its own order."""
    return yaml.dump(value, Dumper=_PlainDumper, sort_keys=False)


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to a part of itself")
        return super().compose_node(parent, index)
