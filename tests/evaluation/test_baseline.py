import time

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from leukemia.evaluation.baseline import against_majority, baseline_logits
from leukemia.evaluation.bootstrap import evaluate
from leukemia.evaluation.intervals import wilson_interval
from tests.evaluation.test_bootstrap import cells


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


class TestMajority:
    @staticmethod
    def prelim(correct, subjects=None):
        """Prelim's 1,219 to 648 cells, of which the first so many are called correctly."""
        label = np.array([1] * 1219 + [0] * 648)
        right = np.arange(1867) < correct
        table = pd.DataFrame({"path": np.arange(1867).astype(str), "label": label})
        return table.assign(logit=np.where(right == (label == 1), 1.0, -1.0), subject=subjects)

    def test_without_subjects_it_is_wilsons_interval_that_decides(self):
        found = against_majority(self.prelim(1228))  # the seed study's frozen ResNet18: 0.6577 beside 0.6529
        assert found["accuracy_interval"] == list(wilson_interval(1228, 1867))
        assert found["accuracy_interval_unit"] == "cell"
        assert not found["better_than_majority"]
        for accuracy in (0.7622, 0.7841):  # its fine-tuned networks
            assert against_majority(self.prelim(round(accuracy * 1867)))["better_than_majority"]

    def test_with_subjects_it_is_the_interval_of_evaluate(self):
        table = cells()
        found, accuracy = against_majority(table), evaluate([table])["cells"]["accuracy"]
        assert found["accuracy_interval"] == [accuracy["low"], accuracy["high"]]
        assert found["accuracy_interval_unit"] == "subject"

    def test_subjects_that_are_right_or_wrong_as_a_whole_leave_a_gain_of_cells_unproven(self):
        table = cells(subjects=(13, 15), sizes=60)
        right = table["subject"].str.partition("-")[2].astype(int) % 3 > 0  # two thirds of the subjects
        table = table.assign(logit=np.where(right == (table["label"] == 1), 1.0, -1.0))
        assert against_majority(table.drop(columns="subject"))["better_than_majority"]
        assert not against_majority(table)["better_than_majority"]

    def test_subjects_who_share_pictures_count_once(self):
        table = cells().assign(group=lambda t: t["subject"].replace("1-0", "1-1"))
        assert against_majority(table)["accuracy_interval_unit"] == "group"

    def test_too_few_subjects_show_nothing(self):
        found = against_majority(cells(subjects=(5, 1), skill=50))
        assert found["accuracy_interval"] is None
        assert found["better_than_majority"] is False

    def test_one_class_alone_shows_nothing(self):
        table = self.prelim(1867).iloc[:5]
        assert not against_majority(table)["better_than_majority"]

    def test_the_values_are_plain_python(self):
        for table in (cells(), cells().drop(columns="subject")):
            found = against_majority(table)
            assert type(found["better_than_majority"]) is bool
            assert [type(end) for end in found["accuracy_interval"]] == [float, float]

    def test_it_takes_well_under_a_second_for_prelim(self):
        table = cells(most=126)
        start = time.process_time()
        against_majority(table)
        assert time.process_time() - start < 1
