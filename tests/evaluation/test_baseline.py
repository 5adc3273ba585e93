import numpy as np
import pytest
from scipy.optimize import minimize

from leukemia.evaluation.baseline import baseline_logits


def test_it_is_the_ridge_regression_that_minimises_its_loss():
    rng = np.random.default_rng(0)
    fitted, reported = rng.normal(3, 2, (60, 2)), rng.normal(3, 2, (7, 2))
    label = rng.random(60) < 1 / (1 + np.exp(3 - fitted[:, 0]))

    def standardised(values):
        return (values - fitted.mean(axis=0)) / fitted.std(axis=0)

    def loss(weights):
        logit = standardised(fitted) @ weights[:2] + weights[2]
        return np.logaddexp(0, np.where(label, -logit, logit)).sum() + (weights[:2] ** 2).sum() / 2

    best = minimize(loss, np.zeros(3)).x
    expected = standardised(reported) @ best[:2] + best[2]
    np.testing.assert_allclose(baseline_logits(fitted, label, reported), expected, atol=1e-3)


def test_one_class_is_called_throughout():
    assert baseline_logits(np.ones((9, 2)), np.zeros(9), np.ones((2, 2))) == pytest.approx([-np.log(10)] * 2)
