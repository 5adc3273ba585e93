"""Texts of the page about a probability, a triage decision, and a policy."""

import math

from leukemia.evaluation.policy import REVIEW, Policy

NOTICE = "Research software, not a medical device. Not for diagnosis."


def leaning(probability: float, classes: tuple[str, str]) -> str:
    """The probability of the positive class in a few words."""
    negative, positive = classes
    named, certainty = (positive, probability) if probability >= 0.5 else (negative, 1 - probability)
    for least, text in ((0.95, "Almost certainly"), (0.8, "Probably"), (0.6, "Leans to")):
        if certainty >= least:
            return f"{text} {named}"
    return f"Undecided between {negative} and {positive}"


def meaning(probability: float, classes: tuple[str, str], calibrated: bool) -> str:
    """The meaning of the positive class's probability in a sentence."""
    if not calibrated:
        return "This score is not calibrated. It ranks cells; it is not a chance."
    named = classes[1] if probability >= 0.5 else classes[0]
    share = 100 * max(probability, 1 - probability)
    count = "more than 99" if share > 99 else f"about {share:.0f}"
    return (
        f"Of 100 cells with this score, {count} are {named}, if they are like the cells of the calibration."
    )


def disagreement(probability_sd: float, members: int) -> str:
    """How far the members of an ensemble disagree, as a further sentence; empty for one network."""
    if math.isnan(probability_sd):
        return ""
    return f" The {members} networks of the ensemble differ by {100 * probability_sd:.0f} points (standard deviation)."


def triage_text(decision: str, policy: Policy | None) -> str:
    """A triage decision in a sentence."""
    if policy is None:
        return "No triage policy: every cell is reviewed."
    if decision == REVIEW:
        return "Triage sends this cell to review."
    return f"Triage releases this cell as {decision}."


def policy_text(policy: Policy | None, classes: tuple[str, str]) -> tuple[str, str, bool]:
    """Headline and explanation of a policy, and whether it is certified."""
    negative, positive = classes
    if policy is None:
        return (
            "No triage policy is certified.",
            "This run has no triage.json. Every cell is in the queue, and the scores are not calibrated. "
            "Run “leukemia triage” to make a policy.",
            False,
        )
    if not policy.certified:
        return (
            "The triage policy is not certified:",
            f"{policy.why_not or 'no reason is given'}. Its releases have no guarantee.",
            False,
        )
    return (
        "Certified triage policy.",
        f"With {100 * policy.confidence:g} % confidence, at most {100 * policy.max_missed:g} % of {positive} cells "
        f"are released as {negative}, and at most {100 * policy.max_false_alarm:g} % of {negative} cells are released "
        f"as {positive} (unit: {policy.unit}). This holds for new {policy.unit}s like those of the certification.",
        True,
    )


def duration(seconds: float) -> str:
    """A rounded duration: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
