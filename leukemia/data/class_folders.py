"""The reader of any two classes of cells: a folder of class folders, or a manifest csv."""

import csv
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from leukemia.data.files import (
    Existing,
    csv_header,
    existing_folder,
    is_image,
    is_utf8,
    list_files,
    natural,
    refuse_doubled,
    spelled,
)
from leukemia.data.problems import NOT_UTF8, Kind, Problems, refuse
from leukemia.data.reader import (
    COLUMNS,
    NO_FOLD,
    PUBLISHED_SPLITS,
    Reading,
    Scan,
    refuse_taken_names,
    to_table,
)
from leukemia.errors import InputError

SPLIT_OF_VALUE = {"": "train", "train": "train", "prelim": "prelim", "test": "prelim", "final": "final"}

LOOSE = Kind("images outside of any class folder", "move them to the folder of their class, or away")
RAGGED = Kind("rows with more fields than columns", "put paths that hold the delimiter in quotes")
NO_PATH = Kind("rows without a path", "fill them or remove them")
NO_LABEL = Kind("rows without a label", "fill them, or give them split=final if their class is unknown")
LABELLED_FINAL = Kind(
    "rows of split=final with a label", "final cells have no label: empty it, or use split=test"
)
NO_FILE = Kind("rows whose image does not exist", "paths are relative to the csv's folder: correct them")
DOUBLED = Kind("rows for an image that has one already", "keep one row for each image")
NO_SUBJECT = Kind("labelled rows without a subject, while others have one", "fill all, or remove the column")
UNKNOWN_SPLIT = Kind(
    "unknown values of split", "use train, prelim (or test: labelled cells kept apart), final"
)

_DETOUR = re.compile(r"(^|/)\.{0,2}(/|$)")  # an empty step, `.` or `..`, or a leading slash


class Cell(NamedTuple):
    """A cell as a folder or a manifest names it; an empty label is unknown."""

    path: str
    label: str
    subject: str | None = None
    published_split: str = "train"
    further: tuple[str, ...] = ()


def class_folders(root: Path | str, positive: str | None = None) -> Reading:
    """The cells of two class folders, or of a manifest csv.

    In a folder, each subfolder is a class, with all that lies in it, and every cell is a training cell without a
    subject. A manifest has the columns `path,label[,subject,split]`: `path` is absolute or relative to the csv's
    folder, `label` is the name of a class, `subject` is any name (upper-cased and kept as text: `007`), `split` or
    `published_split` is `train` (also where it is empty), `prelim` or `test` (labelled cells kept apart), or `final`
    (no label). Its further columns are kept, in lower case and as text; a column `fold` is not used.

    Args:
        root: the folder, or the csv.
        positive: the class that counts as 1.

    Returns:
        The table of cells by published split and path, the names of class 0 and class 1, and no native size. `fold`
        is always -1. `path` is relative to the folder or to the csv's folder; it is absolute only where it was given
        so and lies elsewhere.

    Raises:
        InputError: if there are not exactly two classes, if positive is not one of them, or if the manifest cannot
            be used.
    """
    scan = scan_class_folders(root, positive)
    refuse(root, scan.problems)
    return scan.table, scan.classes, None


def scan_class_folders(
    root: Path | str, positive: str | None = None, positive_option: str = "data.positive="
) -> Scan:
    """As `class_folders`, with the problems of single cells listed instead of raised.

    Args:
        root: the folder, or the csv.
        positive: the class that counts as 1.
        positive_option: how the user sets positive, for messages.

    Raises:
        InputError: if the classes or the columns cannot be used.
    """
    problems = Problems()
    place = Path(root).expanduser()
    further: list[str] = []
    cells = list(_in_manifest(place, problems, further) if place.is_file() else _in_folders(root, problems))
    counts = Counter(cell.label for cell in cells if cell.label)
    classes = _classes(place, counts, positive, positive_option)
    label_of = {classes[0]: 0, classes[1]: 1, "": -1}
    cells.sort(key=lambda cell: (PUBLISHED_SPLITS.index(cell.published_split), natural(cell.path)))
    rows = [(cell.path, label_of[cell.label], cell.subject, cell.published_split, NO_FOLD) for cell in cells]
    table = to_table(rows)
    for place_of, name in enumerate(further):
        table[name] = pd.Series([cell.further[place_of] or None for cell in cells], dtype="str")
    return Scan(table, classes, problems.found())


def _in_folders(root: Path | str, problems: Problems) -> Iterator[Cell]:
    for below, name in list_files(existing_folder(root)):
        if is_image(name) and not is_utf8(below + name):
            problems.add(NOT_UTF8, spelled(below + name))
        elif is_image(name) and below:
            yield Cell(below + name, below.partition("/")[0])
        elif is_image(name):
            problems.add(LOOSE, name)


def _in_manifest(table: Path, problems: Problems, further: list[str]) -> Iterator[Cell]:
    """The cells of a manifest; the names of its further columns are appended to `further`."""
    names, delimiter = _columns(table)
    split_column = "published_split" if "published_split" in names else "split"
    further += [name for name in dict.fromkeys(names) if name and name not in (*COLUMNS, "split")]
    refuse_taken_names(further, str(table))
    rows = list(_rows(table, names, delimiter, problems))
    with_subjects = any(row.get("subject") for _, row in rows)
    exists = Existing(table.parent)
    seen: set[str] = set()
    used = ("path", "label", "subject", split_column)
    for number, row in rows:
        path, label, subject, value = (row.get(name, "") for name in used)
        where = f"row {number}: {path}"
        split = SPLIT_OF_VALUE.get(value.lower(), "train")
        if value.lower() not in SPLIT_OF_VALUE:
            problems.add(UNKNOWN_SPLIT, f"row {number}: {value!r}")
        elif split == "final" and label:
            problems.add(LABELLED_FINAL, where)
        elif split != "final" and not label:
            problems.add(NO_LABEL, where)
        elif split != "final" and with_subjects and not subject:
            problems.add(NO_SUBJECT, where)
        if not path:
            problems.add(NO_PATH, f"row {number}")
            continue
        path = _below(table.parent, path)
        if path in seen:
            problems.add(DOUBLED, where)
            continue
        seen.add(path)
        if path not in exists:
            problems.add(NO_FILE, where)
        label = "" if split == "final" else label
        yield Cell(path, label, subject.upper() or None, split, tuple(row.get(name, "") for name in further))


def _columns(table: Path) -> tuple[list[str], str]:
    """The column names of a manifest and its delimiter."""
    if table.suffix.lower() != ".csv":
        raise InputError(
            f"{table} is a file, but not a .csv: give a manifest csv or a folder of class folders"
        )
    names, delimiter = csv_header(table)
    refuse_doubled(names, table)
    if missing := [name for name in ("path", "label") if name not in names]:
        raise InputError(
            f"{table} has no column {' and no column '.join(missing)}; its columns are "
            f"{', '.join(names) or 'none'}. A manifest csv has path,label[,subject,split]"
        )
    if {"split", "published_split"} <= set(names):
        raise InputError(f"{table} has the columns split and published_split, which mean the same: keep one")
    return names, delimiter


def _rows(
    table: Path, names: list[str], delimiter: str, problems: Problems
) -> Iterator[tuple[int, dict[str, str]]]:
    """The number and the values of each row that is not empty."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            next(reader)
            for row in reader:
                if not any(row):
                    continue
                if len(row) > len(names):
                    problems.add(RAGGED, f"row {reader.line_num}: {delimiter.join(row)}")
                yield reader.line_num, {name: value.strip() for name, value in zip(names, row, strict=False)}
    except UnicodeDecodeError:
        raise InputError(f"{table} is not UTF-8: save it as csv in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{table} is not a readable csv, near row {reader.line_num}: {error}") from None


def _classes(root: Path, cells: Counter[str], positive: str | None, positive_option: str) -> tuple[str, str]:
    """The names of class 0 and class 1."""
    names = sorted(cells, key=natural)
    listed = ", ".join(f"{name} ({cells[name]:,} cells)" for name in names[:10]) + ", ..." * (len(names) > 10)
    if not names:
        raise InputError(
            f"{root} holds no cell with a class. Give a folder with a subfolder for each of two classes, or "
            "a manifest csv with the columns path,label[,subject,split]"
        )
    if len(names) == 1:
        raise InputError(f"{root} has one class and two are needed: {listed}. {_why_one(root, names[0])}")
    if len(names) > 2:
        raise InputError(
            f"{root} has {len(names)} classes and two are needed: {listed}. List the cells of two of them in "
            "a manifest csv (path,label), or give a folder that holds two"
        )
    if positive is None:
        raise InputError(
            f"{root} has the classes {listed}: say which one counts as 1, with {positive_option}{names[0]} or "
            f"{positive_option}{names[1]}"
        )
    positive = str(positive)  # a class named 1 is a number on the command line
    if positive not in names:
        near = difflib.get_close_matches(positive.lower(), [name.lower() for name in names], 1)
        meant = [name for name in names if name.lower() in near]
        advice = f"Did you mean {positive_option}{meant[0]}?" if meant else "Name one of them"
        raise InputError(
            f"{positive_option}{positive} is not a class of {root}, which has {listed}. {advice}"
        )
    return next(name for name in names if name != positive), positive


def _why_one(root: Path, name: str) -> str:
    """The usual reason is that the class folders lie one level deeper."""
    if root.is_dir() and sum(entry.is_dir() for entry in (root / name).iterdir()) == 2:
        return f"If its subfolders are the classes, give {root / name}"
    return "Add the cells of a second class"


def _below(folder: Path, path: str) -> str:
    """A path without detours: relative to the folder if it was given so or lies there."""
    if not _DETOUR.search(path):
        return path
    base = os.path.abspath(folder)
    whole = os.path.normpath(os.path.join(base, path))
    relative = os.path.relpath(whole, base)
    outside = relative == ".." or relative.startswith(f"..{os.sep}")
    return Path(whole if outside and os.path.isabs(path) else relative).as_posix()
