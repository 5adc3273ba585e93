"""What a shift does to a model, against computations by hand."""

import numpy as np
import pandas as pd
import pytest

from leukemia.evaluation.policy import Policy
from leukemia.evaluation.stress import all_hold, decisions, measured, safe_until
from leukemia.evaluation.thresholds import choose, outcome


def cells(subjects=40, each=15, skill=2.5, seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat([1, 0], subjects * each)
    return pd.DataFrame({
        "path": [f"{row}.bmp" for row in range(len(label))],
        "subject": np.repeat([f"s{number}" for number in range(2 * subjects)], each),
        "label": label,
        "logit": skill * (2 * label - 1) + rng.standard_normal(len(label)),
        "stopped": False,
    })  # fmt: skip


@pytest.fixture(scope="module")
def policy():
    return choose(cells().drop(columns="stopped"), 0.15, 0.15)


def test_the_rates_are_those_of_the_policys_outcome(policy):
    table = cells(seed=1, skill=1.0).sample(frac=0.7, random_state=0)  # subjects of different sizes
    found, rows = measured(table, table, policy, draws=50), outcome(table, policy, ("HEM", "ALL"))
    assert found["missed"]["value"] == pytest.approx(rows["wrong_by_subject"][0])
    assert found["false_alarm"]["value"] == pytest.approx(rows["wrong_by_subject"][1])
    assert found["released"]["value"] == pytest.approx(1 - rows["review"].sum() / len(table))


def test_certified_bounds_hold_where_they_were_certified_and_not_far_beyond(policy):
    table = cells()
    shifted = table.assign(logit=np.where(table["label"] == 1, table["logit"] - 4, table["logit"]))
    assert measured(table, table, policy, draws=50)["holds"] == {"missed": True, "false_alarm": True}
    found = measured(table, shifted, policy, draws=50)
    assert found["holds"] == {"missed": False, "false_alarm": True}
    assert found["missed"]["low"] > 0
    assert not all_hold(found)


def test_a_gate_only_lowers_missed_and_false_alarm(policy):
    table = cells(seed=2, skill=0.5)
    stopped = table.assign(stopped=np.random.default_rng(0).random(len(table)) < 0.3)
    without, with_gate = (measured(table, of, policy, draws=50) for of in (table, stopped))
    for rate in ("missed", "false_alarm", "released"):
        assert with_gate[rate]["value"] < without[rate]["value"]
    assert with_gate["stopped"]["value"] == stopped["stopped"].mean()
    assert (decisions(table["logit"], stopped["stopped"], policy)[stopped["stopped"]] == "review").all()


def test_a_bound_of_1_sets_no_limit_and_a_bound_of_0_allows_no_error():
    table, free = cells(), Policy(0.0, 0.5, None, None, 1.0, 0.0, 0.95, "subject", certified=True)
    found = measured(table, table.assign(logit=-table["logit"]), free, draws=50)
    assert found["holds"] == {"missed": None, "false_alarm": False}


def test_intervals_are_paired_so_that_an_equal_shift_of_all_subjects_has_a_narrow_one(policy):
    from leukemia.evaluation.bootstrap import evaluate

    table = cells(skill=0.7)
    after = table.assign(logit=table["logit"] * 1.0 + 0.01)
    paired = measured(table, after, policy, draws=200)["accuracy"]
    alone = evaluate([table], draws=200)["cells"]["accuracy"]
    assert paired["high"] - paired["low"] < (alone["high"] - alone["low"]) / 4


def test_safe_ends_at_the_first_failure_of_each_direction():
    ways = [[0.8, 0.6], [1.25, 1.6, 2.0]]
    assert safe_until(ways, lambda strength: strength != 1.6) == [0.6, 1.25]
    assert safe_until(ways, lambda strength: strength < 1) == [0.6, None]
