"""The TRIPOD+AI checklist (Collins et al. 2024, BMJ 385:e078378) of a sweep or run: items by number, in our own short
words, answered from the run folders where they know the answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from leukemia.evaluation.metrics import METRICS
from leukemia.reporting import summary, words
from leukemia.reporting.evidence_page import Evidence, evidence
from leukemia.reporting.markdown import table
from leukemia.reporting.model_card import model_card
from leukemia.reporting.results import combinations, read_settings, read_status, results_table
from leukemia.reporting.text_tables import Printed
from leukemia.runs import Run, Sweep
from leukemia.storage.atomic import write_text

ONLY_YOU = "only you know this"
FILE = "tripod-ai.md"
HETEROGENEITY = "Metrics by subject, and by the further columns of the table of cells (results.md)"


class Facts:
    """What the run folders of a sweep know; the run is one of its best setting."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.results = sweep, results_table(sweep)
        self.proof: Evidence = evidence(sweep, self.results)
        self.settings = [read_settings(run) for run in sweep.begun]
        finished = set(self.results.loc[self.results["accuracy"].notna(), "run"])
        best = self.proof.settings[0].runs[0] if self.proof.settings else None
        self.run: Run | None = next(
            (run for run in sweep.begun if run.name in finished and best in (None, run.name)), None
        )
        self.config = read_settings(self.run) if self.run else {}
        self.card = model_card(self.results, self.settings, []) if finished else {}

    def file(self, name: str) -> str:
        assert self.run is not None
        return name if self.run.folder == self.sweep.folder else f"{self.run.name}/{name}"

    def setting(self, *names: str) -> Iterator[str]:
        """Settings of the run, where they are known."""
        found = [
            f"{name} {words.value(self.config[name], name)}"
            for name in names
            if self.config.get(name) is not None
        ]
        if found:
            yield f"{', '.join(found)} ({self.file('config.yaml')})"

    @property
    def cells(self) -> pd.DataFrame | None:
        return self.run.cells if self.run and (self.run.folder / "cells.csv").is_file() else None

    def by_split(self, say: Callable[[pd.DataFrame], str]) -> str:
        """What to say of the cells of each split, in the order of the table; empty without a table."""
        if self.cells is None:
            return ""
        return ", ".join(f"{split} {say(rows)}" for split, rows in self.cells.groupby("split", sort=False))


Answered = Callable[[Facts], Iterator[str]] | str


def write_checklist(folder: Path) -> Path:
    """Write tripod-ai.md into the folder of a sweep or of a run.

    Raises:
        InputError: if the folder holds no run.
    """
    facts = Facts(Sweep(Path(folder)))
    printed = Printed(["Item", "To report", "Answer"], 3)
    known = 0
    for number, item, answer in ITEMS:
        found = []
        if answer and facts.run:
            found = [answer] if isinstance(answer, str) else list(answer(facts))
        known += bool(found)
        printed.add([number, item, ". ".join(found) or ONLY_YOU], [])
    lines = [
        f"# TRIPOD+AI: {Path(folder).resolve().name}",
        "The items of TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378) in short words of our own; read them in full "
        "there. Answers come from the files that they name. An answer is a place to start: read it before you send it.",
        f"{known} of {len(ITEMS)} items are filled in.",
        table(printed),
    ]
    write_text(Path(folder) / FILE, "\n\n".join(lines) + "\n")
    return Path(folder) / FILE


def _title(of: Facts) -> Iterator[str]:
    if of.proof.settings:
        classes = "/".join(of.proof.settings[0].classes)
        yield f"Development and evaluation of {of.proof.settings[0].name} for {classes} (results.md)"


def _source(of: Facts) -> Iterator[str]:
    yield f"{of.card['Data']} ({of.file('metrics.json')})"
    yield from of.setting("data.root", "data.reader._target_")


def _preparation(of: Facts) -> Iterator[str]:
    yield from of.setting("data.image_size", "data.resize", "data.augment", "data.tta")


def _outcome(of: Facts) -> Iterator[str]:
    yield from of.setting("data.classes", "data.positive")


def _predictors(of: Facts) -> Iterator[str]:
    yield "The pixels of one segmented cell; no clinical predictor"
    yield from of.setting("data.image_size", "data.native_size")


def _size(of: Facts) -> Iterator[str]:
    if sizes := of.by_split(lambda rows: f"{len(rows):,} cells of {rows['subject'].nunique():,} subjects"):
        yield f"{sizes} ({of.file('cells.csv')}). Why so many: {ONLY_YOU}"


def _missing(of: Facts) -> Iterator[str]:
    if of.cells is not None:
        unknown = words.count(int(of.cells["subject"].isna().sum()), "cell")
        yield f"{unknown} without a subject ({of.file('cells.csv')}). Unreadable pictures end a run"


def _partition(of: Facts) -> Iterator[str]:
    yield of.card["Protocol"]
    yield from of.setting("data.protocol", "data.fold", "data.num_folds", "data.split_seed")
    yield summary.leak_statement(of.results)[1].rstrip(".")


def _model(of: Facts) -> Iterator[str]:
    yield of.card["Model"]
    yield from of.setting(
        "model.net._target_", "model.net.depth", "model.net.name", "model.trainable_from", "model.unfreeze",
        "model.criterion._target_", "model.optimizer._target_", "model.optimizer.lr", "model.scheduler._target_",
        "trainer.max_epochs", "monitor", "seed",
    )  # fmt: skip
    yield of.card["Chosen on"].rstrip(".")
    yield f"{words.count(len(combinations(of.results)), 'setting')} compared (results.csv)"


def _measures(of: Facts) -> Iterator[str]:
    yield f"{', '.join(metric.title for metric in METRICS.values())}; calibration, decision curves (report.html)"
    yield from of.proof.notes[:1]


def _prediction(of: Facts) -> Iterator[str]:
    yield f"leukemia predict RUN, or leukemia export RUN; one logit a cell ({of.file('predictions.csv')})"


def _imbalance(of: Facts) -> Iterator[str]:
    yield from of.setting("model.class_weights", "model.criterion._target_")


def _output(of: Facts) -> Iterator[str]:
    yield f"The probability of {of.proof.settings[0].classes[1] if of.proof.settings else 'class 1'}, cut at 0.5"
    assert of.run is not None
    if policy := of.run.policy:
        classes = of.proof.settings[0].classes if of.proof.settings else ("class 0", "class 1")
        yield f"{words.released(policy, classes)}, the rest is reviewed ({of.file('triage.json')})"


def _shift(of: Facts) -> Iterator[str]:
    if shares := of.by_split(lambda rows: f"{words.percent(rows['label'].mean())} %"):
        yield f"Share of the positive class: {shares} ({of.file('cells.csv')})"


def _sharing(of: Facts) -> Iterator[str]:
    if "C-NMC" in of.card["Data"]:
        yield "C-NMC 2019 is public: DOI 10.7937/tcia.2019.dc64i46r, CC BY 3.0"


def _code(of: Facts) -> Iterator[str]:
    assert of.run is not None
    computed = summary.computed_with([read_status(of.run)])
    versions = [f"{name} {computed[name]}" for name in ("leukemia", "torch", "python") if name in computed]
    yield f"This software is public (Apache-2.0): {', '.join(versions)} ({of.file('status.json')})"


def _flow(of: Facts) -> Iterator[str]:
    yield from _size(of)
    yield summary.states(of.results)


def _events(of: Facts) -> Iterator[str]:
    if counts := of.by_split(lambda rows: f"{int(rows['label'].sum()):,} of {len(rows):,}"):
        yield f"Positive cells: {counts} ({of.file('cells.csv')})"


def _specification(of: Facts) -> Iterator[str]:
    yield f"{of.file('checkpoints/best.ckpt')} and {of.file('config.yaml')}; leukemia export writes one file"


def _performance(of: Facts) -> Iterator[str]:
    if of.proof.metrics:
        found = of.proof.metrics[0]["cells"]
        for name in ("accuracy", "auroc", "sensitivity", "specificity"):
            form = words.form(METRICS[name])
            value = words.between(found[name], "value", form, without=" (no interval)")
            yield f"{words.heading(METRICS[name])} {value}"
        yield "All metrics: results.md"


def _by_cluster(of: Facts) -> Iterator[str]:
    if of.proof.metrics and (rows := of.proof.metrics[0]["by_subject"]):
        shares = [row["accuracy"] for row in rows]
        yield (
            f"Share of correct cells by subject: {words.percent(min(shares))} to {words.percent(max(shares))} % "
            f"({of.file('predictions.csv')})"
        )


def _limits(of: Facts) -> Iterator[str]:
    yield of.card["Known limits"]


def _users(of: Facts) -> Iterator[str]:
    yield f"{of.card['Intended use']}. Cells under review are decided on the page of leukemia app"


ITEMS: tuple[tuple[str, str, Answered | None], ...] = (
    ("1", "Title: a prediction model, its population and outcome", _title),
    ("2", "Abstract, by TRIPOD+AI for Abstracts", "See the answers at the top of report.html"),
    ("3a", "Healthcare context and why the model is needed", None),
    ("3b", "Target population, purpose and users in the care pathway", _users),
    ("3c", "Known health inequalities between groups", None),
    ("4", "Objectives: development, evaluation or both", None),
    ("5a", "Sources of data, and how representative they are", _source),
    ("5b", "Dates of data collection", None),
    ("6a", "Setting and centres", None),
    ("6b", "Eligibility of participants", None),
    ("6c", "Treatments received", None),
    ("7", "Preparation of data, and whether it was alike for all groups", _preparation),
    ("8a", "Outcome, and how and when it was assessed", _outcome),
    ("8b", "Assessors of the outcome, their training", None),
    ("8c", "Blinding of the outcome's assessment", None),
    ("9a", "Choice of predictors", _predictors),
    ("9b", "Definition and measurement of predictors", _predictors),
    ("9c", "Assessors of subjective predictors", None),
    ("10", "Sample size, and its justification", _size),
    ("11", "Missing data", _missing),
    ("12a", "How data were divided for development and evaluation", _partition),
    ("12b", "Handling of predictors", _preparation),
    ("12c", "Type of model, all steps of building it, tuning, internal validation", _model),
    ("12d", "Heterogeneity between clusters", HETEROGENEITY),
    ("12e", "Measures of performance, and why", _measures),
    ("12f", "Updating of the model", None),
    ("12g", "How predictions are computed at evaluation", _prediction),
    ("13", "Class imbalance: methods and recalibration", _imbalance),
    ("14", "Fairness: approaches and their reason", None),
    ("15", "Output of the model, and any threshold", _output),
    ("16", "Differences between development and evaluation data", _shift),
    ("17", "Ethical approval and consent", None),
    ("18a", "Funding", None),
    ("18b", "Conflicts of interest", None),
    ("18c", "Protocol", None),
    ("18d", "Registration", None),
    ("18e", "Data sharing", _sharing),
    ("18f", "Code sharing", _code),
    ("19", "Involvement of patients and the public", None),
    ("20a", "Flow of participants, with and without the outcome", _flow),
    ("20b", "Characteristics of participants, by setting", None),
    ("20c", "Comparison of development and evaluation data", _shift),
    ("21", "Participants and outcomes in each analysis", _events),
    ("22", "The full model, so that others can predict", _specification),
    ("23a", "Performance with intervals, subgroups too", _performance),
    ("23b", "Heterogeneity of performance between clusters", _by_cluster),
    ("24", "Results of updating", None),
    ("25", "Interpretation, fairness included", None),
    ("26", "Limitations", _limits),
    ("27a", "Poor or missing input at use", "Unreadable pictures are refused by name (leukemia predict)"),
    ("27b", "Interaction with users, and their expertise", _users),
    ("27c", "Next steps", None),
)
