"""JSON payloads of the page: one cell, and the progress in a queue."""

from itertools import islice
from typing import Any
from urllib.parse import quote

import numpy as np

from leukemia.app.cells import Cell
from leukemia.app.decisions import UNSURE
from leukemia.app.queues import following
from leukemia.app.review import Review
from leukemia.app.texts import disagreement, leaning, meaning, size_text, triage_text

MOST_IN_STRIP = 24
AHEAD = 2  # pictures that the browser fetches in advance


def cell_payload(
    review: Review, cell: Cell, reviewer: str, queue: str, diameter: float | None = None
) -> dict[str, Any]:
    """A cell for a reviewer. It holds the labels of others only if this reviewer has decided the cell, and in a blind
    review also the model's opinion only then.

    Args:
        review, cell, reviewer, queue: as they are now.
        diameter: of the cell, in pixels.
    """
    labels = review.store.labels(reviewer)
    cell_ids = review.queues[queue]
    mine = labels.get(cell.id)
    decisions = review.store.decisions_on(cell.id) if mine is not None else []
    ahead = islice(following(cell_ids, labels, cell.id), AHEAD)
    return {
        "id": cell.id,
        "name": f"Cell {cell.id[:8]}" if review.is_masked(cell) else cell.path.rpartition("/")[2],
        "picture": f"cells/{cell.id}.png",
        "position": cell_ids.index(cell.id) + 1 if cell.id in cell_ids else None,
        "of": len(cell_ids),
        "size": size_text(diameter, cell.um_per_pixel),
        "notes": _notes(cell),
        "opinion": _opinion(review, cell) if mine is not None or not review.blind else None,
        "mine": mine,
        "comment": next((row.comment for row in decisions if row.reviewer == reviewer), ""),
        "others": [
            {"reviewer": row.reviewer, "label": row.new_label, "comment": row.comment}
            for row in decisions
            if row.reviewer != reviewer
        ],
        "subject": _subject(review, cell, labels),
        "ahead": [f"cells/{other}.png" for other in ahead if other != cell.id],
    }


def _opinion(review: Review, cell: Cell) -> dict[str, Any]:
    """The model's opinion of a cell. Its notes say what else the model found."""
    found = review.opinion(cell)
    return {
        "label": found.label,
        "probability": found.probability,
        "leaning": leaning(found.probability, review.classes),
        "meaning": meaning(found.probability, review.classes, review.is_calibrated),
        "triage": triage_text(found.triage, review.policy),
        "overlay": f"cells/{cell.id}/overlay.png?for={quote(found.label)}",  # the browser's cache keeps both classes
        "notes": disagreement(cell.probability_sd, len(review.run.members)),
    }


def _notes(cell: Cell) -> list[str]:
    """Facts about a cell that a reviewer may know before deciding."""
    unlike = [f"Unlike the training cells: {cell.unlike}."] if cell.unlike else []
    if cell.used_in == "train":
        return ["The model was trained on this picture: its score says nothing about new cells.", *unlike]
    if cell.used_in == "val":
        return ["This picture helped to choose the model's epoch: its score is not held out.", *unlike]
    return unlike


def progress_payload(review: Review, reviewer: str, queue: str) -> dict[str, Any]:
    """A reviewer's progress in a queue."""
    labels = review.store.labels(reviewer)
    cell_ids = review.queues[queue]
    done = [labels[cell_id] for cell_id in cell_ids if cell_id in labels]
    return {
        "total": len(cell_ids),
        "done": len(done),
        "unsure": done.count(UNSURE),
        "released": len(review.queues["check"]),
        "added": len(review.queues["added"]),
        "can_undo": bool(labels),
    }


def _subject(review: Review, cell: Cell, labels: dict[str, str]) -> dict[str, Any] | None:
    """The subject's other cells, from the lowest to the highest logit, and a summary of all its cells.

    In a blind review the order is random, only decided cells have an opinion, and there is no summary by the model.
    """
    if cell.subject is None:
        return None
    own = review.by_subject.get(cell.subject, [])
    others = [other for other in own if other.id != cell.id]
    others.sort(key=lambda other: other.id if review.blind else (other.logit, other.id))
    shown = others
    if len(others) > MOST_IN_STRIP:  # spread evenly over the order
        places = np.linspace(0, len(others) - 1, MOST_IN_STRIP).round().astype(int)
        shown = [others[place] for place in places]
    decided = sum(other.id in labels for other in own)
    return {
        "name": review.subject_name(cell),
        "summary": f"{len(own)} cell{'s' * (len(own) != 1)} here; you decided {decided}.",
        "model": "" if review.blind else _subject_opinion(review, own),
        "order": "in random order" if review.blind else "in the order of the model's logit",
        "more": len(others) - len(shown),
        "cells": [
            {
                "id": other.id,
                "thumb": f"cells/{other.id}/thumb.png",
                "mine": labels.get(other.id),
                "opinion": _short_opinion(review, other) if other.id in labels or not review.blind else None,
            }
            for other in shown
        ],
    }


def _subject_opinion(review: Review, cells: list[Cell]) -> str:
    positive, opinions = review.classes[1], review.opinions(cells)
    called = sum(opinion.label == positive for opinion in opinions)
    mean = sum(opinion.probability for opinion in opinions) / len(opinions)
    score = f"{'probability' if review.is_calibrated else 'score'} of {positive}"
    return f"The model calls {called} of {len(cells)} {positive}; the mean {score} is {100 * mean:.0f} %."


def _short_opinion(review: Review, cell: Cell) -> dict[str, str]:
    label, positive = review.opinion(cell).label, review.opinion(cell).probability
    percent = round(100 * positive)
    return {"label": label, "text": f"{percent if label == review.classes[1] else 100 - percent} % {label}"}
