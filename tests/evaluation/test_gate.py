"""The gate stops what is unlike the training cells, and no more of the like ones than it says."""

import numpy as np
import pytest

from leukemia.evaluation.gate import HANDCRAFTED, NETWORK, fit_gate

F, D = len(HANDCRAFTED), 12


def drawn(subjects, cells, seed=0, spread=0.5):
    """Handcrafted and pooled features of cells that are alike within a subject, and the subject of each."""
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(subjects), cells)
    values = spread * rng.standard_normal((subjects, F + D))[units] + rng.standard_normal((len(units), F + D))
    return 100 + 10 * values[:, :F], values[:, F:], units


def fitted(subjects=30, cells=20, seed=0, **settings):
    shape, deep, units = drawn(subjects, cells, seed)
    return fit_gate(shape, deep, units, np.arange(len(units)), **settings)


def test_with_few_subjects_no_training_cell_is_stopped_and_the_share_is_what_so_many_can_guarantee():
    gate = fitted(subjects=30)
    assert gate.about["guaranteed_share"] == pytest.approx(1 / 31)
    assert gate.about["stopped_share"] == 0


@pytest.mark.parametrize(("subjects", "share"), [(40, 0.01), (40, 0.1), (120, 0.01), (120, 0.05)])
def test_new_subjects_like_the_training_ones_are_stopped_at_most_in_the_guaranteed_share(subjects, share):
    stopped = []
    for seed in range(8):
        gate = fitted(subjects, 10, seed, share=share)
        shape, deep, _ = drawn(200, 10, seed + 1000)
        stopped.append(gate.unlike(shape, deep).stopped.mean())
    assert np.mean(stopped) <= 1.25 * gate.about["guaranteed_share"]
    assert np.mean(stopped) >= 0.02 * gate.about["guaranteed_share"]


@pytest.mark.parametrize(
    ("check", "place", "by"), [("area+", 0, 200), ("area-", 0, -200), ("background+", F - 1, 200)]
)
def test_a_cell_far_out_in_one_feature_is_stopped_by_that_check(check, place, by):
    shape, deep, _ = drawn(5, 1)
    shape[:, place] += by
    found = fitted().unlike(shape, deep)
    assert found.stopped.all()
    assert set(found.check) == {check}


def test_pooled_features_in_a_direction_that_training_cells_never_take_are_stopped_by_the_network():
    shape, deep, _ = drawn(5, 1)
    deep[:, 3] += 30
    found = fitted().unlike(shape, deep)
    assert found.stopped.all()
    assert set(found.check) == {NETWORK}


def test_a_feature_that_never_varies_stops_no_cell_within_its_least_difference():
    shape, deep, units = drawn(30, 10)
    shape[:, -1] = 0  # black background
    gate = fit_gate(shape, deep, units, units)
    seen = np.repeat(np.median(shape, axis=0)[None], 2, axis=0)
    seen[:, -1] = (1, 30)
    assert gate.unlike(seen, np.zeros((2, D))).stopped.tolist() == [False, True]


def test_values_that_are_not_numbers_are_stopped():
    shape, deep, _ = drawn(2, 1)
    deep[0, 0] = np.nan
    found = fitted().unlike(shape, deep)
    assert found.stopped.tolist() == [True, False]
    assert found.check[0] == NETWORK


def test_every_check_has_words():
    gate = fitted()
    said = [gate.words(f"{name}{sign}") for name in HANDCRAFTED for sign in "+-"]
    assert len(set(said)) == 2 * F
    assert said[0] == "larger than 99 % of the training cells"
    assert gate.words(NETWORK).startswith("farther than 99 %")
