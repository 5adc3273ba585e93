"""Files of arrays of unknown origin: numbers only, nothing is unpickled, and no larger than the file itself."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia.errors import InputError
from leukemia.storage.atomic import atomic_write

LARGEST = 400e6  # bytes
UNREADABLE = (OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, TypeError,
              NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)  # fmt: skip


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write arrays as an .npz whole or not at all. Returns the SHA-256 of the file."""
    memory = io.BytesIO()
    np.savez(memory, **arrays)  # type: ignore[arg-type]
    with atomic_write(path) as file:
        file.write(memory.getbuffer())
    return hashlib.sha256(memory.getbuffer()).hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file; empty where there is none."""
    if not path.is_file():  # a pipe would block
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    """The arrays that `write_arrays` wrote.

    Raises:
        InputError: if the file is missing, too large, not an .npz of plain arrays, or not that of the checksum.
    """
    try:
        if not path.is_file():
            raise OSError("it is not there")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST / 1e6:,.0f} MB")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("it differs from what was written")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # a stranger can write the checksum too
            check_stored(archive, len(content))
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except UNREADABLE as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read: {reason[0][:200]}") from None


def check_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive whose entries together are larger than the file, of `size` bytes.

    Raises:
        ValueError: if so, or if they are compressed.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, which torch.save and numpy.savez never do")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries are larger than the file")
