"""The report's evidence: intervals, subjects, calibration and triage, ready for the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leukemia.data.reader import ADDED_COLUMNS, COLUMNS
from leukemia.errors import InputError
from leukemia.evaluation.covariates import by_covariate, covariates
from leukemia.evaluation.policy import Policy
from leukemia.reporting import evidence_plots, evidence_tables, words
from leukemia.reporting.evidence import (
    MOST_PAIRED,
    SettingResult,
    comparisons,
    metrics_of,
    predictions_of,
    usable_settings,
)
from leukemia.reporting.ranking import ranking
from leukemia.reporting.stress import StressPage, stress_page
from leukemia.reporting.text_tables import Printed
from leukemia.runs import Run, Sweep

MOST_SETTINGS = 12
MOST_PICTURED = 4  # settings; with more, a page is neither read nor small
MOST_PAIRS = 6


@dataclass
class Triaged:
    """A policy, its outcome on the reported cells of its run (or pooled folds), and its description."""

    name: str
    policy: Policy
    table: Printed
    said: list[str]


@dataclass
class Evidence:
    """The content of the page; a table without rows is left out.

    Attributes:
        settings: all with usable predictions, the highest mean accuracy first.
        metrics: `metrics_of` the first MOST_SETTINGS of them, which the tables hold in the order of the grid.
    """

    settings: list[SettingResult] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, Printed] = field(default_factory=dict)
    subjects: list[Figure] = field(default_factory=list)
    reliability: list[Figure] = field(default_factory=list)
    risk_coverage: list[Figure] = field(default_factory=list)
    decision: list[Figure] = field(default_factory=list)
    by_train_subjects: list[Figure] = field(default_factory=list)
    triaged: list[Triaged] = field(default_factory=list)
    stress: list[tuple[str, StressPage]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def evidence(sweep: Sweep, results: pd.DataFrame) -> Evidence:
    """The evidence of a sweep's finished runs, by setting; settings whose predictions cannot be used are left out."""
    found = Evidence()
    in_order, _ = usable_settings(results, sweep.begun)  # the page says which predictions cannot be used
    if not in_order:
        return found
    accuracy = results.set_index("run")["accuracy"]
    found.settings = sorted(in_order, key=lambda model: -float(accuracy.loc[model.runs].mean()))
    kept = found.settings[:MOST_SETTINGS]
    found.metrics = [metrics_of(model) for model in kept]
    places = sorted(range(len(kept)), key=lambda place: in_order.index(kept[place]))
    models, metrics = [kept[place] for place in places], [found.metrics[place] for place in places]
    if len(in_order) > len(kept):
        found.notes.append(
            f"Intervals of {len(in_order) - len(kept)} more settings, of lower accuracy: see leukemia evaluate."
        )
    found.notes += _notes(models, metrics)
    pairs = _ranked(comparisons(kept if len(kept) > MOST_PAIRED else kept[::-1]))
    if len(pairs) > MOST_PAIRS:
        found.notes.append(f"{len(pairs) - MOST_PAIRS} more differences: see leukemia evaluate.")
    ranked = ranking(in_order, results)
    found.by_train_subjects = evidence_plots.curves_by_train_subjects(ranked)
    found.tables = {
        "ranking": evidence_tables.ranking_table(ranked),
        "intervals": evidence_tables.intervals_table(metrics, "cells"),
        "subject-intervals": evidence_tables.intervals_table(metrics, "subjects"),
        "seeds": evidence_tables.seeds_table(metrics),
        "baselines": evidence_tables.baselines_table(metrics),
        "differences": evidence_tables.differences_table(pairs[:MOST_PAIRS]),
        "calibration": evidence_tables.calibration_table(metrics),
        "selective": evidence_tables.selective_table(metrics),
        "gate": evidence_tables.gate_table(metrics),
        "covariates": _covariates(sweep, kept[0]),
        "gradcam": evidence_tables.gradcam_table(_gradcam(sweep, models, found.problems)),
    }
    policies = _policies(sweep, models, found.problems)
    if len(models) > MOST_PICTURED:
        found.notes.append(f"Plots are of the best {MOST_PICTURED} of {len(models)} settings.")
    for model, of in list(zip(kept, found.metrics, strict=True))[:MOST_PICTURED]:
        table, name, marks = model.replicates[0], model.name, of["marks"]
        if of["by_subject"]:
            found.subjects.append(evidence_plots.subject_bars(of["by_subject"], model.classes, name, marks))
        found.reliability.append(evidence_plots.reliability_diagram(table, name, marks))
        if not any(title == name for title, *_ in policies):
            found.risk_coverage.append(evidence_plots.risk_coverage_plot(table, None, name, marks))
    pictured = [(model.name, model.replicates[0]) for model in kept[:MOST_PICTURED] if not model.pooled]
    labels = [table.set_index("path")["label"].sort_index() for _, table in pictured]
    if labels and all(label.equals(labels[0]) for label in labels):
        found.decision.append(evidence_plots.decision_curves(pictured, kept[0].marks))
    for name, policy, model, table in policies:
        found.triaged.append(_triaged(name, policy, table, model.classes))
        found.risk_coverage.append(evidence_plots.risk_coverage_plot(table, policy, name, model.marks))
    found.stress = _stress(sweep, found.problems)
    return found


def _stress(sweep: Sweep, problems: list[str]) -> list[tuple[str, StressPage]]:
    """What `leukemia stress` found, of at most MOST_PICTURED runs."""
    found: list[tuple[str, StressPage]] = []
    for run in sweep.begun:
        try:
            if len(found) < MOST_PICTURED and (page := stress_page(run)) is not None:
                found.append((run.name, page))
        except InputError as problem:
            problems.append(f"{run.name}, {problem}")
    return found


def _covariates(sweep: Sweep, model: SettingResult) -> Printed:
    """Metrics of a setting by the further columns of its cells, which its reader gave."""
    run = next(run for run in sweep.begun if run.name == model.runs[0])
    values = {}
    if (run.folder / "cells.csv").is_file():
        cells = run.cells[run.cells["path"].isin(model.replicates[0]["path"])]
        further = cells.drop(columns=[*COLUMNS, *ADDED_COLUMNS], errors="ignore")
        of_path = cells.set_index("path")
        for name in covariates(further):
            value_of = {str(path): value for path, value in of_path[name].items()}
            values[name] = by_covariate(model.replicates, value_of)
    return evidence_tables.covariates_table(values, model.marks)


def _ranked(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs whose interval of accuracy excludes zero first, then by the size of the difference."""

    def place(pair: dict[str, Any]) -> tuple[bool, float]:
        of = pair["accuracy"]
        return of["low"] is None or of["low"] <= 0 <= of["high"], -abs(of["difference"])

    return sorted(pairs, key=place)


def _notes(models: Sequence[SettingResult], metrics: Sequence[dict[str, Any]]) -> list[str]:
    units = sorted({of["unit"] for of in metrics})
    said = [
        f"Intervals are 95 %, from a bootstrap of {' or '.join(f'{unit}s' for unit in units)} within class "
        f"({metrics[0]['draws']:,} draws)."
    ]
    said += [f"{of['name']}: no intervals, {of['no_intervals']}." for of in metrics if of["no_intervals"]]
    said += [
        f"{of['name']}: not recalibrated: {words.not_cross_fitted(of['unit'])}."
        for of in metrics
        if not of["calibration"]["after"]
    ]
    if any(of["too_narrow"] for of in metrics):
        said.append(
            "Where subjects are unknown, cells are taken as independent: those intervals are too narrow."
        )
    if any(model.pooled for model in models):
        said.append(
            "Metrics at a threshold pool the test splits of all folds. AUROC is the mean within folds, because the "
            "logits of different models are not on one scale; so there is no common slope and intercept either."
        )
    over = sorted({model.over for model in models if len(model.replicates) > 1})
    if over:
        said.append(
            f"With several {' or '.join(over)}, intervals are of their mean; plots and calibration are of the first."
        )
    return said


def _policies(
    sweep: Sweep, models: Sequence[SettingResult], problems: list[str]
) -> list[tuple[str, Policy, SettingResult, pd.DataFrame]]:
    """The policies beside the runs and beside the sweep, with the cells that they are shown on."""
    found = []
    for model in models:
        runs = [run for run in sweep.begun if run.name in model.runs]
        for run in runs:
            if (policy := readable_policy(run, problems)) is not None:
                name = model.name if len(runs) == 1 else f"{model.name}, {run.name}"
                found.append((name, policy, model, predictions_of(run)))
    is_run = (sweep.folder / "status.json").is_file()
    policy = None if is_run else readable_policy(Run(sweep.folder), problems)
    if policy is not None and len(models) == 1:
        found.append((models[0].name, policy, models[0], models[0].replicates[0]))
    return found


def readable_policy(run: Run, problems: list[str]) -> Policy | None:
    """The policy beside a run; None where there is none, or it cannot be read: `problems` takes the reason."""
    try:
        return run.policy
    except InputError as problem:
        problems.append(f"{run.name}, triage.json: {problem}")
        return None


def _gradcam(
    sweep: Sweep, models: Sequence[SettingResult], problems: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """The Grad-CAM summaries that `leukemia explain` wrote into runs."""
    found = []
    for run in sweep.begun:
        try:
            summary = run.gradcam
            if summary is not None and any(run.name in model.runs for model in models):
                evidence_tables.gradcam_table([(run.name, summary)])  # refuses one that cannot be printed
                found.append((run.name, summary))
        except (InputError, KeyError, TypeError, AttributeError) as problem:
            problems.append(f"{run.name}, gradcam.json: {problem}")
    return found


def _triaged(name: str, policy: Policy, table: pd.DataFrame, classes: tuple[str, str]) -> Triaged:
    bounds = (
        f"missed at most {policy.max_missed:g} and false alarm at most {policy.max_false_alarm:g}, "
        f"unit: {policy.unit}, confidence {policy.confidence:g}"
    )
    said = [f"Certified: {bounds}." if policy.certified else f"NOT CERTIFIED ({bounds}): {policy.why_not}."]
    said.append(f"{words.released(policy, classes)}; the rest is reviewed.")
    if policy.fitted_on.get("what"):
        said.append(
            f"Thresholds were chosen on {policy.fitted_on['what']}; the table is of the reported cells."
        )
    return Triaged(name, policy, evidence_tables.triage_table(table, policy, classes), said)
