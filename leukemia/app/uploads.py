"""Pictures uploaded from a browser: check the name, decode the content, read the subject from the name."""

import tempfile
from pathlib import Path

import numpy as np

from leukemia.app.decoding import decode
from leukemia.data.cnmc_labels import CELL
from leukemia.data.files import is_image, stem
from leukemia.errors import InputError

MAX_BYTES = 20_000_000  # of a file; a cell of C-NMC has 0.6 million
MAX_NAME = 1000


def checked_name(name: str) -> str:
    """The name of an uploaded file, with its folders where a folder was dropped.

    Raises:
        InputError: if it could lead out of a folder, cannot be shown, or is not the name of a picture.
    """
    shown = repr(name[:80])[1:-1]
    parts = name.split("/")
    if not name or len(name) > MAX_NAME or any(len(part) > 255 for part in parts):
        raise InputError(f"{shown}: the name of a file has 1 to 255 characters")
    if "\\" in name or any(part in ("", ".", "..") for part in parts) or not name.isprintable():
        raise InputError(f"{shown} is not a plain file name: refused")
    if any(part.startswith(tuple("=+-@.")) for part in parts):
        raise InputError(f"{shown}: a name must not begin with one of = + - @ . here; rename the file")
    if not is_image(name):
        raise InputError(f"{shown} is not a picture: give bmp, png, jpeg or tiff files")
    return name


def decoded(content: bytes, name: str) -> np.ndarray:
    """The RGB pixels of an uploaded file: uint8, (height, width, 3).

    Raises:
        InputError: if the file is too large, or not a readable picture.
    """
    if len(content) > MAX_BYTES:
        raise too_large(name)
    with tempfile.TemporaryDirectory(prefix="leukemia-") as folder:
        file = Path(folder) / "upload"
        file.write_bytes(content)
        try:
            return decode(file)
        except InputError as error:
            raise InputError(str(error).replace(str(file), name)) from None


def too_large(name: str) -> InputError:
    return InputError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB: give pictures of single cells")


def subject_of(name: str, classes: tuple[str, str]) -> str | None:
    """The subject of an uploaded file.

    It is read from a name like C-NMC's. Otherwise it is the file's folder, unless that has the name of a class.
    """
    if cell := CELL.fullmatch(stem(name)):
        return cell[1].upper()
    folder = name.rpartition("/")[0].rpartition("/")[2]
    return folder if folder and folder.lower() not in (named.lower() for named in classes) else None


def tells_class(name: str) -> bool:
    """Whether a name ends in the class of its cell, as C-NMC's names do."""
    return CELL.fullmatch(stem(name)) is not None
