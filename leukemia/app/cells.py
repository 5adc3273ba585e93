"""The cells under review: identity, data label, logit, and picture file."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from leukemia.app.decoding import decode
from leukemia.data.files import Existing
from leukemia.data.handcrafted import is_background
from leukemia.data.pixels import FORMATS, at_native_size, pixel_hash
from leukemia.errors import InputError, quoted
from leukemia.evaluation.ensemble import NoSharedCells
from leukemia.evaluation.predictions import checked
from leukemia.runs import Ensemble, Run

SCALE = "um_per_pixel"  # the column of a reader's table


@dataclass(frozen=True)
class Cell:
    """A cell under review.

    Attributes:
        id: hash of its pixels. One picture under two names is one cell.
        path: of its first file, as the data name it.
        file: where that file is.
        subject: None where unknown.
        label: class in the data; None where unknown. No reviewer sees it before deciding.
        logit: of the positive class.
        used_in: the split, `train` or `val`, in which the model used the cell; None for a new cell.
        added: whether a reviewer added it to the page, or it is in a folder given with --images.
        probability_sd: the standard deviation of the probabilities of an ensemble's members; NaN for one network.
        um_per_pixel: micrometres that a pixel is wide; None where unknown.
        unlike: why the gate stops the cell, as "larger than 99 % of the training cells"; None where it does not.
    """

    id: str
    path: str
    file: Path | str
    subject: str | None
    label: str | None
    logit: float
    used_in: str | None = None
    added: bool = False
    probability_sd: float = math.nan
    um_per_pixel: float | None = None
    unlike: str | None = None


def run_cells(run: Run | Ensemble, classes: tuple[str, str], root: Path) -> list[Cell]:
    """The cells in a run's predictions, in their order.

    Args:
        run: finished.
        classes: negative and positive.
        root: the folder that the paths are relative to.

    Raises:
        InputError: if the run's tables cannot be read, or do not belong together.
    """
    predictions = run.predictions
    if "subject" not in predictions:
        raise InputError(f"{run.folder / 'predictions.csv'} has no column subject")
    checked(predictions, run.folder / "predictions.csv")
    known = run.cells.set_index("path")
    rows = known.index.get_indexer(pd.Index(predictions["path"]))
    unknown = predictions["path"][rows < 0]
    if len(unknown):
        raise InputError(
            f"{run.folder}: {len(unknown)} cells of predictions.csv are not in cells.csv, as {unknown.iloc[0]}: do "
            "both files belong to this run?"
        )
    scales = _scales(run)[rows]
    folder = os.fspath(root)  # a Path for each of many cells takes its time
    cells: dict[str, Cell] = {}
    deviations = predictions.get("probability_sd", pd.Series(math.nan, predictions.index)).tolist()
    columns = (predictions[name].tolist() for name in ("path", "subject", "label", "logit"))
    hashes = known["pixel_hash"].to_numpy()[rows]
    reasons = predictions.get("unlike", pd.Series(None, predictions.index, dtype=object)).tolist()
    for path, subject, label, logit, deviation, cell_id, um_per_pixel, unlike in zip(
        *columns, deviations, hashes, scales, reasons, strict=True
    ):
        cell = Cell(
            id=cell_id,
            path=path,
            file=os.path.join(folder, path),
            subject=subject if isinstance(subject, str) else None,
            label=classes[int(label)] if label in (0, 1) else None,
            logit=float(logit),
            probability_sd=deviation,
            um_per_pixel=um_per_pixel,
            unlike=unlike if isinstance(unlike, str) else None,
        )
        cells.setdefault(cell.id, cell)
    return list(cells.values())


def _scales(run: Run | Ensemble) -> np.ndarray:
    """The column SCALE of a run's cells, (n,) floats or None."""
    values = run.cells[SCALE] if SCALE in run.cells else pd.Series(np.nan, index=run.cells.index)
    scales = pd.to_numeric(values, errors="coerce")
    wrong = values.notna() & ~(scales.between(0, 1000, inclusive="neither"))
    if wrong.any():
        raise InputError(
            f"{run.folder / 'cells.csv'}: the column {SCALE} has {quoted(values[wrong].iloc[0])} in row "
            f"{int(wrong.argmax()) + 1}: write the micrometres that a pixel is wide, or leave the field empty"
        )
    return scales.astype(object).where(scales.notna(), None).to_numpy()


def diameter(pixels: np.ndarray) -> float | None:
    """The diameter in pixels of the disc that is as large as the cell in a picture, uint8 (height, width, 3).

    None without a cell, or where most of the picture's edge is not black: then the cell is not cut out.
    """
    black = is_background(pixels)
    edge = np.concatenate([black[0], black[-1], black[:, 0], black[:, -1]])
    area = int((~black).sum())
    return 2 * math.sqrt(area / math.pi) if area and edge.mean() > 0.5 else None


def read_picture(cell: Cell, native_size: int | None) -> np.ndarray:
    """The pixels of a cell at their own scale: uint8, (height, width, 3).

    Raises:
        InputError: if its file cannot be read, or does not hold the picture that the model scored.
    """
    pixels = at_native_size(decode(Path(cell.file)), native_size)
    if pixel_hash(pixels) != cell.id:
        raise InputError(f"{cell.path} has changed: it is not the picture that the model scored")
    return pixels


def picture_size(file: Path | str) -> tuple[int, int]:
    """Width and height of a picture file. Only its header is read.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            return picture.size
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read any more ({reason}): put the file back") from None


def used_cells(run: Run | Ensemble) -> pd.DataFrame:
    """The rows of a run's cells that the model used: training and validation."""
    return run.cells[run.cells["split"].isin(["train", "val"])]


def used_splits(run: Run | Ensemble) -> Callable[[str], str | None]:
    """A function from a pixel hash to the split, `train` or `val`, in which the model used that cell, else None."""
    used = used_cells(run)
    return dict(zip(used["pixel_hash"], used["split"], strict=True)).get


def data_root(run: Run | Ensemble, moved: Path | None) -> Path | None:
    """The folder that the paths of a run's reported cells are relative to.

    Args:
        run: finished.
        moved: a folder that may hold the cells now.

    Returns:
        None where `moved` is given and does not hold the run's cells.
    Raises:
        InputError: if the cells are not in the run's own folder.
    """
    try:
        paths = checked(run.predictions, run.folder / "predictions.csv")["path"].tolist()
    except NoSharedCells:
        if moved is None:
            raise
        return None
    if moved is not None:
        return moved if _holds(moved, paths) else None
    root = run.data.folder
    if not _holds(root, paths):
        raise InputError(
            f"the pictures of {run.folder} are not in {root} any more: name their folder with --images DIR"
        )
    return root


def training_root(run: Run | Ensemble, reviewed: Path | None, paths: pd.Series | None = None) -> Path | None:
    """The folder that holds the run's training and validation cells; None where it is unknown.

    Args:
        run: finished.
        reviewed: the folder of the run's reported cells, if those are under review.
        paths: of some of these cells, if not all are needed.
    """
    wanted = (used_cells(run)["path"] if paths is None else paths).tolist()
    places = [run.data.folder] if reviewed is None else [reviewed, run.data.folder]
    return next((place for place in places if _holds(place, wanted)), None)


def reference_cells(
    run: Run | Ensemble, classes: tuple[str, str], reviewed: Path | None, number: int
) -> list[Cell]:
    """Training cells of each class to compare a cell with: at random, of different subjects, if their pictures are at
    hand."""
    table = run.cells[(run.cells["split"] == "train") & (run.cells["label"] >= 0)]
    table = table.assign(um_per_pixel=_scales(run)[table.index]).sample(frac=1, random_state=0)
    table = table[~table["subject"].fillna(table["path"]).duplicated()]
    table = table.groupby("label").head(number).sort_values("label", kind="stable")
    root = training_root(run, reviewed, table["path"])
    if root is None:
        return []
    columns = (table[name] for name in ("pixel_hash", "path", "subject", "label", "um_per_pixel"))
    return [
        Cell(
            cell_id,
            path,
            root / path,
            subject,
            classes[label],
            0.0,
            "train",
            um_per_pixel=scale,
        )
        for cell_id, path, subject, label, scale in zip(*columns, strict=True)
    ]


def _holds(root: Path, paths: Iterable[str]) -> bool:
    exists = Existing(root)
    return all(path in exists for path in paths)
