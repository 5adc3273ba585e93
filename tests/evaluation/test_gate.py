"""The gate stops what is unlike the training cells, and no more of the like ones than it says."""

import json
import tracemalloc
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.errors import InputError
from leukemia.evaluation.gate import (
    CHECKS,
    HANDCRAFTED,
    Gate,
    Unlike,
    fit_gate,
    gated_decisions,
    stopped_cells,
    strictest,
)

F, D = len(HANDCRAFTED), 12


def drawn(subjects, cells, seed=0, spread=0.5):
    """Handcrafted and pooled features of cells that are alike within a subject, and the subject of each."""
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(subjects), cells)
    values = spread * rng.standard_normal((subjects, F + D))[units] + rng.standard_normal((len(units), F + D))
    return 100 + 10 * values[:, :F], values[:, F:], units


@cache
def fitted(subjects=30, cells=20, seed=0, **settings):
    shape, deep, units = drawn(subjects, cells, seed)
    return fit_gate(shape, deep, units, np.arange(len(units)), **settings)


def test_with_few_subjects_no_training_cell_is_stopped_and_the_share_is_what_so_many_can_guarantee():
    gate = fitted(subjects=30)
    assert gate.about["guaranteed_share"] == pytest.approx(1 / 31)
    assert gate.about["stopped_share"] == 0


@pytest.mark.parametrize(("subjects", "share"), [(40, 0.01), (120, 0.01), (120, 0.05)])
def test_new_subjects_like_the_training_ones_are_stopped_at_most_in_the_guaranteed_share(subjects, share):
    stopped = []
    for seed in range(4):
        gate = fitted(subjects, 10, seed, share=share)
        shape, deep, _ = drawn(200, 10, seed + 1000)
        stopped.append(gate.unlike(shape, deep).stopped.mean())
    assert np.mean(stopped) <= 1.25 * gate.about["guaranteed_share"]
    assert np.mean(stopped) >= 0.02 * gate.about["guaranteed_share"]


@pytest.mark.parametrize(
    ("check", "place", "by"), [("area+", 0, 200), ("area-", 0, -200), ("background+", F - 1, 200)]
)
def test_a_cell_far_out_in_one_feature_is_stopped_by_that_check(check, place, by):
    shape, deep, _ = drawn(5, 1)
    shape[:, place] += by
    found = fitted().unlike(shape, deep)
    assert found.stopped.all()
    assert {CHECKS[number] for number in found.check} == {check}


def test_pooled_features_in_a_direction_that_training_cells_never_take_are_stopped_by_the_network():
    shape, deep, _ = drawn(5, 1)
    deep[:, 3] += 30
    found = fitted().unlike(shape, deep)
    assert found.stopped.all()
    assert {CHECKS[number] for number in found.check} == {"network"}


def test_distances_are_those_of_the_formula_and_of_many_cells_take_the_memory_of_few():
    gate, deep = fitted(), np.random.default_rng(3).normal(size=(50_000, D)).astype(np.float32)
    away = deep[:1100].astype(np.float64) - gate.centre
    inverse = gate.whitening.astype(np.float64) @ gate.whitening.T
    expected = np.sqrt(np.einsum("nd,de,ne->n", away, inverse, away))
    gate.distance(deep[:2])  # imports
    tracemalloc.start()
    found = gate.distance(deep)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found[:1100], expected, rtol=1e-10)
    assert held < 4 * found.nbytes  # the distances; double copies of the features would take more
    assert gate.distance(deep[:0]).shape == (0,)


def test_features_of_any_scale_have_a_gate():
    shape, deep, units = drawn(30, 20)
    for scale in (0, 1e-8, 1e6 ** (units == 3)[:, None]):
        gate = fit_gate(shape, deep * scale, units, np.arange(len(units)))
        assert np.isfinite(gate.distance(deep * scale)).all()


def test_a_cell_a_little_out_in_several_features_is_more_unlike_than_in_one_and_the_farthest_is_named():
    gate, middle = fitted(), np.full((2, F), 100.0)
    ends = gate.scale.high - gate.scale.middle
    seen = middle + ends * np.stack([np.eye(F)[0], np.ones(F)]) * 1.5
    seen[:, 0] += ends[0] / 4
    found = gate.unlike(seen, np.tile(gate.centre, (2, 1)))
    assert found.by[0] < 1 < found.by[1]
    assert [CHECKS[number] for number in found.check] == ["area+"] * 2


def test_a_feature_that_never_varies_stops_no_cell_within_its_least_difference():
    shape, deep, units = drawn(30, 10)
    shape[:, -1] = 0  # black background
    gate = fit_gate(shape, deep, units, units)
    seen = np.repeat(np.median(shape, axis=0)[None], 2, axis=0)
    seen[:, -1] = (1, 30)
    assert gate.unlike(seen, np.zeros((2, D))).stopped.tolist() == [False, True]


def test_values_that_are_not_numbers_are_stopped():
    shape, deep, _ = drawn(2, 1)
    deep[0, 0] = np.nan
    found = fitted().unlike(shape, deep)
    assert found.stopped.tolist() == [True, False]
    assert CHECKS[found.check[0]] == "network"


def test_every_check_has_words():
    said = Unlike(np.full(len(CHECKS), 2.0), np.arange(len(CHECKS))).words(0.01)
    assert len(set(said)) == len(CHECKS)
    assert said[0] == "larger than 99 % of the training cells"
    assert said[-1].startswith("farther than 99 %")
    assert Unlike(np.array([1.0]), np.array([0])).words(0.01) == [None]


def test_of_several_networks_the_strictest_counts():
    shape, deep, _ = drawn(50, 1)
    found = [fitted(seed=seed).unlike(shape, deep) for seed in (1, 2)]
    both = strictest(found)
    np.testing.assert_array_equal(both.by, np.maximum(found[0].by, found[1].by))
    assert set(both.check) <= {*found[0].check, *found[1].check}


def test_a_gate_written_and_read_stops_the_same_cells():
    gate = fitted()
    arrays = {name: getattr(gate, name) for name in ("centre", "whitening", "cells")}
    again = Gate.from_json(json.loads(json.dumps(gate.to_json())), arrays)
    shape, deep, _ = drawn(50, 1)
    np.testing.assert_array_equal(again.unlike(shape, deep).by, gate.unlike(shape, deep).by)
    assert again.about == gate.about


@pytest.mark.parametrize(
    "change",
    [
        {"limit": float("nan")},
        {"limit": "high"},
        {"share": 2},
        {"n_units": None},
        {"unit": 3},
        {"checks": {}},
        {"checks": None},
        {"centre": np.zeros(D + 1, np.float32)},
        {"whitening": np.full((D, D), np.inf, np.float32)},
        {"cells": np.zeros(3)},
    ],
)
def test_a_damaged_gate_is_refused(change):
    gate = fitted()
    arrays = {name: getattr(gate, name) for name in ("centre", "whitening", "cells")}
    with pytest.raises(InputError, match="not a gate as training writes it"):
        Gate.from_json({**gate.to_json(), **change}, {**arrays, **change})


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(["HEM", "ALL", "review"]), st.floats(0, 3)), min_size=1)
)
def test_sending_more_to_review_can_only_lower_missed_and_false_alarm_rates(cells):
    label, decided, by = map(np.array, zip(*cells, strict=True))
    gated = gated_decisions(decided, by)
    for of_class, wrong in ((label, "HEM"), (~label, "ALL")):
        assert not (of_class & (gated == wrong) & (decided != wrong)).any()  # so of any subject's cells too
    assert (gated == "review").sum() >= (decided == "review").sum()


def test_the_stopped_cells_of_a_table_are_counted_by_subject_and_reason():
    table = pd.DataFrame({
        "path": list("abcd"), "subject": ["1", "1", "2", "2"], "label": [1, 1, 0, 0], "logit": 0.0,
        "unlike": [None, "larger", "larger", "bluer"], "unlike_by": [0.5, 1.5, 2, np.inf],
    })  # fmt: skip
    assert stopped_cells(table) == {
        "n_cells": 4, "stopped": 3, "why": {"larger": 2, "bluer": 1},
        "subjects": [{"subject": "2", "stopped": 2, "n": 2}, {"subject": "1", "stopped": 1, "n": 2}],
    }  # fmt: skip
    assert stopped_cells(table.drop(columns="unlike_by")) is None
