"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from leukemia.errors import PlaceError, unusable_place

UNFINISHED = ".tmp"  # suffix of files that are being written


def remove_if_empty(folder: Path) -> None:
    """Remove a folder and then its parent, where they are empty."""
    for empty in (folder, folder.parent):
        try:
            empty.rmdir()
        except OSError:
            return


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def remove_left_behind(folder: Path) -> None:
    """Remove the unfinished files of killed writers. Nobody may be writing to the folder."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces the old one only once it is complete and on the disk. The folder is synced too.

    Raises:
        PlaceError: if it cannot be written, or the disk is full. The old file stays.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            os.unlink(temporary)
        if reason := unusable_place(error):
            raise PlaceError(f"cannot write {path}: {reason}") from None
        raise
    with suppress(OSError):  # some file systems sync no folders
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that a power cut cannot undo a replaced or renamed file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
