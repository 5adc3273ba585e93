"""Shared by the report's figures: colours, sizes, titles, and embedding into a page."""

import base64
import io
import math
import re
import textwrap
import warnings
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukemia.reporting.words import LEAKS

# Okabe and Ito (2008), legible for the colour-blind; the dashes tell the same apart in black and white.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#555555"
COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2)), ":", (0, (8, 2, 2, 2)))
WIDTH = 3.5  # inches: fits the width of a telephone
SMALL, TEXT, LARGE = 7, 8, 10  # points
LINE = 0.14  # inches, of such text


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def new_plot(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of one plot."""
    figure = new_figure(width, height)
    return figure, figure.subplots()


def style(ax: Axes, x: str, y: str) -> None:
    """Axis labels, quiet grid, no box."""
    ax.set_xlabel(x, fontsize=TEXT)
    ax.set_ylabel(y, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.grid(color="#E2E2E2", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def ink(colours: str, shade: float) -> str:
    """Black or white, whichever can be read better on a shade of 0 to 1 of a colour map (contrast by WCAG 2)."""
    channels = mpl.colormaps[colours](float(shade))[:3]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.179 else "black"


def titled(figure: Figure, title: str, marks: list[str]) -> Figure:
    """A figure with its title in bold and the marks below it, which it keeps where it is taken out of the report. It
    grows by their lines."""
    characters = int(figure.get_figwidth() * 14)
    bold = textwrap.wrap(title, characters - 5)
    figure.suptitle(plain("\n".join(bold)), fontsize=TEXT, weight="bold")
    below = [line for mark in marks for line in textwrap.wrap(mark, characters)]
    if below:
        loud = below[0].startswith(LEAKS)
        text, weight = plain("\n".join(below)), "bold" if loud else "normal"
        figure.axes[0].set_title(text, fontsize=SMALL, color="#B00020" if loud else "#8A4B00", weight=weight)
    figure.set_figheight(figure.get_figheight() + LINE * (len(bold) + len(below)))
    return figure


def with_legend(figure: Figure, title: str, marks: list[str]) -> Figure:
    """As `titled`, with one legend under the axes, each label once. The figure grows by its rows."""
    titled(figure, title, marks)
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    columns = 2 if len(entries) > 3 else 1
    figure.set_figheight(figure.get_figheight() + LINE * math.ceil(len(entries) / columns))
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center",
        ncols=columns, fontsize=SMALL, frameon=False, handlelength=3,
    )  # fmt: skip
    return figure


def plain(text: object) -> str:
    """Text that matplotlib shows literally: a dollar sign would start a formula."""
    return str(text).replace("$", r"\$")


def data_uri(figure: Figure) -> str:
    """A figure as the address of an embedded SVG picture, the same for the same figure."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "leukemia", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = _small(buffer.getvalue().decode("utf-8"))
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii")


def _small(svg: str) -> str:
    """The same picture in fewer bytes: coordinates (not scales) to a hundredth of a point, no names of groups."""
    svg = re.sub(r"-?[1-9]\d*\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = svg.replace("DejaVuSans-Bold-", "b").replace("DejaVuSans-", "g")  # the names of glyphs
    svg = re.sub(r"\s+", " ", svg)
    return re.sub(r"> <", "><", svg)


def described(figure: Figure) -> str:
    """The title of a figure and its marks as one line of text, for those who do not see it."""
    lines = [figure.get_suptitle(), figure.axes[0].get_title()]
    return " – ".join(" ".join(line.split()) for line in lines if line).replace(r"\$", "$")
