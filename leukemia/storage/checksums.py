"""Checksums of a folder's files, block by block, to notice damage by a disk, a cable or a cut-off write."""

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from leukemia.storage.cores import cores, in_order

NAME = "checksums.json"
BLOCK = 4 << 20  # bytes: large enough to read fast, small enough to bound the memory


def write_checksums(folder: Path) -> None:
    """Write checksums.json beside the files of a folder: the size of each, and the CRC-32 of each of its blocks."""
    files: dict[str, Any] = {name: {"size": (folder / name).stat().st_size} for name in _files(folder)}
    for name, sums in _sums(folder, files).items():
        files[name]["crc32"] = sums
    (folder / NAME).write_text(json.dumps(files), encoding="utf-8")


def damage(folder: Path, contents: bool = True) -> str | None:
    """The damage of a folder in words, or None where it is as `write_checksums` found it.

    Args:
        folder: with its checksums.json.
        contents: compare every block; else only the names and sizes of the files, which costs nothing.
    """
    try:
        files: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        found = {name: os.stat(folder / name).st_size for name in _files(folder)}
        if missing := sorted(set(files) - set(found)):
            return f"{missing[0]} is missing"
        if strange := sorted(set(found) - set(files)):
            return f"{strange[0]} does not belong there"
        for name, size in found.items():
            if size != files[name]["size"]:
                return f"{name} has {size:,} bytes and not {files[name]['size']:,}"
        if not contents:
            return None
        for name, sums in _sums(folder, files).items():
            expected = files[name]["crc32"]
            if wrong := sum(one != other for one, other in zip(sums, expected, strict=True)):
                return f"{wrong} of {len(sums)} blocks of {name} differ from what was written"
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


def _files(folder: Path) -> list[str]:
    """Every file below a folder except the checksums, as paths below it."""
    below = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    return sorted(name for name in below if name != NAME)


def _sums(folder: Path, files: dict[str, Any]) -> dict[str, list[int]]:
    """The CRC-32 of each block of each file."""
    parts = [(name, start) for name, file in files.items() for start in range(0, max(file["size"], 1), BLOCK)]

    def checksum(part: tuple[str, int]) -> int:
        with open(folder / part[0], "rb") as file:
            file.seek(part[1])
            return zlib.crc32(file.read(BLOCK))

    sums: dict[str, list[int]] = {name: [] for name in files}
    with ThreadPoolExecutor(min(8, cores())) as pool:  # they release the lock
        for (name, _), value in zip(parts, in_order(pool, checksum, parts, 256), strict=True):
            sums[name].append(value)
    return sums
