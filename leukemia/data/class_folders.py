"""Any two classes of cells: a folder of class folders, or a manifest csv."""

import csv
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from leukemia.data.cnmc import NO_FOLD, SPLITS, Scan, to_frame
from leukemia.data.files import csv_header, existing_folder, is_image, list_files, natural
from leukemia.data.problems import Kind, Problems, refuse
from leukemia.errors import InputError

MANIFEST_COLUMNS = ("path", "label", "subject", "published_split")
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
Cell = tuple[str, str, str | None, str]  # path, class (empty: unknown), subject, split


def read_class_folders(root: Path | str, positive: str | None = None) -> tuple[pd.DataFrame, tuple[str, str]]:
    """The cells of two class folders, or of a manifest csv.

    In a folder, each subfolder is a class (what lies deeper in it counts too) and every cell is a training
    cell without a subject. A manifest has the columns `path,label[,subject,split]`: `path` is absolute or
    relative to the csv's folder, `label` the name of a class, `subject` any name (upper-cased and kept as
    text: `007`), `split` is `train` (also where empty), `prelim` or `test` (labelled cells kept apart), or
    `final` (no label).

    Args:
        root: the folder, or the csv.
        positive: the class that counts as 1.

    Returns:
        An index with the columns of `leukemia.data.cnmc.read_cnmc`, by split and path, and the names of
        class 0 and class 1. `fold` is always -1; `path` is relative to the folder or to the csv's folder, and
        absolute only where it was given so and lies outside of that.

    Raises:
        InputError: if there are not exactly two classes, if positive names none of them, or if the manifest
            cannot be used.
    """
    scan, classes = scan_class_folders(root, positive)
    refuse(root, scan.problems)
    return scan.index, classes


def scan_class_folders(root: Path | str, positive: str | None = None) -> tuple[Scan, tuple[str, str]]:
    """As `read_class_folders`, with what is wrong with single cells listed and not raised.

    Raises:
        InputError: if classes or columns are not as they must be.
    """
    problems = Problems()
    place = Path(root).expanduser()
    cells = list(_in_manifest(place, problems) if place.is_file() else _in_folders(root, problems))
    negative, positive = _classes(place, Counter(label for _, label, _, _ in cells if label), positive)
    label_of = {negative: 0, positive: 1, "": -1}
    rows = [(path, label_of[label], subject, split, NO_FOLD) for path, label, subject, split in cells]
    rows.sort(key=lambda row: (SPLITS.index(row[3]), natural(row[0])))
    return Scan(to_frame(rows), problems.found()), (negative, positive)


def _in_folders(root: Path | str, problems: Problems) -> Iterator[Cell]:
    for below, name in list_files(existing_folder(root)):
        if is_image(name) and below:
            yield below + name, below.partition("/")[0], None, "train"
        elif is_image(name):
            problems.add(LOOSE, name)


def _in_manifest(table: Path, problems: Problems) -> Iterator[Cell]:
    rows = list(_rows(table, problems))
    with_subjects = any(subject for _, _, _, subject, _ in rows)
    exists = _Existing(table.parent)
    seen: set[str] = set()
    for number, path, label, subject, value in rows:
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
        yield path, "" if split == "final" else label, subject.upper() or None, split


def _rows(table: Path, problems: Problems) -> Iterator[tuple[int, str, str, str, str]]:
    """The number and the four values of each row that is not empty; a missing column is empty."""
    if table.suffix.lower() != ".csv":
        raise InputError(f"{table} is a file, but no .csv: give a manifest csv or a folder of class folders")
    names, delimiter = csv_header(table)
    missing = [name for name in MANIFEST_COLUMNS[:2] if name not in names]
    if missing:
        raise InputError(
            f"{table} has no column {' and no column '.join(missing)}; its columns are "
            f"{', '.join(names) or 'none'}. A manifest csv has path,label[,subject,split]"
        )
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            next(reader)
            for row in reader:
                if not any(row):
                    continue
                if len(row) > len(names):
                    problems.add(RAGGED, f"row {reader.line_num}: {delimiter.join(row)}")
                fields = dict(zip(names, row, strict=False))
                path, label, subject, split = (fields.get(name, "").strip() for name in MANIFEST_COLUMNS)
                yield reader.line_num, path, label, subject, split
    except UnicodeDecodeError:
        raise InputError(f"{table} is not UTF-8: save it as csv in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{table} is no csv that can be read, near row {reader.line_num}: {error}") from None


def _classes(root: Path, cells: Counter[str], positive: str | None) -> tuple[str, str]:
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
            f"{root} has the classes {listed}: say which one counts as 1, with data.positive={names[0]} or "
            f"data.positive={names[1]}"
        )
    positive = str(positive)  # a class named 1 is a number on the command line
    if positive not in names:
        near = difflib.get_close_matches(positive.lower(), [name.lower() for name in names], 1)
        meant = [name for name in names if name.lower() in near]
        advice = f"Did you mean data.positive={meant[0]}?" if meant else "Name one of them"
        raise InputError(f"data.positive={positive} is no class of {root}, which has {listed}. {advice}")
    return next(name for name in names if name != positive), positive


def _why_one(root: Path, name: str) -> str:
    """Class folders that lie a level deeper than expected are the usual reason."""
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


class _Existing:
    """Which files exist, from one listing for each folder that is asked about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        below, _, name = path.rpartition("/")
        if below not in self._names:
            try:
                self._names[below] = set(os.listdir(self._folder / below))
            except (OSError, ValueError):  # a name that no file can have
                self._names[below] = set()
        return name in self._names[below] or os.path.exists(self._folder / path)
