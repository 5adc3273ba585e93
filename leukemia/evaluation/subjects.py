"""Each subject with its intervals."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.metrics import subject_table
from leukemia.evaluation.policy import REVIEW
from leukemia.evaluation.predictions import plain_subjects


def by_subject(replicates: Sequence[pd.DataFrame], confidence: float = 0.95) -> list[dict[str, Any]]:
    """A row a subject, by subject: `subject`, `label` (None where its cells have both), `n` cells, `vote` (1 or 0),
    and with their ends `_low` and `_high` the `share_positive`, the `accuracy` (Wilson's interval) and the
    `mean_logit` (normal interval of a mean; None for a single cell). They take the cells of a subject as a sample
    of its cells. Of several replicates it is the first, with `accuracy_lowest` and `accuracy_highest` over them.

    Args:
        replicates: tables of one model with a subject in every row, one a seed.
        confidence: of the intervals.
    """
    tables = [subject_table(table) for table in replicates]
    first = replicates[0]
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    deviation = pd.to_numeric(first["logit"]).groupby(plain_subjects(first).to_numpy()).std(ddof=1)
    accuracies = pd.concat([table["accuracy"] for table in tables], axis=1)
    found = tables[0].assign(
        half=z * deviation / np.sqrt(tables[0]["n"]),
        lowest=accuracies.min(axis=1),
        highest=accuracies.max(axis=1),
    )
    rows = []
    for row in found.reset_index(names="subject").to_dict("records"):
        n, mean, half = int(row["n"]), float(row["mean_logit"]), float(row["half"])
        rows.append({
            "subject": str(row["subject"]),
            "label": None if pd.isna(row["label"]) else int(row["label"]),
            "n": n,
            "vote": int(row["vote"]),
            **_share("share_positive", row["share_positive"], n, confidence),
            **_share("accuracy", row["accuracy"], n, confidence),
            "accuracy_lowest": float(row["lowest"]),
            "accuracy_highest": float(row["highest"]),
            "mean_logit": mean,
            "mean_logit_low": None if n < 2 else mean - half,
            "mean_logit_high": None if n < 2 else mean + half,
        })  # fmt: skip
    return rows


def summary_by_subject(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The decisions on each subject's cells, by subject; labels are not needed.

    Args:
        table: `subject, logit, decision` in each row; rows without a subject are left out.
        classes: the names of class 0 and class 1.

    Returns:
        `subject`, `cells`, `share_POSITIVE` (of its cells called positive at probability 0.5), `mean_logit`, `vote`
        (the class of most cells; a tie goes by the mean logit), and how many cells were decided as each class and
        `review`.
    """
    known = table[table["subject"].notna()]
    called = known["logit"] >= 0
    groups = known.assign(called=called).groupby("subject", sort=True)
    n, positive, mean = groups.size(), groups["called"].sum(), groups["logit"].mean()
    votes = (2 * positive > n) | ((2 * positive == n) & (mean >= 0))
    decided = pd.crosstab(known["subject"], known["decision"])
    return pd.DataFrame({
        "cells": n,
        f"share_{classes[1]}": positive / n,
        "mean_logit": mean,
        "vote": np.where(votes, classes[1], classes[0]),
        **{f"decided_{name}": decided.get(name, 0) for name in (*classes, REVIEW)},
    }).reset_index(names="subject")  # fmt: skip


def _share(name: str, share: float, n: int, confidence: float) -> dict[str, float]:
    low, high = wilson_interval(round(share * n), n, confidence)
    return {name: float(share), f"{name}_low": low, f"{name}_high": high}
