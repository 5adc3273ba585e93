"""Shifts of a picture away from the training data: optics, camera, stain, geometry, and segmentation.

Each is a pure function of a picture, uint8 (H, W, 3), and a strength. Lengths are pixels of a picture that is WIDTH
wide, and scale with it. Optics, camera and stain change the cell alone, so black background stays as it is.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.signal import fftconvolve
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from leukemia.data.handcrafted import is_background

VERSION = 1  # raise it when a strength gives other pixels
WIDTH = 450
SMEAR = (225, 205, 215)  # the colour of a smear between its cells
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Shift:
    """A kind of shift.

    Attributes:
        name, title: for files, and in words.
        unit: of a strength, in words.
        none: the strength that leaves a picture as it is.
        strengths: the five that are tried, ascending; those below `none` shift the other way.
        apply: from a picture and another strength than `none` to a picture of its shape.
    """

    name: str
    title: str
    unit: str
    none: float
    strengths: tuple[float, ...]
    apply: Callable[[Picture, float], Picture]

    @property
    def ways(self) -> list[list[float]]:
        """The strengths from the least to the greatest shift, a list for each of one or two directions."""
        below = [strength for strength in self.strengths[::-1] if strength < self.none]
        above = [strength for strength in self.strengths if strength > self.none]
        return [way for way in (below, above) if way]

    def __call__(self, picture: Picture, strength: float) -> Picture:
        # A float: a whole factor would multiply uint8 and wrap around.
        return picture if strength == self.none else self.apply(picture, float(strength))


def _blur(picture: Picture, sigma: float) -> Picture:
    sigma *= _scale_of(picture)
    return _smoothed(picture, math.ceil(3 * sigma), lambda values: gaussian_filter(values, sigma, truncate=3))


def _defocus(picture: Picture, radius: float) -> Picture:
    """The mean over a disc, as a lens out of focus gives it."""
    radius *= _scale_of(picture)
    reach = math.ceil(radius)
    place = np.arange(-reach, reach + 1.0)
    disc = np.clip(radius + 0.5 - np.hypot(place[:, None], place), 0, 1)
    return _smoothed(picture, reach, lambda values: fftconvolve(values, disc / disc.sum(), mode="same"))


def _noise(picture: Picture, deviation: float) -> Picture:
    """Independent normal noise of each pixel and colour; equal pictures have equal noise."""
    cell = ~is_background(picture)
    pixels = picture[cell]
    noise = np.random.default_rng(int(pixels.sum())).standard_normal(pixels.shape, dtype=np.float32)
    found = picture.copy()
    found[cell] = (pixels + deviation * noise).round().clip(0, 255)
    return found


def _brightness(picture: Picture, factor: float) -> Picture:
    return _recoloured(picture, lambda cell: F.adjust_brightness(cell, factor))


def _contrast(picture: Picture, factor: float) -> Picture:
    return _recoloured(picture, lambda cell: F.adjust_contrast(cell, factor))


def _stain(picture: Picture, degrees: float) -> Picture:
    """Hue and saturation together, as the pH of the stain moves both: redder and paler, or bluer and stronger."""
    saturation = 1 - degrees / 100
    return _recoloured(
        picture, lambda cell: F.adjust_saturation(F.adjust_hue(cell, degrees / 360), saturation)
    )


def _jpeg(picture: Picture, quality: float) -> Picture:
    # torchvision's own encoder is deprecated since 0.29.
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=round(quality))
    return np.array(Image.open(file))


def _rescaled(picture: Picture, factor: float) -> Picture:
    planes = torch.from_numpy(picture.copy()).permute(2, 0, 1).contiguous()
    kind = F.InterpolationMode.BILINEAR
    found = F.affine(planes, 0.0, [0, 0], factor, [0.0, 0.0], interpolation=kind)
    return np.asarray(found.permute(1, 2, 0).contiguous().numpy())


def _moved(picture: Picture, pixels: float) -> Picture:
    """The cell further right and down."""
    by = round(pixels * _scale_of(picture))
    found = np.zeros_like(picture)
    found[by:, by:] = picture[: len(picture) - by, : picture.shape[1] - by]
    return found


def _unclean(picture: Picture, width: float) -> Picture:
    """A rim of smear around the cell, as a segmentation leaves it."""
    cell = ~is_background(picture)
    rim = maximum_filter(cell, 2 * round(width * _scale_of(picture)) + 1) & ~cell
    return np.where(rim[..., None], np.array(SMEAR, dtype=np.uint8), picture)


SHIFTS = {
    shift.name: shift
    for shift in (
        Shift("blur", "Blur", "σ, pixels", 0, (1, 2, 3, 4, 6), _blur),
        Shift("defocus", "Defocus", "radius, pixels", 0, (2, 4, 6, 8, 12), _defocus),
        Shift("noise", "Noise", "sd, grey levels", 0, (4, 8, 16, 24, 32), _noise),
        Shift("brightness", "Brightness", "factor", 1, (0.6, 0.8, 1.25, 1.6, 2), _brightness),
        Shift("contrast", "Contrast", "factor", 1, (0.5, 0.75, 1.33, 1.67, 2), _contrast),
        Shift("stain", "Stain", "hue, degrees", 0, (-20, -10, 10, 20, 30), _stain),
        Shift("jpeg", "JPEG", "quality", 100, (10, 30, 50, 70, 90), _jpeg),
        Shift("scale", "Scale", "factor", 1, (0.67, 0.8, 1.2, 1.5, 2), _rescaled),
        Shift("crop", "Shift of the crop", "pixels", 0, (10, 20, 40, 60, 90), _moved),
        Shift("background", "Rests of background", "rim, pixels", 0, (2, 5, 10, 20, 40), _unclean),
    )
}  # fmt: skip


def _smoothed(
    picture: Picture, reach: int, smooth: Callable[[NDArray[np.float32]], NDArray[np.floating]]
) -> Picture:
    """The cell after a linear filter of a plane (H, W). The black around it has no weight, so that its edge does not
    darken (normalised convolution, Knutsson and Westin 1993)."""
    cell = ~is_background(picture)
    if not cell.any():
        return picture
    lines = (np.flatnonzero(cell.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(max(0, of[0] - reach), of[-1] + 1 + reach) for of in lines)
    inside, found = cell[box], picture.copy()
    weight = smooth(inside.astype(np.float32))[inside]
    for colour in range(3):
        plane = found[box][..., colour]
        smoothed = smooth(np.where(inside, plane, 0).astype(np.float32))[inside]
        plane[inside] = (smoothed / weight).round().clip(0, 255)
    return found


def _recoloured(picture: Picture, change: Callable[[Tensor], Tensor]) -> Picture:
    """The pixels of the cell changed, (3, 1, pixels) to the same; what depends on their mean has that of the cell."""
    cell = ~is_background(picture)
    if not cell.any():
        return picture
    found = picture.copy()
    found[cell] = change(torch.from_numpy(picture[cell]).T[:, None].contiguous())[:, 0].T.numpy()
    return found


def _scale_of(picture: Picture) -> float:
    return max(picture.shape[:2]) / WIDTH
