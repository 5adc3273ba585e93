"""Net benefit against the definition of Vickers and Elkin (2006), cell by cell."""

import numpy as np
import pandas as pd
import pytest

from leukemia.evaluation.decision import THRESHOLDS, decision_curve, net_benefit


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    label = random.random(500) < 0.65
    logit = 1.5 * (2 * label - 1) + random.normal(size=500)
    return pd.DataFrame(
        {"path": [f"{n}.bmp" for n in range(500)], "label": label.astype(int), "logit": logit}
    )


def by_hand(label, probability, threshold):
    true = sum(1 for y, p in zip(label, probability, strict=True) if p >= threshold and y)
    false = sum(1 for y, p in zip(label, probability, strict=True) if p >= threshold and not y)
    return true / len(label) - false / len(label) * threshold / (1 - threshold)


def test_it_is_true_positives_minus_false_positives_at_the_odds_of_the_threshold(table):
    probability = 1 / (1 + np.exp(-table["logit"].to_numpy()))
    curve = decision_curve(table)
    for row in curve.to_dict("records"):
        expected = by_hand(table["label"], probability, row["threshold"])
        assert row["model"] == pytest.approx(expected, abs=1e-9)
        prevalence, odds = table["label"].mean(), row["threshold"] / (1 - row["threshold"])
        assert row["all"] == pytest.approx(prevalence - (1 - prevalence) * odds, abs=1e-9)
        assert row["none"] == 0


def test_a_perfect_model_has_the_prevalence_and_no_model_has_more(table):
    label = table["label"].to_numpy()
    assert net_benefit(label, label) == pytest.approx(label.mean(), abs=1e-12)
    assert (decision_curve(table)["model"] <= label.mean()).all()
    assert len(THRESHOLDS) == 99
