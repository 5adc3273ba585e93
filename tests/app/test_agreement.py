from dataclasses import replace

import numpy as np
import pytest

from leukemia.app.agreement import agreement
from leukemia.app.dashboard import figures
from leukemia.app.review import Review

CLASSES = ("HEM", "ALL")


def test_only_cells_that_both_judged_and_are_sure_of_count():
    first = {"a": "ALL", "b": "HEM", "c": "unsure", "d": "ALL", "e": "ALL"}
    second = {"a": "ALL", "b": "ALL", "c": "ALL", "d": "unsure", "f": "HEM"}
    found = agreement(first, second, CLASSES, ("Ann", "Bob"))
    assert (found.n, found.unsure, found.differ, found.share) == (2, 2, 1, 0.5)
    assert found.counts.tolist() == [[0, 1], [0, 1]]  # Ann's HEM is Bob's ALL
    assert found.low < 0.5 < found.high


def test_nothing_in_common_has_no_share():
    found = agreement({"a": "ALL"}, {"b": "ALL"}, CLASSES, ("Ann", "Bob"))
    assert (found.n, found.share, found.kappa.value) == (0, None, None)


@pytest.fixture
def review(run):
    review = Review(run)
    yield review
    review.store.close()


def decide(review, reviewer, cell_id, label, queue="review", blind=False, seconds=2.0):
    decide.count = getattr(decide, "count", 0) + 1
    seen = review.seen(review.cells[cell_id], queue, blind, seconds)
    review.store.decide(reviewer, seen, label, f"request-{decide.count}")


def test_the_dashboard_counts_what_was_done(review):
    to_review, released = review.orders["review"], review.orders["check"]
    assert len(to_review) > 6
    assert len(released) > 6
    for cell_id in to_review[:5]:
        decide(review, "Ann", cell_id, "ALL", blind=cell_id == to_review[0])
        decide(review, "Bob", cell_id, "ALL" if cell_id != to_review[4] else "HEM", seconds=10.0)
    decide(review, "Ann", to_review[5], "unsure", seconds=5000.0)  # a coffee
    for cell_id in released[:3]:
        decide(review, "Ann", cell_id, review.opinion(review.cells[cell_id]).triage, "check", True, None)
    found = figures(review)
    ann, bob = found.readers
    assert (ann.name, ann.decided, ann.unsure, ann.review_done, ann.checked) == ("Ann", 9, 1, 6, 3)
    assert (ann.median_seconds, bob.median_seconds) == (2.0, 10.0)
    assert found.median_seconds == 6.0  # of five at 2 and five at 10
    assert found.checked == 3
    assert found.seconds_saved == 6.0 * (len(released) - 3)
    (checks,) = found.checks
    assert (checks.n, checks.share) == (3, 1.0)
    (between,) = found.between
    assert (between.n, between.differ) == (5, 1)
    assert [entry.n for entry in found.blind] == [1]
    model = {cell_id: review.opinion(review.cells[cell_id]).label for cell_id in to_review[:5]}
    assert found.with_model[0].differ == sum(label != "ALL" for label in model.values())
    truth = [review.cells[cell_id].label for cell_id in to_review[:5]]
    assert found.with_data[1].differ == sum(
        label != ("HEM" if place == 4 else "ALL") for place, label in enumerate(truth)
    )
    assert (len(found.consensus.labels), found.consensus.differ, found.consensus.unsure) == (7, 1, 1)


def test_what_is_taken_back_counts_nowhere(review):
    decide(review, "Ann", review.orders["review"][0], "ALL")
    review.store.undo("Ann", "undo-it")
    found = figures(review)
    assert found.readers[0].decided == 0
    assert found.with_model == []


def test_who_gives_in_after_seeing_the_other_has_not_agreed(review):
    first, second = review.orders["review"][:2]
    for cell_id in (first, second):
        decide(review, "Ann", cell_id, "ALL")
        decide(review, "Bob", cell_id, "HEM")
    decide(review, "Bob", first, "ALL")  # now that Ann's is shown
    (between,) = figures(review).between
    assert (between.n, between.differ) == (2, 2)
    assert figures(review).consensus.labels == {first: "ALL"}  # what he says now is still what counts there


def test_a_label_that_was_taken_back_is_no_first_one(review):
    alone, seen = review.orders["review"][:2]
    decide(review, "Bob", alone, "HEM")
    review.store.undo("Bob", "undo-slip")
    decide(review, "Bob", alone, "ALL")
    decide(review, "Ann", alone, "ALL")
    decide(review, "Ann", seen, "ALL")
    decide(review, "Bob", seen, "HEM")
    review.store.undo("Bob", "undo-seen")  # when Ann's may have been shown
    decide(review, "Bob", seen, "ALL")
    (between,) = figures(review).between
    assert between.counts.tolist() == [[0, 0], [0, 1]]


def test_agreement_with_the_hidden_model_is_that_of_first_labels(review):
    cell_id = review.orders["review"][0]
    model = review.opinion(review.cells[cell_id]).label
    other = next(name for name in CLASSES if name != model)
    decide(review, "Ann", cell_id, other, blind=True)
    decide(review, "Ann", cell_id, model)
    found = figures(review)
    assert [entry.differ for entry in found.blind] == [1]
    assert [entry.differ for entry in found.with_model] == [0]


def test_a_spot_check_is_the_first_label_of_a_drawn_cell_with_the_model_hidden(review):
    drawn, changed, open_, picked, late = review.orders["check"][:5]
    called = {cell_id: review.opinion(review.cells[cell_id]).triage for cell_id in review.orders["check"]}
    other = {cell_id: next(name for name in CLASSES if name != label) for cell_id, label in called.items()}
    decide(review, "Ann", drawn, called[drawn], "check", blind=True)
    decide(review, "Ann", changed, other[changed], "check", blind=True)
    decide(review, "Ann", changed, called[changed], "check")
    decide(review, "Ann", open_, called[open_], "check")
    decide(review, "Ann", picked, called[picked], "picked", blind=True)
    decide(review, "Ann", late, called[late], "review")
    decide(review, "Ann", late, called[late], "check", blind=True)
    (checks,) = figures(review).checks
    assert (checks.n, checks.differ) == (2, 1)


def test_the_opinion_is_calibrated_and_triage_uses_the_raw_logit(review):
    cell = next(iter(review.cells.values()))
    high = review.opinion(replace(cell, logit=2.0))
    assert high.triage == "ALL"
    assert high.probability == pytest.approx(1 / (1 + np.exp(-(0.8 * 2 + 0.2))))
    assert review.thresholds()[1] == pytest.approx(high.probability)
