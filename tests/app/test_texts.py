import inspect
from dataclasses import replace

import pytest

from leukemia.app.texts import CONFIDENCE, USUAL, duration, leaning, meaning, policy_text, size_text
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.thresholds import choose

CLASSES = ("HEM", "ALL")
POLICY = Policy(
    low=-2.0, high=2.0, slope=1.0, intercept=0.0, max_missed=0.1, max_false_alarm=0.2, confidence=0.95,
    unit="subject", certified=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.99, "Almost certainly ALL"), (0.85, "Probably ALL"), (0.65, "Leans to ALL"),
     (0.5, "Undecided between HEM and ALL"), (0.3, "Leans to HEM"), (0.1, "Probably HEM"),
     (0.001, "Almost certainly HEM")],
)  # fmt: skip
def test_a_probability_in_a_few_words(probability, text):
    assert leaning(probability, CLASSES) == text


def test_the_meaning_of_a_probability_is_given_for_the_likelier_class():
    assert "about 73 are ALL" in meaning(0.73, CLASSES, calibrated=True)
    assert "about 73 are HEM" in meaning(0.27, CLASSES, calibrated=True)
    assert "more than 99 are HEM" in meaning(0.0004, CLASSES, calibrated=True)
    assert "it is not a chance" in meaning(0.73, CLASSES, calibrated=False)


def test_only_a_certified_policy_gives_a_guarantee():
    headline, explanation, certified = policy_text(POLICY, CLASSES)
    assert certified
    assert headline == (
        "At most 10 % of ALL cells released as HEM, at most 20 % of HEM cells released as ALL, 95 % confidence."
    )
    headline, explanation, certified = policy_text(
        replace(POLICY, certified=False, why_not="too few"), CLASSES
    )
    assert not certified
    assert "not certified" in headline
    assert explanation == "too few. Its releases have no guarantee."
    assert "Every cell is in the queue" in policy_text(None, CLASSES)[1]


def test_the_usual_bounds_are_the_defaults_of_triage():
    defaults = {name: each.default for name, each in inspect.signature(choose).parameters.items()}
    assert {name: defaults[name] for name in (*USUAL, "confidence")} == USUAL | {"confidence": CONFIDENCE}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_missed": 0.3}, "At most 30 % of ALL"),
        ({"max_false_alarm": 1.0}, "no bound on HEM cells released as ALL"),
        ({"confidence": 0.9}, "90 % confidence"),
        ({"fitted_on": {"assumed": "independent cells, although they are of 13 subjects"}}, "of 13 subjects"),
    ],
)
def test_a_loose_bound_is_no_green_line(change, said):
    headline, explanation, is_tight = policy_text(replace(POLICY, **change), CLASSES)
    assert not is_tight
    assert said in headline + explanation


def test_a_size_is_in_micrometres_where_the_scale_is_known():
    assert size_text(None, 0.1) == ""
    assert size_text(213.6, None) == "214 pixels"
    assert size_text(213.6, 0.08) == "214 pixels, 17.1 µm"


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_duration_is_rounded(seconds, text):
    assert duration(seconds) == text
