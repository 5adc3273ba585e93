import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.thresholds import choose, floor_lines, outcome, predictive_values


def cells(n_positive, n_negative, seed=0, effect=0.5, skill=2.0, most=60):
    """Cells of subjects whose logits share an effect; the cells of a class are normal with unit variance in all."""
    rng = np.random.default_rng(seed)
    tables = []
    for label, n in ((1, n_positive), (0, n_negative)):
        for subject in range(n):
            size = int(rng.integers(9, most))
            middle = skill * (2 * label - 1) + effect * rng.standard_normal()
            logit = middle + np.sqrt(1 - effect**2) * rng.standard_normal(size)
            tables.append(pd.DataFrame({"subject": f"{label}-{subject}", "label": label, "logit": logit}))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(path=[f"{row}.bmp" for row in range(len(table))])


def upper_bounds_by_hand(table, low, error):
    """1 - (error * prod(1 - share))^(1/n) over the shares of positive cells at or below `low`."""
    positive = table[table["label"] == 1]
    shares = (positive["logit"] <= low).groupby(positive["subject"]).mean()
    return 1 - (error * np.prod(1 - shares)) ** (1 / len(shares))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_low_threshold_is_the_last_one_whose_bound_holds(seed):
    table = cells(60, 60, seed)
    policy = choose(table, 0.10, 0.10)
    assert policy.certified
    if policy.high is None or policy.low is None:
        return
    assert policy.low < policy.high
    assert upper_bounds_by_hand(table, policy.low, 0.025) <= 0.10
    following = table["logit"][table["logit"] > policy.low].min()
    assert upper_bounds_by_hand(table, following, 0.025) > 0.10 or following >= policy.high


def test_units_of_cells_use_the_exact_binomial():
    table = cells(20, 20, effect=0, skill=1.0)
    policy = choose(table, 0.05, 0.05, unit="cell")
    positive = np.sort(table["logit"][table["label"] == 1])
    released = int((positive <= policy.low).sum())
    assert binom.cdf(released, len(positive), 0.05) <= 0.025 < binom.cdf(released + 1, len(positive), 0.05)


def test_a_bound_below_the_floor_is_no_certified_policy_and_says_what_it_needs():
    policy = choose(cells(13, 15), 0.10, 0.20)
    assert not policy.certified
    assert (policy.low, policy.high, policy.released) == (None, None, 0)
    assert "max_missed 0.1 needs 36 subjects without any error and there are 13" in policy.why_not
    assert "0.247" in floor_lines(cells(13, 15), 0.10, 0.20, 0.95, "subject", ("HEM", "ALL"))[0]


def test_the_whole_error_goes_to_one_side_where_the_other_bound_is_one_or_zero():
    table = cells(30, 30)
    assert not choose(table, 0.10, 0.5).certified  # 36 are needed at 2.5 %, 29 at 5 %
    free, none = choose(table, 0.10, 1.0), choose(table, 0.10, 0.0)
    assert free.certified
    assert none.certified
    assert none.high is None
    assert none.low == free.low


def test_a_side_that_nothing_certifies_releases_nothing():
    table = cells(60, 60)
    worst = table[(table["label"] == 1)].groupby("subject").head(1).index
    table.loc[worst, "logit"] = -50  # in each positive subject a cell that looks as negative as can be
    policy = choose(table, 0.06, 0.10)
    assert policy.low is None
    assert policy.high is not None
    assert policy.certified


def test_thresholds_that_would_cross_part_and_release_everything():
    policy = choose(cells(60, 60, skill=6.0), 0.5, 0.5)
    assert policy.low < policy.high
    assert policy.released == 1
    assert policy.low < 0 < policy.high


@pytest.mark.parametrize(("of_positive", "of_negative"), [(8, 2), (-2, -8), (2, -2)])
@pytest.mark.parametrize("bounds", [(1.0, 0.4), (0.4, 1.0), (1.0, 1.0), (0.4, 0.4)])
def test_classes_that_lie_apart_are_never_released_upside_down(of_positive, of_negative, bounds):
    table = cells(20, 20)
    table["logit"] = np.where(table["label"] == 1, of_positive, of_negative).astype(float)
    policy = choose(table, *bounds)
    decided = policy.decide(table["logit"], ("0", "1"))
    right = decided == table["label"].astype(str)
    if bounds == (1.0, 1.0):  # then the decision's own threshold
        right = decided == (table["logit"] >= 0).astype(int).astype(str)
    assert right.all()


@given(
    logit=st.lists(st.sampled_from([-3.0, -1.0, 0.0, 1.0, 3.0]), min_size=8, max_size=8),
    bounds=st.tuples(*[st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0])] * 2),
)
@settings(deadline=None)
def test_every_bound_holds_however_the_thresholds_part(logit, bounds):
    table = pd.DataFrame({"path": list("abcdefgh"), "label": [1] * 4 + [0] * 4, "logit": logit})
    policy = choose(table, *bounds, confidence=0.5, unit="cell")
    if not policy.certified:
        return
    error = 0.5 / max(1, sum(0 < bound < 1 for bound in bounds))
    decided = policy.decide(table["logit"], ("0", "1"))
    for label, bound, wrong in ((1, bounds[0], "0"), (0, bounds[1], "1")):
        errors = int((decided[table["label"] == label] == wrong).sum())
        if bound < 1:
            assert (binom.cdf(errors, 4, bound) <= error) if bound else errors == 0
    if policy.low is not None and policy.high is not None:
        assert policy.low < policy.high


def test_cells_of_identical_logits_stay_together():
    table = cells(60, 60).round({"logit": 0})
    policy = choose(table, 0.15, 0.15)
    assert policy.low is not None
    assert upper_bounds_by_hand(table, policy.low, 0.025) <= 0.15


def test_order_of_rows_does_not_matter():
    table = cells(40, 40)
    assert choose(table, 0.15, 0.15) == choose(table.sample(frac=1, random_state=3), 0.15, 0.15)


def test_subjects_that_share_pictures_count_as_one():
    table = cells(40, 40)
    joined = table.assign(group=table["subject"].replace({"1-1": "1-0", "0-1": "0-0"}))
    assert choose(joined, 0.2, 0.2).fitted_on["positive_units"] == 39


def test_subjects_who_share_pictures_are_one_in_the_floor_and_in_the_mean_over_subjects():
    table = cells(40, 40)
    joined = table.assign(group=table["subject"].replace({"1-1": "1-0", "0-1": "0-0"}))
    assert "39 ALL groups of subjects" in floor_lines(joined, 0.2, 0.2, 0.95, "subject", ("HEM", "ALL"))[0]
    policy = Policy(0.0, 0.5, None, None, 0.2, 0.2, 0.95, "subject", True)
    positive = joined[joined["label"] == 1]
    expected = (positive["logit"] <= 0).groupby(positive["group"]).mean().mean()
    assert outcome(joined, policy, ("HEM", "ALL"))["wrong_by_subject"][0] == pytest.approx(expected)


def test_the_outcome_counts_every_cell_once():
    table = cells(60, 60)
    policy = choose(table, 0.10, 0.10)
    rows = outcome(table, policy, ("HEM", "ALL"))
    assert rows[["as_negative", "as_positive", "review"]].sum().sum() == len(table)
    missed = (table["logit"] <= policy.low)[table["label"] == 1]
    assert rows["wrong"][0] == pytest.approx(missed.mean())
    by_subject = missed.groupby(table["subject"][table["label"] == 1]).mean()
    assert rows["wrong_by_subject"][0] == pytest.approx(by_subject.mean())
    assert rows["subjects"][0] == (by_subject > 0).sum()


def test_predictive_values_by_hand():
    table = pd.DataFrame(
        {"path": list("abcdef"), "label": [1, 1, 1, 0, 0, 0], "logit": [3, 2, -3, 2, -2, -3]}
    )
    policy = Policy(-2, 2, None, None, 0.5, 0.5, 0.95, "cell", True)
    positive, negative = predictive_values(table, policy, 0.1)
    assert positive == pytest.approx(0.1 * 2 / 3 / (0.1 * 2 / 3 + 0.9 * 1 / 3))
    assert negative == pytest.approx(0.9 * 2 / 3 / (0.9 * 2 / 3 + 0.1 * 1 / 3))


@pytest.mark.parametrize(("change", "message"), [
    ({"max_missed": -0.1}, "max_missed=-0.1 is out of range"),
    ({"confidence": 1.0}, "confidence=1.0 is out of range"),
    ({"unit": "patient"}, "unit=patient is unknown"),
])  # fmt: skip
def test_bounds_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        choose(cells(5, 5), **change)


def test_subjects_are_needed_for_units_of_subjects():
    with pytest.raises(InputError, match="needs the subject of every cell"):
        choose(cells(5, 5).drop(columns="subject"))


def test_one_class_is_refused():
    with pytest.raises(InputError, match="one class only"):
        choose(cells(5, 0))


@pytest.mark.parametrize("wrong", [
    {"certified": "false"}, {"confidence": 7}, {"released": "x"}, {"max_missed": "a"}, {"fitted_on": None},
    {"fitted_on": {"views": "x"}}, {"why_not": 3}, {"calibration": {"slope": -2.0, "intercept": 0.0}},
])  # fmt: skip
def test_a_policy_that_cannot_be_is_refused(wrong):
    content = choose(cells(60, 60)).to_json()
    assert Policy.from_json(content)
    with pytest.raises(InputError, match="of the triage policy"):
        Policy.from_json(content | wrong)


def test_a_policy_survives_its_json():
    policy = choose(cells(60, 60), 0.10, 0.10)
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.6])
def test_true_rates_exceed_their_bounds_no_more_often_than_allowed(effect):
    """200 studies of 30 subjects a class; the true rate at a threshold is known in closed form."""
    wrong = 0
    for seed in range(200):
        policy = choose(cells(30, 30, seed, effect, skill=1.0), 0.2, 0.2)
        missed = norm.cdf(policy.low - 1.0) if policy.low is not None else 0
        false_alarm = norm.sf(policy.high + 1.0) if policy.high is not None else 0
        wrong += missed > 0.2 or false_alarm > 0.2
    assert wrong / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_cells_taken_as_independent_break_the_bound_where_they_are_not():
    wrong = sum(
        norm.cdf((choose(cells(15, 15, seed, 0.6, skill=1.0), 0.2, 0.0, unit="cell").low or -9) - 1.0) > 0.2
        for seed in range(100)
    )
    assert wrong / 100 > 0.2
