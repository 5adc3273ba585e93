"""report.html: one self-contained page about a sweep or a run, beside results.csv and results.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leukemia.evaluation.predictions import validate_predictions
from leukemia.reporting import summary, words
from leukemia.reporting.answers import answers, in_short, next_commands
from leukemia.reporting.blocks import Answer, Section
from leukemia.reporting.evidence_page import evidence
from leukemia.reporting.markdown import results_md
from leukemia.reporting.results import read_settings, read_status, results_table
from leukemia.reporting.sections import Material, sections
from leukemia.runs import Run, Sweep
from leukemia.storage.atomic import write_text
from leukemia.storage.tables import spreadsheet_csv


@dataclass(frozen=True)
class Written:
    """A report that was written: the path of report.html, its first sentence, and its last words on a command line."""

    page: Path
    lead: str
    said: list[str]


def write_report(folder: Path) -> Path:
    """Write results.csv, results.md and report.html into the folder of a sweep (or of a single run).

    Every run is listed with its state; finished runs have metrics.

    Returns:
        The path of report.html.
    Raises:
        InputError: if the folder holds no run, or cannot be written to.
    """
    return written_report(folder).page


def written_report(folder: Path) -> Written:
    """As `write_report`, with what was found in a few sentences and the commands that come next."""
    folder = Path(folder)
    sweep = Sweep(folder)
    results = results_table(sweep)
    proof = evidence(sweep, results)
    predictions, unread = _predictions(sweep.begun)
    material = Material(sweep, results, proof, predictions, [read_settings(run) for run in sweep.begun])
    title = f"{folder.resolve().name}: {'one run' if material.is_single else 'networks and freezing'}"
    lead = summary.states(results)
    first_screen, parts = answers(sweep, results, proof), sections(material)
    write_text(folder / "results.csv", spreadsheet_csv(results))
    write_text(folder / "results.md", results_md(title, lead, first_screen, parts))
    page = report_html(title, lead, results, first_screen, parts, [*unread, *proof.problems])
    write_text(folder / "report.html", page)
    said = in_short(first_screen)
    said += [f"{'     ' if n else 'Next:'} {line}" for n, line in enumerate(next_commands(sweep, proof))]
    return Written(folder / "report.html", lead, said)


def report_html(
    title: str,
    lead: str,
    results: pd.DataFrame,
    first_screen: Sequence[Answer],
    parts: Sequence[Section],
    unread: Sequence[str],
) -> str:
    """The page as text. Names come from data and are escaped by the template, without exception."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=title,
        lead=f"{lead}.",
        failures=int(results["accuracy"].isna().sum()),
        answers=first_screen,
        sections=parts,
        unread=unread,
        loud=words.LEAKS,
    )


def _predictions(runs: Sequence[Run]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The predictions of the finished runs by name, and the errors of those that cannot be used."""
    tables: dict[str, pd.DataFrame] = {}
    problems = []
    for run in runs:
        if read_status(run)["status"] != "done":
            continue
        try:
            validate_predictions(run.predictions)
            tables[run.name] = run.predictions
        except ValueError as problem:  # an InputError, or a file that is not a table
            problems.append(f"{run.name}, predictions.csv: {problem}")
    return tables, problems
