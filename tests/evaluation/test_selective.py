import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.evaluation.selective import (
    augrc,
    aurc,
    certainty_of,
    coverage_at_risk,
    curve_of,
    risk_coverage,
    selective_metrics,
)
from tests.evaluation.test_bootstrap import cells

decisions = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40)


@given(decisions, st.randoms())
def test_ties_are_worth_what_a_random_order_gives_on_average(made, random):
    """The area is the mean over orders of the ties, and no order of the rows changes it."""
    certainty, wrong = zip(*made, strict=True)
    curve = risk_coverage(certainty, wrong)
    shuffled = list(made)
    random.shuffle(shuffled)
    assert aurc(risk_coverage(*zip(*shuffled, strict=True))) == pytest.approx(aurc(curve))
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        order = np.lexsort([rng.random(len(made)), -np.array(certainty)])
        errors = np.cumsum(np.array(wrong)[order])
        areas.append(np.mean(errors / np.arange(1, len(made) + 1)))
    assert aurc(curve) == pytest.approx(np.mean(areas), abs=5 * np.std(areas) / np.sqrt(300) + 1e-9)


def test_areas_worked_out_by_hand():
    curve = risk_coverage([4, 3, 2, 1], [False, True, False, True])
    assert curve["risk"].tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert aurc(curve) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert augrc(curve) == pytest.approx((0 + 1 + 1 + 2) / 4 / 4)


@given(decisions)
def test_the_areas_by_direct_computation(made):
    """Every threshold by itself: which cells are at least as certain, and how many of them are wrong."""
    certainty, wrong = (np.array(values) for values in zip(*made, strict=True))
    curve = risk_coverage(certainty, wrong)
    for threshold in np.unique(certainty):
        decided = certainty >= threshold
        row = curve.iloc[decided.sum() - 1]
        assert row["whole"]
        assert row["coverage"] == pytest.approx(decided.mean())
        assert row["risk"] == pytest.approx(wrong[decided].mean())
    assert curve["whole"].sum() == len(np.unique(certainty))


@given(decisions, st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_coverage_at_a_risk_is_the_best_threshold(made, risk):
    certainty, wrong = (np.array(values) for values in zip(*made, strict=True))
    reached = [
        (certainty >= threshold).mean()
        for threshold in np.unique(certainty)
        if wrong[certainty >= threshold].mean() <= risk
    ]
    assert coverage_at_risk(risk_coverage(certainty, wrong), risk) == pytest.approx(max(reached, default=0))


def test_a_perfect_order_beats_a_random_one():
    wrong = np.repeat([False, True], [80, 20])
    best = risk_coverage(np.arange(100)[::-1], wrong)
    assert coverage_at_risk(best, 0) == 0.8
    assert aurc(best) < aurc(risk_coverage(np.zeros(100), wrong)) == pytest.approx(0.2)


def test_models_of_several_folds_are_ranked_each_by_itself():
    first = cells(subjects=(5, 5))
    second = first.assign(path="b" + first["path"], logit=first["logit"] * 100)
    pooled = pd.concat([first.assign(fold=0), second.assign(fold=1)], ignore_index=True)
    found = certainty_of(pooled)
    assert found[: len(first)] == pytest.approx(found[len(first) :])
    assert selective_metrics(pooled)["coverage_at_risk"] == selective_metrics(first)["coverage_at_risk"]
    assert curve_of(pooled)["risk"].iloc[-1] == pytest.approx(curve_of(first)["risk"].iloc[-1])
