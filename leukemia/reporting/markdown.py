"""results.md: the tables of the report for a README, an issue or a paper's draft."""

import pandas as pd

from leukemia.reporting import summary, text_tables
from leukemia.reporting.evidence_page import Evidence
from leukemia.reporting.text_tables import Printed


def results_md(name: str, results: pd.DataFrame, proof: Evidence) -> str:
    """The grid, its intervals, the seed study and every run as GitHub Markdown, with the marks of the HTML report."""
    blocks = [f"# Results of {_escape(name)}", "\n\n".join(map(_escape, summary.headline(results)))]
    if results["accuracy"].notna().any():
        leaks, statement = summary.leak_statement(results)
        blocks.append(f"**{_escape(statement)}**" if leaks else _escape(statement))
        if chosen := summary.chosen_statement(results):
            blocks.append(f"**{_escape(chosen)}**")
        blocks += [
            "## Networks and freezing",
            "Mean ± standard deviation over seeds and folds; n is their number.",
        ]
        blocks += [table(text_tables.grid_table(results)), table(text_tables.grid_metrics_table(results))]
    if proof.tables:
        blocks += ["## Intervals and baselines", "\n\n".join(map(_escape, proof.notes))]
        blocks += [table(found) for found in proof.tables.values() if found.rows]
    for triaged in proof.triaged:
        blocks += [f"### Triage: {_escape(triaged.name)}", "\n\n".join(map(_escape, triaged.said))]
        blocks.append(table(triaged.table))
    blocks += ["## Seed study", _escape(summary.study_statement(results)), table(text_tables.study_table())]
    if results["accuracy"].notna().any():
        blocks += ["## Every run", table(text_tables.metrics_table(results))]
        blocks += ["### Training", table(text_tables.training_table(results))]
        if results["subjects.n"].notna().any():
            blocks += ["### Subjects", table(text_tables.subjects_table(results))]
    if (failures := text_tables.failures_table(results)).rows:
        blocks += ["## Runs without metrics", table(failures)]
    return "\n\n".join(blocks) + "\n"


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
