"""What the page says of a probability, of a decision of triage, and of a policy."""

from leukemia.evaluation.policy import REVIEW, Policy

NOTICE = "Research software, no medical device: not for diagnosis."


def leaning(probability: float, classes: tuple[str, str]) -> str:
    """The probability of the positive class in a few words."""
    negative, positive = classes
    named, certainty = (positive, probability) if probability >= 0.5 else (negative, 1 - probability)
    for least, words in ((0.95, "Almost certainly"), (0.8, "Probably"), (0.6, "Leans to")):
        if certainty >= least:
            return f"{words} {named}"
    return f"Undecided between {negative} and {positive}"


def meaning(probability: float, classes: tuple[str, str], calibrated: bool) -> str:
    """What the probability of the positive class means, in a sentence."""
    if not calibrated:
        return "This score is not calibrated: read it as an order among cells, not as a chance."
    named = classes[1] if probability >= 0.5 else classes[0]
    share = 100 * max(probability, 1 - probability)
    count = "more than 99" if share > 99 else f"about {share:.0f}"
    return f"Of 100 cells with this score, {count} are {named}, if they are like those it was calibrated on."


def triage_words(decision: str, policy: Policy | None) -> str:
    if policy is None:
        return "No triage policy: every cell is reviewed."
    if decision == REVIEW:
        return "Triage sends it to review."
    return f"Triage releases it as {decision}."


def policy_words(policy: Policy | None, classes: tuple[str, str]) -> tuple[str, str, bool]:
    """Headline, explanation, and whether there is a guarantee."""
    negative, positive = classes
    if policy is None:
        return (
            "No triage policy is certified.",
            "This run has no triage.json, so every cell is in the queue, and its scores are not calibrated. "
            "“leukemia triage” on the run makes a policy.",
            False,
        )
    if not policy.certified:
        return (
            "The triage policy is not certified:",
            f"{policy.why_not or 'no reason is given'}. What it releases rests on no guarantee.",
            False,
        )
    return (
        "Certified triage policy.",
        f"With {100 * policy.confidence:g} % confidence, at most {100 * policy.max_missed:g} % of {positive} cells "
        f"are released as {negative}, and at most {100 * policy.max_false_alarm:g} % of {negative} cells as "
        f"{positive} (unit: {policy.unit}), for new {policy.unit}s like those it was certified on.",
        True,
    )


def duration(seconds: float) -> str:
    """A time in words, rounded: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
