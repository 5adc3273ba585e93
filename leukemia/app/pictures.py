"""Pictures of cells as PNG files, found by the id of a cell alone."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from PIL import Image

from leukemia.app.network_process import NetworkProcess
from leukemia.app.png import png_bytes
from leukemia.app.review import Review
from leukemia.data.pixels import centre_crop

THUMB = 96  # pixels
MOST_BYTES = 50_000_000  # of PNG files in memory, of each kind: 300 pictures of C-NMC
FAST = 1  # zlib's level


class Pictures:
    """Pictures of the cells of a review; the last ones stay in memory.

    Args:
        review: has the cells.
        network: draws the Grad-CAM overlays.
    """

    def __init__(self, review: Review, network: NetworkProcess) -> None:
        self.review, self.network = review, network
        self.full, self.thumb, self.overlay = map(_Kept, (self._full, self._thumb, self._overlay))

    def _full(self, cell_id: str) -> bytes:
        return png_bytes(self._picture(cell_id), FAST)

    def _thumb(self, cell_id: str) -> bytes:
        picture = self._picture(cell_id)
        picture.thumbnail((THUMB, THUMB), Image.Resampling.BILINEAR, reducing_gap=2)
        return png_bytes(picture, FAST)

    def _overlay(self, cell_id: str) -> bytes:
        """The Grad-CAM heat map of the class that the page names, as large as the cell's picture."""
        cell = self.review.cells[cell_id]
        pixels = self.review.picture(cell)
        positive = self.review.opinion(cell).label == self.review.classes[1]
        height, width = pixels.shape[:2]
        heat: Image.Image = Image.open(
            io.BytesIO(self.network.overlay(self.review.network_pixels(pixels), positive))
        )
        if self.review.resize == "crop":
            heat = Image.fromarray(_undo_centre_crop(np.asarray(heat), height, width))
        else:
            heat = heat.resize((width, height), Image.Resampling.BILINEAR)
        return png_bytes(heat, FAST)

    def _picture(self, cell_id: str) -> Image.Image:
        return Image.fromarray(self.review.picture(self.review.cells[cell_id]))


class _Kept:
    """The last pictures that a function drew, by the id of their cell: at most MOST_BYTES of them."""

    def __init__(self, draw: Callable[[str], bytes]) -> None:
        self._draw, self._lock = draw, threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self.size = 0

    def __call__(self, cell_id: str) -> bytes:
        with self._lock:
            if cell_id in self._kept:
                self._kept.move_to_end(cell_id)
                return self._kept[cell_id]
        drawn = self._draw(cell_id)
        with self._lock:
            self.size += len(drawn) - len(self._kept.pop(cell_id, b""))
            self._kept[cell_id] = drawn
            while self.size > MOST_BYTES:
                self.size -= len(self._kept.popitem(last=False)[1])
        return drawn


def _undo_centre_crop(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """Place an overlay (s, s, channels) where `centre_crop` cut its pixels from: (height, width, channels), transparent
    outside."""
    padded = centre_crop(heat, max(heat.shape[0], height, width))
    top, left = ((padded.shape[axis] - length) // 2 for axis, length in ((0, height), (1, width)))
    return padded[top : top + height, left : left + width]
