"""Which cell comes next."""

import hashlib
from collections.abc import Container, Iterable, Sequence

import numpy as np

from leukemia.app.cells import Cell
from leukemia.evaluation.policy import REVIEW, Policy

QUEUES = ("review", "check", "added")


def orders(
    cells: Iterable[Cell], policy: Policy | None, classes: tuple[str, str], salt: str
) -> dict[str, list[str]]:
    """The cells of each queue, as ids, first to last.

    `review` holds what triage does not release (without a policy every cell), least certain first: nearest to the
    calibrated probability 0.5. `check` holds what it releases, in an order drawn at random by `salt`: however far one
    comes, what one has seen is a random sample. `added` holds the pictures that were added, least certain first.
    """
    cells = list(cells)
    ids = np.array([cell.id for cell in cells])
    logit = np.array([cell.logit for cell in cells], dtype=float)
    certainty = np.abs(calibrated_logit(logit, policy))
    triaged = triage(logit, policy, classes)
    by_certainty = np.lexsort((ids, certainty))
    drawn = sorted(range(len(cells)), key=lambda row: _drawn(salt, cells[row].id))
    return {
        "review": [cells[row].id for row in by_certainty if triaged[row] == REVIEW],
        "check": [cells[row].id for row in drawn if triaged[row] != REVIEW],
        "added": [cells[row].id for row in by_certainty if cells[row].added],
    }


def following(order: Sequence[str], done: Container[str], after: str | None = None) -> str | None:
    """The first cell of a queue that is not done, looked for after a given cell and then from the start; not that cell
    itself, unless nothing else is left.
    """
    start = order.index(after) + 1 if after in order else 0
    for cell in [*order[start:], *order[:start]]:
        if cell not in done:
            return cell
    return None


def triage(logit: np.ndarray, policy: Policy | None, classes: tuple[str, str]) -> np.ndarray:
    """A class or `review` for each logit (n,); without a policy everything goes to review."""
    if policy is None:
        return np.full(len(logit), REVIEW, dtype=object)
    return policy.decide(logit, classes)


def calibrated_logit(logit: np.ndarray, policy: Policy | None) -> np.ndarray:
    """Logits (n,) recalibrated where a policy knows how."""
    if policy is None or policy.slope is None or policy.intercept is None:
        return logit
    return policy.slope * logit + policy.intercept


def _drawn(salt: str, cell: str) -> bytes:
    return hashlib.blake2b(f"{salt} {cell}".encode(), digest_size=8).digest()
