"""Pictures that come from a browser: what is refused, and how a name tells the subject."""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from leukemia.data.cnmc_labels import CELL
from leukemia.data.files import is_image, stem
from leukemia.data.pixels import decode
from leukemia.errors import InputError

MAX_BYTES = 20_000_000  # of a file; a cell of C-NMC has 0.6 million
MAX_NAME = 1000
FORMATS = ("BMP", "PNG", "JPEG", "TIFF")  # Pillow has others, some of which start programs


def checked_name(name: str) -> str:
    """The name of an uploaded file, with the folders that it was dropped with.

    Raises:
        InputError: if it could lead out of a folder, cannot be shown, or is no picture's.
    """
    shown = repr(name[:80])[1:-1]
    parts = name.split("/")
    if not name or len(name) > MAX_NAME or any(len(part) > 255 for part in parts):
        raise InputError(f"{shown}: the name of a file has 1 to 255 characters")
    if "\\" in name or any(part in ("", ".", "..") for part in parts) or not name.isprintable():
        raise InputError(f"{shown} is no plain file name: refused")
    if any(part.startswith(tuple("=+-@.")) for part in parts):
        raise InputError(f"{shown}: a name does not begin with one of = + - @ . here; rename it")
    if not is_image(name):
        raise InputError(f"{shown} is no picture: give bmp, png, jpeg or tiff files")
    return name


def decoded(content: bytes, name: str) -> np.ndarray:
    """The RGB pixels of an uploaded file: uint8, (height, width, 3).

    Raises:
        InputError: if it is too large, or no picture that can be read.
    """
    if len(content) > MAX_BYTES:
        raise too_large(name)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            form = str(picture.format)
    except Exception:
        raise InputError(
            f"{name} is no picture that can be read: give bmp, png, jpeg or tiff files"
        ) from None
    with tempfile.TemporaryDirectory(prefix="leukemia-") as folder:
        file = Path(folder) / f"picture.{form.lower()}"
        file.write_bytes(content)
        try:
            return decode(file)
        except InputError as error:
            raise InputError(str(error).replace(str(file), name)) from None


def too_large(name: str) -> InputError:
    return InputError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB: no picture of a single cell is")


def subject_of(name: str, classes: tuple[str, str]) -> str | None:
    """The subject that a file's name tells, as C-NMC names them; else the folder that it lies in, unless that is
    named like a class; else None."""
    if cell := CELL.fullmatch(stem(name)):
        return cell[1].upper()
    folder = name.rpartition("/")[0].rpartition("/")[2]
    return folder if folder and folder.lower() not in (named.lower() for named in classes) else None


def tells_class(name: str) -> bool:
    """Whether a name ends in the class of its cell, as C-NMC's do."""
    return CELL.fullmatch(stem(name)) is not None
