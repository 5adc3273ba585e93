"""The figures of the dashboard: progress, time saved, agreement."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from leukemia.app.agreement import Agreement, agreement
from leukemia.app.decisions import UNSURE, Decision
from leukemia.app.export import Consensus, consensus
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
        blind: the same on cells whose opinion was hidden until the decision.
        checks: each reviewer against triage, on released cells of the random sample.
        with_data: each reviewer against the labels of the data.
        between: each two reviewers.
        consensus: what would be exported.
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


def figures(review: Review) -> Figures:
    """The figures of a review as it stands."""
    store, classes = review.store, review.classes
    cells, orders = review.cells, review.orders
    opinions = {cell_id: review.opinion(cell) for cell_id, cell in cells.items()}
    called = {cell_id: opinion.label for cell_id, opinion in opinions.items() if opinion.triage == REVIEW}
    released = {cell_id: opinion.triage for cell_id, opinion in opinions.items() if opinion.triage != REVIEW}
    of_data = {cell_id: cell.label for cell_id, cell in cells.items() if cell.label is not None}
    current = {name: _decided(store.current(name)) for name in store.reviewers()}
    labels = {name: {cell: decision.new_label or "" for cell, decision in rows.items()}
              for name, rows in current.items()}  # fmt: skip
    spent = [decision.seconds for decision in store.history() if _timed(decision)]
    looked_at = {cell for rows in labels.values() for cell in rows}
    checked = len(released.keys() & looked_at)
    middle = _median(spent)

    def against(other: dict[str, str], name: str, only: str = "") -> list[Agreement]:
        found = []
        for reader, rows in current.items():
            own = {
                cell: label for cell, label in labels[reader].items()
                if (only != "blind" or rows[cell].blind) and (only != "check" or rows[cell].queue == "check")
            }  # fmt: skip
            found.append(agreement(own, other, classes, (reader, name)))
        return [entry for entry in found if entry.n + entry.unsure]

    return Figures(
        cells=len(cells),
        to_review=len(orders["review"]),
        released=len(released),
        checked=checked,
        readers=[_reader(name, rows, orders["review"], released) for name, rows in current.items()],
        median_seconds=middle,
        seconds_saved=None if middle is None else middle * (len(released) - checked),
        with_model=against(called, "the model at 0.5"),
        blind=against(called, "the model at 0.5", only="blind"),
        checks=against(released, "triage", only="check"),
        with_data=against(of_data, "the data"),
        between=[
            entry
            for one, other in combinations(labels, 2)
            if (entry := agreement(labels[one], labels[other], classes, (one, other))).n + entry.unsure
        ],
        consensus=consensus(store),
    )


def _decided(rows: dict[str, Decision]) -> dict[str, Decision]:
    return {cell: decision for cell, decision in rows.items() if decision.new_label is not None}


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
