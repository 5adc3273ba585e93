"""Several networks as one model: the mean of their logits, and how far they disagree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.errors import InputError
from leukemia.evaluation.predictions import arrays, sigmoid


class NoSharedCells(InputError):
    """The members of an ensemble report on different cells."""


def combined(logits: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """The scores of cells by an ensemble.

    Args:
        logits: of each member, (members, cells).

    Returns:
        `logit`, the mean over the members, and of several members `probability_sd`, the standard deviation of their
        probabilities: (cells,) each.
    """
    of_members = np.asarray(logits, dtype=np.float64)
    found = {"logit": of_members.mean(axis=0)}
    if len(of_members) > 1:
        found["probability_sd"] = sigmoid(of_members).std(axis=0, ddof=1)
    return found


def mean_predictions(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The predictions of an ensemble: the mean logit of each cell that is in all tables of its members.

    No member trained on such a cell. Its `split` is val where it chose the epoch of any of them.

    Args:
        tables: the predictions of each member, checked. A column `fold` means that several models stand in one table;
            it has to be the same in all of them.

    Returns:
        The rows of the first table that are in all, with the scores of `combined` and `probability`.

    Raises:
        NoSharedCells: if there is none.
        InputError: if a table cannot be used, or they differ in labels or folds.
    """
    by_path = [table.assign(label=arrays(table)[0].astype(int)).set_index("path") for table in tables]
    first = tables[0]
    for other in by_path[1:]:
        first = first[first["path"].isin(other.index)]
    if first.empty:
        raise NoSharedCells(
            "no cell is held out for every member of the ensemble: the folds of a k-fold have test cells of their own, "
            "and each of them trained another member. Take seeds of one split (data.protocol=holdout), or cells that "
            "are new to all (triage --on TABLE.csv, app --images DIR)"
        )
    aligned = [table.loc[first["path"]] for table in by_path]
    for name in ("label", "fold"):
        values = [table[name].to_numpy() for table in aligned if name in table]
        if any((one != values[0]).any() for one in values[1:]):
            raise InputError(f"the members of the ensemble have another {name} for the same cells")
    found: dict[str, Any] = dict(combined([table["logit"] for table in aligned]))
    gated = [table for table in aligned if {"unlike", "unlike_by"} <= set(table)]
    if gated:  # a cell is stopped where the gate of any member stops it
        by = np.stack([pd.to_numeric(table["unlike_by"], "coerce").fillna(np.inf) for table in gated])
        why = np.stack([table["unlike"].to_numpy(dtype=object) for table in gated])
        found["unlike_by"] = by.max(axis=0)
        found["unlike"] = why[by.argmax(axis=0), np.arange(len(first))]
    if "split" in first:
        chose = np.any([table["split"] == "val" for table in aligned if "split" in table], axis=0)
        found["split"] = np.where(chose, "val", first["split"])
    return first.assign(**found, probability=sigmoid(found["logit"])).reset_index(drop=True)
