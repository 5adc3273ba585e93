"""The cells under review: identity, data label, logit, and picture file."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from leukemia.app.decoding import decode
from leukemia.data.pixels import FORMATS, at_native_size, pixel_hash
from leukemia.errors import InputError
from leukemia.evaluation.ensemble import NoSharedCells
from leukemia.evaluation.predictions import validate_predictions
from leukemia.runs import Ensemble, Run


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
    """

    id: str
    path: str
    file: Path
    subject: str | None
    label: str | None
    logit: float
    used_in: str | None = None
    added: bool = False
    probability_sd: float = math.nan


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
    try:
        validate_predictions(predictions)
    except InputError as error:
        raise InputError(f"{run.folder / 'predictions.csv'}: {error}") from None
    hashes = dict(zip(run.cells["path"], run.cells["pixel_hash"], strict=True))
    unknown = [path for path in predictions["path"] if path not in hashes]
    if unknown:
        raise InputError(
            f"{run.folder}: {len(unknown)} cells of predictions.csv are not in cells.csv, as {unknown[0]}: do both "
            "files belong to this run?"
        )
    cells: dict[str, Cell] = {}
    deviations = predictions.set_index("path").get("probability_sd", pd.Series(dtype=float)).to_dict()
    columns = (predictions[name] for name in ("path", "subject", "label", "logit"))
    for path, subject, label, logit in zip(*columns, strict=True):
        cell = Cell(
            id=hashes[path],
            path=path,
            file=root / path,
            subject=subject if isinstance(subject, str) else None,
            label=classes[int(label)] if label in (0, 1) else None,
            logit=float(logit),
            probability_sd=deviations.get(path, math.nan),
        )
        cells.setdefault(cell.id, cell)
    return list(cells.values())


def read_picture(cell: Cell, native_size: int | None) -> np.ndarray:
    """The pixels of a cell at their own scale: uint8, (height, width, 3).

    Raises:
        InputError: if its file cannot be read, or does not hold the picture that the model scored.
    """
    pixels = at_native_size(decode(cell.file), native_size)
    if pixel_hash(pixels) != cell.id:
        raise InputError(f"{cell.path} has changed: it is not the picture that the model scored")
    return pixels


def picture_size(file: Path) -> tuple[int, int]:
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
        paths = run.predictions["path"]
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


def training_root(run: Run | Ensemble, reviewed: Path | None) -> Path | None:
    """The folder that holds the run's training and validation cells; None where it is unknown.

    Args:
        run: finished.
        reviewed: the folder of the run's reported cells, if those are under review.
    """
    paths = used_cells(run)["path"]
    places = [run.data.folder] if reviewed is None else [reviewed, run.data.folder]
    return next((place for place in places if _holds(place, paths)), None)


def _holds(root: Path, paths: Iterable[str]) -> bool:
    return all((root / path).is_file() for path in paths)
