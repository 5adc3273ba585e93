"""The curves agree with the evaluation of the same logits, batch by batch or at once."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia.evaluation.metrics import cell_metrics
from leukemia.models.metrics import EpochMetrics


@settings(deadline=None, max_examples=30)
@given(
    logits=st.lists(st.integers(-128, 128).map(lambda n: n / 16), min_size=4, max_size=40),
    seed=st.integers(0, 1000),
    cut=st.integers(1, 39),
)
def test_curves_equal_the_metrics_of_the_table(logits, seed, cut):
    labels = np.random.default_rng(seed).permutation(np.arange(len(logits)) % 2)
    curves = EpochMetrics()
    values, targets = torch.tensor(logits), torch.tensor(labels, dtype=torch.float32)
    for part in (slice(None, cut), slice(cut, None)):
        if len(values[part]):
            curves.update(values[part], targets[part])
    figures, confusion = curves.finish()
    table = pd.DataFrame(
        {"path": map(str, range(len(logits))), "subject": None, "split": "val", "label": labels}
    )
    table["logit"] = np.array(logits)
    table["probability"] = 1 / (1 + np.exp(-table["logit"]))
    expected = cell_metrics(table)
    for name in EpochMetrics.NAMES:
        assert float(figures[name]) == pytest.approx(expected[name], abs=1e-5), name
    assert confusion.sum() == len(logits)


def test_the_next_epoch_starts_empty():
    curves = EpochMetrics()
    curves.update(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0]))
    curves.finish()
    curves.update(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0]))
    assert float(curves.finish()[0]["accuracy"]) == 1


def test_a_batch_of_logits_between_0_and_1_is_not_taken_for_probabilities():
    curves = EpochMetrics()
    curves.update(torch.tensor([0.2, 0.4]), torch.tensor([1.0, 1.0]))
    curves.update(torch.tensor([-0.2]), torch.tensor([0.0]))
    assert float(curves.finish()[0]["accuracy"]) == 1
