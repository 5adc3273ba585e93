"""Identical pictures in a data set: their places, and the subjects and folds that they join."""

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from leukemia.data.files import natural
from leukemia.data.splits import join_groups


@dataclass(frozen=True)
class Duplicates:
    """Pairs of cells with equal pixels. Three equal cells are three pairs.

    Attributes:
        within: pairs within each split that has any.
        between: pairs across two splits, by `prelim and train` and the like.
        across_folds: pairs across two official folds, by `0 and 1` and the like.
        across_subjects: pairs across two subjects, by `20 and 21` and the like.
        within_subjects: pairs within one subject.
        groups: cells of each set of subjects that such pairs join, by `51+75+78` and the like.
        sets: the paths of equal cells.
        contradictions: the sets whose labels differ.
    """

    within: dict[str, int]
    between: dict[str, int]
    across_folds: dict[str, int]
    across_subjects: dict[str, int]
    within_subjects: int
    groups: dict[str, int]
    sets: tuple[tuple[str, ...], ...]
    contradictions: tuple[tuple[str, ...], ...]


def find_duplicates(table: pd.DataFrame, hashes: pd.Series) -> Duplicates:
    """Compare every cell with every other, by the hash of its pixels.

    Args:
        table: of cells.
        hashes: the hash of each cell's pixels; missing where its picture cannot be read.
    """
    cells = table.assign(hash=hashes)
    equal = cells[cells["hash"].notna() & cells.duplicated("hash", keep=False)]
    sets = {picture: tuple(found) for picture, found in equal.groupby("hash", sort=False)["path"]}
    labels = equal[equal["label"] >= 0].groupby("hash")["label"].nunique()
    within = [(str(split), _pairs(found)) for split, found in equal.groupby("published_split", sort=False)]
    return Duplicates(
        within={split: pairs for split, pairs in within if pairs},
        between=_pairs_across(equal, "published_split"),
        across_folds=_pairs_across(equal[equal["fold"] >= 0], "fold"),
        across_subjects=_pairs_across(equal, "subject"),
        within_subjects=sum(_pairs(found) for _, found in equal.groupby("subject")),
        groups=_groups(cells, equal[equal["subject"].notna()]),
        sets=tuple(sets.values()),
        contradictions=tuple(sets[picture] for picture in labels.index[labels > 1]),
    )


def _pairs(equal: pd.DataFrame) -> int:
    counts = equal["hash"].value_counts()
    return int((counts * (counts - 1) // 2).sum())


def _pairs_across(equal: pd.DataFrame, column: str) -> dict[str, int]:
    """Pairs of equal cells with two values of a column, most first; a missing value counts in no pair."""
    counts = equal.groupby(["hash", column]).size().rename("cells").reset_index()
    both = counts.merge(counts, on="hash")
    both = both[both[f"{column}_x"] != both[f"{column}_y"]]
    pairs: Counter[tuple[str, ...]] = Counter()
    values = zip(both[f"{column}_x"].astype(str), both[f"{column}_y"].astype(str), strict=True)
    for two, number in zip(values, both["cells_x"] * both["cells_y"], strict=True):
        pairs[tuple(sorted(two, key=natural))] += int(number)
    ordered = sorted(pairs, key=lambda names: (-pairs[names], [natural(name) for name in names]))
    # Each pair was counted from both ends.
    return {" and ".join(names): pairs[names] // 2 for names in ordered}


def _groups(cells: pd.DataFrame, equal: pd.DataFrame) -> dict[str, int]:
    if equal.empty:
        return {}
    group_of_subject = join_groups(equal["subject"], equal["hash"]).groupby(equal["subject"]).first()
    subjects = group_of_subject.value_counts()
    joined = group_of_subject[group_of_subject.isin(subjects.index[subjects > 1])]
    sizes = cells["subject"].map(joined).value_counts()
    return {group: int(sizes[group]) for group in sorted(sizes.index, key=natural)}
