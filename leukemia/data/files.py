"""Names on disk: list folders, recognise images by suffix, order names, read the header of a csv."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path

from leukemia.errors import InputError, PlaceError, in_a_line
from leukemia.storage.plain_files import LARGEST

SUFFIXES = frozenset((".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff"))


def existing_folder(root: Path | str) -> Path:
    """Root as a folder.

    Raises:
        PlaceError: if it does not exist.
        InputError: if it is a file.
    """
    folder = Path(root).expanduser()
    if not folder.exists() and folder.suffix.lower() == ".csv":
        raise PlaceError(
            f"{root}: this csv file does not exist. Give the path of the manifest csv, or a folder"
        )
    if not folder.exists():
        raise PlaceError(f"{root}: no such folder. Give the folder of the data set")
    if not folder.is_dir():
        raise InputError(f"{root} is a file. Give the folder of the data set, unpacked")
    return folder


def list_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder, as (its folder below that one: empty or ending in `/`, its name).

    The order is fixed. Hidden files and folders and `__MACOSX` are left out. Links are followed, and each folder is
    listed once, however many links lead to it.

    Raises:
        InputError: if a folder cannot be listed.
    """
    folders: list[str] = [""]
    links: list[str] = []
    seen: set[tuple[int, int]] = set()
    while folders or links:
        below = (folders or links).pop()
        try:
            status = os.stat(folder / below)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder / below) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise InputError(f"{folder / below} cannot be listed: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith(".") or entry.name.upper() == "__MACOSX":
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(f"{below}{entry.name}/")
            else:
                yield below, entry.name


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_utf8(name: str) -> bool:
    """Whether a name on disk is text. Other bytes are in it as lone surrogates, which no text file can hold."""
    return name.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in name)


def spelled(name: str) -> str:
    """A name on disk, or a message with one, as text: bytes that are not UTF-8 become `%FF`."""
    return re.sub("[\udc80-\udcff]", lambda sign: f"%{ord(sign[0]) - 0xDC00:02X}", name)


def stem(path: str) -> str:
    """The name of a file without folder and suffix, in lower case."""
    return os.path.splitext(path.rpartition("/")[2])[0].lower()


def base_name(path: str) -> str:
    """The name of a file without its folder, also of a path of Windows."""
    return path.replace("\\", "/").rpartition("/")[2]


def natural(text: str) -> list[str | int]:
    """A sort key that compares the numbers in a text as numbers: `2.bmp` before `10.bmp`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)]


def csv_header(path: Path) -> tuple[list[str], str]:
    """The column names of a csv, stripped and in lower case, and its delimiter (comma or semicolon).

    Raises:
        InputError: if the file cannot be read, or is larger than any table of cells.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")  # a pipe would block
        if (size := path.stat().st_size) > LARGEST[".csv"]:
            raise InputError(
                f"{path} has {size / 1e6:,.0f} MB and is not a table of cells: move it elsewhere"
            )
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(10_000)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    delimiter = ";" if line.count(";") > line.count(",") else ","
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])], delimiter
    except csv.Error:
        return [], delimiter


def refuse_doubled(names: Sequence[str], path: Path) -> None:
    """Refuse a table with two columns of one name.

    Raises:
        InputError: naming them.
    """
    if doubled := sorted({name for name in names if name and names.count(name) > 1}):
        raise InputError(f"{path} has the column {in_a_line(', '.join(doubled))} twice: keep one")


def find_pictures(paths: Sequence[str]) -> list[str]:
    """The picture files of some paths, each once, in the order given.

    The files of a folder come in natural order, whatever its layout. A file that is named itself counts whatever its
    suffix.

    Args:
        paths: files, folders, or globs (`**` for any depth).

    Raises:
        InputError: if a path leads to nothing.
    """
    found: dict[str, None] = {}
    for path in map(str, paths):
        place = Path(path).expanduser()
        if place.is_dir():
            of_path = [str(place / below / name) for below, name in list_files(place) if is_image(name)]
            of_path.sort(key=natural)
        elif place.exists():
            of_path = [str(place)]
        else:
            of_path = sorted(filter(is_image, glob(str(place), recursive=True)), key=natural)
        if not of_path:
            raise InputError(
                f"{path}: there is no such file or folder, or no picture in it "
                f"({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))})"
            )
        found.update(dict.fromkeys(of_path))
    return list(found)


class Existing:
    """Which files exist, from one listing for each folder that is asked about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        below, _, name = path.rpartition("/")
        if below not in self._names:
            self._names[below] = set()
            with suppress(OSError, ValueError):  # a name that no file can have
                self._names[below].update(os.listdir(self._folder / below))
        return name in self._names[below] or os.path.exists(self._folder / path)
