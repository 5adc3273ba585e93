"""Pictures of cells as PNG files, found by the id of a cell alone."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from leukemia.app.cells import Cell, diameter
from leukemia.app.network_process import NetworkProcess
from leukemia.app.png import png_bytes
from leukemia.app.review import Review
from leukemia.data.pixels import centre_crop
from leukemia.errors import InputError

THUMB = 192  # pixels
MOST_BYTES = 50_000_000  # in memory, of each kind: 300 pictures of C-NMC as PNG files
DECODED = 100_000_000  # bytes of pictures in memory as pixels
DIAMETERS = 16_384
FAST = 1  # zlib's level
T = TypeVar("T")


class Pictures:
    """Pictures of the cells of a review; the last ones stay in memory.

    Args:
        review: has the cells.
        network: draws the Grad-CAM overlays.
    """

    def __init__(self, review: Review, network: NetworkProcess) -> None:
        self.review, self.network = review, network
        self._pixels = _Kept(self._read, lambda pixels: pixels.nbytes, DECODED)
        self.diameter = lru_cache(DIAMETERS)(self._diameter)
        self.full, self.thumb = (_Kept(draw, len, MOST_BYTES) for draw in (self._full, self._thumb))
        self.overlay = _Kept(self._overlay, lambda drawn: len(drawn[0]), MOST_BYTES)

    def cell(self, cell_id: str) -> Cell | None:
        """The cell under review, or the reference cell, with this id."""
        return self.review.cells.get(cell_id) or self.review.references.get(cell_id)

    def _diameter(self, cell_id: str) -> float | None:
        """The diameter of a cell in pixels of its picture; None where it is unknown."""
        try:
            return diameter(self._pixels(cell_id))
        except InputError:  # told where the picture itself is asked for
            return None

    def _full(self, cell_id: str) -> bytes:
        return png_bytes(Image.fromarray(self._pixels(cell_id)), FAST)

    def _thumb(self, cell_id: str) -> bytes:
        picture = Image.fromarray(self._pixels(cell_id))
        picture.thumbnail((THUMB, THUMB), Image.Resampling.BILINEAR, reducing_gap=2)
        return png_bytes(picture, FAST)

    def _overlay(self, cell_id: str) -> tuple[bytes, int]:
        """The Grad-CAM heat map of the class that the page names, as large as the cell's picture, and the number of
        places on each of its sides, 0 for an even map. Each place is drawn as the block that it is."""
        cell = self.review.cells[cell_id]
        pixels = self._pixels(cell_id)
        positive = self.review.opinion(cell).label == self.review.classes[1]
        height, width = pixels.shape[:2]
        seen = self.review.network_pixels(pixels)
        heat: Image.Image = Image.open(io.BytesIO(self.network.overlay(seen, positive)))
        places = heat.width if np.asarray(heat)[..., 3].any() else 0
        if self.review.resize == "crop":
            heat = heat.resize(seen.shape[:2], Image.Resampling.NEAREST)
            heat = Image.fromarray(_undo_centre_crop(np.asarray(heat), height, width))
        else:
            heat = heat.resize((width, height), Image.Resampling.NEAREST)
        return png_bytes(heat, FAST), places

    def _read(self, cell_id: str) -> np.ndarray:
        cell = self.cell(cell_id)
        assert cell is not None, cell_id
        return self.review.picture(cell)


class _Kept(Generic[T]):
    """The last results of a function of a cell's id: at most `most` bytes of them."""

    def __init__(self, make: Callable[[str], T], size_of: Callable[[T], int], most: int) -> None:
        self._make, self._size_of, self._most = make, size_of, most
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0

    def __call__(self, cell_id: str) -> T:
        with self._lock:
            if cell_id in self._kept:
                self._kept.move_to_end(cell_id)
                return self._kept[cell_id]
        made = self._make(cell_id)
        with self._lock:
            if cell_id not in self._kept:  # nor made by another thread meanwhile
                self._kept[cell_id] = made
                self.size += self._size_of(made)
            while self.size > self._most:
                self.size -= self._size_of(self._kept.popitem(last=False)[1])
        return made


def _undo_centre_crop(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """Place an overlay (s, s, channels) where `centre_crop` cut its pixels from: (height, width, channels), transparent
    outside."""
    padded = centre_crop(heat, max(heat.shape[0], height, width))
    top, left = ((padded.shape[axis] - length) // 2 for axis, length in ((0, height), (1, width)))
    return padded[top : top + height, left : left + width]
