"""The metrics of an epoch agree with the evaluation of the same logits, batch by batch or at once."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia.evaluation.metrics import cell_metrics
from leukemia.models.metrics import MONITORED, EpochMetrics

bce = torch.nn.functional.binary_cross_entropy_with_logits


@settings(deadline=None, max_examples=30)
@given(
    logits=st.lists(st.integers(-128, 128).map(lambda n: n / 16), min_size=4, max_size=40),
    seed=st.integers(0, 1000),
    cut=st.integers(1, 39),
)
def test_the_metrics_of_an_epoch_equal_those_of_the_table(logits, seed, cut):
    labels = np.random.default_rng(seed).permutation(np.arange(len(logits)) % 2)
    epoch = EpochMetrics()
    values, targets = torch.tensor(logits), torch.tensor(labels, dtype=torch.float32)
    for part in (slice(None, cut), slice(cut, None)):
        if len(values[part]):
            epoch.update(values[part], targets[part])
    metrics, confusion = epoch.finish(bce)
    table = pd.DataFrame(
        {"path": map(str, range(len(logits))), "subject": None, "split": "val", "label": labels}
    )
    table["logit"] = np.array(logits)
    table["probability"] = 1 / (1 + np.exp(-table["logit"]))
    expected = cell_metrics(table)
    for name in MONITORED:
        assert float(metrics[name]) == pytest.approx(expected[name], abs=1e-5), name
    assert confusion.sum() == len(logits)


def test_the_next_epoch_starts_empty():
    epoch = EpochMetrics()
    epoch.update(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0]))
    epoch.finish(bce)
    epoch.update(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0]))
    assert float(epoch.finish(bce)[0]["accuracy"]) == 1


def test_a_batch_of_logits_between_0_and_1_is_not_taken_for_probabilities():
    epoch = EpochMetrics()
    epoch.update(torch.tensor([0.2, 0.4]), torch.tensor([1.0, 1.0]))
    epoch.update(torch.tensor([-0.2]), torch.tensor([0.0]))
    assert float(epoch.finish(bce)[0]["accuracy"]) == 1


def test_the_loss_is_the_criterion_over_all_cells():
    epoch = EpochMetrics()
    for logit, label in ((0.5, 1.0), (-2.0, 1.0), (3.0, 0.0)):
        epoch.update(torch.tensor([logit]), torch.tensor([label]))
    values, confusion = epoch.finish(lambda logits, labels: (logits * labels).sum())
    assert values["loss"] == -1.5
    assert confusion.tolist() == [[0, 1], [1, 1]]


def test_an_undefined_metric_is_nan():
    epoch = EpochMetrics()
    epoch.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    values, _ = epoch.finish(bce)
    assert math.isnan(values["auroc"])
    assert values["sensitivity"] == 1
