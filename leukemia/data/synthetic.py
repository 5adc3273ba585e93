"""Drawing one synthetic white cell that looks like those of C-NMC. numpy and Pillow only."""

from dataclasses import astuple, dataclass

import numpy as np
from PIL import Image

ANGLES = 720  # steps of half a degree
STAIN = np.array([64.0, 24.0, 74.0])  # of the nucleus: red, green, blue
SPOTS = np.array([1.0, 0.66, 0.62])  # how brighter chromatin tints it
RIM = np.array([30.0, 33.0, 31.0])  # added by the pale cytoplasm


@dataclass(frozen=True)
class Traits:
    """The traits of a cell, in standard deviations from the middle between the classes."""

    size: float = 0.0  # larger
    outline: float = 0.0  # more irregular and indented
    texture: float = 0.0  # finer and more open chromatin, with nucleoli
    red: float = 0.0  # stain
    blue: float = 0.0
    light: float = 0.0


# Tuned to the real cells: ALL about 30 % larger with area alone at AUROC 0.7 to 0.8 between subjects, and a
# stain that varies more between subjects than within.
CLASS_SHIFT = Traits(size=0.5, outline=0.8, texture=1.0)  # ALL above the middle, HEM as far below
OTHER_SHIFT = Traits(outline=-1.0, texture=0.5, red=0.5)  # between two other kinds of cells, of one size
SUBJECT_SPREAD = Traits(size=0.7, outline=0.4, texture=0.5, red=0.8, blue=0.8, light=0.8)
CELL_SPREAD = Traits(size=0.7, outline=0.8, texture=0.75, red=0.6, blue=0.6, light=0.7)


def draw_cell(traits: Traits, rng: np.random.Generator, size: int = 450) -> np.ndarray:
    """Draw a cell: uint8 RGB, (size, size, 3), black (exactly 0) outside of it.

    Args:
        traits: of this cell.
        rng: for everything else; equal generators draw equal cells.
        size: of the picture, in pixels. The cell scales with it.
    """
    # Lengths are shares of the picture's width.
    radius = 0.228 * np.exp(0.13 * np.clip(traits.size, -2.8, 2.8))
    outline = _outline(radius, np.exp(0.55 * np.clip(traits.outline, -2.5, 2.5)), rng)
    # Only a box around the cell is drawn, and its smooth parts at half the resolution.
    box = min(-(-int(size * (2 * outline.max() + 0.02)) // 16) * 16, size // 2 * 2)
    axis = (np.arange(box // 2, dtype=np.float32) + 0.5) * np.float32(2 / size) - np.float32(box / size / 2)
    x, y = np.meshgrid(axis, axis)
    angle = (np.arctan2(y, x) * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
    depth = outline[angle] - np.hypot(x, y)  # below the cell's outline; negative outside

    grain, shade, ragged = _fields(len(axis), 450 / size, traits.texture, rng)
    light = _chromatin(grain, traits.texture) + 4.0 * shade + _nucleoli(x, y, radius, traits.texture, rng)
    lopsided = 1 + np.cos((np.arange(ANGLES) - rng.integers(ANGLES)) * (2 * np.pi / ANGLES))
    cytoplasm = (0.007 + 0.004 * rng.gamma(1.5) * lopsided).astype(np.float32)[angle]
    rim = np.exp(-np.maximum(depth, 0) / cytoplasm)
    edge = np.minimum(depth + 0.0011 * ragged, _cut(x, y, radius, rng))

    light, rim, edge = (_enlarge(field, box) for field in (light * (1 - rim), rim, edge))
    stain = STAIN * (1 + 0.075 * traits.light) + [4.0 * traits.red, 1.6 * traits.red, 3.5 * traits.blue]
    light += rng.standard_normal(light.shape, dtype=np.float32)
    fade = 1 - 0.35 * np.exp(-np.maximum(edge, 0) * 400)  # the very edge is darker
    inside = edge > 0
    picture = np.zeros((size, size, 3), np.uint8)
    room = size - box
    top, left = np.clip(room // 2 + np.rint(rng.normal(0, 0.012, 2) * size).astype(int), 0, room)
    for channel in range(3):
        value = (stain[channel] + SPOTS[channel] * light + RIM[channel] * rim) * fade
        picture[top : top + box, left : left + box, channel] = np.clip(value, 1, 255) * inside
    return picture


def vary(mean: Traits, spread: Traits, noise: np.ndarray) -> Traits:
    """The traits at `noise` standard deviations from a mean; noise is (traits,)."""
    return Traits(*(np.array(astuple(mean)) + np.array(astuple(spread)) * noise).tolist())


def _outline(radius: float, irregular: float, rng: np.random.Generator) -> np.ndarray:
    """The radius at each angle, (ANGLES,): an oval with waves and, now and then, a notch."""
    theta = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    wave = np.arange(2, 10)
    height = 0.07 * rng.standard_normal(8) / (wave - 1) ** 1.5
    height[1:] *= irregular
    shape = 1 + height @ np.cos(wave[:, None] * theta + rng.uniform(0, 2 * np.pi, (8, 1)))
    for _ in range(min(rng.poisson(0.5 * irregular), 4)):
        away = (theta - rng.uniform(0, 2 * np.pi) + np.pi) % (2 * np.pi) - np.pi
        shape -= rng.uniform(0.03, 0.12) * irregular**0.5 * np.exp(-((away / rng.uniform(0.08, 0.3)) ** 2))
    shape = np.clip(shape, 0.4, 1.5)
    return (radius * shape / np.sqrt(np.mean(shape**2))).astype(np.float32)  # an indented cell keeps its area


def _fields(side: int, step: float, texture: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit variance, (3, side, side): chromatin grain, large shades, a ragged edge.

    `step` is the size of a pixel, 1 at half the resolution of C-NMC.
    """
    noise = np.fft.rfft2(rng.standard_normal((3, side, side), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)).astype(np.float32) * 225 / step
    waves = 13.0 * np.exp(0.3 * np.clip(texture, -3, 3))  # across a picture: finer where texture is higher
    noise[0] *= frequency / (frequency + 4) / (1 + (frequency / waves) ** 2) ** 1.25
    noise[1] *= np.exp(-((frequency / 6) ** 2))
    noise[2] *= frequency / (1 + (frequency / 25) ** 3)
    noise[:, 0, 0] = 0
    fields = np.fft.irfft2(noise, s=(side, side))
    return fields / fields.std(axis=(1, 2), keepdims=True)


def _chromatin(grain: np.ndarray, texture: float) -> np.ndarray:
    """Its brightness: even with pale spots where texture is high, dense dark clumps where it is low."""
    clumped = 1 / (1 + np.exp(1.5 * texture))
    clumps = np.tanh(1.2 * grain + 0.4) - 1
    spots = grain + 2 * np.maximum(grain - 1.2, 0)
    return (4 + 7 * clumped) * ((1 - clumped) * spots + clumped * clumps)


def _nucleoli(
    x: np.ndarray, y: np.ndarray, radius: float, texture: float, rng: np.random.Generator
) -> np.ndarray:
    """Pale round spots in open chromatin, none to five."""
    spots = np.zeros_like(x)
    for _ in range(min(rng.poisson(0.8 * np.exp(0.8 * texture)), 5)):
        across, down = rng.uniform(-0.55, 0.55, 2) * radius
        width = rng.uniform(0.012, 0.032)
        spots += rng.uniform(10, 30) * np.exp(-((x - across) ** 2 + (y - down) ** 2) / width**2)
    return spots


def _cut(x: np.ndarray, y: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """The distance inside of a straight cut, which segmentation leaves where a neighbour touched; mostly none."""
    if rng.uniform() > 0.12:
        return np.ones_like(x)
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(0.75, 0.98) * radius - (x * np.cos(angle) + y * np.sin(angle))


def _enlarge(field: np.ndarray, side: int) -> np.ndarray:
    picture = Image.fromarray(field.astype(np.float32, copy=False))
    return np.array(picture.resize((side, side), Image.Resampling.BILINEAR))
