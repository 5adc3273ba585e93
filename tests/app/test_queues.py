from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.app.cells import Cell
from leukemia.app.queues import build_queues, following
from leukemia.evaluation.policy import Policy

CLASSES = ("HEM", "ALL")
POLICY = Policy(
    low=-2.0, high=2.0, slope=0.5, intercept=0.4, max_missed=0.1, max_false_alarm=0.2, confidence=0.95, unit="cell",
    certified=True,
)  # fmt: skip


def cells(logits, added=False):
    return [Cell(f"{row:04}", f"{row}.bmp", Path(f"{row}.bmp"), None, None, value, added=added)
            for row, value in enumerate(logits)]  # fmt: skip


LOGITS = st.lists(st.floats(-6, 6), min_size=1, max_size=60)


@given(LOGITS)
def test_without_a_policy_every_cell_is_reviewed_and_the_least_certain_comes_first(logits):
    order = build_queues(cells(logits), None, CLASSES, "")["review"]
    assert sorted(order) == [cell.id for cell in cells(logits)]
    certainty = [abs(logits[int(cell)]) for cell in order]
    assert certainty == sorted(certainty)


@given(LOGITS)
def test_a_policy_divides_the_cells_into_reviewed_and_released(logits):
    found = build_queues(cells(logits), POLICY, CLASSES, "")
    assert sorted(found["review"] + found["check"]) == [cell.id for cell in cells(logits)]
    assert all(-2 < logits[int(cell)] < 2 for cell in found["review"])
    probability = [1 / (1 + np.exp(-(0.5 * logits[int(cell)] + 0.4))) for cell in found["review"]]
    distance = [abs(value - 0.5) for value in probability]
    assert distance == pytest.approx(sorted(distance))  # of the calibrated probability


def test_the_sample_of_released_cells_is_random_and_stays_the_same():
    logits = [3.0] * 500 + [-3.0] * 500
    order = build_queues(cells(logits), POLICY, CLASSES, "run@1")["check"]
    assert order == build_queues(list(reversed(cells(logits))), POLICY, CLASSES, "run@1")["check"]
    assert order != build_queues(cells(logits), POLICY, CLASSES, "run@2")["check"]
    among_first = sum(int(cell) < 500 for cell in order[:100])
    assert 30 < among_first < 70  # of 100 draws at one half: 4 standard deviations


def test_cells_that_the_gate_stops_are_reviewed_first_whatever_the_policy_says():
    sure, unsure, foreign = cells([5.0, 0.1, 4.0])
    foreign = replace(foreign, unlike="larger than 99 % of the training cells")
    found = build_queues([sure, unsure, foreign], POLICY, CLASSES, "")
    assert (found["review"], found["check"]) == (["0002", "0001"], ["0000"])


def test_added_pictures_have_a_queue_of_their_own():
    mixed = [*cells([5.0, 0.1], added=True), Cell("x", "x", Path("x"), None, None, 0.0)]
    assert build_queues(mixed, POLICY, CLASSES, "")["added"] == ["0001", "0000"]


@pytest.mark.parametrize(
    ("done", "after", "expected"),
    [
        ("", None, "a"),
        ("a", None, "b"),
        ("", "b", "c"),
        ("", "d", "a"),
        ("abd", "a", "c"),
        ("abc", "d", "d"),
        ("abcd", "a", None),
        ("", "elsewhere", "a"),
    ],
)
def test_the_next_cell_is_the_first_undecided_after_this_one_and_then_from_the_start(done, after, expected):
    assert next(following(list("abcd"), set(done), after), None) == expected
