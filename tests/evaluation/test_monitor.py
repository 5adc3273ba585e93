"""Monitoring: bets that are fair while all is as certified, whatever cells of a subject have in common."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import kstest, norm

from leukemia.evaluation.monitor import (
    AS_CERTIFIED,
    BROKEN,
    DRIFTING,
    bet_wealth,
    conformal_p_values,
    conformal_wealth,
    losses_by_subject,
    spot_check_weights,
    watch,
)
from leukemia.evaluation.policy import Policy

CELLS = 20
# Of logits N(1, 1) and N(-1, 1) it releases 10 % of positive cells as negative, and 20 % of negative ones as positive.
POLICY = Policy(
    1 - norm.isf(0.1), norm.isf(0.2) - 1, None, None, 0.1, 0.2, 0.95, "subject", certified=True
)  # fmt: skip


def subjects(rng, positive, negative, correlation=0.3, shift=0.0, prefix=""):
    label = np.repeat([1, 0], [positive, negative])[rng.permutation(positive + negative)]
    effect = np.sqrt(correlation) * rng.standard_normal(len(label))
    middle = 2.0 * label - 1 + shift * label + effect
    logit = np.repeat(middle, CELLS) + np.sqrt(1 - correlation) * rng.standard_normal(len(label) * CELLS)
    table = pd.DataFrame({
        "subject": np.repeat([f"{prefix}{number}" for number in range(len(label))], CELLS),
        "label": np.repeat(label, CELLS).astype(float), "logit": logit, "weight": 1.0, "checked": True,
    })  # fmt: skip
    return table.assign(decision=POLICY.decide(table["logit"], ("0", "1")))


def spot_checked(table, rng, probability=0.3):
    """Labels of all reviewed cells and of a random sample of the released ones."""
    released = table["decision"] != "review"
    known = ~released | (rng.random(len(table)) < probability)
    return table.assign(label=table["label"].where(known), weight=np.where(released, 1 / probability, 1.0))


def test_p_values_of_exchangeable_subjects_are_uniform_also_where_most_are_tied():
    rng = np.random.default_rng(0)
    for values in (rng.standard_normal(1500), np.zeros(1500), rng.integers(0, 2, 1500)):
        assert kstest(conformal_p_values(values[:50], values[50:]), "uniform").pvalue > 0.01


def test_a_p_value_is_the_rank_among_all_before_it():
    found = conformal_p_values([1.0, 2.0, 3.0], [2.5, 10.0, 0.0])
    assert [np.floor(p * (4 + place)) for place, p in enumerate(found)] == [1, 0, 5]


def test_the_bets_are_fair():
    p = expit(np.linspace(-40, 40, 4001))
    wealth = np.array([conformal_wealth([each])[0] for each in p])
    assert np.trapezoid(wealth * p * (1 - p), dx=80 / 4000) == pytest.approx(1, abs=0.01)
    mean = sum(
        0.1 ** sum(row) * 0.9 ** (3 - sum(row)) * bet_wealth(row, 0.1)[-1]
        for row in product((0, 1), repeat=3)
    )
    assert mean == pytest.approx(1)


def test_wealth_is_the_mean_of_products_by_hand():
    by_hand = np.mean([(1 + bet * (0.3 / 0.1 - 1)) * (1 - bet) for bet in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)])
    assert bet_wealth([0.3, 0.0], 0.1)[-1] == pytest.approx(by_hand)


@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_false_alarms_are_rare_also_for_dependent_cells(correlation):
    alarms = 0
    for number in range(60):
        rng = np.random.default_rng(number)
        certified = subjects(rng, 40, 30, correlation)
        new = spot_checked(subjects(rng, 40, 30, correlation, prefix="n"), rng)
        alarms += watch(certified, new, POLICY).verdict != AS_CERTIFIED
    assert alarms <= 8  # of 60 at 5 %: more with probability 0.005


def test_more_missed_cells_break_the_bound_and_the_evidence_says_since_when():
    rng = np.random.default_rng(0)
    certified = subjects(rng, 40, 30)
    new = spot_checked(subjects(rng, 80, 60, shift=-0.8, prefix="n"), rng)
    found = watch(certified, new, POLICY)
    missed = found.tests[0]
    assert (found.verdict, missed.name) == (BROKEN, "missed")
    assert 0.1 < missed.at_least < missed.value
    assert missed.found_at < missed.subjects == 80
    assert missed.wealth >= missed.needed == pytest.approx(4 / 0.05)


def test_another_share_of_positive_subjects_is_a_drift_and_never_a_broken_bound():
    for number in range(5):
        rng = np.random.default_rng(number)
        certified = subjects(rng, 40, 40)
        found = watch(certified, spot_checked(subjects(rng, 100, 2, prefix="n"), rng), POLICY)
        assert found.verdict == DRIFTING


def test_without_labels_no_bound_is_watched():
    rng = np.random.default_rng(0)
    new = subjects(rng, 10, 10, prefix="n").assign(label=np.nan, checked=False)
    assert [test.name for test in watch(subjects(rng, 20, 20), new, POLICY).tests] == ["released", "score"]


def test_a_loss_is_unbiased_over_the_draw_of_spot_checks():
    rng = np.random.default_rng(0)
    table = subjects(rng, 6, 0, shift=-1)
    wrong = (table["decision"] == "0").groupby(table["subject"], sort=False).mean().to_numpy()
    drawn = [losses_by_subject(spot_checked(table, rng), 1, True) for _ in range(200)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), wrong, atol=0.05)


def test_a_subject_of_the_other_class_does_not_count_and_one_of_an_unknown_class_has_no_loss():
    cells = pd.DataFrame({
        "subject": ["a", "a", "b", "b", "c", "c"], "label": [1, np.nan, 0, np.nan, np.nan, np.nan],
        "decision": ["0", "1", "review", "0", "0", "0"], "weight": [2.0, 2, 1, 2, 2, 2],
    })  # fmt: skip
    np.testing.assert_allclose(losses_by_subject(cells, 1, pure=True), [2 / 2, 0])
    np.testing.assert_allclose(losses_by_subject(cells, 1, pure=False), [2 / 2, 0, 0])


def test_spot_checks_weigh_as_much_as_cells_were_left_for_each_that_was_still_to_be_drawn():
    found = spot_check_weights(["a", "a", "b", "b", "c"], [1, 1, 1, 1, 0], [1, 0, 0, 1, 0])
    np.testing.assert_allclose(found, [2, 2, 2, 2, 1])
    rng, errors = np.random.default_rng(0), np.array([1.0, 0, 1, 0, 0, 1, 1, 0])
    subject = np.repeat(["a", "b"], 4)
    sums = np.zeros(2)
    for _ in range(4000):
        checked = np.zeros(8)
        checked[rng.choice(8, 3, replace=False)] = 1
        sums += (
            (spot_check_weights(subject, np.ones(8), checked) * checked * errors).reshape(2, 4).sum(axis=1)
        )
    # All of them go to the first subject in C(4, 3) of C(8, 3) draws; the second one then has no loss.
    np.testing.assert_allclose(sums / 4000, [2, 2 * (1 - 4 / 56)], atol=0.1)


def test_a_peer_that_takes_cells_as_independent_alarms_where_cells_of_a_subject_are_alike():
    monitoring = pytest.importorskip("mapie.exchangeability_testing.risk_monitoring")
    peer, ours = 0, 0
    for number in range(15):
        rng = np.random.default_rng(number)
        table = subjects(rng, 40, 0, correlation=0.95)
        wrong = (table["decision"] == "0").astype(int).to_numpy()
        watched = monitoring.RiskMonitoring("accuracy", test_level=0.1, threshold=0.1, warn=False)
        watched.update(np.zeros_like(wrong), wrong)
        peer += (watched.online_risk_lower_bound_sequence_history > 0.1).any()
        ours += bet_wealth(losses_by_subject(table, 1, True), 0.1).max() >= 1 / 0.05
    assert ours <= 3
    assert peer >= 4
