"""Texts, YAML and JSON from a folder of unknown origin: bounded in size, and read as plain data only."""

import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from leukemia.errors import InputError, quoted

LARGEST = {".yaml": 3e5, ".json": 1e7, ".csv": 2e8}  # bytes; two million cells, which take 1.1 GB
DEEPEST = 50  # levels of a YAML file


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
    """A YAML mapping of plain values: JSON's types, `.inf` and `.nan`, and keys that are text or whole numbers.

    Tags, aliases (a few lines of them can expand to gigabytes), sexagesimal numbers and timestamps are not read.

    Raises:
        InputError: if it is anything else; `name` says which.
    """
    try:
        _check_events(text)
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


def _check_events(text: str) -> None:
    """Refuse what `parse_yaml` does not read, before anything is built; the parser's own recursion is bounded too."""
    depth = 0
    for event in yaml.parse(text, _SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it refers to a part of itself")
        if (tag := getattr(event, "tag", None)) is not None:
            raise yaml.YAMLError(f"it has the tag {quoted(tag)}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} levels deep")


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _PlainLoader(_SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        for key in mapping:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise yaml.YAMLError(f"its key {quoted(key)} is neither text nor a whole number")
        if len(mapping) != len(node.value):
            raise yaml.YAMLError("it has a key twice")
        return mapping


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _type, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,18})", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+0123456789.")),
):  # fmt: skip
    for _class in (_PlainLoader, _PlainDumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_type}", re.compile(f"(?:{_pattern})\\Z"), _first)
