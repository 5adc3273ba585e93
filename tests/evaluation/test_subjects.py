import numpy as np
import pandas as pd
import pytest
from scipy import stats

from leukemia.evaluation.subjects import by_subject


def test_each_subject_by_hand():
    table = pd.DataFrame({
        "path": list("abcde"),
        "subject": ["7", "7", "7", "7", "H1"],
        "label": [1, 1, 1, 1, 0],
        "logit": [1.0, 2.0, -1.0, 0.5, 3.0],
    })  # fmt: skip
    seven, h1 = by_subject([table])
    assert (seven["subject"], seven["label"], seven["n"], seven["vote"]) == ("7", 1, 4, 1)
    wilson = stats.binomtest(3, 4).proportion_ci(method="wilson")
    for name in ("accuracy", "share_positive"):
        assert seven[name] == 0.75
        assert (seven[f"{name}_low"], seven[f"{name}_high"]) == pytest.approx((wilson.low, wilson.high))
    half = 1.959964 * np.std([1.0, 2.0, -1.0, 0.5], ddof=1) / 2
    assert (seven["mean_logit_low"], seven["mean_logit_high"]) == pytest.approx((0.625 - half, 0.625 + half))
    assert (h1["accuracy"], h1["share_positive"], h1["vote"], h1["mean_logit_low"]) == (0, 1, 1, None)


def test_seeds_show_their_range():
    table = pd.DataFrame({"path": list("ab"), "subject": "1", "label": 1, "logit": [1.0, 1.0]})
    other = table.assign(logit=[1.0, -1.0])
    (row,) = by_subject([table, other])
    assert (row["accuracy"], row["accuracy_lowest"], row["accuracy_highest"]) == (1, 0.5, 1)
