"""Heat maps as pictures: laid over a cell, beside it, and many on a contact sheet. Pillow only."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIZE = 320  # pixels of a cell in a picture of its own
THUMBNAIL, ACROSS = 140, 4  # of a cell on a contact sheet, and pairs in a row
STRENGTH = 0.65  # of the hottest place's colour
MARGIN, LINE, TEXT = 8, 18, 13
GROUND, INK = "#FFFFFF", "#1A1A1A"


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A cell (S, S, 3) with its heat map (S, S), 0 to 1, laid over it, uint8; cold places stay as they are."""
    colour = mpl.colormaps["inferno"](np.clip(heat, 0, 1))[..., :3] * 255
    share = STRENGTH * np.clip(heat, 0, 1)[..., None]
    return np.rint(pixels * (1 - share) + colour * share).astype(np.uint8)


def side_by_side(
    pixels: NDArray[np.uint8], heat: NDArray[np.float32], caption: Sequence[str], size: int = SIZE
) -> Image.Image:
    """The cell, and beside it the cell under its heat map, each `size` pixels wide, over lines of text."""
    width = 2 * size + 3 * MARGIN
    picture = Image.new("RGB", (width, size + 2 * MARGIN + LINE * len(caption) + MARGIN // 2), GROUND)
    for place, image in enumerate((pixels, overlay(pixels, heat))):
        scaled = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        picture.paste(scaled, (MARGIN + place * (size + MARGIN), MARGIN))
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(caption):
        at = (MARGIN, size + 2 * MARGIN + number * LINE)
        draw.text(at, _shortened(line, width - 2 * MARGIN), fill=INK, font=_font())
    return picture


def contact_sheet(sections: Mapping[str, Sequence[Image.Image]], title: str) -> Image.Image:
    """Pictures of equal size in rows of ACROSS, under a heading for each section."""
    tiles = [tile for pictures in sections.values() for tile in pictures]
    width, height = tiles[0].size
    rows = {name: -(-len(pictures) // ACROSS) for name, pictures in sections.items()}
    across = min(ACROSS, max(map(len, sections.values())))
    head = LINE + 2 * MARGIN
    whole = (across * width + 2 * MARGIN, head + sum(head + count * height for count in rows.values()))
    sheet = Image.new("RGB", whole, GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * MARGIN, MARGIN), _shortened(title, whole[0] - 4 * MARGIN), fill=INK, font=_font(bold=True))
    top = head
    for name, pictures in sections.items():
        draw.text((2 * MARGIN, top + MARGIN), name, fill=INK, font=_font(bold=True))
        for place, tile in enumerate(pictures):
            sheet.paste(tile, (MARGIN + place % ACROSS * width, top + head + place // ACROSS * height))
        top += head + rows[name] * height
    return sheet


def _shortened(text: str, width: int) -> str:
    """The text, its middle left out where it is wider than that."""
    if _font().getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and _font().getlength(text[: kept // 2] + "…" + text[-(kept // 2) :]) > width:
        kept -= 1
    return text[: kept // 2] + "…" + text[-(kept // 2) :]


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"  # comes with matplotlib; classes have any name
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), TEXT)
