from dataclasses import replace

import pytest

from leukemia.app.texts import duration, leaning, meaning, policy_text
from leukemia.evaluation.policy import Policy

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
    assert "95 % confidence, at most 10 % of ALL cells are released as HEM" in explanation
    headline, explanation, certified = policy_text(
        replace(POLICY, certified=False, why_not="too few"), CLASSES
    )
    assert not certified
    assert "not certified" in headline
    assert explanation == "too few. Its releases have no guarantee."
    assert "Every cell is in the queue" in policy_text(None, CLASSES)[1]


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_duration_is_rounded(seconds, text):
    assert duration(seconds) == text
