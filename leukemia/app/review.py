"""A run under review: its cells, its queues, and the model's opinion of each cell."""

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leukemia.app.cells import (
    Cell,
    data_root,
    picture_size,
    read_picture,
    reference_cells,
    run_cells,
    used_splits,
)
from leukemia.app.decisions import CHOICES, DecisionContext
from leukemia.app.png import write_png
from leukemia.app.queues import build_queues, calibrated_logit, triage
from leukemia.app.store import Store
from leukemia.app.uploads import tells_class
from leukemia.data.files import is_utf8
from leukemia.data.pixels import fit
from leukemia.errors import InputError, quoted
from leukemia.evaluation.predictions import sigmoid
from leukemia.runs import Ensemble, Run
from leukemia.storage.plain_files import check_inside

FOLDER = "review"  # in the run folder
REFERENCES = 4  # cells of each class


class Opinion(NamedTuple):
    """The model's opinion of a cell.

    Attributes:
        probability: of the positive class, calibrated where a calibration is known.
        label: the likelier class at 0.5.
        triage: a class, or `review`.
    """

    probability: float
    label: str
    triage: str


class Review:
    """A run or an ensemble whose cells are reviewed.

    Args:
        run: finished; or an ensemble.
        images: a folder of pictures. If it holds the run's own cells, they are read from there. Otherwise its pictures
            are reviewed instead of the run's cells.
        blind: whether nobody sees the model's opinion of a cell before deciding it.

    Raises:
        InputError: if the run is not finished, its pictures are missing, or decisions cannot be written.
    """

    def __init__(self, run: Run | Ensemble, images: Path | None = None, blind: bool = False) -> None:
        if len(places := {str(member.folder.parent) for member in run.members}) > 1:
            raise InputError(
                f"the members lie in several folders ({', '.join(sorted(places))}), and decisions are saved beside "
                "them: put the runs into one"
            )
        self.run, self.blind = run, blind
        self.classes = run.data.classes
        self.image_size, self.resize, self.native_size = (
            run.data.image_size,
            run.data.resize,
            run.data.native_size,
        )
        self.policy = run.policy
        self.used_in = used_splits(run)
        self.root = data_root(run, images)
        cells = [] if self.root is None else run_cells(run, self.classes, self.root)
        self.store = self._open_store()
        self._lock = threading.Lock()
        self._numbers: tuple[Mapping[str, list[Cell]], dict[str, int]] = {}, {}
        self.cells: Mapping[str, Cell] = {}
        self.queues: Mapping[str, list[str]] = {}
        self.by_subject: Mapping[str, list[Cell]] = {}
        self.add(cells)

    @property
    def folder(self) -> Path:
        """The folder of decisions and added pictures."""
        return self.run.folder / FOLDER

    @property
    def added_folder(self) -> Path:
        return self.folder / "pictures"

    @property
    def model(self) -> str:
        """The run's name and a hash of its settings and predictions."""
        return self.run.model

    def _open_store(self) -> Store:
        """The run's decisions. The folder may come from others: nothing is written through a link that leaves it."""
        path = self.folder / "review.sqlite"
        logs = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))
        for place in (self.folder, self.added_folder, path, *logs):
            check_inside(place, self.run.folder)
        store = Store(path)
        foreign = {row.new_label for row in store.history()} - {None, *self.classes, *CHOICES}
        if foreign:
            store.close()
            raise InputError(
                f"{path} has decisions with labels that are not the run's classes, as "
                f"{quoted(min(map(str, foreign)))}: move it aside"
            )
        return store

    @cached_property
    def references(self) -> Mapping[str, Cell]:
        """Training cells of both classes to compare a cell with, by id."""
        found = reference_cells(self.run, self.classes, self.root, REFERENCES)
        return {cell.id: cell for cell in found if cell.id not in self.cells}

    @property
    def is_calibrated(self) -> bool:
        return self.policy is not None and self.policy.slope is not None and self.policy.intercept is not None

    @cached_property
    def policy_json(self) -> str:
        """Thresholds and calibration as JSON, to store beside a decision; empty without a policy."""
        if self.policy is None:
            return ""
        stored = ("low", "high", "slope", "intercept", "certified")
        return json.dumps({name: getattr(self.policy, name) for name in stored})

    def add(self, cells: Iterable[Cell]) -> None:
        """Put cells under review. An added cell replaces a known one; any other known cell stays."""
        with self._lock:
            found = dict(self.cells)
            for cell in cells:
                if cell.id not in found or cell.added:
                    found[cell.id] = cell
            by_subject: dict[str, list[Cell]] = {}
            for cell in found.values():
                if cell.subject is not None:
                    by_subject.setdefault(cell.subject, []).append(cell)
            # Readers hold no lock: replace the three mappings, never change them. A queue's cell is then always known.
            self.cells = found
            self.by_subject = by_subject
            self.queues = build_queues(found.values(), self.policy, self.classes, salt=self.model)

    def opinion(self, cell: Cell) -> Opinion:
        return self.opinions([cell])[0]

    def opinions(self, cells: Sequence[Cell]) -> list[Opinion]:
        """The opinions of many cells, faster than one by one."""
        logit = np.array([cell.logit for cell in cells], dtype=float)
        probability = sigmoid(calibrated_logit(logit, self.policy))
        label = np.where(probability >= 0.5, *reversed(self.classes))
        decided = triage(cells, self.policy, self.classes)
        return list(map(Opinion, probability.tolist(), label.tolist(), decided.tolist()))

    def thresholds(self) -> tuple[float | None, float | None]:
        """The policy's thresholds as probabilities of the positive class; None where it releases nothing there."""
        ends = (None, None) if self.policy is None else (self.policy.low, self.policy.high)
        low, high = (
            None if end is None else float(sigmoid(calibrated_logit(np.array(end), self.policy)))
            for end in ends
        )
        return low, high

    def context(
        self, cell: Cell, queue: str, blind: bool, seconds: float | None, comment: str = ""
    ) -> DecisionContext:
        """The facts about a cell to store beside a decision."""
        opinion = self.opinion(cell)
        return DecisionContext(
            cell=cell.id, path=cell.path, subject=cell.subject, data_label=cell.label, model=self.model,
            policy=self.policy_json, logit=cell.logit, probability=opinion.probability, triage=opinion.triage,
            queue=queue, blind=blind, seconds=seconds, comment=comment,
        )  # fmt: skip

    def picture(self, cell: Cell) -> np.ndarray:
        """The cell's pixels at their own scale, uint8 (height, width, 3).

        Raises:
            InputError: if the file cannot be read, or has changed.
        """
        return read_picture(cell, self.native_size)

    def training_file(self, cell: Cell) -> Path:
        """A file of the cell for a manifest, whose pictures are read without a native size.

        It is the cell's own file. It is a lossless copy where the file's name is not UTF-8, and one of the picture's
        centre where that is larger than the native size, as in C-NMC's final set.

        Raises:
            InputError: if the file cannot be read, or has changed, or the copy cannot be written.
        """
        fits = self.native_size is None or max(picture_size(cell.file)) <= self.native_size
        if fits and is_utf8(str(cell.file)):
            return Path(cell.file)
        copy = self.added_folder / f"{cell.id}-{self.native_size or 'whole'}.png"
        if not copy.is_file():
            write_png(copy, self.picture(cell))
        return copy

    def network_pixels(self, picture: np.ndarray) -> np.ndarray:
        """A picture as the network sees it, uint8 (s, s, 3)."""
        return fit(picture, self.image_size, self.resize, self.native_size)

    def is_masked(self, cell: Cell) -> bool:
        """Whether to hide the names of a cell and its subject: C-NMC's names (`..._all.bmp`, `H3`) tell the class."""
        return cell.label is not None or tells_class(cell.path)

    def subject_name(self, cell: Cell) -> str | None:
        """The subject's name for the page, or a number in its place."""
        if cell.subject is None or not self.is_masked(cell):
            return cell.subject
        return f"no. {self._subject_numbers().get(cell.subject, 0)}"

    def _subject_numbers(self) -> dict[str, int]:
        """A number for each subject, in a random order."""
        by_subject = self.by_subject
        if self._numbers[0] is not by_subject:
            at_random = sorted(
                by_subject, key=lambda name: hashlib.blake2b(f"{self.model} {name}".encode()).digest()
            )
            self._numbers = by_subject, {name: number for number, name in enumerate(at_random, start=1)}
        return self._numbers[1]
