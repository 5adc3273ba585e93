"""Readers: functions from a data folder to its table of cells, and the check of what they return.

A reader is `reader(root) -> (table, classes, native_size)`. It reads names and tables, no picture.
`leukemia.data.cnmc.cnmc` and `leukemia.data.class_folders.class_folders` are two of them.
"""

import inspect
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leukemia.data.problems import Problem
from leukemia.data.run_files import LARGEST_SIDE, class_names
from leukemia.errors import InputError, name_of

TYPES = {"path": "str", "label": "int64", "subject": "str", "published_split": "str", "fold": "int64"}
COLUMNS = tuple(TYPES)
PUBLISHED_SPLITS = ("train", "prelim", "final")
ADDED_COLUMNS = ("group", "split", "pixel_hash")  # by `assign_splits`
NO_FOLD = -1

Classes = tuple[str, str]
Reading = tuple[pd.DataFrame, Classes, int | None]
Reader = Callable[..., Reading]
Row = tuple[str, int, str | None, str, int]  # in the order of COLUMNS


@dataclass(frozen=True)
class Scan:
    """The table of cells as far as it is known, the problems found, and images that do not belong to the set."""

    table: pd.DataFrame
    classes: Classes
    problems: tuple[Problem, ...]
    ignored: tuple[str, ...] = ()


def read_cells(reader: Reader, root: Path | str, positive: str | None = None) -> Reading:
    """Call a reader and check its result.

    Args:
        reader: see `check_reader_result`.
        root: the data folder or file.
        positive: the class that counts as 1, for a reader with a parameter `positive`.

    Raises:
        InputError: if the reader refuses the data or fails, or returns something else than a reader has to.
    """
    name = name_of(reader)
    try:
        result = reader(root) if positive is None else reader(root, positive=positive)
    except Exception as error:
        if isinstance(error, InputError | MemoryError) or name.startswith("leukemia."):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"data.reader ({name}) fails on {root}: {type(error).__name__}: {' '.join(str(error).split())} "
            f"({Path(last.filename).name}, line {last.lineno})"
        ) from error
    return check_reader_result(result, name)


def check_reader(reader: Any, positive: str | None = None) -> None:
    """Refuse a reader that cannot be called, and `positive` where the reader does not take it."""
    if not callable(reader):
        raise InputError(
            f"data.reader={reader!r} cannot be called: give a function reader(root) -> (table, classes, native_size)"
        )
    if positive is None:
        return
    try:
        parameters = list(inspect.signature(reader).parameters.values())
    except (TypeError, ValueError):  # compiled functions
        parameters = []
    if not any(each.name == "positive" or each.kind == each.VAR_KEYWORD for each in parameters):
        raise InputError(
            f"data.positive={positive}: the reader {name_of(reader)} does not take it, because it names the "
            "positive class itself. Leave data.positive out"
        )


def check_reader_result(result: Any, reader: str) -> Reading:
    """The result of a reader with every column filled in and of one type, or an error that names the reader.

    Args:
        result: (table, classes, native_size). The table is a DataFrame with a row a cell: `path` (relative to
            the root, or absolute; unique), `label` (1, 0, or -1 where it is unknown), and, where they are known,
            `subject` (text or numbers), `published_split` (`train`, `prelim` or `final`; default `train`) and
            `fold` (default -1). Further columns are kept. `classes` are the names of class 0 and class 1,
            `native_size` the pixels of a cell's picture where larger ones have to be cut to their centre, or None.
        reader: its name, for messages.

    Returns:
        The same, the columns in the order of COLUMNS with the further ones behind them. Subjects are upper-case text.

    Raises:
        InputError: if anything is of another kind.
    """

    def require(condition: Any, problem: str) -> None:
        if not condition:
            raise InputError(f"the reader {reader} {problem}")

    require(
        isinstance(result, tuple) and len(result) == 3,
        f"returned {type(result).__name__}, not the three values (table, classes, native_size)",
    )
    table, classes, native_size = result
    require(isinstance(table, pd.DataFrame), f"returned a {type(table).__name__} as table, not a DataFrame")
    require(
        isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes) == 2,
        f"returned classes={classes!r}: two names are needed, of class 0 and class 1",
    )
    classes = (str(classes[0]), str(classes[1]))
    classes = class_names(classes, f"the reader {reader} returned classes, which")
    require(
        native_size is None or (type(native_size) is int and 0 < native_size <= LARGEST_SIDE),
        f"returned native_size={native_size!r}: give a number of pixels up to {LARGEST_SIDE}, or None",
    )

    names = list(table.columns)
    require(set(map(type, names)) == {str}, f"returned columns whose names are not text: {names}")
    require(len(set(names)) == len(names), f"returned two columns of one name: {', '.join(names)}")
    missing = " and no column ".join(name for name in COLUMNS[:2] if name not in names)
    require(not missing, f"returned no column {missing}; there are {', '.join(names)}")
    refuse_taken_names(names, f"the reader {reader}")
    require(len(table), "returned a table without a row")

    table = table.reset_index(drop=True)
    for column, default in (("subject", None), ("published_split", "train"), ("fold", NO_FOLD)):
        if column not in names:
            table[column] = default
    folds = pd.to_numeric(table["fold"].where(table["fold"].notna(), NO_FOLD), errors="coerce")
    not_text = ~table["path"].map(lambda path: isinstance(path, str) and path != "").astype(bool)
    unpublished = ~table["published_split"].isin(PUBLISHED_SPLITS)
    labelled_final = (table["published_split"] == "final") & (table["label"] != -1)
    for wrong, column, remedy in (
        (not_text, "path", "use text, relative to the root or absolute"),
        (table["path"].duplicated(), "path", "which is there twice: give each picture one row"),
        (~table["label"].isin([-1, 0, 1]), "label", "use 1, 0, or -1 where the class is unknown"),
        (unpublished, "published_split", f"use one of {', '.join(PUBLISHED_SPLITS)}"),
        (labelled_final, "label", "cells with published_split=final have label -1; use prelim for others"),
        (folds.isna() | (folds % 1 != 0), "fold", "use whole numbers, or -1 where there is none"),
    ):
        values = table[column].tolist()  # plain values, for the message
        found = [f"{values[row]!r} in row {row}" for row in table.index[wrong]]
        require(not found, f"returned {column} {', '.join(found[:3])}{' ...' * (len(found) > 3)}: {remedy}")
    table["subject"] = pd.Series([_as_subject(value) for value in table["subject"]], dtype="str")
    table = table.assign(fold=folds).astype(TYPES)
    return table[[*COLUMNS, *further_columns(table)]], classes, native_size


def refuse_taken_names(names: Iterable[str], where: str) -> None:
    """Refuse further columns that `assign_splits` adds itself.

    Raises:
        InputError: naming them.
    """
    if taken := [name for name in names if name in ADDED_COLUMNS]:
        raise InputError(
            f"{where} has the column {', '.join(taken)}, and cells.csv has a column of that name already: rename it "
            "(published_split is the split that the data set publishes)"
        )


def further_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that a reader adds to the standard ones."""
    return [name for name in table.columns if name not in COLUMNS]


def to_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table whose columns have the same types for any rows."""
    columns = dict(zip(COLUMNS, zip(*rows, strict=True) if rows else [()] * 5, strict=True))
    return pd.DataFrame({name: pd.Series(columns[name], dtype=TYPES[name]) for name in COLUMNS})


def _as_subject(value: Any) -> str | None:
    """A subject as upper-case text. pandas turns 7 into 7.0 where another subject is missing."""
    if pd.isna(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().upper() or None
