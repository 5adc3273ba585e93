"""The reading study: sensitivity and specificity of a reader, the model, and the hybrid of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from leukemia.app.decisions import Decision
from leukemia.app.review import Review
from leukemia.evaluation.bootstrap import Summary, paired_rates
from leukemia.evaluation.policy import REVIEW

READER, MODEL, HYBRID = "reader", "model", "hybrid"


@dataclass(frozen=True)
class Comparison:
    """Decisions on the same labelled cells.

    Attributes:
        positive, negative: numbers of cells.
        subjects: number of subjects; None where unknown.
        rates: sensitivity and specificity by who decided: `value`, `low`, `high`.
        apart: the same of the difference to the model, for all but the model.
    """

    positive: int
    negative: int
    subjects: int | None
    rates: Mapping[str, Summary]
    apart: Mapping[str, Summary]


@dataclass(frozen=True)
class Reading:
    """A reader on cells with a label, by first decisions.

    Attributes:
        reader: a name.
        read: the reader, the model and the hybrid on the cells to which the reader gave a class.
        blind: number of these cells that were decided before the model's opinion was shown.
        left_out: number of labelled cells to which the reader gave no class.
        done: the hybrid and the model on all cells that triage released or the reader decided; None where triage
            releases nothing.
        open: number of labelled cells to review that the reader gave no class.
    """

    reader: str
    read: Comparison
    blind: int
    left_out: int
    done: Comparison | None
    open: int


def labelled_cells(review: Review) -> pd.DataFrame:
    """The cells with a label: `path` (the cell's id), `subject`, `group` where known, `label` (1 positive), and the
    classes that the `model` and `triage` give."""
    cells = [cell for cell in review.cells.values() if cell.label is not None]
    opinions = review.opinions(cells)
    table = pd.DataFrame({
        "path": [cell.id for cell in cells],
        "subject": [cell.subject for cell in cells],
        "label": [int(cell.label == review.classes[1]) for cell in cells],
        MODEL: [opinion.label for opinion in opinions],
        "triage": [opinion.triage for opinion in opinions],
    })  # fmt: skip
    cells_of_run = review.run.cells.drop_duplicates("pixel_hash").set_index("pixel_hash")
    return table.assign(group=table["path"].map(cells_of_run["group"])) if "group" in cells_of_run else table


def reading(
    reader: str, first: Mapping[str, Decision], table: pd.DataFrame, classes: Sequence[str]
) -> Reading | None:
    """The metrics of a reader; None where the reader has decided no cell with a label.

    In the hybrid workflow, triage decides the cells that it releases and the reader decides the others. Intervals and
    differences are those of a paired bootstrap of subjects (see `paired_rates`).

    Args:
        reader: a name.
        first: the reader's first decision on each cell.
        table: of `labelled_cells`.
        classes: negative and positive.
    """
    given = table["path"].map({cell: decision.new_label for cell, decision in first.items()})
    named = given.isin(classes)
    if not named.any():
        return None
    to_review = table["triage"] == REVIEW
    table = table.assign(**{READER: given, HYBRID: given.where(to_review, table["triage"])})
    read = table[named]
    is_done = named | ~to_review
    return Reading(
        reader,
        _compared(read, (MODEL, READER, HYBRID), classes[1]),
        blind=sum(first[cell].blind for cell in read["path"]),
        left_out=int((given.notna() & ~named).sum()),
        done=None if to_review.all() else _compared(table[is_done], (MODEL, HYBRID), classes[1]),
        open=int((~is_done).sum()),
    )


def _compared(table: pd.DataFrame, names: Sequence[str], positive: str) -> Comparison:
    decided = [table.assign(logit=(table[name] == positive) * 2.0 - 1) for name in names]
    rates, apart = paired_rates(decided)
    return Comparison(
        positive=int(table["label"].sum()),
        negative=int((table["label"] == 0).sum()),
        subjects=int(table["subject"].nunique()) if table["subject"].notna().all() else None,
        rates=dict(zip(names, rates, strict=True)),
        apart=dict(zip(names[1:], apart, strict=True)),
    )
