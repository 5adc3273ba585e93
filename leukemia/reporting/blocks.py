"""The parts of the report, the same for report.html and results.md: sections, and the blocks that fill them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from leukemia.reporting import drawing
from leukemia.reporting.text_tables import Printed


@dataclass(frozen=True)
class Answer:
    """One row of the first screen: a question, its answer in words, and what stands behind it.

    Attributes:
        tone: `fine`, `doubt`, `alarm` or `plain`; the verdict says the same in words.
    """

    question: str
    verdict: str
    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str
    notice: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `by_run` shows the run's name below its setting."""

    id: str
    printed: Printed
    caption: str = ""
    by_run: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its address, and its description."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Pictures:
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Listing:
    """Terms and their texts; `settings` sets them small and in columns."""

    entries: Mapping[str, str]
    settings: bool = False


Block = Heading | Text | Table | Pictures | Listing


@dataclass(frozen=True)
class Section:
    """A section of the report: collapsed, unless it is `open`."""

    id: str
    title: str
    blocks: Sequence[Block]
    open: bool = False


def pictures(figures: Sequence[Figure], most: int, alt: str = "") -> list[Block]:
    """The first `most` figures, and a sentence about the others; nothing where there are none."""
    if not figures:
        return []
    shown = [Picture(drawing.data_uri(figure), alt + drawing.described(figure)) for figure in figures[:most]]
    left_out = len(figures) - len(shown)
    said = [Text(f"{left_out} more are left out here; their metrics are in the tables.")] if left_out else []
    return [Pictures(shown), *said]


def tables(*found: Table) -> list[Block]:
    """Those of the tables that have a row."""
    return [table for table in found if table.printed.rows]
