"""Texts of the page about a probability, a triage decision, and a policy."""

import math

from leukemia.evaluation.policy import REVIEW, Policy

USUAL = {"max_missed": 0.10, "max_false_alarm": 0.20}  # the defaults of `leukemia triage`
CONFIDENCE = 0.95
MEANINGS = {"HEM": "normal precursor", "ALL": "leukemic blast"}  # of C-NMC's classes
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


def disagreement(probability_sd: float, members: int) -> list[str]:
    """How far the members of an ensemble disagree, in a sentence; none for one network."""
    if math.isnan(probability_sd):
        return []
    points = f"{100 * probability_sd:.0f} points"
    return [
        f"The {members} networks of the ensemble differ by {points} (standard deviation of the probability)."
    ]


def triage_text(decision: str, policy: Policy | None) -> str:
    """A triage decision in a sentence."""
    if policy is None:
        return "No triage policy: every cell is reviewed."
    if decision == REVIEW:
        return "Triage sends this cell to review."
    return f"Triage releases this cell as {decision}."


def policy_text(policy: Policy | None, classes: tuple[str, str]) -> tuple[str, str, bool]:
    """Headline and explanation of a policy, and whether it is certified with bounds that are not loose.

    A bound is loose where it is weaker than the default of `leukemia triage`, or rests on independent cells although
    some are of one subject.
    """
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
    negative, positive = classes
    missed = _bound(policy.max_missed, positive, negative)
    false_alarm = _bound(policy.max_false_alarm, negative, positive)
    headline = f"{missed[0].upper()}{missed[1:]}, {false_alarm}, {100 * policy.confidence:g} % confidence."
    remarks = []
    if any(getattr(policy, name) > usual for name, usual in USUAL.items()) or policy.confidence < CONFIDENCE:
        usual = " and ".join(f"{100 * share:g} %" for share in USUAL.values())
        remarks.append(f"This is loose: the usual bounds are {usual} with {100 * CONFIDENCE:g} % confidence.")
    if assumed := policy.fitted_on.get("assumed"):
        remarks.append(f"It assumes {assumed}: the true shares can be larger.")
    basis = f"Certified for new {policy.unit}s like those of the certification (unit: {policy.unit})."
    return headline, " ".join([*remarks, basis]), not remarks


def _bound(share: float, named: str, other: str) -> str:
    if share == 0:
        return f"no {named} cell is released as {other}"
    if share == 1:
        return f"no bound on {named} cells released as {other}"
    return f"at most {100 * share:g} % of {named} cells released as {other}"


def size_text(diameter: float | None, um_per_pixel: float | None) -> str:
    """The size of a cell in a few words; empty where it is unknown."""
    if diameter is None:
        return ""
    pixels = f"{diameter:.0f} pixels"
    return pixels if um_per_pixel is None else f"{pixels}, {diameter * um_per_pixel:.1f} µm"


def duration(seconds: float) -> str:
    """A rounded duration: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
