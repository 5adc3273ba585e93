"""PNG files, in memory and on disk."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from leukemia.storage.atomic import atomic_write


def png_bytes(picture: Image.Image, compress_level: int = 6) -> bytes:
    """A picture as a PNG file; zlib's level 1 is the fastest."""
    file = io.BytesIO()
    picture.save(file, "png", compress_level=compress_level)
    return file.getvalue()


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 RGB pixels (height, width, 3) to a PNG file, without loss.

    Raises:
        PlaceError: if the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(png_bytes(Image.fromarray(pixels)))
