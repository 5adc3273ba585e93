"""Which content a file has: a hash of its bytes, computed once and then known by the file's inode, times and size."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from leukemia.errors import InputError
from leukemia.storage import arrays
from leukemia.storage.atomic import write_text
from leukemia.storage.cache import cache_dir
from leukemia.storage.cores import on_all_cores

log = logging.getLogger(__name__)
# Nanoseconds: the coarsest time stamp of a file system. A younger file may change within it unseen.
SETTLED = 2e9


def content_hashes(root: Path, paths: Sequence[str], most: int) -> list[str]:
    """A hash of each file's bytes, in the order of the paths.

    An index in the cache keeps the hashes of a root with inode, change time, modification time and size. So a second
    start asks for these only. An edit that restores size and modification time still moves the change time, and a
    copy has another inode and another root.

    Args:
        root: the folder that the paths are relative to.
        paths: the files.
        most: bytes; a larger file is not read, nor is one that is not a file. Their hashes are empty.

    Raises:
        InputError: if a file is missing.
    """
    root = Path(os.path.abspath(root))
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
    index = cache_dir() / f"contents-{name}.json"
    with ExitStack() as held:
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(index.with_name(f".{index.name}.lock")))
        except OSError:
            pass  # a cache that cannot be written: each start reads the files
        known = _read_index(index, root)
        started = time.time_ns()
        identities = [_identity(os.path.join(root, path)) for path in paths]
        found = {
            path: known[path][-1]
            for path, identity in zip(paths, identities, strict=True)
            if path in known and known[path][:-1] == identity
        }
        unknown = [path for path in paths if path not in found]
        if not unknown:
            return [found[path] for path in paths]
        found |= _hash_all(root, unknown, most)
        settled = {
            path: [*identity, found[path]]
            for path, identity in zip(paths, identities, strict=True)
            if found[path] and max(identity[1:3]) < started - SETTLED
        }
        if settled != {path: known.get(path) for path in settled}:
            try:
                write_text(index, json.dumps({"root": os.fsdecode(root), "files": known | settled}))
            except InputError as error:
                log.debug("%s is not kept: %s", index, error)
    return [found[path] for path in paths]


def file_hash(path: Path | str) -> str:
    """A hash of a file's bytes, 32 hexadecimal digits; empty where there is no file."""
    return arrays.file_hash(Path(path))[:32]


def _identity(file: str) -> list[int]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; did the data folder change?") from None
    return [found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size]


def _hash_all(root: Path, paths: list[str], most: int) -> dict[str, str]:
    def read(path: str) -> str:
        file = os.path.join(root, path)
        try:
            return file_hash(file) if os.stat(file).st_size <= most else ""
        except OSError:
            return ""  # whoever decodes it says why

    hashes = tqdm(on_all_cores(read, paths), "comparing files", len(paths), unit="file", disable=None)
    return dict(zip(paths, hashes, strict=True))


def _read_index(index: Path, root: Path) -> dict[str, list[Any]]:
    """The files of an index; none where there is no index or it is damaged, for they are then read again."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        files = content["files"] if content["root"] == os.fsdecode(root) else {}
        return {path: row for path, row in files.items() if isinstance(row, list) and len(row) == 5}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
