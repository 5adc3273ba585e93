"""Exports: the history as csv, and a manifest for `data=cells` to train on."""

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from leukemia.app.cells import Cell, training_root, used_cells
from leukemia.app.decisions import CHOICES, COLUMNS, UNSURE
from leukemia.app.review import Review
from leukemia.app.store import Store
from leukemia.data.files import is_utf8, spelled
from leukemia.errors import InputError
from leukemia.runs import Ensemble, Run
from leukemia.storage.tables import no_formula

UNKNOWN = "UNKNOWN"
DEFAULTS = {"image_size": 224, "resize": "squash"}  # of the data settings
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
HYDRA_LITERALS = ("null", "true", "false", "nan", "inf")


@dataclass(frozen=True)
class Consensus:
    """The labels that reviewers agree on.

    Attributes:
        labels: a class for each cell on which all sure reviewers agree.
        differ: number of cells on which sure reviewers differ.
        unsure: number of cells on which nobody is sure.
        unusable: cells that all sure reviewers call an artefact or of poor quality.
    """

    labels: dict[str, str]
    differ: int
    unsure: int
    unusable: frozenset[str] = frozenset()


def decisions_csv(store: Store) -> str:
    """The whole history, oldest decision first.

    A text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises (CSV injection).
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)  # CRLF as in RFC 4180, so that a CR in a name is quoted
    writer.writeheader()
    for decision in store.history():
        row = asdict(decision) | {"blind": int(decision.blind)}
        writer.writerow({name: no_formula(value) for name, value in row.items()})
    return file.getvalue()


def consensus(store: Store) -> Consensus:
    """The consensus on all cells that somebody decided."""
    sure: dict[str, set[str]] = {}
    for reviewer in store.reviewers():
        for cell, label in store.labels(reviewer).items():
            sure.setdefault(cell, set()).update({label} - {UNSURE})
    sizes = Counter(min(len(labels), 2) for labels in sure.values())
    agreed = {cell: next(iter(labels)) for cell, labels in sure.items() if len(labels) == 1}
    unusable = frozenset(cell for cell, label in agreed.items() if label in CHOICES)
    labels = {cell: label for cell, label in agreed.items() if cell not in unusable}
    return Consensus(labels, sizes[2], sizes[0], unusable)


def manifest(review: Review, with_training: bool) -> str:
    """The manifest of a review, see `manifest_csv`, with pictures at the scale that the model sees.

    Args:
        review: as it is now.
        with_training: whether to include the run's training and validation cells.

    Raises:
        InputError: as `manifest_csv`; if a reviewed picture cannot be read; or if the training cells are missing.
    """
    agreed = consensus(review.store)
    labels = agreed.labels
    under_review = ((cell_id, review.cells[cell_id]) for cell_id in labels if cell_id in review.cells)
    cells = {cell_id: replace(cell, file=review.training_file(cell)) for cell_id, cell in under_review}
    if not with_training:
        return manifest_csv(labels, cells)
    root = training_root(review.run, review.root)
    if root is None:
        raise InputError(
            f"the run's training cells are not in {review.run.data.root} any more, so the manifest "
            "cannot include them: put them back"
        )
    return manifest_csv(labels, cells, review.run, root, review.classes, agreed.unusable)


def train_command(review: Review) -> str:
    """The shell command that trains on a manifest with training cells: with the run's positive class, image size and
    resize."""
    chosen = {name: getattr(review.run.data, name) for name in DEFAULTS}
    settings = {"data.positive": review.classes[1]} | {
        f"data.{name}": chosen[name] for name, default in DEFAULTS.items() if chosen[name] != default
    }
    return " ".join([
        "leukemia-train data=cells data.root=manifest-with-training.csv",
        *(shlex.quote(f"{name}={_hydra_value(value)}") for name, value in settings.items()),
    ])  # fmt: skip


def _hydra_value(value: object) -> str:
    """A value as Hydra's override grammar reads it back: text in quotes, unless it is a plain word."""
    text = str(value)
    if not isinstance(value, str) or (WORD.fullmatch(text) and text.lower() not in HYDRA_LITERALS):
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text)
    return '"' + escaped.replace("${", "\\${") + '"'


def manifest_csv(
    labels: Mapping[str, str],
    cells: Mapping[str, Cell],
    run: Run | Ensemble | None = None,
    root: Path | None = None,
    classes: tuple[str, str] = ("", ""),
    unusable: Container[str] = (),
) -> str:
    """A manifest for `data=cells`: `path,label,subject,split` of reviewed cells, with absolute paths.

    If some cells have a subject, those without one form one subject UNKNOWN. No split can then separate cells that may
    belong together.

    Args:
        labels: a class for each reviewed cell.
        cells: by id.
        run: if given, its training and validation cells come first. They keep the label of the data unless they were
            reviewed. Its test cells are left out, because a subject of theirs may have been reviewed.
        root: the folder that the run's paths are relative to.
        classes: negative and positive, with `run`.
        unusable: cells of the run to leave out.

    Raises:
        InputError: if the manifest would not hold cells of both classes.
    """
    rows: dict[str, tuple[str, str | None]] = {}  # label and subject by path
    if run is not None and root is not None:
        columns = (used_cells(run)[name] for name in ("path", "pixel_hash", "label", "subject"))
        for path, cell_id, label, subject in zip(*columns, strict=True):
            if cell_id in unusable:
                continue
            named = labels.get(cell_id, classes[int(label)])
            rows[str((root / path).absolute())] = named, subject if isinstance(subject, str) else None
    for cell_id, label in labels.items():
        if cell_id in cells:
            cell = cells[cell_id]
            rows.setdefault(str(Path(cell.file).absolute()), (label, cell.subject))
    if unnamable := [path for path in rows if not is_utf8(path)]:
        raise InputError(
            f"{spelled(unnamable[0])}: a csv cannot name this path, because it is not UTF-8: rename it"
        )
    found = {label for label, _ in rows.values()}
    if len(found) < 2:
        absent = sum(cell_id not in cells for cell_id in labels)
        hint = (
            f"; {absent} decided cells are not under review now: start with the same --images to export them"
        )
        raise InputError(
            f"the manifest would hold only {'cells of ' + found.pop() if found else 'its header'}, and training needs "
            f"two classes: review more cells, or include the run's training cells{hint if absent else ''}"
        )
    with_subjects = any(subject for _, subject in rows.values())
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path", "label", *(["subject"] if with_subjects else []), "split"])
    for path, (label, subject) in rows.items():
        writer.writerow([path, label, *([subject or UNKNOWN] if with_subjects else []), "train"])
    return file.getvalue()
