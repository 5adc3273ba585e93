"""The report from top to bottom: SECTIONS is the one list of what it holds, and in which order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from leukemia.reporting import plots, summary, text_tables, words
from leukemia.reporting.blocks import Block, Heading, Listing, Section, Table, Text, pictures, tables
from leukemia.reporting.evidence_page import Evidence
from leukemia.reporting.model_card import model_card
from leukemia.reporting.results import combinations, read_status
from leukemia.reporting.terms import TERMS
from leukemia.runs import Run, Sweep

MOST_CURVES = 8  # of a kind: a page with more plots is neither read nor small
MOST_PANELS = 6
SPREAD = "Mean ± standard deviation over seeds and folds"
OVER_CELLS = "Over cells, with 95 % intervals."


@dataclass(frozen=True)
class Material:
    """What the sections are made from.

    Attributes:
        predictions: of the finished runs by name, where they can be used.
        settings: of each run, by dotted names.
    """

    sweep: Sweep
    results: pd.DataFrame
    proof: Evidence
    predictions: Mapping[str, pd.DataFrame]
    settings: Sequence[dict[str, Any]]

    @property
    def is_finished(self) -> bool:
        return bool(self.results["accuracy"].notna().any())

    @property
    def is_single(self) -> bool:
        """Whether this is the report of one run."""
        return len(self.results) == 1


def sections(material: Material) -> list[Section]:
    """The sections that have something to say."""
    found = []
    for name, title, make, is_open in SECTIONS:
        if blocks := make(material):
            found.append(Section(name, title, blocks, is_open))
    return found


def _evidence(of: Material, name: str, caption: str = "") -> list[Block]:
    """A table of the evidence, where there is one and it has a row."""
    found = of.proof.tables.get(name)
    return tables(Table(name, found, caption)) if found else []


def _grid(of: Material) -> list[Block]:
    if of.is_single or not of.is_finished:
        return []
    caption = f"{SPREAD}; n is their number."
    return [
        *pictures(plots.heat_maps(of.results), MOST_PANELS),
        Table("grid", text_tables.grid_table(of.results), caption),
    ]


def _one_run(of: Material) -> list[Block]:
    """Of a single run, in place of a grid: its metrics, and how its training went."""
    if not of.is_single:
        return []
    figures = plots.confusion_matrices(of.results, of.predictions)
    figures += plots.roc_curves(of.results, of.predictions)
    return [*_evidence(of, "intervals", OVER_CELLS), *pictures(figures, MOST_PANELS), *_training(of)]


def _failures(of: Material) -> list[Block]:
    return tables(Table("failures", text_tables.failures_table(of.results)))


def _other_metrics(of: Material) -> list[Block]:
    if of.is_single or not of.is_finished:
        return []
    return tables(Table("grid-metrics", text_tables.grid_metrics_table(of.results), f"{SPREAD}."))


def _intervals(of: Material) -> list[Block]:
    if not of.proof.tables:
        return []
    of_seeds = "Mean ± standard deviation over the runs that differ by seed or fold alone, and their range."
    return [
        *map(Text, of.proof.notes),
        *([] if of.is_single else _evidence(of, "intervals", OVER_CELLS)),
        *_evidence(of, "subject-intervals", "Over subjects, each counting once."),
        *_evidence(of, "seeds", of_seeds),
    ]


def _ranking(of: Material) -> list[Block]:
    caption = (
        "By accuracy, with 95 % intervals and paired differences on the same cells. The first is the best of many on "
        "these cells, so it is biased upwards; differences are not corrected for their number. Handcrafted: logistic "
        "regression on cell area, mean colour and roundness. ms a cell: from stored pixels to stored features, on the "
        "machine that computed them."
    )
    ranked = _evidence(of, "ranking", caption)
    return [*ranked, *pictures(of.proof.by_train_subjects, MOST_PANELS)] if ranked else []


def _differences(of: Material) -> list[Block]:
    caption = (
        "Paired: both are evaluated on the same draws. Differences whose interval excludes zero come first. "
        "Not corrected for the number of comparisons."
    )
    return _evidence(of, "differences", caption)


def _baselines(of: Material) -> list[Block]:
    caption = (
        "Handcrafted: logistic regression on cell area, mean colour and roundness, with the same splits. A network "
        "that does not beat it may have learned the size of the mask."
    )
    return _evidence(of, "baselines", caption)


def _subjects(of: Material) -> list[Block]:
    if not of.proof.subjects:
        return []
    said = (
        "The share of each subject's cells that are called correctly. An interval takes the cells of a subject as a "
        "sample of all its cells. Below the dotted line, 50 %, the majority vote is wrong."
    )
    return [Text(said), *pictures(of.proof.subjects, MOST_PANELS)]


def _calibration(of: Material) -> list[Block]:
    if not of.proof.tables:
        return []
    said = (
        "Before: as predicted. After: logistic recalibration (slope and intercept on the logit), fitted on other "
        "subjects than the reported ones (five-fold cross-fitting). Slope and intercept are fitted on all reported "
        "cells, for new cells."
    )
    caption = "Brier score = miscalibration − discrimination + uncertainty."
    return [
        Text(said),
        *_evidence(of, "calibration", caption),
        *pictures(of.proof.reliability, MOST_PANELS),
    ]


def _decision(of: Material) -> list[Block]:
    said = (
        "Net benefit: the share of cells rightly called positive, minus that of false alarms weighted by the odds of "
        "the threshold. A model is useful at thresholds where its line lies above both others. Probabilities are as "
        "predicted, so poor calibration costs benefit."
    )
    return [Text(said), *pictures(of.proof.decision, MOST_PANELS)] if of.proof.decision else []


def _covariates(of: Material) -> list[Block]:
    if not (table := _evidence(of, "covariates")):
        return []
    said = (
        f"Of {of.proof.settings[0].name}, by the further columns of the table of cells. Groups were not compared: two "
        "intervals that overlap do not show that groups are alike."
    )
    return [Text(said), *table]


def _gate(of: Material) -> list[Block]:
    said = "Cells that the gate sends to review, because they are unlike the training cells. The metrics count them."
    return _evidence(of, "gate", said)


def _gradcam(of: Material) -> list[Block]:
    said = (
        "The share of the Grad-CAM maps that lies on the black background. A share above that of an even map means "
        "that the network looks at the mask rather than at the cell."
    )
    table = _evidence(of, "gradcam")
    return [Text(said), *table] if table else []


def _review(of: Material) -> list[Block]:
    if not of.proof.tables:
        return []
    caption = (
        "Selective prediction: the most certain cells are decided first. These shares are of the reported cells and "
        "are not a guarantee."
    )
    found: list[Block] = [
        *_evidence(of, "selective", caption),
        *pictures(of.proof.risk_coverage, MOST_PANELS),
    ]
    for number, triaged in enumerate(of.proof.triaged, start=1):
        found += [Heading(f"Triage: {triaged.name}")]
        found += [Text(line, notice=line.startswith("NOT")) for line in triaged.said]
        found += [Table(f"triage-{number}", triaged.table)]
    if not of.proof.triaged:
        found += [Text("There is no triage policy yet: `leukemia triage` chooses one.")]
    return found


def _stress(of: Material) -> list[Block]:
    """Of each run for which `leukemia stress` was called."""
    found: list[Block] = []
    for number, (name, page) in enumerate(of.proof.stress, start=1):
        found += [Heading(name)] if len(of.proof.stress) > 1 else []
        found += [Text(page.sentence), *pictures([page.figure], 1), Table(f"stress-{number}", page.table)]
    return found


def _runs(of: Material) -> list[Block]:
    if not of.is_finished:
        return []
    each = "Each subject counts once; its vote is the class of most of its cells."
    return tables(
        Table(
            "runs",
            text_tables.metrics_table(of.results),
            "Metrics of the best checkpoint on the reported cells.",
            by_run=True,
        ),
        Table("subjects", text_tables.subjects_table(of.results), each, by_run=True),
    )


def _training_of_all(of: Material) -> list[Block]:
    return [] if of.is_single else _training(of)


def _training(of: Material) -> list[Block]:
    caption = "Best epoch from 1; gap at that epoch, on the validation split."
    found = tables(Table("training", text_tables.training_table(of.results), caption, by_run=True))
    by_name = {run.name: run for run in [*of.sweep.begun, *of.sweep.pending]}
    drawn = [
        (history, title, row)
        for title, row in _in_order_of_interest(of.results)
        if (history := _history(by_name[row["run"].item()])) is not None
    ]
    if not drawn:
        return found
    figures = [
        plots.learning_curves(history, title, row.iloc[0].to_dict(), words.marks(row))
        for history, title, row in drawn[:MOST_CURVES]
    ]
    said = (
        "Training curves are running averages over an epoch, with the network in training mode, so they may lie below "
        "the validation curve; the gap is measured in evaluation mode (the diamond)."
    )
    found += [Text(said), *pictures(figures, MOST_CURVES, "Learning curves: ")]
    if left_out := len(drawn) - len(figures):
        found += [
            Text(
                f"Curves of {left_out} more runs are left out to keep this page readable; the first seed and fold of "
                "each setting is shown first, and each run's folder holds its history.csv."
            )
        ]
    return found


def _in_order_of_interest(results: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The title and the row of each run: finished ones, where there are many the first seed and fold of each setting
    before the others, then those cut off."""
    finished = [
        (place, words.describe_run(settings, run), rows.iloc[[place]])
        for settings, rows in combinations(results)
        for place, run in enumerate(rows.to_dict("records"))
    ]
    if len(finished) > MOST_CURVES:
        finished.sort(key=lambda entry: entry[0])
    others = results[results["accuracy"].isna()]
    cut_off = [
        (f"{run['run']} ({run['status']})", others.iloc[[place]])
        for place, run in enumerate(others.to_dict("records"))
    ]
    return [*(entry[1:] for entry in finished), *cut_off]


def _history(run: Run) -> pd.DataFrame | None:
    """The history of a run if it has an epoch and a curve to draw."""
    try:
        history = run.history
    except ValueError:  # an InputError, or a file that is not a table
        return None
    curves = [c for c in ("train/loss", "val/loss", "train/accuracy", "val/accuracy") if c in history]
    drawable = "epoch" in history and any(history[c].notna().any() for c in curves)
    return history if drawable else None


def _roc(of: Material) -> list[Block]:
    return [] if of.is_single else pictures(plots.roc_curves(of.results, of.predictions), MOST_PANELS)


def _confusion(of: Material) -> list[Block]:
    found = [] if of.is_single else plots.confusion_matrices(of.results, of.predictions)
    said = "Cells at probability 0.5, and their share of the true class; summed over seeds and folds."
    return [Text(said), *pictures(found, MOST_PANELS)] if found else []


def _study(of: Material) -> list[Block]:
    """The seed study, where its cells are those of the runs; for a sweep on other cells of C-NMC too, which says so."""
    if not of.is_finished or not text_tables.is_cnmc(of.results):
        return []
    cells = set(of.results["n_images"].dropna())
    if of.is_single and cells != {words.SEED_STUDY_CELLS}:
        return []
    caption = "Training on 10,661 cells of 73 subjects, reported on prelim. Always ALL: 65.29 %."
    return [
        Text(summary.study_statement(of.results)),
        Table("study", text_tables.study_table(), caption),
        Text("Its fine-tuning is partial: the deeper convolutional layers train, here `layer4`."),
    ]


def _card(of: Material) -> list[Block]:
    if not of.is_finished:
        return []
    policies = [(triaged.name, triaged.policy) for triaged in of.proof.triaged]
    return [Listing(model_card(of.results, list(of.settings), policies))]


def _settings(of: Material) -> list[Block]:
    known = list(of.settings)
    computed = summary.computed_with([read_status(run) for run in of.sweep.begun])
    found: list[Block] = []
    for title, entries in (
        ("Settings that differ between the runs", summary.settings_varied(known)),
        ("Settings of all runs", summary.settings_shared(known)),
        ("Machine and versions", computed),
    ):
        if entries:
            found += [Heading(title), Listing(entries, settings=True)]
    return found


def _terms(_: Material) -> list[Block]:
    return [Listing(TERMS)]


# Identity, title, its blocks (none: the section is left out), and whether it is open.
SECTIONS: tuple[tuple[str, str, Callable[[Material], list[Block]], bool], ...] = (
    ("grid", "Networks and freezing", _grid, True),
    ("ranking", "Ranking of networks", _ranking, True),
    ("run", "Metrics and training", _one_run, True),
    ("without-metrics", "Runs without metrics", _failures, True),
    ("other-metrics", "Other metrics of the grid", _other_metrics, False),
    ("evidence", "Intervals", _intervals, False),
    ("differences", "Differences on the same cells", _differences, False),
    ("baselines", "Baselines that need no network", _baselines, False),
    ("subject-bars", "Subjects", _subjects, False),
    ("calibration", "Calibration", _calibration, False),
    ("decision", "Decision curves", _decision, False),
    ("covariates", "Metrics by covariate", _covariates, False),
    ("triage", "Review and triage", _review, False),
    ("gate", "Cells unlike the training cells", _gate, False),
    ("stress", "Shifts of optics, camera, stain and crop", _stress, False),
    ("gradcam", "Grad-CAM", _gradcam, False),
    ("training", "Training", _training_of_all, False),
    ("roc", "ROC curves", _roc, False),
    ("confusion", "Confusion matrices", _confusion, False),
    ("runs", "Every run", _runs, False),
    ("study", "Seed study", _study, False),
    ("card", "Model card", _card, False),
    ("settings", "Settings and versions", _settings, False),
    ("terms", "Terms", _terms, False),
)
