"""The queues of a review: which cells each one holds, and which come next."""

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from leukemia.app.cells import Cell
from leukemia.evaluation.policy import REVIEW, Policy

QUEUES = ("review", "check", "added")


def build_queues(
    cells: Iterable[Cell], policy: Policy | None, classes: tuple[str, str], salt: str
) -> dict[str, list[str]]:
    """The cell ids of each queue, first to last.

    - `review`: the cells that triage does not release (without a policy, all cells), and those that the gate stops.
      These come first, then the cell whose calibrated probability is nearest to 0.5.
    - `check`: the released cells, in a random order that `salt` seeds. At any time, the cells that a reviewer has seen
      are a random sample.
    - `added`: the cells that reviewers added, the least certain first.
    """
    cells = list(cells)
    ids = np.array([cell.id for cell in cells])
    logit = np.array([cell.logit for cell in cells], dtype=float)
    decisions = triage(cells, policy, classes)
    known = np.array([cell.unlike is None for cell in cells])
    by_certainty = np.lexsort((ids, np.abs(calibrated_logit(logit, policy)), known))
    released = np.flatnonzero(decisions != REVIEW)
    at_random = sorted(released.tolist(), key=lambda row: _random_key(salt, cells[row].id))
    return {
        "review": [cells[row].id for row in by_certainty if decisions[row] == REVIEW],
        "check": [cells[row].id for row in at_random],
        "added": [cells[row].id for row in by_certainty if cells[row].added],
    }


def following(queue: Sequence[str], done: Container[str], after: str | None = None) -> Iterator[str]:
    """The cells of a queue that are not done: first those after a given cell, then from the start.

    The given cell itself comes last.
    """
    start = queue.index(after) + 1 if after in queue else 0
    order = chain(islice(queue, start, None), islice(queue, start))
    return (cell for cell in order if cell not in done)


def triage(cells: Sequence[Cell], policy: Policy | None, classes: tuple[str, str]) -> np.ndarray:
    """A class or `review` for each cell (n,); `review` without a policy, and for a cell that the gate stops."""
    if policy is None:
        return np.full(len(cells), REVIEW, dtype=object)
    decided = policy.decide([cell.logit for cell in cells], classes)
    return np.where([cell.unlike is None for cell in cells], decided, REVIEW)


def calibrated_logit(logit: np.ndarray, policy: Policy | None) -> np.ndarray:
    """Logits (n,), recalibrated where the policy has a calibration."""
    if policy is None or policy.slope is None or policy.intercept is None:
        return logit
    return policy.slope * logit + policy.intercept


def _random_key(salt: str, cell: str) -> bytes:
    return hashlib.blake2b(f"{salt} {cell}".encode(), digest_size=8).digest()
