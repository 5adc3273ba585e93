"""A run under review: its cells, their order, and what is written down of each decision."""

import hashlib
import io
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from leukemia.app.cells import Cell, data_root, native_size, picture_of, picture_size, run_cells, seen_sides
from leukemia.app.decisions import Seen
from leukemia.app.queues import calibrated_logit, orders, triage
from leukemia.app.store import Store
from leukemia.app.uploads import tells_class
from leukemia.data.pixels import fit
from leukemia.evaluation.predictions import sigmoid
from leukemia.runs import Run
from leukemia.storage.atomic import atomic_write

FOLDER = "review"  # in that of the run


@dataclass(frozen=True)
class Opinion:
    """What the model says of a cell: the probability of the positive class (calibrated where that is known), its class
    at 0.5, and a class or `review` of triage."""

    probability: float
    label: str
    triage: str


class Review:
    """A run whose cells are reviewed.

    Args:
        run: finished.
        images: a folder of pictures: that of the run's own, where they have moved, or others, which are reviewed in
            their place.

    Raises:
        InputError: if the run is not finished, its pictures are not there, or decisions cannot be written.
    """

    def __init__(self, run: Run, images: Path | None = None) -> None:
        self.run = run
        negative, positive = run.metrics.get("classes", ("HEM", "ALL"))
        self.classes = (str(negative), str(positive))
        self.policy = run.policy
        self.native_size = native_size(run)
        self.seen_side = seen_sides(run)
        self.root = data_root(run, images)
        cells = [] if self.root is None else run_cells(run, self.classes, self.root)
        self.store = Store(self.folder / "review.sqlite")
        self._lock = threading.Lock()
        self.cells: Mapping[str, Cell] = {}
        self.orders: Mapping[str, list[str]] = {}
        self.by_subject: Mapping[str, list[Cell]] = {}
        self.add(cells)

    @property
    def folder(self) -> Path:
        """Where decisions and added pictures lie."""
        return self.run.folder / FOLDER

    @cached_property
    def model(self) -> str:
        """The run's name and a hash of its settings and predictions."""
        digest = hashlib.blake2b(digest_size=6)
        for name in ("config.yaml", "predictions.csv"):
            digest.update((self.run.folder / name).read_bytes())
        return f"{self.run.name}@{digest.hexdigest()}"

    @property
    def is_calibrated(self) -> bool:
        return self.policy is not None and self.policy.slope is not None and self.policy.intercept is not None

    @cached_property
    def policy_text(self) -> str:
        """What is written down of the policy beside a decision."""
        if self.policy is None:
            return ""
        shown = ("low", "high", "slope", "intercept", "certified")
        return json.dumps({name: getattr(self.policy, name) for name in shown})

    def add(self, cells: Iterable[Cell]) -> None:
        """Put cells under review; one that is there stays, unless the new one was added to the page."""
        with self._lock:
            found = dict(self.cells)
            for cell in cells:
                if cell.id not in found or cell.added:
                    found[cell.id] = cell
            by_subject: dict[str, list[Cell]] = {}
            for cell in sorted(found.values(), key=lambda cell: (cell.logit, cell.id)):
                if cell.subject is not None:
                    by_subject.setdefault(cell.subject, []).append(cell)
            # Readers take each of the three once, so that replacing them is all that is needed.
            self.orders = orders(found.values(), self.policy, self.classes, salt=self.model)
            self.by_subject = by_subject
            self.cells = found

    def opinion(self, cell: Cell) -> Opinion:
        logit = np.array([cell.logit])
        probability = float(sigmoid(calibrated_logit(logit, self.policy)[0]))
        label = self.classes[int(probability >= 0.5)]
        return Opinion(probability, label, str(triage(logit, self.policy, self.classes)[0]))

    def thresholds(self) -> tuple[float | None, float | None]:
        """The policy's thresholds as probabilities of the positive class; None where that split releases nothing."""
        if self.policy is None:
            return None, None
        ends = (self.policy.low, self.policy.high)
        low, high = (
            None if end is None else float(sigmoid(calibrated_logit(np.array([end]), self.policy)[0]))
            for end in ends
        )
        return low, high

    def seen(self, cell: Cell, queue: str, blind: bool, seconds: float | None) -> Seen:
        """What is written down of a cell beside a decision."""
        opinion = self.opinion(cell)
        return Seen(
            cell=cell.id, path=cell.path, subject=cell.subject, data_label=cell.label, model=self.model,
            policy=self.policy_text, logit=cell.logit, probability=opinion.probability, triage=opinion.triage,
            queue=queue, blind=blind, seconds=seconds,
        )  # fmt: skip

    def picture(self, cell: Cell) -> np.ndarray:
        """Its pixels at their own scale, uint8 (height, width, 3).

        Raises:
            InputError: if the file cannot be read, or has changed.
        """
        return picture_of(cell, self.native_size)

    def training_file(self, cell: Cell) -> Path:
        """The file that a next run can read a cell from, which knows of no native size: the cell's own, or a lossless
        copy of its centre where that is larger, as C-NMC's final set is.

        Raises:
            InputError: if the file cannot be read, or has changed, or the copy cannot be written.
        """
        if self.native_size is None or max(picture_size(cell.file)) <= self.native_size:
            return cell.file
        copy = self.folder / "pictures" / f"{cell.id}-{self.native_size}.png"
        if not copy.is_file():
            content = io.BytesIO()
            Image.fromarray(self.picture(cell)).save(content, "png")
            with atomic_write(copy) as file:
                file.write(content.getvalue())
        return copy

    def network_pixels(self, picture: np.ndarray) -> np.ndarray:
        """A picture as the network sees it, uint8 (s, s, 3)."""
        return fit(picture, self.image_size, self.resize, self.native_size)

    @property
    def image_size(self) -> int:
        return int(self.run.config["data"]["image_size"])

    @property
    def resize(self) -> str:
        return str(self.run.config["data"].get("resize", "squash"))

    def is_masked(self, cell: Cell) -> bool:
        """Whether names are kept from the reviewer: where the data know the class, C-NMC's names (`..._all.bmp`, H3)
        would tell it."""
        return cell.label is not None or tells_class(cell.path)

    def subject_name(self, cell: Cell) -> str | None:
        """What the reviewer reads: the subject's name, or a number in its place."""
        if cell.subject is None or not self.is_masked(cell):
            return cell.subject
        return f"no. {self._numbers().get(cell.subject, 0)}"

    def _numbers(self) -> dict[str, int]:
        """A number for each subject that says nothing of it."""
        by_subject = self.by_subject
        if self._numbered is None or self._numbered[0] is not by_subject:
            drawn = sorted(
                by_subject, key=lambda name: hashlib.blake2b(f"{self.model} {name}".encode()).digest()
            )
            self._numbered = by_subject, {name: number for number, name in enumerate(drawn, start=1)}
        return self._numbered[1]

    _numbered: tuple[Mapping[str, list[Cell]], dict[str, int]] | None = None
