"""JSON payloads of the page: one cell, and the progress in a queue."""

from typing import Any
from urllib.parse import quote

import numpy as np

from leukemia.app.cells import Cell
from leukemia.app.decisions import UNSURE
from leukemia.app.queues import next_cell
from leukemia.app.review import Review
from leukemia.app.texts import disagreement, leaning, meaning, triage_text

MOST_IN_STRIP = 24
AHEAD = 2  # pictures that the browser fetches in advance


def cell_payload(review: Review, cell: Cell, reviewer: str, queue: str) -> dict[str, Any]:
    """A cell for a reviewer. It holds the labels of others only if this reviewer has decided the cell."""
    labels = review.store.labels(reviewer)
    opinion = review.opinion(cell)
    cell_ids = review.queues[queue]
    mine = labels.get(cell.id)
    others = review.store.labels_of(cell.id) if mine is not None else {}
    ahead: list[str] = []
    after: str | None = cell.id
    for _ in range(AHEAD):
        after = next_cell(cell_ids, {*labels, cell.id, *ahead}, after)
        if after is None:
            break
        ahead.append(after)
    return {
        "id": cell.id,
        "name": f"Cell {cell.id[:8]}" if review.is_masked(cell) else cell.path.rpartition("/")[2],
        "picture": f"cells/{cell.id}.png",
        "overlay": f"cells/{cell.id}/overlay.png?for={quote(opinion.label)}",  # the browser's cache keeps both classes
        "opinion": opinion.label,
        "position": cell_ids.index(cell.id) + 1 if cell.id in cell_ids else None,
        "of": len(cell_ids),
        "probability": opinion.probability,
        "leaning": leaning(opinion.probability, review.classes),
        "meaning": meaning(opinion.probability, review.classes, review.is_calibrated)
        + disagreement(cell.probability_sd, len(review.run.members)),
        "triage": triage_text(opinion.triage, review.policy),
        "mine": mine,
        "others": [{"reviewer": name, "label": label} for name, label in others.items() if name != reviewer],
        "warning": _warning(cell),
        "subject": _subject(review, cell, labels),
        "ahead": [f"cells/{cell_id}.png" for cell_id in ahead],
    }


def progress_payload(review: Review, reviewer: str, queue: str) -> dict[str, Any]:
    """A reviewer's progress in a queue."""
    labels = review.store.labels(reviewer)
    cell_ids = review.queues[queue]
    done = [labels[cell_id] for cell_id in cell_ids if cell_id in labels]
    return {
        "total": len(cell_ids),
        "done": len(done),
        "unsure": done.count(UNSURE),
        "added": len(review.queues["added"]),
        "can_undo": bool(labels),
    }


def _subject(review: Review, cell: Cell, labels: dict[str, str]) -> dict[str, Any] | None:
    """The subject's other cells, from the lowest to the highest logit, and a summary of all its cells."""
    if cell.subject is None:
        return None
    own = review.by_subject.get(cell.subject, [])
    opinions = {other.id: review.opinion(other) for other in own}
    others = [other for other in own if other.id != cell.id]
    shown = others
    if len(others) > MOST_IN_STRIP:  # spread evenly over the order
        places = np.linspace(0, len(others) - 1, MOST_IN_STRIP).round().astype(int)
        shown = [others[place] for place in places]
    positive = review.classes[1]
    called = sum(opinion.label == positive for opinion in opinions.values())
    mean = float(np.mean([opinion.probability for opinion in opinions.values()]))
    score = f"{'probability' if review.is_calibrated else 'score'} of {positive}"
    decided = sum(other.id in labels for other in own)
    return {
        "name": review.subject_name(cell),
        "summary": f"{len(own)} cell{'s' * (len(own) != 1)} here; you decided {decided}.",
        "model": f"The model calls {called} of {len(own)} {positive}; the mean {score} is {100 * mean:.0f} %.",
        "more": len(others) - len(shown),
        "cells": [
            {
                "id": other.id,
                "thumb": f"cells/{other.id}/thumb.png",
                "label": opinions[other.id].label,
                "percent": round(100 * opinions[other.id].probability),
                "mine": labels.get(other.id),
            }
            for other in shown
        ],
    }


def _warning(cell: Cell) -> str | None:
    if cell.used_in == "train":
        return "The model was trained on this picture: its score says nothing about new cells."
    if cell.used_in == "val":
        return "This picture helped to choose the model's epoch: its score is not held out."
    return None
