"""Score added pictures in a background thread, and put them into the queue."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia.app.cells import Cell
from leukemia.app.decisions import AddedPicture
from leukemia.app.decoding import decode
from leukemia.app.png import write_png
from leukemia.app.review import Review
from leukemia.app.uploads import subject_of
from leukemia.data.files import existing_folder, is_image, list_files, natural, spelled
from leukemia.data.pixels import at_native_size, pixel_hash
from leukemia.errors import InputError

BATCH = 16
MOST_PROBLEMS = 50
MOST_IN_MEMORY = 200  # pictures that wait; later ones are read from their files again
NOT_COMPARED = "not compared with them yet"  # after a restart; the gate's answer is not stored


@dataclass(frozen=True)
class _Job:
    picture: AddedPicture
    file: Path
    pixels: NDArray[np.uint8] | None  # as the network sees them; None: read them from the file
    added: bool


class ScoringWorker:
    """Scores pictures batch by batch in its own thread.

    Args:
        review: gets the scored pictures.
        scores: a function from pixels as the network sees them, uint8 (n, s, s, 3), to scores (n,) by name, see
            `Predictor.scores`; may raise InputError.
    """

    def __init__(
        self, review: Review, scores: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]
    ) -> None:
        self.review = review
        self.problems: list[str] = []
        self._scores = scores
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._pending = 0
        self._gated = any((run.folder / "gate.json").is_file() for run in review.run.members)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Number of pictures without a score yet."""
        return self._pending

    def restore(self) -> None:
        """Put the pictures under review that were added before the page was restarted."""
        scored = []
        for picture in self.review.store.pictures():
            file = self._file(picture.cell)
            if not file.is_file():
                continue
            if picture.logit is not None and picture.model == self.review.model:
                cell = self._cell(picture, file, picture.logit, added=True)
                scored.append(replace(cell, unlike=NOT_COMPARED) if self._gated else cell)
            if picture.logit is None or not self._is_scored(picture):
                self._put(_Job(picture, file, None, added=True))
        self.review.add(scored)

    def scan(self, folder: Path) -> int:
        """Score the pictures of a folder. They stay where they are.

        Returns:
            Their number.
        Raises:
            InputError: if it is not a folder, or holds no pictures.
        """
        below = list_files(existing_folder(folder))
        names = sorted((path + name for path, name in below if is_image(name)), key=natural)
        if not names:
            raise InputError(f"{folder} holds no pictures: give a folder with bmp, png, jpeg or tiff files")
        for name in names:
            shown = spelled(name)
            subject = subject_of(shown, self.review.classes)
            self._put(_Job(AddedPicture("", shown, subject), folder / name, None, added=False))
        return len(names)

    def add(self, pixels: NDArray[np.uint8], name: str) -> tuple[str, bool]:
        """Score an added picture, uint8 (height, width, 3), and keep it in the run folder.

        Returns:
            The cell's id, and whether the cell is new to the review.
        """
        pixels = at_native_size(pixels, self.review.native_size)
        cell_id = pixel_hash(pixels)
        known = self.review.cells.get(cell_id)
        if known is not None:
            self.review.add([replace(known, added=True)])
            return cell_id, False
        file = self._file(cell_id)
        if not file.is_file():  # else it is waiting already
            write_png(file, pixels)
        picture = AddedPicture(cell_id, name, subject_of(name, self.review.classes))
        self.review.store.add_picture(picture)
        waiting = self._pending < MOST_IN_MEMORY
        self._put(_Job(picture, file, self.review.network_pixels(pixels) if waiting else None, added=True))
        return cell_id, True

    def close(self) -> None:
        self._jobs.put(None)

    def _put(self, job: _Job) -> None:
        with self._lock:
            self._pending += 1
        self._jobs.put(job)

    def _work(self) -> None:
        scores = {picture.cell: picture for picture in self.review.store.pictures()}
        while (first := self._jobs.get()) is not None:
            batch = [first]
            while len(batch) < BATCH and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    self._jobs.put(None)
                    break
                batch.append(job)
            try:
                self._score(batch, scores)
            except Exception as error:  # the page goes on without these pictures
                self._problem(
                    f"{batch[0].picture.name} and {len(batch) - 1} more could not be scored: {error}"
                )
            with self._lock:
                self._pending -= len(batch)

    def _score(self, batch: list[_Job], scores: dict[str, AddedPicture]) -> None:
        unscored: list[_Job] = []
        pixels: list[NDArray[np.uint8]] = []
        for job in batch:
            try:
                picture, seen = self._read(job)
            except InputError as error:
                self._problem(str(error).replace(str(job.file), job.picture.name))
                continue
            known = scores.get(picture.cell)
            if known is not None and known.logit is not None and self._is_scored(known):
                self.review.add([self._cell(picture, job.file, known.logit, job.added)])
            else:
                unscored.append(replace(job, picture=replace(picture, model=self.review.model)))
                pixels.append(seen)
        if not unscored:
            return
        cells = []
        found = self._scores(np.stack(pixels))
        deviations = found.get("probability_sd", np.full(len(unscored), np.nan)).tolist()
        reasons = found.get("unlike", np.full(len(unscored), None)).tolist()
        for job, logit, deviation, unlike in zip(
            unscored, found["logit"].tolist(), deviations, reasons, strict=True
        ):
            self.review.store.add_picture(replace(job.picture, logit=logit))
            cell = self._cell(job.picture, job.file, logit, job.added)
            cells.append(replace(cell, probability_sd=deviation, unlike=unlike))
        self.review.add(cells)

    def _is_scored(self, picture: AddedPicture) -> bool:
        """Whether the stored score is all that the model says. That of an ensemble lacks its deviation, and that of a
        run with a gate lacks whether the gate stops the cell."""
        return picture.model == self.review.model and len(self.review.run.members) == 1 and not self._gated

    def _read(self, job: _Job) -> tuple[AddedPicture, NDArray[np.uint8]]:
        if job.pixels is not None:
            return job.picture, job.pixels
        pixels = at_native_size(decode(job.file), self.review.native_size)
        return replace(job.picture, cell=pixel_hash(pixels)), self.review.network_pixels(pixels)

    def _cell(self, picture: AddedPicture, file: Path, logit: float, added: bool) -> Cell:
        return Cell(
            id=picture.cell, path=picture.name, file=file, subject=picture.subject, label=None, logit=logit,
            used_in=self.review.used_in(picture.cell), added=added,
        )  # fmt: skip

    def _file(self, cell_id: str) -> Path:
        return self.review.added_folder / f"{cell_id}.png"

    def _problem(self, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(spelled(text))
