"""Handcrafted features of a cell: size, colour, shape, sharpness and background. No torch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukemia.data.pixels import Pixels
from leukemia.evaluation.gate import HANDCRAFTED
from leukemia.storage.cache import cached_folder

VERSION = 3
BASELINE = 5  # the first features: those of the handcrafted baseline
BACKGROUND = 16  # the largest brightness of black background, JPEG noise included
AT_ONCE = 64  # cells


def handcrafted_features(pixels: Pixels, max_gb: float | None = None) -> NDArray[np.float32]:
    """`measure` for every cell of a memory map, (cells, F), computed once and kept in the cache."""

    def build(folder: Path) -> None:
        parts = [np.empty((0, len(HANDCRAFTED)), np.float32)]
        for start in range(0, len(pixels.images), AT_ONCE):
            parts.append(measure(np.asarray(pixels.images[start : start + AT_ONCE])))
        np.save(folder / "features.npy", np.concatenate(parts))

    folder = cached_folder(f"handcrafted-{VERSION}-{pixels.key}", build, max_gb)
    return np.asarray(np.load(folder / "features.npy"), dtype=np.float32)


def measure(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The features of segmented cells, (N, F), in the order of HANDCRAFTED. A picture without a cell has zeros.

    - area: the share of the picture that is not black background;
    - red, green, blue: means over that area (0 to 255);
    - roundness: area^2 / (2 pi (mu20 + mu02)) with the central second moments of the cell's mask: 1 for a disc,
      2ab / (a^2 + b^2) for an ellipse of half axes a and b, of any size at any place (Zunic, Hirota and Rosin 2010,
      Pattern Recognition 43);
    - hue: mean red minus mean blue, which tells exchanged channels from a stronger or a weaker stain;
    - sharpness: log(1 + variance of the Laplacian of brightness) within the cell (Pech-Pacheco et al. 2000, ICPR);
    - contrast: standard deviation of brightness within the cell;
    - off_centre: distance of the cell's centre from that of the picture, in widths of the picture;
    - border: the share of the picture's outermost pixels that is not black background;
    - background: the mean brightness of black background, which is 0 where it is exactly black.

    Args:
        images: uint8 (N, S, S, 3), each one cell on black.
    """
    channels = [images[..., channel] for channel in range(3)]  # far faster than along the last axis
    brightest = _brightest(images)
    cell = brightest > BACKGROUND
    mask, size = cell.astype(np.float64), images.shape[1]
    rows, columns = mask.sum(axis=2), mask.sum(axis=1)
    area = rows.sum(axis=1)
    some = np.maximum(area, 1)
    # A pixel itself adds 1/12 along each axis.
    spread = sum(_moment(counts, some) for counts in (rows, columns)) + area / 6
    roundness = np.divide(area**2, 2 * np.pi * spread, out=np.zeros_like(area), where=area > 0)
    colours = np.column_stack([(one * cell).sum(axis=(1, 2), dtype=np.int64) / some for one in channels])
    share = area / (images.shape[1] * images.shape[2])
    grey = (channels[0].astype(np.float32) + channels[1] + channels[2]) / np.float32(3)
    inner = cell[:, 1:-1, 1:-1].copy()
    laplacian = -4 * grey[:, 1:-1, 1:-1]
    for rows_at, columns_at in ((0, 1), (2, 1), (1, 0), (1, 2)):
        there = np.s_[:, rows_at : size - 2 + rows_at, columns_at : size - 2 + columns_at]
        laplacian += grey[there]
        inner &= cell[there]
    middle = (size - 1) / 2
    place = np.arange(size) - middle
    aside = [counts @ place / some / size for counts in (rows, columns)]
    frame = np.concatenate([cell[:, 0], cell[:, -1], cell[:, 1:-1, 0], cell[:, 1:-1, -1]], axis=1)
    others = [
        roundness,
        colours[:, 0] - colours[:, 2],
        np.log1p(_variance(laplacian, inner)),
        np.sqrt(_variance(grey, cell)),
        np.hypot(*aside),
        frame.mean(axis=1),
        (brightest * ~cell).sum(axis=(1, 2)) / np.maximum(cell[0].size - area, 1),
    ]
    return np.column_stack([share, colours, *others]).astype(np.float32)


def is_background(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of RGB pictures, uint8 (..., 3), are black background; (...)."""
    return _brightest(images) <= BACKGROUND


def _brightest(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest colour of each pixel, 25 times as fast as max(axis=-1)."""
    red, green, blue = (images[..., colour] for colour in range(3))
    return np.maximum(np.maximum(red, green), blue)


def _moment(counts: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float64]:
    """The central second moment along one axis, from the number of cell pixels in each line (N, S)."""
    place = np.arange(counts.shape[1])
    mean = counts @ place / area
    return np.asarray(((place - mean[:, None]) ** 2 * counts).sum(axis=1), dtype=np.float64)


def _variance(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The variance of the values (N, H, W) within each mask, (N,)."""
    count = np.maximum(mask.sum(axis=(1, 2)), 1)
    mean = (values * mask).sum(axis=(1, 2), dtype=np.float64) / count
    squares = (values - mean[:, None, None].astype(np.float32)) ** 2 * mask
    return squares.sum(axis=(1, 2), dtype=np.float64) / count
