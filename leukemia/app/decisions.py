"""What is known of a decision, and of a picture that a reviewer gave."""

from dataclasses import dataclass, fields

UNSURE = "unsure"


@dataclass(frozen=True)
class Seen:
    """A cell as a reviewer saw it: what is written down beside a decision.

    Attributes:
        cell: its pixel hash.
        path, subject, data_label: as the data name it; None where unknown.
        model: name and hash of the run.
        policy: the thresholds, as JSON; empty where there is none.
        logit, probability: of the positive class; the probability as it was shown.
        triage: a class, or `review`.
        queue: that it came from; `picked` where it was opened by hand.
        blind: whether the model's opinion was hidden until the decision.
        seconds: for which it was looked at; None where that is unknown.
    """

    cell: str
    path: str
    subject: str | None
    data_label: str | None
    model: str
    policy: str
    logit: float
    probability: float
    triage: str
    queue: str
    blind: bool
    seconds: float | None = None


@dataclass(frozen=True)
class Decision(Seen):
    """A row of the history. `old_label` and `new_label` are those of this reviewer, None for none; `undoes` is the
    decision that this one takes back."""

    id: int = 0
    at: str = ""
    reviewer: str = ""
    old_label: str | None = None
    new_label: str | None = None
    undoes: int | None = None


@dataclass(frozen=True)
class Picture:
    """A picture that was given by a reviewer, and what a model gave it; None while it waits for that."""

    cell: str
    name: str
    subject: str | None
    model: str | None = None
    logit: float | None = None


COLUMNS = ("id", "at", "reviewer", "cell", "path", "subject", "data_label", "old_label", "new_label", "undoes", "model",
           "policy", "logit", "probability", "triage", "queue", "blind", "seconds")  # fmt: skip
assert set(COLUMNS) == {field.name for field in fields(Decision)}
