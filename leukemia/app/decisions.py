"""One decision of a reviewer, and one picture that a reviewer added."""

from dataclasses import dataclass, fields

UNSURE, ARTEFACT, POOR_QUALITY = "unsure", "artefact", "poor quality"
CHOICES = (UNSURE, ARTEFACT, POOR_QUALITY)  # beside the classes
LONGEST_COMMENT = 500  # letters


@dataclass(frozen=True)
class DecisionContext:
    """A cell as the reviewer saw it. It is stored beside the decision.

    Attributes:
        cell: its pixel hash.
        path, subject, data_label: from the data; None where unknown.
        model: name and hash of the run.
        policy: the triage thresholds, as JSON; empty without a policy.
        logit, probability: of the positive class; the probability as it was shown.
        triage: a class, or `review`.
        queue: the queue that showed the cell; `picked` where the reviewer opened it by hand.
        blind: whether the model's opinion was hidden until the decision.
        seconds: the time that the reviewer took; None where unknown.
        comment: of the reviewer on the cell.
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
    comment: str = ""


@dataclass(frozen=True)
class Decision(DecisionContext):
    """A row of the history.

    Attributes:
        id: counts up.
        at: time in UTC, ISO 8601.
        reviewer: a name.
        old_label, new_label: of this reviewer; None for no label.
        undoes: the id of the decision that this row takes back.
    """

    id: int = 0
    at: str = ""
    reviewer: str = ""
    old_label: str | None = None
    new_label: str | None = None
    undoes: int | None = None


@dataclass(frozen=True)
class AddedPicture:
    """A picture that a reviewer added. Model and logit are None until it is scored."""

    cell: str
    name: str
    subject: str | None
    model: str | None = None
    logit: float | None = None


COLUMNS = ("id", "at", "reviewer", "cell", "path", "subject", "data_label", "old_label", "new_label", "undoes", "model",
           "policy", "logit", "probability", "triage", "queue", "blind", "seconds", "comment")  # fmt: skip
assert set(COLUMNS) == {field.name for field in fields(Decision)}
