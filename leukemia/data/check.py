"""Is a data set whole? Counts beside the known ones, unreadable pictures, duplicates and whom they join."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from leukemia.data.check_result import Check, Count
from leukemia.data.class_folders import scan_class_folders
from leukemia.data.cnmc import CLASSES, SPLITS, scan_cnmc
from leukemia.data.duplicates import find_duplicates
from leukemia.data.pixels import CNMC_SIZE, at_native_size, decode, pixel_hash
from leukemia.data.problems import Kind, Problems
from leukemia.errors import InputError

# Images, of them ALL and HEM, and subjects of each: what the whole C-NMC set holds. No name tells the final set's
# classes and subjects.
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

DIFFERS = Kind(
    "numbers that differ from those of the whole set", "get the rest with `leukemia data fetch DIR`"
)
UNREADABLE = Kind("images that cannot be read", "copy or download them again")
ODD_SIZE = Kind("images of another size than C-NMC has", "use the images as they were published")
TWO_FOLDS = Kind("subjects on two folds", "every subject of C-NMC is on one fold: move the cells back")
TWO_CLASSES = Kind("subjects of two classes", "every subject of C-NMC has one class: correct the names")
BOTH_SPLITS = Kind(
    "subjects both in train and in prelim", "no figure on prelim is held out: keep each in one split"
)
TWO_LABELS = Kind("equal pictures with different labels", "one of them is wrong: correct it")
COPIES = Kind(
    "equal pictures in train and in prelim", "data.protocol=official counts them as a leak: keep one of each"
)
IGNORED = Kind("images that are no part of C-NMC, left out", "")
NO_SUBJECTS = Kind("no cell has a subject", "only data.protocol=image is possible, and it leaks")


def check(
    root: Path | str, layout: str = "cnmc", positive: str | None = None, progress: bool = True
) -> Check:
    """Read every name and decode every picture of a data set.

    Args:
        root: a C-NMC folder, or for `layout="cells"` what `read_class_folders` takes.
        layout: `cnmc` or `cells`.
        positive: the class that counts as 1, for `cells`.
        progress: show a bar on a terminal.

    Returns:
        What was found. A C-NMC set is whole where its numbers are the known ones and nothing is wrong.
        Identical pictures are listed, and a problem only where they contradict each other, for the real set
        holds some. For `cells` no numbers are known beforehand.

    Raises:
        InputError: if root is not such a set at all.
    """
    place = Path(root).expanduser()
    folder = place.parent if place.is_file() else place
    cnmc = layout == "cnmc"
    scan, classes = (scan_cnmc(place), CLASSES) if cnmc else scan_class_folders(place, positive)
    index = scan.index
    problems, notes = Problems(), Problems()
    notes.add(IGNORED, *scan.ignored)
    counts = _counts(index, cnmc)
    problems.add(
        DIFFERS, *(f"{count.part}: {count.differs(classes)}" for count in counts if count.differs(classes))
    )

    hashes, sizes = _decode(folder, index["path"].tolist(), CNMC_SIZE if cnmc else None, progress, problems)
    duplicates = find_duplicates(index, hashes)
    split_of = dict(zip(index["path"], index["published_split"], strict=True))
    copies = [paths for paths in duplicates.sets if {"train", "prelim"} <= {split_of[path] for path in paths}]
    # Whether C-NMC itself holds such pairs has not been counted; in a set of one's own they are a mistake.
    (notes if cnmc else problems).add(COPIES, *map(" = ".join, copies))
    problems.add(TWO_LABELS, *map(" = ".join, duplicates.contradictions))
    problems.add(BOTH_SPLITS, *_spread(index[index["published_split"] != "final"], "published_split"))
    if cnmc:
        problems.add(ODD_SIZE, *_odd_sizes(index, sizes))
        problems.add(TWO_FOLDS, *_spread(index[index["fold"] >= 0], "fold"))
        named = index.assign(**{"class": index["label"].map(dict(enumerate(classes)))})
        problems.add(TWO_CLASSES, *_spread(named, "class"))
    elif index["subject"].isna().all():
        notes.add(NO_SUBJECTS, f"{len(index):,} cells")
    found = Counter(f"{width}x{height}" for width, height in sizes.dropna())
    return Check(
        str(root),
        classes,
        counts,
        dict(found.most_common()),
        duplicates,
        scan.problems + problems.found(),
        notes.found(),
    )


def _counts(index: pd.DataFrame, cnmc: bool) -> tuple[Count, ...]:
    parts = {f"fold {fold}": index[index["fold"] == fold] for fold in range(3)} if cnmc else {}
    parts |= {split: index[index["published_split"] == split] for split in SPLITS} | {"all": index}
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
    """The pixel hash and the size (width, height) of each picture, both missing where it cannot be read."""

    def read(path: str) -> tuple[str, tuple[int, int]] | InputError:
        try:
            image = decode(folder / path)
        except InputError as error:
            return error
        return pixel_hash(at_native_size(image, native_size)), (image.shape[1], image.shape[0])

    hashes: list[str | None] = []
    sizes: list[tuple[int, int] | None] = []
    bar = tqdm(desc="reading pictures", total=len(paths), unit="cell", disable=None if progress else True)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for start in range(0, len(paths), 512):  # bounds what is queued, and what an interrupt waits for
            for result in pool.map(read, paths[start : start + 512]):
                bar.update()
                if isinstance(result, InputError):
                    problems.add(UNREADABLE, str(result).removeprefix(f"{folder}{os.sep}"))
                hashes.append(None if isinstance(result, InputError) else result[0])
                sizes.append(None if isinstance(result, InputError) else result[1])
    return pd.Series(hashes, dtype="str"), pd.Series(sizes, dtype=object)


def _odd_sizes(index: pd.DataFrame, sizes: pd.Series) -> list[str]:
    expected = index["published_split"].map({"train": CNMC_SIZE, "prelim": CNMC_SIZE, "final": FINAL_SIZE})
    return [
        f"{path}: {size[0]}x{size[1]}, not {side}x{side}"
        for path, size, side in zip(index["path"], sizes, expected, strict=True)
        if size is not None and size != (side, side)
    ]


def _spread(index: pd.DataFrame, column: str) -> list[str]:
    """The subjects that have several values of a column, and which."""
    values = index[["subject", column]].dropna().drop_duplicates()
    several = values[values.duplicated("subject", keep=False)].groupby("subject")[column]
    return [f"{subject}: {column} {', '.join(map(str, found))}" for subject, found in several]
