"""The cells under review: what the model says of each, and its picture."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from leukemia.data.pixels import CNMC_SIZE, FORMATS, at_native_size, decode, pixel_hash
from leukemia.errors import InputError
from leukemia.runs import Run


@dataclass(frozen=True)
class Cell:
    """A cell under review.

    Attributes:
        id: the hash of its pixels: the same picture under two names is one cell.
        path: of the first file, as the data name it.
        file: where that lies.
        subject: None where unknown.
        label: of the data, a class; None where unknown. It is shown to nobody who still has to decide.
        logit: of the positive class.
        seen: the split on which the model has seen it, `train` or `val`; None where it has not.
        added: whether it was added to the page, or lies in a folder that was given.
    """

    id: str
    path: str
    file: Path
    subject: str | None
    label: str | None
    logit: float
    seen: str | None = None
    added: bool = False


def run_cells(run: Run, classes: tuple[str, str], root: Path) -> list[Cell]:
    """The cells that a run reports on, in the order of its predictions.

    Args:
        run: finished.
        classes: negative and positive.
        root: the folder that their paths are relative to.

    Raises:
        InputError: if the run's tables cannot be read or do not belong together.
    """
    predictions = run.predictions
    missing = {"path", "label", "logit"} - set(predictions.columns)
    if missing:
        raise InputError(f"{run.folder / 'predictions.csv'} has no column {', '.join(sorted(missing))}")
    hashes = dict(zip(run.cells["path"], run.cells["pixel_hash"], strict=True))
    unknown = [path for path in predictions["path"] if path not in hashes]
    if unknown:
        raise InputError(
            f"{run.folder}: {len(unknown)} cells of predictions.csv are not in cells.csv, as {unknown[0]}: are the two "
            "of one run?"
        )
    subjects = predictions["subject"] if "subject" in predictions else [None] * len(predictions)
    cells: dict[str, Cell] = {}
    columns = (predictions["path"], subjects, predictions["label"], predictions["logit"])
    for path, subject, label, logit in zip(*columns, strict=True):
        cell = Cell(
            id=hashes[path],
            path=path,
            file=root / path,
            subject=subject if isinstance(subject, str) and subject.strip() else None,
            label=classes[int(label)] if label in (0, 1) else None,
            logit=float(logit),
        )
        cells.setdefault(cell.id, cell)
    return list(cells.values())


def picture_of(cell: Cell, native_size: int | None) -> np.ndarray:
    """The pixels of a cell at their own scale: uint8, (height, width, 3).

    Raises:
        InputError: if its file cannot be read, or holds another picture than the one that was scored.
    """
    pixels = at_native_size(decode(cell.file), native_size)
    if pixel_hash(pixels) != cell.id:
        raise InputError(f"{cell.path} is not the picture any more that the model has scored")
    return pixels


def picture_size(file: Path) -> tuple[int, int]:
    """Width and height of a picture file, of which only the beginning is read.

    Raises:
        InputError: if that cannot be read.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            return picture.size
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read any more ({reason}): put it there again") from None


def native_size(run: Run) -> int | None:
    return CNMC_SIZE if run.config["data"].get("layout", "cnmc") == "cnmc" else None


def seen_sides(run: Run) -> Callable[[str], str | None]:
    """The split, `train` or `val`, on which a model has seen a picture, by its hash; None where it has not."""
    known = run.cells[run.cells["split"].isin(["train", "val"])]
    splits = dict(zip(known["pixel_hash"], known["split"], strict=True))
    return splits.get


def data_root(run: Run, moved: Path | None) -> Path | None:
    """The folder that the paths of a run's cells are relative to.

    Args:
        run: finished.
        moved: a folder that holds its cells now.

    Returns:
        None where `moved` is given and does not hold the cells of the run.
    Raises:
        InputError: if the run's own folder is not there.
    """
    if moved is not None:
        return moved if _holds(moved, run.predictions["path"]) else None
    root = _configured(run)
    if not _holds(root, run.predictions["path"]):
        raise InputError(
            f"the pictures of {run.folder} are not in {root} any more: name their folder with --images DIR"
        )
    return root


def training_root(run: Run, reviewed: Path | None) -> Path | None:
    """The folder that holds the cells that a run was trained on, whatever is reviewed; None where that is unknown.

    Args:
        run: finished.
        reviewed: the folder of its own cells, if they are under review.
    """
    paths = run.cells.loc[run.cells["split"].isin(["train", "val"]), "path"]
    places = [_configured(run)] if reviewed is None else [reviewed, _configured(run)]
    return next((place for place in places if _holds(place, paths)), None)


def _configured(run: Run) -> Path:
    root = Path(str(run.config["data"]["root"]))
    return root.parent if root.is_file() else root


def _holds(root: Path, paths: Iterable[str]) -> bool:
    return all((root / path).is_file() for path in paths)
