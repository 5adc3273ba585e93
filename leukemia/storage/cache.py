"""The cache: folders of results that are computed once, each written whole or not at all."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from leukemia.errors import UNUSABLE_PLACE, InputError
from leukemia.storage.checksums import damage, write_checksums

log = logging.getLogger(__name__)
KINDS = ("pixels-", "features-", "handcrafted-", "demo-")  # the first part of a cache folder's name
_found_whole: set[tuple[str, int]] = set()  # folders that this process has compared, by path and inode


class UnusableCacheError(InputError):
    """The cache cannot be written, or its disk is full."""


def cache_dir() -> Path:
    """`LEUKEMIA_CACHE`, else `leukemia` in the user's cache folder."""
    if given := os.environ.get("LEUKEMIA_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leukemia"


def cached_folder(name: str, build: Callable[[Path], object], max_gb: float | None = None) -> Path:
    """The cache folder `name`, filled by `build(folder)` at the first request.

    One process builds while others that need the same folder wait. The folder appears under its name only when it
    is complete; the next builder removes the remains of a killed one. When a process opens a folder for the first
    time, it compares the folder's checksums, and a damaged folder is built again. With `max_gb` the least recently
    used folders make room.

    Raises:
        UnusableCacheError: if the cache cannot be written, or its disk is full.
    """
    assert name.startswith(KINDS)
    folder = cache_dir() / name
    if not _is_whole(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if not _is_whole(folder):
                    _remove_damaged(folder)
                    _build(folder, build)
                    _found_whole.add((str(folder), folder.stat().st_ino))
        except OSError as error:
            if error.errno not in UNUSABLE_PLACE:
                raise
            raise UnusableCacheError(
                f"cannot write the cache {folder.parent}: {error.strerror}; "
                "make room there, or point LEUKEMIA_CACHE at another folder"
            ) from None
        _evict(folder, max_gb)
    elif os.access(folder, os.W_OK):
        os.utime(folder)  # marks it as used
    return folder


def preallocate_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new npy file as a writable memory map, its disk space allocated. Without that, a full disk ends in SIGBUS."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        size = file.tell() + int(np.prod(shape)) * dtype.itemsize
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    return np.load(path, mmap_mode="r+")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process to write %s", folder)
        held = lock.acquire()
    with held:
        yield


def _is_whole(folder: Path) -> bool:
    """Whether a folder is as it was written. Its contents are compared once in each process."""
    try:
        known = (str(folder), folder.stat().st_ino)
    except OSError:
        return False
    if damage(folder, contents=known not in _found_whole) is not None:
        return False
    _found_whole.add(known)
    return True


def _remove_damaged(folder: Path) -> None:
    if folder.is_dir():
        log.warning("the cache %s is damaged: %s. It is built again", folder, damage(folder))
        shutil.rmtree(folder)  # readers that mapped it keep their pages


def _build(folder: Path, build: Callable[[Path], object]) -> None:
    prefix = f".{folder.name}.tmp-"
    for left_behind in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        build(temporary)
        write_checksums(temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _evict(keep: Path, max_gb: float | None) -> None:
    if max_gb is None:
        return
    entries = []
    for path in keep.parent.iterdir():
        with suppress(FileNotFoundError):  # another process evicts too
            if path.name.startswith(KINDS):  # leave everything else in this folder alone
                size = sum(file.stat().st_size for file in path.rglob("*"))
                entries.append((path.stat().st_mtime, size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= max_gb * 1e9:
            return
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)  # readers that mapped it keep their pages
            total -= size
