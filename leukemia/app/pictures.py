"""Cells as PNG files, by the id of a cell alone."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from leukemia.app.network_process import Network
from leukemia.app.review import Review
from leukemia.data.pixels import centre_crop

THUMB = 96
KEPT = 256  # pictures of each kind


class Pictures:
    """Pictures of the cells of a review, the last of them kept in memory.

    Args:
        review: whose cells they are.
        network: that draws the overlays.
    """

    def __init__(self, review: Review, network: Network) -> None:
        self.review, self.network = review, network
        self.whole = lru_cache(KEPT)(self._whole)
        self.thumb = lru_cache(4 * KEPT)(self._thumb)
        self.overlay = lru_cache(KEPT)(self._overlay)

    def _whole(self, cell_id: str) -> bytes:
        return _png(Image.fromarray(self.review.picture(self.review.cells[cell_id])))

    def _thumb(self, cell_id: str) -> bytes:
        picture = Image.fromarray(self.review.picture(self.review.cells[cell_id]))
        picture.thumbnail((THUMB, THUMB), Image.Resampling.BILINEAR, reducing_gap=2)
        return _png(picture)

    def _overlay(self, cell_id: str) -> bytes:
        """What speaks for the class that the page names; as large as the cell's picture, whatever part of it the
        network sees."""
        cell = self.review.cells[cell_id]
        picture = self.review.picture(cell)
        positive = self.review.opinion(cell).label == self.review.classes[1]
        height, width = picture.shape[:2]
        heat = Image.open(io.BytesIO(self.network.overlay(self.review.network_pixels(picture), positive)))
        if self.review.resize != "crop":
            return _png(heat.resize((width, height), Image.Resampling.BILINEAR))
        return _png(Image.fromarray(_uncropped(np.asarray(heat), height, width)))


def _uncropped(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """What `centre_crop` to (s, s) undone gives: (height, width, channels), clear outside."""
    size = heat.shape[0]
    padded = centre_crop(heat, max(size, height, width))
    top, left = ((padded.shape[axis] - length) // 2 for axis, length in ((0, height), (1, width)))
    return padded[top : top + height, left : left + width]


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png", compress_level=1)
    return file.getvalue()
