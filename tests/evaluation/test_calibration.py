import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from leukemia.evaluation.calibration import (
    brier,
    calibration_metrics,
    cross_fitted,
    fit,
    quality,
    reliability,
)
from tests.evaluation.test_bootstrap import cells


def from_truth(n=20_000, slope=0.5, intercept=1.0, seed=0):
    """Labels that are positive with probability sigmoid(slope * logit + intercept)."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, n)
    return rng.random(n) < expit(slope * logit + intercept), logit


class TestFit:
    def test_finds_the_slope_and_intercept_that_labels_were_drawn_with(self):
        found = fit(*from_truth())
        assert found.slope == pytest.approx(0.5, abs=0.02)
        assert found.intercept == pytest.approx(1.0, abs=0.05)

    def test_is_logistic_regression_where_cells_are_many(self):
        label, logit = from_truth()
        theirs = LogisticRegression(C=np.inf).fit(logit[:, None], label)
        found = fit(label, logit)
        assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-2)
        assert found.intercept == pytest.approx(theirs.intercept_[0], rel=1e-2)

    def test_without_intercept_it_is_the_temperature_of_least_loss(self):
        label, logit = from_truth(intercept=0.0)
        found = fit(label, logit, intercept=False)
        slopes = np.linspace(0.3, 0.7, 401)
        losses = [np.logaddexp(0, np.where(label, -slope, slope) * logit).mean() for slope in slopes]
        assert found.intercept == 0
        assert found.slope == pytest.approx(slopes[np.argmin(losses)], abs=0.002)

    def test_stays_finite_where_the_classes_part_completely(self):
        found = fit([0, 0, 1, 1], [-5, -4, 4, 5])
        assert 0 < found.slope < 10

    def test_never_turns_the_order_around(self):
        assert fit([1, 1, 0, 0], [-5, -4, 4, 5]).slope == 0

    @given(st.floats(1e-3, 1e3))
    @settings(deadline=None, max_examples=20)
    def test_a_scale_of_the_logits_is_taken_back(self, scale):
        label, logit = from_truth(500)
        assert fit(label, logit * scale).slope * scale == pytest.approx(fit(label, logit).slope, rel=1e-3)


class TestCrossFitted:
    def test_no_cell_is_calibrated_by_its_own_subject(self):
        """A subject whose labels are turned around changes every other subject's calibration, not its own."""
        table = cells(subjects=(10, 10))
        turned = table.assign(
            label=np.where(table["subject"].isin(["1-0"]), 1, table["label"]),
            logit=np.where(table["subject"] == "1-0", table["logit"] * 100, table["logit"]),
        )
        before, after = cross_fitted(table), cross_fitted(turned)
        own = (table["subject"] == "1-0").to_numpy()
        slope = (before[own].max() - before[own].min()) / np.ptp(table["logit"][own])
        assert np.ptp(after[own]) / np.ptp(turned["logit"][own]) == pytest.approx(slope)
        assert not np.allclose(before[~own], after[~own])

    def test_calibrates_each_fold_by_its_own_cells(self):
        first = cells(subjects=(6, 6))
        second = first.assign(path="b" + first["path"], logit=first["logit"] * 10)
        pooled = pd.concat([first.assign(fold=0), second.assign(fold=1)], ignore_index=True)
        found = cross_fitted(pooled)
        assert found[: len(first)] == pytest.approx(found[len(first) :], rel=1e-3)

    def test_there_is_no_slope_of_several_models(self):
        first = cells(subjects=(6, 6))
        second = first.assign(path="b" + first["path"], logit=first["logit"] * 10)
        found = calibration_metrics(pd.concat([first.assign(fold=0), second.assign(fold=1)]))
        assert found["slope"] is found["intercept"] is found["temperature"] is None
        assert found["after"] is not None
        alone = calibration_metrics(first.assign(fold=0))
        assert alone["slope"] == calibration_metrics(first)["slope"]

    def test_there_is_none_where_nothing_can_be_held_out(self):
        assert cross_fitted(cells(subjects=(1, 4))) is None

    def test_it_mends_what_is_overconfident(self):
        rng = np.random.default_rng(0)
        table = cells(subjects=(30, 30), effect=0.2, skill=0.8)
        table["logit"] = 5 * table["logit"] + 2 + rng.normal(0, 0.1, len(table))
        found = calibration_metrics(table)
        assert found["after"]["ece"] < found["before"]["ece"] / 3
        assert found["after"]["loss"] < found["before"]["loss"]
        assert found["temperature"] > 1


class TestQuality:
    def test_agrees_with_scikit_learn(self):
        label, logit = from_truth(2000)
        found = quality(label, logit)
        assert found["loss"] == pytest.approx(sk.log_loss(label, expit(logit)))
        assert found["brier"] == pytest.approx(sk.brier_score_loss(label, expit(logit)))

    def test_the_parts_of_the_brier_score_worked_out_by_hand(self):
        """Two forecasts: 0.9 for four cells of which 3 are positive, 0.1 for four of which 1 is."""
        label = [1, 1, 1, 0, 1, 0, 0, 0]
        found = brier(label, [0.9] * 4 + [0.1] * 4)
        assert found["brier"] == pytest.approx((3 * 0.01 + 0.81) * 2 / 8)
        assert found["miscalibration"] == pytest.approx(0.15**2)  # 0.9 for 0.75, 0.1 for 0.25
        assert found["discrimination"] == pytest.approx(0.25**2)  # 0.75 and 0.25 around 0.5
        assert found["uncertainty"] == pytest.approx(0.25)

    @given(st.integers(0, 1000))
    @settings(deadline=None, max_examples=30)
    def test_the_parts_add_up_and_are_no_less_than_zero(self, seed):
        label, logit = from_truth(60, seed=seed)
        found = brier(label, expit(logit))
        total = found["miscalibration"] - found["discrimination"] + found["uncertainty"]
        assert found["brier"] == pytest.approx(total)
        assert min(found["miscalibration"], found["discrimination"]) >= -1e-12


class TestReliability:
    def test_its_weighted_gaps_are_the_calibration_error(self):
        label, logit = from_truth(3000)
        table = reliability(label, logit)
        gaps = (table["accuracy"] - table["confidence"]).abs() * table["n"]
        assert gaps.sum() / table["n"].sum() == pytest.approx(quality(label, logit)["ece"])
        assert table["n"].sum() == 3000

    def test_bins_worked_out_by_hand(self):
        logit = np.log([3, 3, 9, 9])  # confidences 0.75, 0.75, 0.9, 0.9
        table = reliability([1, 0, 1, 1], logit, bins=2)
        assert table["confidence"].tolist() == pytest.approx([0.75, 0.9])
        assert table["accuracy"].tolist() == [0.5, 1.0]
        assert table["n"].tolist() == [2, 2]
        assert (table["low"] <= table["accuracy"]).all()
        assert (table["accuracy"] <= table["high"]).all()
