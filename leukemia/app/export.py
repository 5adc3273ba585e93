"""What leaves the page: the history as csv, and a manifest to train on."""

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from leukemia.app.cells import Cell, training_root
from leukemia.app.decisions import COLUMNS, UNSURE
from leukemia.app.review import Review
from leukemia.app.store import Store
from leukemia.errors import InputError
from leukemia.runs import Run

UNKNOWN = "UNKNOWN"
FORMULA = tuple("=+-@\t\r")  # what a spreadsheet runs
USUAL = {"image_size": 224, "resize": "squash"}  # the defaults of data.NAME
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
NO_TEXT = ("null", "true", "false", "nan", "inf")  # to Hydra


@dataclass(frozen=True)
class Consensus:
    """What the reviewers say together.

    Attributes:
        labels: a class for each cell on which everybody who is sure agrees.
        differ: cells on which they do not.
        unsure: cells on which nobody is sure.
    """

    labels: dict[str, str]
    differ: int
    unsure: int


def decisions_csv(store: Store) -> str:
    """The whole history, a row a decision, oldest first.

    A text that a spreadsheet would run as a formula has an apostrophe before it, as OWASP advises (CSV injection).
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)  # CRLF, as RFC 4180 has it: a CR in a name is quoted then
    writer.writeheader()
    for decision in store.history():
        row = asdict(decision) | {"blind": int(decision.blind)}
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return file.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def consensus(store: Store) -> Consensus:
    """The label of each cell that was decided."""
    votes: dict[str, set[str]] = {}
    for reviewer in store.reviewers():
        for cell, label in store.labels(reviewer).items():
            votes.setdefault(cell, set()).add(label)
    sure = {cell: labels - {UNSURE} for cell, labels in votes.items()}
    kinds = Counter(min(len(labels), 2) for labels in sure.values())
    agreed = {cell: next(iter(labels)) for cell, labels in sure.items() if len(labels) == 1}
    return Consensus(agreed, differ=kinds[2], unsure=kinds[0])


def manifest(review: Review, with_training: bool) -> str:
    """The manifest of what was reviewed, as `manifest_csv` writes it, of pictures at the scale that the model sees.

    Args:
        review: as it stands.
        with_training: whether the cells that the run was trained on go along.

    Raises:
        InputError: as `manifest_csv`; if a reviewed picture cannot be read; or if the training cells are asked for and
            not there.
    """
    labels = consensus(review.store).labels
    under_review = ((cell_id, review.cells[cell_id]) for cell_id in labels if cell_id in review.cells)
    cells = {cell_id: replace(cell, file=review.training_file(cell)) for cell_id, cell in under_review}
    if not with_training:
        return manifest_csv(labels, cells)
    root = training_root(review.run, review.root)
    if root is None:
        raise InputError(
            f"the cells that the run was trained on are not in {review.run.config['data']['root']} any more, so they "
            "cannot be taken along: put them there again"
        )
    return manifest_csv(labels, cells, review.run, root, review.classes)


def train_command(review: Review) -> str:
    """The command, for a shell, that trains on a manifest with the training cells as the run was trained: which class
    counts as 1, and what becomes of a picture."""
    data = review.run.config["data"]
    settings = {"data.positive": review.classes[1]} | {
        f"data.{name}": data[name] for name, usual in USUAL.items() if data.get(name, usual) != usual
    }
    return " ".join([
        "leukemia-train data=cells data.root=manifest-with-training.csv",
        *(shlex.quote(f"{name}={_hydra_value(value)}") for name, value in settings.items()),
    ])  # fmt: skip


def _hydra_value(value: object) -> str:
    """A value as Hydra reads it back: text in quotes, unless it can be nothing else."""
    text = str(value)
    if not isinstance(value, str) or (WORD.fullmatch(text) and text.lower() not in NO_TEXT):
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text)
    return '"' + escaped.replace("${", "\\${") + '"'


def manifest_csv(
    labels: Mapping[str, str],
    cells: Mapping[str, Cell],
    run: Run | None = None,
    root: Path | None = None,
    classes: tuple[str, str] = ("", ""),
) -> str:
    """A manifest for `data=cells`: `path,label,subject,split` of reviewed cells, with absolute paths.

    Cells without a subject stand together as one subject UNKNOWN where others have one, so that no split can part
    what may belong together.

    Args:
        labels: a class for each reviewed cell.
        cells: by id.
        run: where given, the cells that it trained and chose its epoch on come first, with the labels of the data
            unless they were reviewed. Its other cells are left out: a subject of theirs may have been reviewed.
        root: the folder that the run's paths are relative to.
        classes: negative and positive, with `run`.

    Raises:
        InputError: if nothing was reviewed, or if what there is has one class only.
    """
    rows: dict[str, tuple[str, str | None]] = {}  # label and subject by path
    if run is not None and root is not None:
        known = run.cells[run.cells["split"].isin(["train", "val"])]
        columns = (known[name] for name in ("path", "pixel_hash", "label", "subject"))
        for path, cell_id, label, subject in zip(*columns, strict=True):
            named = labels.get(cell_id, classes[int(label)])
            rows[str((root / path).absolute())] = named, subject if isinstance(subject, str) else None
    for cell_id, label in labels.items():
        if cell_id in cells:
            cell = cells[cell_id]
            rows.setdefault(str(cell.file.absolute()), (label, cell.subject))
    found = {label for label, _ in rows.values()}
    if len(found) < 2:
        absent = sum(cell_id not in cells for cell_id in labels)
        more = (
            f"; {absent} decided cells are not under review now: start with the same --images to export them"
            if absent
            else ""
        )
        raise InputError(
            f"the manifest would hold {'cells of ' + found.pop() if found else 'no cell'} only, and training needs two "
            f"classes: review more cells, or take the run's training cells along{more}"
        )
    with_subjects = any(subject for _, subject in rows.values())
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "label", *(["subject"] if with_subjects else []), "split"])
    for path, (label, subject) in rows.items():
        writer.writerow([path, label, *([subject or UNKNOWN] if with_subjects else []), "train"])
    return file.getvalue()
