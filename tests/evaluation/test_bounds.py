import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.evaluation.bounds import binomial_p_values, floor, mean_p_values, needed


@pytest.mark.parametrize(("n", "smallest"), [(13, 0.247), (47, 0.075)])
def test_the_floor_of_c_nmcs_subjects(n, smallest):
    assert floor(n, 0.025) == pytest.approx(smallest, abs=5e-4)


def test_seventy_two_subjects_are_needed_for_five_percent():
    assert needed(0.05, 0.025) == 72
    assert floor(72, 0.025) <= 0.05 < floor(71, 0.025)


@given(st.integers(1, 200), st.floats(0.01, 0.9))
def test_without_any_loss_both_tests_give_the_least_that_any_can(n, bound):
    least = (1 - bound) ** n
    assert mean_p_values(0.0, n, bound) == pytest.approx(least)
    assert binomial_p_values(0, n, bound) == pytest.approx(least)


def test_a_loss_of_one_ends_the_bet():
    assert mean_p_values(-np.inf, 50, 0.1) == 1


@pytest.mark.parametrize("draw", [
    lambda rng, shape: (rng.random(shape) < 0.1).astype(float),
    lambda rng, shape: rng.beta(0.2, 1.8, shape),
    lambda rng, shape: rng.beta(20, 180, shape),
])  # fmt: skip
def test_a_true_mean_at_the_bound_is_rejected_no_more_often_than_claimed(draw):
    losses = draw(np.random.default_rng(0), (20_000, 40))
    with np.errstate(divide="ignore"):
        p_values = mean_p_values(np.log1p(-losses).sum(axis=1), 40, 0.1)
    assert np.mean(p_values <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20_000)


def test_the_betting_test_is_the_tighter_the_more_alike_the_losses_are():
    """Against Hoeffding's bound (in its Chernoff form) for losses of 5 % each and a bound of 10 %."""
    n, mean, bound = 69, 0.05, 0.10
    hoeffding = np.exp(-n * (mean * np.log(mean / bound) + (1 - mean) * np.log((1 - mean) / (1 - bound))))
    betting = mean_p_values(n * np.log1p(-mean), n, bound)
    assert betting < 0.025 < 0.3 < hoeffding
