"""The figures of the dashboard: progress, time saved, agreement."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from leukemia.app.agreement import Agreement, agreement
from leukemia.app.decisions import UNSURE, Decision
from leukemia.app.export import Consensus, consensus, train_command
from leukemia.app.review import Review
from leukemia.evaluation.policy import REVIEW

LONGEST = 120  # seconds: who looks at a cell for longer has gone for a coffee


@dataclass(frozen=True)
class Reader:
    """How far a reviewer has come."""

    name: str
    decided: int
    unsure: int
    review_done: int
    checked: int
    median_seconds: float | None


@dataclass(frozen=True)
class Figures:
    """What the dashboard shows.

    Attributes:
        cells, to_review, released: how many there are.
        checked: released cells that somebody looked at.
        readers: each reviewer.
        median_seconds: of all reviewers' decisions; None before the first.
        seconds_saved: median time of a decision times the cells that were released and not looked at.
        with_model: each reviewer against the model, on cells in review.
        blind: the same by first labels, of cells whose opinion was hidden until then.
        checks: each reviewer's first labels against triage, on the random sample of released cells alone: of the queue
            `check`, the opinion hidden.
        with_data: each reviewer against the labels of the data.
        between: each two reviewers, by the first label of each, which came before the other's could be seen.
        consensus: what the reviewers say together.
        absent: cells of it that are not under review now, and so are left out of a manifest.
        train_command: that trains on what is exported.
    """

    cells: int
    to_review: int
    released: int
    checked: int
    readers: list[Reader]
    median_seconds: float | None
    seconds_saved: float | None
    with_model: list[Agreement]
    blind: list[Agreement]
    checks: list[Agreement]
    with_data: list[Agreement]
    between: list[Agreement]
    consensus: Consensus
    absent: int
    train_command: str


def figures(review: Review) -> Figures:
    """The figures of a review as it stands."""
    store, classes = review.store, review.classes
    cells, orders = review.cells, review.orders
    opinions = {cell_id: review.opinion(cell) for cell_id, cell in cells.items()}
    called = {cell_id: opinion.label for cell_id, opinion in opinions.items() if opinion.triage == REVIEW}
    released = {cell_id: opinion.triage for cell_id, opinion in opinions.items() if opinion.triage != REVIEW}
    of_data = {cell_id: cell.label for cell_id, cell in cells.items() if cell.label is not None}
    current = {name: _decided(store.current(name)) for name in store.reviewers()}
    labels = _labels(current)
    history = store.history()
    first = _first_labels(history)
    blind = {
        name: {cell: decision for cell, decision in rows.items() if decision.blind}
        for name, rows in first.items()
    }
    sample = {name: {cell: decision for cell, decision in rows.items() if decision.queue == "check"}
              for name, rows in blind.items()}  # fmt: skip
    spent = [decision.seconds for decision in history if _timed(decision)]
    looked_at = {cell for rows in labels.values() for cell in rows}
    checked = len(released.keys() & looked_at)
    middle = _median(spent)

    def against(judged: Mapping[str, dict[str, str]], other: dict[str, str], name: str) -> list[Agreement]:
        found = [agreement(own, other, classes, (reader, name)) for reader, own in judged.items()]
        return [entry for entry in found if entry.n + entry.unsure]

    together = consensus(store)
    return Figures(
        cells=len(cells),
        to_review=len(orders["review"]),
        released=len(released),
        checked=checked,
        readers=[_reader(name, rows, orders["review"], released) for name, rows in current.items()],
        median_seconds=middle,
        seconds_saved=None if middle is None else middle * (len(released) - checked),
        with_model=against(labels, called, "the model at 0.5"),
        blind=against(_labels(blind), called, "the model at 0.5"),
        checks=against(_labels(sample), released, "triage"),
        with_data=against(labels, of_data, "the data"),
        between=[
            entry
            for pair in combinations(labels, 2)
            if (entry := agreement(*_apart(first, history, *pair), classes, pair)).n + entry.unsure
        ],
        consensus=together,
        absent=sum(cell_id not in cells for cell_id in together.labels),
        train_command=train_command(review),
    )


def _decided(rows: dict[str, Decision]) -> dict[str, Decision]:
    return {cell: decision for cell, decision in rows.items() if decision.new_label is not None}


def _labels(decisions: Mapping[str, dict[str, Decision]]) -> dict[str, dict[str, str]]:
    return {name: {cell: decision.new_label or "" for cell, decision in rows.items()}
            for name, rows in decisions.items()}  # fmt: skip


def _first_labels(history: Sequence[Decision]) -> dict[str, dict[str, Decision]]:
    """Each reviewer's first decision on each cell that was not taken back."""
    taken_back = {decision.undoes for decision in history}
    found: dict[str, dict[str, Decision]] = {}
    for decision in history:
        if decision.undoes is None and decision.id not in taken_back:
            found.setdefault(decision.reviewer, {}).setdefault(decision.cell, decision)
    return found


def _apart(
    first: Mapping[str, dict[str, Decision]], history: Sequence[Decision], one: str, other: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The first labels of two reviewers, where neither can have seen the other's.

    The page shows others' labels after one's own. Who took a label back can have seen them in between, so such a cell
    is left out where the other had decided it by then.
    """
    began: dict[tuple[str, str], int] = {}
    for decision in history:
        began.setdefault((decision.reviewer, decision.cell), decision.id)

    def seen(cell: str, own: Decision, name: str) -> bool:
        return began[own.reviewer, cell] < own.id and began[name, cell] < own.id

    pairs = {
        cell: (own, first[other][cell])
        for cell, own in first.get(one, {}).items()
        if cell in first.get(other, {})
    }
    kept = {cell: pair for cell, pair in pairs.items()
            if not seen(cell, pair[0], other) and not seen(cell, pair[1], one)}  # fmt: skip
    return {cell: pair[0].new_label or "" for cell, pair in kept.items()}, {
        cell: pair[1].new_label or "" for cell, pair in kept.items()
    }


def _timed(decision: Decision) -> bool:
    return decision.undoes is None and decision.seconds is not None and decision.seconds <= LONGEST


def _reader(
    name: str, rows: dict[str, Decision], to_review: Sequence[str], released: Mapping[str, str]
) -> Reader:
    spent = [decision.seconds for decision in rows.values() if _timed(decision)]
    return Reader(
        name=name,
        decided=len(rows),
        unsure=sum(decision.new_label == UNSURE for decision in rows.values()),
        review_done=sum(cell in rows for cell in to_review),
        checked=len(released.keys() & rows.keys()),
        median_seconds=_median(spent),
    )


def _median(seconds: Iterable[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return median(known) if known else None
