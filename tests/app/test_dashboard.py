import pytest

from leukemia.app.dashboard import dashboard_metrics

CLASSES = ("HEM", "ALL")


def disagreements(entry):
    return entry.n - int(entry.counts.trace())


def test_the_dashboard_counts_decisions_times_and_agreement(review, decide):
    to_review, released = review.queues["review"], review.queues["check"]
    assert len(to_review) > 6
    assert len(released) > 6
    for cell_id in to_review[:5]:
        decide(review, "Ann", cell_id, "ALL", blind=cell_id == to_review[0])
        decide(review, "Bob", cell_id, "ALL" if cell_id != to_review[4] else "HEM", seconds=10.0)
    decide(review, "Ann", to_review[5], "unsure", seconds=5000.0)  # a coffee
    for cell_id in released[:3]:
        decide(review, "Ann", cell_id, review.opinion(review.cells[cell_id]).triage, "check", True, None)
    found = dashboard_metrics(review)
    ann, bob = found.reviewers
    assert (ann.name, ann.decided, ann.unsure, ann.review_done, ann.checked) == ("Ann", 9, 1, 6, 3)
    assert (ann.seconds.median, bob.seconds.median) == (2.0, 10.0)
    assert found.seconds.median == 6.0  # of five at 2 and five at 10
    assert found.checked == 3
    assert found.seconds_saved == 6.0 * (len(released) - 3)
    (checks,) = found.checks
    assert (checks.n, checks.share) == (3, 1.0)
    (between,) = found.between
    assert (between.n, disagreements(between)) == (5, 1)
    assert [entry.n for entry in found.blind] == [1]
    model = {cell_id: review.opinion(review.cells[cell_id]).label for cell_id in to_review[:5]}
    assert disagreements(found.with_model[0]) == sum(label != "ALL" for label in model.values())
    assert (len(found.consensus.labels), found.consensus.differ, found.consensus.unsure) == (7, 1, 1)


def test_a_decision_that_was_taken_back_counts_nowhere(review, decide):
    decide(review, "Ann", review.queues["review"][0], "ALL")
    review.store.undo("Ann", "undo-it")
    found = dashboard_metrics(review)
    assert found.reviewers[0].decided == 0
    assert found.with_model == []


def test_changing_a_label_after_seeing_the_others_is_not_agreement(review, decide):
    first, second = review.queues["review"][:2]
    for cell_id in (first, second):
        decide(review, "Ann", cell_id, "ALL")
        decide(review, "Bob", cell_id, "HEM")
    decide(review, "Bob", first, "ALL")  # Ann's is shown by now
    (between,) = dashboard_metrics(review).between
    assert (between.n, disagreements(between)) == (2, 2)
    assert dashboard_metrics(review).consensus.labels == {first: "ALL"}  # there the present label counts


def test_a_label_that_was_taken_back_is_not_a_first_label(review, decide):
    alone, seen = review.queues["review"][:2]
    decide(review, "Bob", alone, "HEM")
    review.store.undo("Bob", "undo-slip")
    decide(review, "Bob", alone, "ALL")
    decide(review, "Ann", alone, "ALL")
    decide(review, "Ann", seen, "ALL")
    decide(review, "Bob", seen, "HEM")
    review.store.undo("Bob", "undo-seen")  # Bob may have seen Ann's label by now
    decide(review, "Bob", seen, "ALL")
    (between,) = dashboard_metrics(review).between
    assert between.counts.tolist() == [[0, 0], [0, 1]]


def test_agreement_with_the_hidden_model_uses_first_labels(review, decide):
    cell_id = review.queues["review"][0]
    model = review.opinion(review.cells[cell_id]).label
    other = next(name for name in CLASSES if name != model)
    decide(review, "Ann", cell_id, other, blind=True)
    decide(review, "Ann", cell_id, model)
    found = dashboard_metrics(review)
    assert [disagreements(entry) for entry in found.blind] == [1]
    assert [disagreements(entry) for entry in found.with_model] == [0]


def test_a_spot_check_is_the_first_label_of_a_random_cell_with_the_model_hidden(review, decide):
    random, changed, visible, picked, late = review.queues["check"][:5]
    released = {cell_id: review.opinion(review.cells[cell_id]).triage for cell_id in review.queues["check"]}
    other = {cell_id: next(name for name in CLASSES if name != label) for cell_id, label in released.items()}
    decide(review, "Ann", random, released[random], "check", blind=True)
    decide(review, "Ann", changed, other[changed], "check", blind=True)
    decide(review, "Ann", changed, released[changed], "check")
    decide(review, "Ann", visible, released[visible], "check")
    decide(review, "Ann", picked, released[picked], "picked", blind=True)
    decide(review, "Ann", late, released[late], "review")
    decide(review, "Ann", late, released[late], "check", blind=True)
    (checks,) = dashboard_metrics(review).checks
    assert (checks.n, disagreements(checks)) == (2, 1)


@pytest.mark.parametrize("seconds", [None, 121.0])
def test_an_interrupted_decision_has_no_time(review, decide, seconds):
    decide(review, "Ann", review.queues["review"][0], "ALL", seconds=seconds)
    found = dashboard_metrics(review)
    assert (found.seconds, found.seconds_saved) == (None, None)


def test_artefacts_and_poor_quality_are_counted_apart_and_have_no_class(review, decide):
    first, second, third = review.queues["review"][:3]
    decide(review, "Ann", first, "artefact")
    decide(review, "Ann", second, "poor quality")
    decide(review, "Bob", second, "ALL")
    decide(review, "Ann", third, "ALL")
    found = dashboard_metrics(review)
    assert [(row.decided, row.unusable) for row in found.reviewers] == [(3, 2), (1, 0)]
    assert [(entry.n, entry.left_out) for entry in found.with_model] == [(1, 2), (1, 0)]
    assert found.consensus.labels == {third: "ALL"}
    assert (found.consensus.unusable, found.consensus.differ) == ({first}, 1)
