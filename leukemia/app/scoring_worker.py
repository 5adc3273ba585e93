"""Pictures on their way into the queue: read, kept, scored in batches beside the page."""

import io
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia.app.cells import Cell
from leukemia.app.decisions import Picture
from leukemia.app.review import Review
from leukemia.app.uploads import subject_of
from leukemia.data.files import existing_folder, is_image, list_files, natural
from leukemia.data.pixels import at_native_size, decode, pixel_hash
from leukemia.errors import InputError
from leukemia.storage.atomic import atomic_write

BATCH = 16
MOST_PROBLEMS = 50


@dataclass(frozen=True)
class _Waiting:
    picture: Picture
    file: Path
    pixels: NDArray[np.uint8] | None  # as the network sees them; None: still to be read from the file
    added: bool


class Intake:
    """Scores pictures one batch after another, in a thread of its own.

    Args:
        review: that gets them.
        logits: pixels as the network sees them, uint8 (n, s, s, 3), to logits (n,); may raise InputError.
    """

    def __init__(self, review: Review, logits: Callable[[NDArray[np.uint8]], NDArray[np.float64]]) -> None:
        self.review = review
        self.problems: list[str] = []
        self._logits = logits
        self._line: queue.Queue[_Waiting | None] = queue.Queue()
        self._pending = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="intake", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """How many pictures wait for their score."""
        return self._pending

    def restore(self) -> None:
        """Take up the pictures that were added before, in an earlier life of the page."""
        known = []
        for picture in self.review.store.pictures():
            file = self._place(picture.cell)
            if not file.is_file():
                continue
            if picture.model == self.review.model and picture.logit is not None:
                known.append(self._cell(picture, file, picture.logit, added=True))
            else:
                self._put(_Waiting(picture, file, None, added=True))
        self.review.add(known)

    def scan(self, folder: Path) -> int:
        """Take in the pictures of a folder, where they lie.

        Returns:
            How many there are.
        Raises:
            InputError: if it is no folder, or holds no picture.
        """
        below = list_files(existing_folder(folder))
        names = sorted((path + name for path, name in below if is_image(name)), key=natural)
        if not names:
            raise InputError(f"{folder} holds no picture: give a folder with bmp, png, jpeg or tiff files")
        for name in names:
            subject = subject_of(name, self.review.classes)
            self._put(_Waiting(Picture("", name, subject), folder / name, None, added=False))
        return len(names)

    def add(self, picture: NDArray[np.uint8], name: str) -> tuple[str, bool]:
        """Take in a picture that was given to the page: its pixels, uint8 (height, width, 3).

        Returns:
            Its id, and whether it is new here.
        """
        picture = at_native_size(picture, self.review.native_size)
        cell_id = pixel_hash(picture)
        present = self.review.cells.get(cell_id)
        if present is not None:
            self.review.add([replace(present, added=True)])
            return cell_id, False
        file = self._place(cell_id)
        if not file.is_file():  # else it waits already
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "png")
            with atomic_write(file) as target:
                target.write(content.getvalue())
        entry = Picture(cell_id, name, subject_of(name, self.review.classes))
        self.review.store.add_picture(entry)
        self._put(_Waiting(entry, file, self.review.network_pixels(picture), added=True))
        return cell_id, True

    def close(self) -> None:
        self._line.put(None)

    def _put(self, waiting: _Waiting) -> None:
        with self._lock:
            self._pending += 1
        self._line.put(waiting)

    def _work(self) -> None:
        scores = {picture.cell: picture for picture in self.review.store.pictures()}
        while (first := self._line.get()) is not None:
            batch = [first]
            while len(batch) < BATCH and not self._line.empty():
                following = self._line.get()
                if following is None:
                    self._line.put(None)
                    break
                batch.append(following)
            try:
                self._score(batch, scores)
            except Exception as error:  # the page goes on without these
                self._problem(
                    f"{batch[0].picture.name} and {len(batch) - 1} more could not be scored: {error}"
                )
            with self._lock:
                self._pending -= len(batch)

    def _score(self, batch: list[_Waiting], scores: dict[str, Picture]) -> None:
        ready: list[tuple[_Waiting, Picture]] = []
        for waiting in batch:
            try:
                read = self._read(waiting)
            except InputError as error:
                self._problem(str(error).replace(str(waiting.file), waiting.picture.name))
                continue
            cell_id = read.picture.cell
            known = scores.get(cell_id)
            if known is not None and known.model == self.review.model and known.logit is not None:
                self.review.add([self._cell(read.picture, read.file, known.logit, read.added)])
            else:
                ready.append((read, replace(read.picture, model=self.review.model)))
        if not ready:
            return
        logits = self._logits(
            np.stack([waiting.pixels for waiting, _ in ready if waiting.pixels is not None])
        )
        cells = []
        for (waiting, picture), logit in zip(ready, logits.tolist(), strict=True):
            scored = replace(picture, logit=logit)
            self.review.store.add_picture(scored)
            cells.append(self._cell(scored, waiting.file, logit, waiting.added))
        self.review.add(cells)

    def _read(self, waiting: _Waiting) -> _Waiting:
        if waiting.pixels is not None:
            return waiting
        picture = at_native_size(decode(waiting.file), self.review.native_size)
        named = replace(waiting.picture, cell=pixel_hash(picture))
        return replace(waiting, picture=named, pixels=self.review.network_pixels(picture))

    def _cell(self, picture: Picture, file: Path, logit: float, added: bool) -> Cell:
        return Cell(
            id=picture.cell, path=picture.name, file=file, subject=picture.subject, label=None, logit=logit,
            seen=self.review.seen_side(picture.cell), added=added,
        )  # fmt: skip

    def _place(self, cell_id: str) -> Path:
        return self.review.folder / "pictures" / f"{cell_id}.png"

    def _problem(self, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)
