import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from leukemia.evaluation.kappa import cohens_kappa

TABLES = st.lists(st.integers(1, 40), min_size=4, max_size=4).map(lambda counts: np.reshape(counts, (2, 2)))


def plain_kappa(counts):
    share = counts / counts.sum()
    expected = share.sum(axis=1) @ share.sum(axis=0)
    return (np.trace(share) - expected) / (1 - expected)


@given(TABLES)
def test_kappa_is_that_of_scikit_learn(counts):
    first = np.repeat([0, 0, 1, 1], counts.ravel())
    second = np.repeat([0, 1, 0, 1], counts.ravel())
    assert cohens_kappa(counts).value == pytest.approx(cohen_kappa_score(first, second))


@given(TABLES)
def test_the_interval_is_that_of_the_delta_method_on_numerical_derivatives(counts):
    counts = counts.astype(float)
    n, share = counts.sum(), (counts / counts.sum()).ravel()
    step = 1e-4
    slopes = np.array([
        (plain_kappa(counts + step * unit) - plain_kappa(counts - step * unit)) / (2 * step) * n
        for unit in np.eye(4).reshape(4, 2, 2)
    ])  # fmt: skip
    error = np.sqrt(max(0.0, slopes**2 @ share - (slopes @ share) ** 2) / n)
    found = cohens_kappa(counts)
    assert found.low == pytest.approx(max(-1, found.value - 1.959964 * error), abs=1e-4)
    assert found.high == pytest.approx(min(1, found.value + 1.959964 * error), abs=1e-4)


@pytest.mark.parametrize(("negative", "positive"), [(5, 5), (20, 30), (4, 60)])
def test_without_a_disagreement_the_interval_still_has_a_width(negative, positive):
    found = cohens_kappa([[negative, 0], [0, positive]])
    assert found.value == found.high == 1
    assert 0 < found.low < 1
    n, share = negative + positive, positive / (negative + positive)
    disagreement = 2 * share * (1 - share) * (1 - found.low)  # of two raters with that kappa
    assert 0.01 < (1 - disagreement) ** n < 0.1  # seldom none in n cells, but not never


def test_more_cells_without_a_disagreement_say_more():
    lows = [cohens_kappa([[n, 0], [0, n]]).low for n in (2, 5, 20, 100)]
    assert lows == sorted(lows)
    assert lows[-1] > 0.95


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[7, 0], [0, 0]]])
def test_it_is_undefined_without_cells_or_with_one_label_alone(counts):
    assert cohens_kappa(counts).value is None


def test_chance_agreement_is_zero_and_its_interval_holds_zero():
    found = cohens_kappa([[25, 25], [25, 25]])
    assert found.value == pytest.approx(0)
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    ("counts", "value"),
    [([[0, 1], [0, 0]], 0), ([[5, 3], [0, 0]], 0), ([[1, 0], [6, 0]], 0), ([[0, 4], [4, 0]], -1)],
)
def test_an_interval_that_would_have_no_width_is_not_given(counts, value):
    found = cohens_kappa(counts)
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == (None, None)
