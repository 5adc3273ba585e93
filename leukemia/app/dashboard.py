"""The metrics of the dashboard: progress, time, agreement, and the reading study."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from leukemia.app.agreement import Agreement, agreement
from leukemia.app.decisions import ARTEFACT, POOR_QUALITY, UNSURE, Decision
from leukemia.app.export import Consensus, consensus, train_command
from leukemia.app.reading import Reading, labelled_cells, reading
from leukemia.app.review import Review
from leukemia.evaluation.policy import REVIEW

LONGEST = 120  # seconds; a longer decision was interrupted and has no time


@dataclass(frozen=True)
class Seconds:
    """The time of a decision: median and quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ReviewerProgress:
    """The progress of one reviewer: numbers of cells, and the time of a decision. `unusable` counts artefacts and cells
    of poor quality."""

    name: str
    decided: int
    unsure: int
    unusable: int
    review_done: int
    checked: int
    seconds: Seconds | None


@dataclass(frozen=True)
class DashboardMetrics:
    """The metrics of a review.

    Attributes:
        cells, to_review, released: numbers of cells.
        checked: number of released cells that somebody looked at.
        reviewers: progress of each reviewer.
        seconds: of all reviewers' decisions; None before the first.
        seconds_saved: median time of a decision times the number of released cells that nobody looked at.
        with_model: each reviewer and the model, on cells in review.
        blind: the same by first labels, on cells whose opinion was hidden until then.
        checks: each reviewer's first labels and triage, on the random sample of released cells: from the queue `check`,
            with the opinion hidden.
        readings: sensitivity and specificity of each reviewer, the model and the hybrid, on cells with a label.
        between: each two reviewers, by first labels that were given before the other's was shown.
        consensus: the labels that reviewers agree on.
        absent: number of cells with a consensus that are not under review now, so that a manifest leaves them out.
        train_command: trains on the exported manifest.
    """

    cells: int
    to_review: int
    released: int
    checked: int
    reviewers: list[ReviewerProgress]
    seconds: Seconds | None
    seconds_saved: float | None
    with_model: list[Agreement]
    blind: list[Agreement]
    checks: list[Agreement]
    readings: list[Reading]
    between: list[Agreement]
    consensus: Consensus
    absent: int
    train_command: str


def dashboard_metrics(review: Review) -> DashboardMetrics:
    """The metrics of a review as it is now."""
    store, classes, cells, to_review = review.store, review.classes, review.cells, review.queues["review"]
    opinions = dict(zip(cells, review.opinions(list(cells.values())), strict=True))
    predicted = {cell_id: opinion.label for cell_id, opinion in opinions.items() if opinion.triage == REVIEW}
    released = {cell_id: opinion.triage for cell_id, opinion in opinions.items() if opinion.triage != REVIEW}
    labelled = labelled_cells(review)
    history = store.history()
    current = {
        name: [row for row in store.current(name).values() if row.new_label is not None]
        for name in store.reviewers()
    }
    labels = {name: _labels(rows) for name, rows in current.items()}
    first = _first_decisions(history)
    blind = {name: [row for row in rows.values() if row.blind] for name, rows in first.items()}
    blind_labels = {name: _labels(rows) for name, rows in blind.items()}
    sample = {name: _labels(row for row in rows if row.queue == "check") for name, rows in blind.items()}
    checked = len(released.keys() & {cell for rows in labels.values() for cell in rows})
    seconds = _seconds(history)

    def compare(judged: Mapping[str, dict[str, str]], other: dict[str, str], name: str) -> list[Agreement]:
        found = [agreement(own, other, classes, (reviewer, name)) for reviewer, own in judged.items()]
        return [entry for entry in found if entry.n + entry.left_out]

    pairs = [
        agreement(*_independent_labels(first, history, *pair), classes, pair)
        for pair in combinations(labels, 2)
    ]
    agreed = consensus(store)
    return DashboardMetrics(
        cells=len(cells),
        to_review=len(to_review),
        released=len(released),
        checked=checked,
        reviewers=[
            ReviewerProgress(
                name=name,
                decided=len(rows),
                unsure=sum(row.new_label == UNSURE for row in rows),
                unusable=sum(row.new_label in (ARTEFACT, POOR_QUALITY) for row in rows),
                review_done=len(labels[name].keys() & set(to_review)),
                checked=len(labels[name].keys() & released.keys()),
                seconds=_seconds(rows),
            )
            for name, rows in current.items()
        ],
        seconds=seconds,
        seconds_saved=None if seconds is None else seconds.median * (len(released) - checked),
        with_model=compare(labels, predicted, "the model at 0.5"),
        blind=compare(blind_labels, predicted, "the model at 0.5"),
        checks=compare(sample, released, "triage"),
        readings=[found for name, rows in first.items() if (found := reading(name, rows, labelled, classes))],
        between=[entry for entry in pairs if entry.n + entry.left_out],
        consensus=agreed,
        absent=len(agreed.labels.keys() - cells.keys()),
        train_command=train_command(review),
    )


def _labels(decisions: Iterable[Decision]) -> dict[str, str]:
    return {row.cell: row.new_label for row in decisions if row.new_label is not None}


def _first_decisions(history: Sequence[Decision]) -> dict[str, dict[str, Decision]]:
    """By reviewer and cell, the first decision that was not taken back."""
    taken_back = {decision.undoes for decision in history}
    found: dict[str, dict[str, Decision]] = {}
    for decision in history:
        if decision.undoes is None and decision.id not in taken_back:
            found.setdefault(decision.reviewer, {}).setdefault(decision.cell, decision)
    return found


def _independent_labels(
    first: Mapping[str, dict[str, Decision]], history: Sequence[Decision], one: str, other: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The first labels of two reviewers on cells where neither can have seen the other's label.

    The page shows the others' labels after one's own. A reviewer who takes a label back may have seen them in between.
    Such a cell is left out if the other had decided it by then.
    """
    began: dict[tuple[str, str], int] = {}
    for decision in history:
        began.setdefault((decision.reviewer, decision.cell), decision.id)

    def may_have_seen(own: Decision, name: str) -> bool:
        return began[own.reviewer, own.cell] < own.id and began[name, own.cell] < own.id

    mine, theirs = first.get(one, {}), first.get(other, {})
    cells = [
        cell
        for cell in mine.keys() & theirs.keys()
        if not may_have_seen(mine[cell], other) and not may_have_seen(theirs[cell], one)
    ]
    return _labels(mine[cell] for cell in cells), _labels(theirs[cell] for cell in cells)


def _seconds(decisions: Iterable[Decision]) -> Seconds | None:
    times = [
        row.seconds
        for row in decisions
        if row.undoes is None and row.seconds is not None and row.seconds <= LONGEST
    ]
    if not times:
        return None
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return Seconds(median, low, high)
