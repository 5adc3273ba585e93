"""What the page shows of a cell, as plain values: texts, numbers, addresses."""

from typing import Any
from urllib.parse import quote

import numpy as np

from leukemia.app.cells import Cell
from leukemia.app.decisions import UNSURE
from leukemia.app.queues import following
from leukemia.app.review import Review
from leukemia.app.texts import leaning, meaning, triage_words

MOST_IN_STRIP = 24
AHEAD = 2  # pictures that the browser may fetch before they are asked for


def cell_view(review: Review, cell: Cell, reviewer: str, queue: str) -> dict[str, Any]:
    """A cell as the page shows it to a reviewer. What others say of it is told once the reviewer has decided."""
    labels = review.store.labels(reviewer)
    opinion = review.opinion(cell)
    order = review.orders[queue]
    masked = review.is_masked(cell)
    mine = labels.get(cell.id)
    others = review.store.labels_of(cell.id) if mine is not None else {}
    ahead: list[str] = []
    after: str | None = cell.id
    for _ in range(AHEAD):
        after = following(order, {*labels, cell.id, *ahead}, after)
        if after is None:
            break
        ahead.append(after)
    return {
        "id": cell.id,
        "name": f"Cell {cell.id[:8]}" if masked else cell.path.rpartition("/")[2],
        "picture": f"cells/{cell.id}.png",
        "overlay": f"cells/{cell.id}/overlay.png?for={quote(opinion.label)}",  # a browser keeps one for each
        "opinion": opinion.label,
        "position": order.index(cell.id) + 1 if cell.id in order else None,
        "of": len(order),
        "probability": opinion.probability,
        "leaning": leaning(opinion.probability, review.classes),
        "meaning": meaning(opinion.probability, review.classes, review.is_calibrated),
        "triage": triage_words(opinion.triage, review.policy),
        "mine": mine,
        "others": [{"reviewer": name, "label": label} for name, label in others.items() if name != reviewer],
        "warning": _warning(cell),
        "subject": _subject(review, cell, labels),
        "ahead": [f"cells/{cell_id}.png" for cell_id in ahead],
    }


def progress(review: Review, reviewer: str, queue: str) -> dict[str, Any]:
    """How far a reviewer has come in a queue."""
    labels = review.store.labels(reviewer)
    order = review.orders[queue]
    done = [labels[cell_id] for cell_id in order if cell_id in labels]
    return {
        "total": len(order),
        "done": len(done),
        "unsure": done.count(UNSURE),
        "added": len(review.orders["added"]),
        "can_undo": bool(labels),
    }


def _subject(review: Review, cell: Cell, labels: dict[str, str]) -> dict[str, Any] | None:
    """The subject's other cells, from the lowest to the highest logit, and a summary of all."""
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
    decided = sum(other.id in labels for other in own)
    return {
        "name": review.subject_name(cell),
        "summary": f"{len(own)} cell{'s' * (len(own) != 1)} here, of which you decided {decided}.",
        "model": f"The model calls {called} of {len(own)} {positive}, and gives it {100 * mean:.0f} % on average.",
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
    if cell.seen == "train":
        return "The model was trained on this very picture: its score says nothing about new cells."
    if cell.seen == "val":
        return "This picture helped to choose the model's epoch: its score is not held out."
    return None
