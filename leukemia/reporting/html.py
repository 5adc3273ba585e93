"""report.html: one self-contained page about a sweep, beside results.csv and results.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from leukemia.evaluation.predictions import validate_predictions
from leukemia.reporting import drawing, plots, summary, text_tables, words
from leukemia.reporting.evidence_page import Evidence, evidence
from leukemia.reporting.markdown import results_md
from leukemia.reporting.model_card import model_card
from leukemia.reporting.results import combinations, read_settings, read_status, results_table
from leukemia.runs import Run, Sweep
from leukemia.storage.atomic import write_text

MOST_CURVES = 24  # of a kind: a page with more plots is neither read nor small
MOST_PANELS = 12


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its address, and its description."""

    uri: str
    alt: str


def write_report(folder: Path) -> Path:
    """Write results.csv, results.md and report.html into the folder of a sweep (or of a single run).

    Every run is listed with its state; finished runs have metrics.

    Returns:
        The path of report.html.
    Raises:
        InputError: if the folder holds no run, or cannot be written to.
    """
    folder = Path(folder)
    sweep = Sweep(folder)
    results = results_table(sweep)
    name = folder.resolve().name
    proof = evidence(sweep, results)
    page = report_html(name, sweep, results, proof)
    write_text(folder / "results.csv", results.to_csv(index=False))
    write_text(folder / "results.md", results_md(name, results, proof))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def report_html(name: str, sweep: Sweep, results: pd.DataFrame, proof: Evidence) -> str:
    """The page as text, from a sweep, its results table and its evidence."""
    predictions, unread = _predictions(sweep.begun)
    settings = [read_settings(run) for run in sweep.begun]
    finished = bool(results["accuracy"].notna().any())
    # Names come from data and are escaped by the template, without exception.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    curves, left_out = _curves(sweep, results)
    policies = [(triaged.name, triaged.policy) for triaged in proof.triaged]
    leaks, leak_statement = summary.leak_statement(results) if finished else (False, None)
    return environment.get_template("report.html.j2").render(
        name=name,
        finished=finished,
        headline=summary.headline(results),
        leaks=leaks,
        leak_statement=leak_statement,
        chosen_statement=summary.chosen_statement(results),
        study_statement=summary.study_statement(results),
        grid=text_tables.grid_table(results),
        grid_metrics=text_tables.grid_metrics_table(results),
        study=text_tables.study_table(),
        reported=text_tables.metrics_table(results),
        training=text_tables.training_table(results),
        subjects=text_tables.subjects_table(results),
        failures=text_tables.failures_table(results),
        heat_maps=_pictures(plots.heat_maps(results)),
        rocs=_pictures(plots.roc_curves(results, predictions)),
        confusions=_pictures(plots.confusion_matrices(results, predictions)),
        curves=curves,
        curves_left_out=left_out,
        unread=[*unread, *proof.problems],
        proof=proof,
        subject_bars=_pictures(proof.subjects),
        reliability=_pictures(proof.reliability),
        risk_coverage=_pictures(proof.risk_coverage),
        by_train_subjects=_pictures(proof.by_train_subjects),
        card=model_card(results, settings, policies) if finished else {},
        shared=summary.settings_shared(settings),
        varied=summary.settings_varied(settings),
        computed_with=summary.computed_with([read_status(run) for run in sweep.begun]),
        most_panels=MOST_PANELS,
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


def _curves(sweep: Sweep, results: pd.DataFrame) -> tuple[list[Picture], int]:
    """Learning curves of the finished runs, then of those cut off; beyond MOST_CURVES the first seed and fold
    of each setting goes first. Also how many runs are left out."""
    by_name = {run.name: run for run in [*sweep.begun, *sweep.pending]}
    unfinished = results[results["accuracy"].isna()]
    entries = [  # (place among the runs of its setting, title, row), finished ones first
        (place, words.describe_run(settings, run), rows.iloc[[place]])
        for settings, rows in combinations(results)
        for place, run in enumerate(rows.to_dict("records"))
    ]
    entries += [
        (len(results), f"{run['run']} ({run['status']})", unfinished.iloc[[place]])
        for place, run in enumerate(unfinished.to_dict("records"))
    ]
    histories = [(entry, _history(by_name[entry[2]["run"].item()])) for entry in entries]
    drawn = [(entry, history) for entry, history in histories if history is not None]
    if len(drawn) > MOST_CURVES:
        drawn.sort(key=lambda pair: pair[0][0])
    figures = [
        plots.learning_curves(history, title, row.iloc[0].to_dict(), words.marks(row))
        for (_, title, row), history in drawn[:MOST_CURVES]
    ]
    return _pictures(figures), max(0, len(drawn) - MOST_CURVES)


def _history(run: Run) -> pd.DataFrame | None:
    """The history of a run if it has an epoch and a curve to draw."""
    try:
        history = run.history
    except ValueError:  # an InputError, or a file that is not a table
        return None
    curves = [c for c in ("train/loss", "val/loss", "train/accuracy", "val/accuracy") if c in history]
    drawable = "epoch" in history and any(history[c].notna().any() for c in curves)
    return history if drawable else None


def _pictures(figures: Sequence[Figure]) -> list[Picture]:
    return [Picture(drawing.data_uri(figure), drawing.described(figure)) for figure in figures]
