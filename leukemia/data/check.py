"""The audit of a data set: counts against known ones, unreadable pictures, duplicates and joined subjects."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from leukemia.data.check_result import Check, Count
from leukemia.data.class_folders import scan_class_folders
from leukemia.data.cnmc import NATIVE_SIZE, scan_cnmc
from leukemia.data.duplicates import find_duplicates
from leukemia.data.pixels import at_native_size, decode, pixel_hash, read_all
from leukemia.data.problems import Kind, Problems
from leukemia.data.reader import PUBLISHED_SPLITS
from leukemia.errors import InputError

# The whole C-NMC set: images, those of ALL and HEM, subjects of ALL and HEM. The names of the final set tell neither
# class nor subject.
KNOWN: dict[str, tuple[int | None, ...]] = {
    "fold 0": (3527, 2397, 1130, 19, 9),
    "fold 1": (3581, 2418, 1163, 11, 3),
    "fold 2": (3553, 2457, 1096, 17, 14),
    "train": (10661, 7272, 3389, 47, 26),
    "prelim": (1867, 1219, 648, 13, 15),
    "final": (2586, None, None, None, None),
    "all": (15114, 8491, 4037, 60, 41),
}
FINAL_SIZE = 600
READERS = ("cnmc", "class_folders")

DIFFERS = Kind(
    "numbers that differ from those of the whole set", "get the rest with `leukemia data fetch DIR`"
)
UNREADABLE = Kind("images that cannot be read", "copy or download them again")
ODD_SIZE = Kind("images of another size than C-NMC has", "use the images as they were published")
TWO_FOLDS = Kind("subjects on two folds", "every subject of C-NMC is on one fold: move the cells back")
TWO_CLASSES = Kind("subjects of two classes", "every subject of C-NMC has one class: correct the names")
BOTH_SPLITS = Kind(
    "subjects both in train and in prelim", "no metric on prelim is held out: keep each in one split"
)
TWO_LABELS = Kind("equal pictures with different labels", "one of them is wrong: correct it")
COPIES = Kind(
    "equal pictures in train and in prelim", "data.protocol=official counts them as a leak: keep one of each"
)
IGNORED = Kind("images that do not belong to C-NMC, left out", "")
NO_SUBJECTS = Kind("no cell has a subject", "only data.protocol=image is possible, and it leaks")


def check(
    root: Path | str, reader: str = "cnmc", positive: str | None = None, progress: bool = True
) -> Check:
    """Read every name and decode every picture of a data set.

    Args:
        root: a C-NMC folder, or for `reader="class_folders"` class folders or a manifest csv.
        reader: one of READERS.
        positive: the class that counts as 1, for `class_folders`.
        progress: show a bar on a terminal.

    Returns:
        Counts, problems and notes. A C-NMC set is whole where its counts are the known ones and there is no problem.
        Identical pictures are listed. They are a problem only where their labels differ, because the published set
        has some. `class_folders` has no known counts.

    Raises:
        InputError: if root is not such a data set at all.
    """
    place = Path(root).expanduser()
    folder = place.parent if place.is_file() else place
    if reader not in READERS:
        raise InputError(f"--reader {reader} is unknown: use one of {', '.join(READERS)}")
    cnmc = reader == "cnmc"
    if cnmc and positive is not None:
        raise InputError(
            "--positive is not for C-NMC, whose positive class is ALL: add --reader class_folders"
        )
    scan = scan_cnmc(place) if cnmc else scan_class_folders(place, positive, "--positive ")
    table, classes = scan.table, scan.classes
    problems, notes = Problems(), Problems()
    notes.add(IGNORED, *scan.ignored)
    counts = _counts(table, cnmc)
    differing = [(count.part, said) for count in counts if (said := count.differs(classes))]
    problems.add(DIFFERS, *map(": ".join, differing))

    hashes, sizes = _decode(folder, table["path"].tolist(), NATIVE_SIZE if cnmc else None, progress, problems)
    duplicates = find_duplicates(table, hashes)
    split_of = dict(zip(table["path"], table["published_split"], strict=True))
    copies = [paths for paths in duplicates.sets if {"train", "prelim"} <= {split_of[path] for path in paths}]
    # Nobody has counted such pairs in C-NMC itself. In a set of the user's own they are a mistake.
    (notes if cnmc else problems).add(COPIES, *map(" = ".join, copies))
    problems.add(TWO_LABELS, *map(" = ".join, duplicates.contradictions))
    problems.add(BOTH_SPLITS, *_spread(table[table["published_split"] != "final"], "published_split"))
    if cnmc:
        problems.add(ODD_SIZE, *_odd_sizes(table, sizes))
        problems.add(TWO_FOLDS, *_spread(table[table["fold"] >= 0], "fold"))
        named = table.assign(**{"class": table["label"].map(dict(enumerate(classes)))})
        problems.add(TWO_CLASSES, *_spread(named, "class"))
    elif table["subject"].isna().all():
        notes.add(NO_SUBJECTS, f"{len(table):,} cells")
    found = Counter(f"{width}x{height}" for width, height in sizes.dropna())
    every = scan.problems + problems.found()
    return Check(str(root), classes, counts, dict(found.most_common()), duplicates, every, notes.found())


def _counts(table: pd.DataFrame, cnmc: bool) -> tuple[Count, ...]:
    parts = {f"fold {fold}": table[table["fold"] == fold] for fold in range(3)} if cnmc else {}
    parts |= {split: table[table["published_split"] == split] for split in PUBLISHED_SPLITS} | {"all": table}
    return tuple(
        Count(part, _count(cells), KNOWN[part] if cnmc else None)
        for part, cells in parts.items()
        if cnmc or len(cells)
    )


def _count(cells: pd.DataFrame) -> tuple[int | None, ...]:
    images = [int((cells["label"] == label).sum()) for label in (1, 0)]
    subjects = [int(cells["subject"][cells["label"] == label].nunique()) for label in (1, 0)]
    if len(cells) and cells["subject"].isna().all():
        return len(cells), *(images if any(images) else (None, None)), None, None
    return len(cells), *images, *subjects


def _decode(
    folder: Path, paths: list[str], native_size: int | None, progress: bool, problems: Problems
) -> tuple[pd.Series, pd.Series]:
    """The pixel hash and the size (width, height) of each picture; both are missing where it cannot be read."""

    def prepare(file: Path) -> tuple[str, tuple[int, int]]:
        image = decode(file)
        return pixel_hash(at_native_size(image, native_size)), (image.shape[1], image.shape[0])

    found: list[tuple[str | None, tuple[int, int] | None]] = []
    files = [os.path.join(folder, path) for path in paths]
    hidden = None if progress else True
    for result in tqdm(read_all(files, prepare), "reading pictures", len(files), unit="cell", disable=hidden):
        if isinstance(result, InputError):
            problems.add(UNREADABLE, str(result).removeprefix(f"{folder}{os.sep}"))
        found.append((None, None) if isinstance(result, InputError) else result)
    hashes, sizes = zip(*found, strict=True) if found else ((), ())
    return pd.Series(hashes, dtype="str"), pd.Series(sizes, dtype=object)


def _odd_sizes(table: pd.DataFrame, sizes: pd.Series) -> list[str]:
    expected = np.where(table["published_split"] == "final", FINAL_SIZE, NATIVE_SIZE)
    return [
        f"{path}: {size[0]}x{size[1]}, not {side}x{side}"
        for path, size, side in zip(table["path"], sizes, expected, strict=True)
        if size is not None and size != (side, side)
    ]


def _spread(table: pd.DataFrame, column: str) -> list[str]:
    """Subjects with several values of a column, and these values."""
    values = table[["subject", column]].dropna().drop_duplicates()
    several = values[values.duplicated("subject", keep=False)].groupby("subject")[column]
    return [f"{subject}: {column} {', '.join(map(str, found))}" for subject, found in several]
