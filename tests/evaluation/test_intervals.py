import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from leukemia.evaluation.intervals import auroc_interval, weighted_interval, wilson_interval


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_that_of_scipy_for_whole_successes(trials):
    successes, n = trials
    theirs = binomtest(successes, n).proportion_ci(method="wilson")
    low, high = wilson_interval(successes, n)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= low <= successes / n <= high <= 1


def test_wilsons_interval_takes_a_mean_share_of_few_subjects():
    between = wilson_interval(23.5, 28)
    assert wilson_interval(23, 28) < between < wilson_interval(24, 28)


@given(st.floats(0.0, 1.0), st.integers(2, 80), st.integers(2, 80))
def test_the_interval_of_an_area_ends_where_it_lies_z_standard_errors_away(area, m, n):
    low, high = auroc_interval(area, m, n)
    assert 0 <= low <= area + 1e-9
    assert area - 1e-9 <= high <= 1
    for end in (end for end in (low, high) if 1e-6 < end < 1 - 1e-6 and abs(end - area) > 1e-6):
        bracket = 1 + ((m + n) / 2 - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        standard_error = math.sqrt(end * (1 - end) * bracket / (m * n))
        assert abs(area - end) == pytest.approx(1.959964 * standard_error, rel=1e-4)


def test_an_area_of_one_is_less_certain_from_fewer_subjects():
    assert auroc_interval(1, 13, 15)[1] == 1
    assert auroc_interval(1, 5, 5)[0] < auroc_interval(1, 13, 15)[0] < auroc_interval(1, 100, 100)[0] < 1


def test_a_balanced_rate_worked_out_by_hand():
    (low1, high1), (low2, high2) = wilson_interval(9, 10), wilson_interval(10, 20)
    low, high = weighted_interval([(0.9, low1, high1), (0.5, low2, high2)], (0.5, 0.5))
    assert low == pytest.approx(0.7 - 0.5 * math.sqrt((0.9 - low1) ** 2 + (0.5 - low2) ** 2))
    assert high == pytest.approx(0.7 + 0.5 * math.sqrt((high1 - 0.9) ** 2 + (high2 - 0.5) ** 2))
