"""results.md: the report without its pictures, for a README, an issue or a paper's draft."""

from collections.abc import Iterator, Sequence

from leukemia.reporting.answers import sentences
from leukemia.reporting.blocks import Answer, Block, Heading, Listing, Section, Table, Text
from leukemia.reporting.text_tables import Printed


def results_md(title: str, lead: str, first_screen: Sequence[Answer], parts: Sequence[Section]) -> str:
    """The answers, and the sections' tables and texts, as GitHub Markdown; an alarm stands out."""
    blocks = [f"# {_escape(title)}", _escape(f"{lead}.")]
    if first_screen:
        lines = map(_escape, sentences(first_screen))
        loud = [
            f"**{line}**" if of.tone == "alarm" else line
            for line, of in zip(lines, first_screen, strict=True)
        ]
        blocks.append("\n".join(f"- {line}" for line in loud))
    for section in parts:
        if found := [text for block in section.blocks for text in _block(block)]:
            blocks += [f"## {_escape(section.title)}", *found]
    return "\n\n".join(blocks) + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"### {_escape(block.text)}"
    elif isinstance(block, Text):
        yield f"**{_escape(block.text)}**" if block.notice else _escape(block.text)
    elif isinstance(block, Table):
        if block.caption:
            yield _escape(block.caption)
        yield table(block.printed)
    elif isinstance(block, Listing):
        yield "\n".join(f"- {_escape(term)}: {_escape(text)}" for term, text in block.entries.items())


def table(printed_table: Printed) -> str:
    """A text_tables table as Markdown: the marks of all rows above it, those of some in a last column."""
    marked = any(printed_table.own_marks)
    header = [*map(_escape, printed_table.columns), *(["Marks"] if marked else [])]
    rules = [":--" if place < printed_table.words else "--:" for place in range(len(printed_table.columns))]
    rows = [header, [*rules, *([":--"] if marked else [])]]
    for row, marks in zip(printed_table.rows, printed_table.own_marks, strict=True):
        cells = [_escape(cell) for cell in row]
        rows.append([*cells, _escape("; ".join(marks))] if marked else cells)
    above = [f"**All rows: {_escape('; '.join(printed_table.common_marks))}**", ""]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*(above if printed_table.common_marks else []), *lines])


def _escape(text: str) -> str:
    """Text that GitHub shows literally: without markup, new cells or new lines."""
    text = " ".join(str(text).split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for sign in "|`*_[]":
        text = text.replace(sign, f"\\{sign}")
    return text
