"""Metrics by the values of a column that describes cells, as site, age group or stain batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from leukemia.evaluation.bootstrap import evaluate

MOST_VALUES = 12  # of a column; one with more describes single cells, not groups of them


def covariates(cells: pd.DataFrame) -> list[str]:
    """The columns of a table that divide its cells into 2 to MOST_VALUES groups."""
    return [str(name) for name in cells if 2 <= cells[name].nunique() <= MOST_VALUES]


def by_covariate(
    replicates: Sequence[pd.DataFrame], value_of: Mapping[str, Any], **settings: Any
) -> dict[str, dict[str, Any]]:
    """`bootstrap.evaluate` for the cells of each value: intervals draw subjects here too.

    Args:
        replicates: tables of one model, one a seed.
        value_of: the value of each cell by its path; cells without one are left out.
        settings: of `evaluate`.
    """
    values = [table["path"].map(value_of) for table in replicates]
    names = sorted({str(value) for of in values for value in of.dropna()})
    return {
        name: evaluate(
            [
                table[(of.astype("string") == name).fillna(False).to_numpy(bool)].reset_index(drop=True)
                for table, of in zip(replicates, values, strict=True)
            ],
            **settings,
        )
        for name in names
    }
