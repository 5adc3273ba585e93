"""The reader of a C-NMC folder. It reads names and the label table, and opens no image."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from leukemia.data.cnmc_labels import CELL, CLASSES, read_labels
from leukemia.data.files import existing_folder, is_image, is_utf8, list_files, natural, spelled, stem
from leukemia.data.problems import NOT_UTF8, Kind, Problems, refuse
from leukemia.data.reader import NO_FOLD, PUBLISHED_SPLITS, Reading, Row, Scan, to_table
from leukemia.errors import InputError

NATIVE_SIZE = 450  # pixels; the final set is 600x600, and its centre 450 has the same scale
LAYOUTS = """\
  Kaggle     training_data/fold_0/{all,hem}/ ..., validation_data/, testing_data/
  TCIA       C-NMC_training_data/fold_0/{all,hem}/ ..., C-NMC_test_prelim_phase_data/, ...
  challenge  fold_0/{all,hem}/, fold_1/, fold_2/, phase2/, phase3/"""

WRONG_NAME = Kind("images not named like UID_57_29_1_all.bmp", "give them their own names or move them away")
WRONG_FOLD = Kind("images in a fold other than 0, 1 and 2", "C-NMC has fold_0, fold_1 and fold_2")
LOST_CELL = Kind("C-NMC cells outside of the folders of C-NMC", "move them to the folder where they belong")
CONTRADICTION = Kind("images whose name contradicts their folder", "move each to the folder of its class")
DOUBLED = Kind("images that are there twice", "remove the copies, or give the folder of one set only")


def cnmc(root: Path | str) -> Reading:
    """The cells of a C-NMC folder, in any of the layouts in circulation.

    Returns:
        The table of cells, the classes HEM (0) and ALL (1), and the native size 450. The table has a row for
        each image, by published split, fold and path (numbers in it taken as numbers): `path` (relative to root,
        with `/`), `label` (1 ALL, 0 HEM, -1 unknown), `subject` (upper case, such as `57` or `H3`; missing where
        it is unknown), `published_split` (`train`, `prelim`, `final`), `fold` (0 to 2, and -1 outside of train).

    Raises:
        InputError: if root is not a C-NMC folder, or if names and label table contradict each other. The message
            gives the first problems, `leukemia data check` all of them.
    """
    scan = scan_cnmc(root)
    refuse(root, scan.problems)
    return scan.table, scan.classes, NATIVE_SIZE


def scan_cnmc(root: Path | str) -> Scan:
    """As `cnmc`, with the problems listed instead of raised.

    Raises:
        InputError: if root is not a C-NMC folder.
    """
    folder = existing_folder(root)
    problems = Problems()
    rows: list[Row] = []
    ignored: list[str] = []
    others: list[str] = []
    images = 0
    places: dict[str, tuple[str, int, int]] = {}
    for below, name in list_files(folder):
        path = below + name
        if not is_image(name):
            others.append(path)
            continue
        if not is_utf8(path):
            problems.add(NOT_UTF8, spelled(path))
            continue
        images += 1
        if below not in places:
            places[below] = _place([folder.resolve().name, *below.split("/")])
        split, fold, label = places[below]
        cell = CELL.fullmatch(stem(name))
        if split == "" and not cell:
            ignored.append(path)
        elif split == "":
            problems.add(LOST_CELL, path)
        elif split != "train":
            rows.append((path, -1, None, split, NO_FOLD))
        elif fold > 2:
            problems.add(WRONG_FOLD, path)
        elif cell is None:
            problems.add(WRONG_NAME, path)
        else:
            named = CLASSES.index(cell[2].upper())
            if label not in (-1, named):
                problems.add(CONTRADICTION, path)
            rows.append((path, named if label == -1 else label, cell[1].upper(), split, fold))
    if not rows and WRONG_NAME not in problems and WRONG_FOLD not in problems:
        raise InputError(_not_cnmc(folder, images, others))

    rows.sort(key=lambda row: (PUBLISHED_SPLITS.index(row[3]), row[4], natural(row[0])))
    prelim = [row[0] for row in rows if row[3] == "prelim"]
    if prelim:
        tables = [path for path in others if path.lower().endswith(".csv")]
        labels = read_labels(folder, tables, prelim, problems)
        rows = [_labelled(row, labels) if row[3] == "prelim" else row for row in rows]
    problems.add(DOUBLED, *_doubled(rows))
    return Scan(to_table(rows), CLASSES, problems.found(), tuple(sorted(ignored, key=natural)))


def _place(parts: Sequence[str]) -> tuple[str, int, int]:
    """Published split (empty: none), fold and label of a folder's images, from the folder names, innermost first."""
    label = -1
    for part in reversed(parts):
        key = re.sub(r"[^a-z0-9]", "", part.lower())
        if key.upper() in CLASSES and label == -1:
            label = CLASSES.index(key.upper())
        if fold := re.fullmatch(r"fold([0-9]+)", key):
            return "train", int(fold[1]), label
        if "testprelim" in key or key == "phase2":
            return "prelim", NO_FOLD, -1
        if "testfinal" in key or key == "phase3":
            return "final", NO_FOLD, -1
    return "", NO_FOLD, -1


def _labelled(row: Row, labels: dict[str, tuple[int, str | None]]) -> Row:
    path, label, subject, split, fold = row
    return (path, *labels.get(path, (label, subject)), split, fold)


def _doubled(rows: Iterable[Row]) -> list[str]:
    """Images of one published split with the same name, whatever its case, suffix and folder."""
    first: dict[tuple[str, str], str] = {}
    pairs = [(row[0], first.setdefault((row[3], stem(row[0])), row[0])) for row in rows]
    return [f"{path} and {other}" for path, other in pairs if path != other]


def _not_cnmc(folder: Path, images: int, others: Sequence[str]) -> str:
    holds = [entry.name + "/" * entry.is_dir() for entry in sorted(folder.iterdir())]
    if not holds:
        return f"{folder} is empty. Give the folder of C-NMC, or get it with `leukemia data fetch {folder}`"
    found = ", ".join(holds[:8]) + ", ..." * (len(holds) > 8)
    packed = any(path.lower().endswith((".zip", ".tar", ".gz")) for path in others)
    return (
        f"{folder} is not a C-NMC data set: "
        + (f"none of its {images:,} images lies in a folder of C-NMC" if images else "it holds no image")
        + f". Found: {found}. {'Unpack its archives first. ' * packed}"
        + f"Expected one of these layouts, or a folder around one:\n{LAYOUTS}\n"
        + "For other cells, in class folders or in a manifest csv, use data=cells "
        + "(`leukemia data check --reader class_folders`)"
    )
