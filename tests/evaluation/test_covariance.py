"""Covariances without each fold are those of scikit-learn on the other cells."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from leukemia.evaluation.covariance import BLOCK, without_each_fold


@pytest.mark.parametrize(("cells", "size"), [(60, 7), (40, 90), (BLOCK + 300, 5)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_means_and_shrunk_covariances_are_those_of_the_other_cells(cells, size, kind):
    rng = np.random.default_rng(cells)
    values = (5 + rng.standard_normal((cells, size)) @ rng.standard_normal((size, size))).astype(kind)
    values[:, 0] = 3  # a channel that never answers
    fold = rng.permutation(cells) % 4
    found = list(without_each_fold(values, fold))
    assert len(found) == 5
    for held, (mean, covariance) in enumerate(found):
        rest = values[fold != held].astype(np.float64)
        np.testing.assert_allclose(mean, rest.mean(axis=0), rtol=1e-9)
        expected, _ = ledoit_wolf(rest - rest.mean(axis=0), assume_centered=True)
        np.testing.assert_allclose(covariance, expected, rtol=1e-6, atol=1e-8 * np.trace(expected) / size)


def test_vectors_that_are_all_alike_have_no_covariance():
    for mean, covariance in without_each_fold(np.full((6, 3), 2.0), np.arange(6) % 2):
        np.testing.assert_array_equal(mean, [2, 2, 2])
        np.testing.assert_array_equal(covariance, np.zeros((3, 3)))
