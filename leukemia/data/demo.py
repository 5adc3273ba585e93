"""Synthetic sets of cells drawn by `synthetic`: C-NMC with its true layout and names, and another pair of classes."""

import io
import os
import shutil
import struct
import uuid
from contextlib import closing
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from leukemia.data.synthetic import (
    CELL_SPREAD,
    CLASS_SHIFT,
    OTHER_SHIFT,
    SUBJECT_SPREAD,
    Traits,
    draw_cell,
    vary,
)
from leukemia.errors import InputError, check_one_of
from leukemia.storage.cores import on_all_cores

FEWEST, ALL_IMAGES = 40, 15_114
SMALLEST = 32  # pixels: below it a cell has no texture

# Images and subjects of C-NMC by published split, fold and label, in the order in which subjects get their numbers:
# fold 2 first, because it has H3. The labels of the final set are not public: these are a guess.
STRATA = pd.DataFrame(
    [
        ("train", 2, 1, 2457, 17),
        ("train", 2, 0, 1096, 14),
        ("train", 0, 1, 2397, 19),
        ("train", 0, 0, 1130, 9),
        ("train", 1, 1, 2418, 11),
        ("train", 1, 0, 1163, 3),
        ("prelim", -1, 1, 1219, 13),
        ("prelim", -1, 0, 648, 15),
        ("final", -1, 1, 1700, 9),
        ("final", -1, 0, 886, 8),
    ],
    columns=["published_split", "fold", "label", "images", "subjects"],
)
# C-NMC's training subjects with fewer cells, and a preliminary set of more subjects: enough for a triage policy.
STUDY = STRATA.assign(
    images=[254, 113, 247, 117, 249, 120, 640, 320, 20, 10], subjects=[17, 14, 19, 9, 11, 3, 64, 32, 2, 1]
)
# Two other kinds of cells, of as many training and validation subjects as C-NMC has.
OTHERS = STRATA[STRATA["published_split"] != "final"].reset_index(drop=True)
SETS = {"cnmc": STRATA, "study": STUDY, "others": OTHERS}
OTHER_CLASSES = ("clumped", "open")  # of the chromatin; open ones are rounder
MANIFEST = "cells.csv"
FEWEST_SUBJECTS = {"train": 6, "prelim": 2, "final": 1}  # of a class; two of the six share pictures
DUPLICATES = 104  # pairs of identical training images in C-NMC
PRELIM = "C-NMC_test_prelim_phase_data"
FOLDERS = {"prelim": f"validation_data/{PRELIM}", "final": "testing_data/C-NMC_test_final_phase_data"}


def write_demo(
    root: Path | str,
    images: int = 400,
    seed: int = 0,
    size: int = 450,
    structure: pd.DataFrame | None = None,
    kind: str = "cnmc",
) -> Path:
    """Write a synthetic set: C-NMC in the layout in circulation on Kaggle, or other cells as class folders with a
    manifest.

    Args:
        root: a new or an empty folder. It appears only once the set is whole.
        images: in all splits together, up to the 15,114 of C-NMC; they keep its proportions.
        seed: of everything. The same seed gives the same bytes on any number of cores.
        size: of a picture in pixels. Those of the final set are a third larger, around a cell of the same size.
        structure: a table of images as `plan` gives it, in place of `images`.
        kind: `cnmc`; `study`, C-NMC with more test subjects than it has; or `others`, two other kinds of cells, to
            pretrain on.

    Returns:
        root; for `others` the manifest in it.

    Raises:
        InputError: if root is not empty or cannot be written, or if images, seed, size or kind is out of range.
    """
    check_one_of("kind", kind, SETS)
    if size < SMALLEST:
        raise InputError(f"{size} pixels are too few for a cell: take at least {SMALLEST} (C-NMC has 450)")
    if seed < 0:
        raise InputError(f"seed={seed}: a seed is 0 or more")
    cells = plan(images, seed, kind) if structure is None else structure
    shift = OTHER_SHIFT if kind == "others" else CLASS_SHIFT
    target = Path(root).expanduser().resolve()
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{root} is not empty, and nothing is overwritten: give a new folder")
        partial.mkdir(parents=True)
        _write(partial, cells, seed, size, shift)
        _write_manifest(partial, cells) if kind == "others" else _write_labels(partial, cells)
        os.replace(partial, target)
    except OSError as error:
        raise InputError(
            f"{root}: the set cannot be written ({error.strerror or error}): give another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Path(root) / MANIFEST if kind == "others" else Path(root)


def plan(images: int = 400, seed: int = 0, kind: str = "cnmc") -> pd.DataFrame:
    """The table of a set of this many images. Nothing is drawn.

    As in C-NMC, subjects differ in their number of cells, and subject H3 is spelled `h3` in its file names. Some
    pictures come twice, byte for byte, under two training subjects of one class and of two folds.

    Returns:
        A row for each image: `path` (relative), `name` (the original one, which a path outside of training
        does not show), `label` (1 ALL, 0 HEM), `subject`, `published_split`, `fold` (-1 outside of training),
        `same_as` (the path of the picture that it repeats; missing for most).

    Raises:
        InputError: if images is below 40 or above 15,114.
    """
    if not FEWEST <= images <= ALL_IMAGES:
        raise InputError(f"images={images}: a demo set has {FEWEST} to {ALL_IMAGES:,} (all of C-NMC)")
    rng = np.random.default_rng([seed, 0])
    strata = SETS[kind]
    counts = _share(strata["images"], images)
    subjects = np.minimum(strata["subjects"], counts) if kind == "study" else _subjects(strata, counts)
    tables = []
    used = {1: 0, 0: 0}
    for stratum, count, number in zip(strata.itertuples(index=False), counts, subjects, strict=True):
        split, fold, label, *_ = stratum
        # Log-normal like the real counts, where subjects of a fold have 9 to 757 cells.
        cells = 1 + _share(pd.Series(rng.lognormal(0, 0.9, number)), count - number)
        names = [f"{'' if label else 'H'}{used[label] + k + 1}" for k in range(number)]
        used[label] += number
        numbers = np.concatenate([np.arange(n) for n in cells])
        columns = {"label": label, "published_split": split, "fold": fold, "cell": numbers}
        tables.append(pd.DataFrame({"subject": np.repeat(names, cells), **columns}))
    table = pd.concat(tables, ignore_index=True)
    spelled = table["subject"].replace("H3", "h3")
    field, cell = (table["cell"] // 4 + 1).astype(str), (table["cell"] % 4 + 1).astype(str)
    suffix = table["label"].map({1: "all", 0: "hem"})
    table["name"] = "UID_" + spelled + "_" + field + "_" + cell + "_" + suffix + ".bmp"
    table["path"] = "training_data/fold_" + table["fold"].astype(str) + "/" + suffix + "/" + table["name"]
    for split, folder in FOLDERS.items():
        rows = table.index[table["published_split"] == split]
        table.loc[rows, "path"] = [f"{folder}/{k}.bmp" for k in rng.permutation(len(rows)) + 1]
    if kind == "others":
        classes = table["label"].map(dict(enumerate(OTHER_CLASSES)))
        table["path"] = classes + "/" + table["name"].str.replace(r"_(all|hem)\.bmp$", ".bmp", regex=True)
    table["same_as"] = None if kind == "others" else _copies(table, images)
    return table[["path", "name", "label", "subject", "published_split", "fold", "same_as"]]


def _subjects(strata: pd.DataFrame, counts: np.ndarray) -> np.ndarray:
    """The number of subjects of each stratum for this many images: all in a full set, at least a few."""
    shrink = (counts.sum() / ALL_IMAGES) ** 0.2
    subjects = np.zeros(len(strata), int)
    for (split, _), stratum in strata.groupby(["published_split", "label"]):
        total = max(round(stratum["subjects"].sum() * shrink), FEWEST_SUBJECTS[str(split)])
        subjects[stratum.index] = _share(stratum["subjects"], total)
    return np.clip(subjects, 1, counts)


def _copies(table: pd.DataFrame, images: int) -> pd.Series:
    """The column `same_as`: in each class, pairs between a subject of fold 0 and one of fold 1."""
    same_as = pd.Series(None, index=table.index, dtype=object)
    pairs = round(DUPLICATES * images / ALL_IMAGES)
    for label, wanted in ((1, pairs - pairs // 16), (0, pairs // 16)):
        of = []
        for fold in (0, 1):  # of training cells alone
            rows = table[(table["fold"] == fold) & (table["label"] == label)]
            sizes = rows["subject"].value_counts(sort=False).sort_values(kind="stable")
            middle = sizes.index[len(sizes) // 2]  # the subject of middle size
            of.append(rows.index[rows["subject"] == middle])
        number = min(max(wanted, 1), *((len(rows) + 1) // 2 for rows in of))
        same_as[of[1][:number]] = table.loc[of[0][:number], "path"].to_numpy()
    return same_as


def _share(weights: pd.Series, total: int) -> np.ndarray:
    """Whole numbers in proportion to weights, with the sum total (largest remainders)."""
    exact = weights.to_numpy(float) / weights.sum() * total
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: total - shares.sum()]] += 1
    return shares


def _write(folder: Path, cells: pd.DataFrame, seed: int, size: int, shift: Traits) -> None:
    for below in sorted({path.rpartition("/")[0] for path in cells["path"]}):
        (folder / below).mkdir(parents=True)
    traits = _subject_traits(cells, shift, np.random.default_rng([seed, 1]))
    row_of = {path: row for row, path in enumerate(cells["path"])}
    same_as = cells["same_as"] if "same_as" in cells else pd.Series(index=cells.index, dtype=object)
    pictured = same_as.where(same_as.notna(), cells["path"]).map(row_of).tolist()
    paths, splits, subjects = (cells[name].tolist() for name in ("path", "published_split", "subject"))

    def write(row: int) -> None:
        drawn = pictured[row]
        rng = np.random.default_rng([seed, 2, drawn])  # its own, so that the order of writing does not matter
        cell = vary(traits[subjects[drawn]], CELL_SPREAD, rng.standard_normal(6))
        (folder / paths[row]).write_bytes(_bmp(draw_cell(cell, rng, size), splits[row]))

    with closing(on_all_cores(write, range(len(cells)))) as written:
        for _ in tqdm(written, "drawing cells", len(cells), unit="cell", disable=None):
            pass


def _write_manifest(folder: Path, cells: pd.DataFrame) -> None:
    labels = cells["label"].map(dict(enumerate(OTHER_CLASSES)))
    table = cells[["path", "subject"]].assign(label=labels, split=cells["published_split"])
    table.to_csv(folder / MANIFEST, index=False)


def _write_labels(folder: Path, cells: pd.DataFrame) -> None:
    prelim = cells[cells["published_split"] == "prelim"]
    names = prelim["path"].str.replace(r".*/", "", regex=True)
    labels = pd.DataFrame({"Patient_ID": prelim["name"], "new_names": names, "labels": prelim["label"]})
    labels = labels.sort_values("new_names", key=lambda names: names.str.removesuffix(".bmp").astype(int))
    if len(labels):
        labels.to_csv(folder / "validation_data" / f"{PRELIM}_labels.csv", index=False, lineterminator="\r\n")


def _subject_traits(cells: pd.DataFrame, shift: Traits, rng: np.random.Generator) -> dict[str, Traits]:
    """The mean traits of each subject's cells.

    The subjects of a class in a published split share the quantiles of a normal distribution, in random order. So even
    a few subjects have the mean of their class.
    """
    traits: dict[str, Traits] = {}
    for (_, label), group in cells.groupby(["published_split", "label"]):
        subjects = group["subject"].unique()
        ranks = (np.arange(len(subjects)) + 0.5) / len(subjects)
        quantiles = np.array([NormalDist().inv_cdf(rank) for rank in ranks])
        quantiles /= quantiles.std() or 1
        noise = np.stack([rng.permutation(quantiles) for _ in range(6)], axis=1)
        middle = vary(Traits(), shift, np.full(6, 1 if label == 1 else -1))
        traits |= {name: vary(middle, SUBJECT_SPREAD, row) for name, row in zip(subjects, noise, strict=True)}
    return traits


def _bmp(picture: np.ndarray, split: str) -> bytes:
    """A 24-bit BMP file. As in C-NMC, preliminary ones have a longer header, and final ones are larger."""
    if split == "final":
        picture = np.pad(picture, [(picture.shape[0] // 6,) * 2] * 2 + [(0, 0)])
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "bmp")
    content = file.getvalue()
    if split != "prelim":
        return content
    more = 124 - 40  # from BITMAPINFOHEADER to BITMAPV5HEADER; its further fields may be zero
    size, start = (int.from_bytes(content[at : at + 4], "little") + more for at in (2, 10))
    head = b"BM" + struct.pack("<IIII", size, 0, start, 124) + content[18:54]
    return head + bytes(more) + content[54:]
