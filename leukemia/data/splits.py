"""Groups of cells that belong together, and splits that share no group."""

from typing import Any

import numpy as np
import pandas as pd

from leukemia.data.files import natural
from leukemia.data.reader import further_columns
from leukemia.data.run_files import SPLITS
from leukemia.errors import InputError

PROTOCOLS = ("official", "holdout", "subject_kfold", "image")


def join_groups(subjects: pd.Series, hashes: pd.Series) -> pd.Series:
    """Join the cells that must stay together: those of one subject, and those of subjects that share a picture.

    Args:
        subjects: the subject of each cell; missing where it is unknown (such a cell joins only its copies).
        hashes: the pixel hash of each cell.

    Returns:
        The group of each cell: its subjects' names in natural order, joined by `+`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    alone = pd.Series([f"cell {row}" for row in range(len(subjects))], subjects.index, dtype=object)
    subject, subject_names = pd.factorize(subjects.astype(object).where(subjects.notna(), alone))
    picture, pictures = pd.factorize(hashes)
    nodes = len(subject_names) + len(pictures)
    edges = coo_array((np.ones(len(subject)), (subject, len(subject_names) + picture)), shape=(nodes, nodes))
    component = connected_components(edges, directed=False)[1]

    members: dict[int, list[str]] = {}
    for number, name in zip(component, subject_names, strict=False):
        members.setdefault(number, []).append(str(name))
    labels = {number: "+".join(sorted(found, key=natural)) for number, found in members.items()}
    return pd.Series([labels[number] for number in component[subject]], index=subjects.index, name="group")


def assign_splits(
    table: pd.DataFrame,
    hashes: np.ndarray,
    protocol: str = "official",
    fold: int = 0,
    num_folds: int = 5,
    split_seed: int = 0,
    classes: tuple[str, str] = ("label 0", "label 1"),
) -> pd.DataFrame:
    """Give every labelled cell its group and its split.

    | protocol | train | val | test |
    | --- | --- | --- | --- |
    | official | the training subjects | prelim | |
    | holdout | training groups without fold k | fold k of the training groups | prelim |
    | subject_kfold | the other folds | fold k+1 | fold k |
    | image | as subject_kfold, each image its own group: leaks | | |

    Args:
        table: of a reader, see `leukemia.data.reader.check_reader_result`.
        hashes: the pixel hash of each row, (rows,).
        protocol: one of PROTOCOLS.
        fold: k, from 0.
        num_folds: of the training groups, balanced by class.
        split_seed: of the folds. They depend on it and on the data only.
        classes: the names of the labels 0 and 1, for messages.

    Returns:
        `path, subject, group, label, split, pixel_hash`, then the further columns of the table, in its order.
        Unlabelled cells and cells that the protocol does not use are left out.

    Raises:
        InputError: if the protocol is not possible with this table, or if a group or a picture would be in two
            splits (`official` and `image` allow that, see `leaking`).
    """
    cells = table.assign(pixel_hash=hashes)
    cells = cells[cells["label"] >= 0]
    training, prelim = cells["published_split"] == "train", cells["published_split"] == "prelim"
    remedy = "check the data folder with `leukemia data check`"
    _require(training.any(), "there is no labelled training cell", remedy)
    if protocol in ("official", "holdout"):
        _require(
            prelim.any(),
            f"data.protocol={protocol} needs labelled preliminary cells and there is none",
            "add them, or use data.protocol=subject_kfold",
        )
    if protocol != "image":
        _require(
            cells["subject"].notna().all(),
            f"data.protocol={protocol} needs the subject of every cell",
            "name the subjects in a manifest csv, or accept a leaking split with data.protocol=image",
        )
    cells = cells[training] if protocol in ("subject_kfold", "image") else cells
    group = cells["path"] if protocol == "image" else join_groups(cells["subject"], cells["pixel_hash"])
    cells = cells.assign(group=group)

    training = cells["published_split"] == "train"
    if protocol == "official":
        split = np.where(training, "train", "val")
    else:
        folds = np.full(len(cells), -1)
        folds[training] = _folds(cells[training], protocol, fold, num_folds, split_seed, classes)
        if protocol == "holdout":
            split = np.where(~training, "test", np.where(folds == fold, "val", "train"))
        else:
            split = np.select([folds == fold, folds == (fold + 1) % num_folds], ["test", "val"], "train")
    columns = ["path", "subject", "group", "label", "split", "pixel_hash", *further_columns(table)]
    cells = cells.assign(split=split)[columns].reset_index(drop=True)
    if protocol in ("holdout", "subject_kfold"):
        _refuse_leaks(cells)
    return cells


def with_train_subjects(cells: pd.DataFrame, count: int, split_seed: int = 0) -> pd.DataFrame:
    """The cells without the training cells of all but `count` subjects; the other splits stay whole.

    The subsets are nested: those of a smaller count lie in those of a larger one. They depend on the cells and
    `split_seed` only. Both classes come in the share of their subjects, and each from the second subject on.

    Args:
        cells: of `assign_splits`.
        count: of training subjects, from 2.
        split_seed: of the order of the subjects.

    Raises:
        InputError: if a training cell has no subject, or there are fewer subjects.
    """
    train = cells[cells["split"] == "train"]
    _require(
        train["subject"].notna().all(),
        "data.train_subjects needs the subject of every training cell",
        "leave it out with data.train_subjects=null",
    )
    labels = train.groupby("subject")["label"].mean().round()
    labels = labels.loc[sorted(labels.index, key=natural)].sample(frac=1, random_state=split_seed)
    _require(
        2 <= count <= len(labels),
        f"data.train_subjects={count} is out of range",
        f"use 2 to {len(labels)}, the training subjects of this split",
    )
    place = labels.groupby(labels).cumcount() / labels.groupby(labels).transform("size")
    kept = place.sort_values(kind="stable").index[:count]
    return cells[(cells["split"] != "train") | cells["subject"].isin(kept)].reset_index(drop=True)


def leaking(cells: pd.DataFrame) -> pd.Series:
    """Which cells are not independent of another split, because it has their subject, group or picture too.

    A cell of unknown subject counts as leaking, because its independence cannot be shown.
    """
    found = cells["subject"].isna().to_numpy()
    for column in ("subject", "group", "pixel_hash"):
        found = found | (cells.groupby(column)["split"].transform("nunique") > 1).to_numpy()
    return pd.Series(found, index=cells.index, name="leaking")


def splits_table(cells: pd.DataFrame, classes: tuple[str, str]) -> pd.DataFrame:
    """A row for each split: `images`, `subjects`, and the images of each class."""
    splits = [split for split in SPLITS if (cells["split"] == split).any()]
    grouped = cells.groupby("split")
    table = pd.DataFrame({"images": grouped.size(), "subjects": grouped["subject"].nunique()})
    for label in (1, 0):
        table[classes[label]] = (cells["label"] == label).groupby(cells["split"]).sum()
    return table.loc[splits]


def _folds(
    cells: pd.DataFrame, protocol: str, fold: int, num_folds: int, split_seed: int, classes: tuple[str, str]
) -> np.ndarray:
    """The fold of each cell."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _require(0 <= fold < num_folds, f"data.fold={fold} is out of range", f"use 0 to {num_folds - 1}")
    groups_of_class = cells.groupby("label")["group"].nunique()
    _require(
        len(groups_of_class) == 2 and groups_of_class.min() >= num_folds,
        f"{num_folds} folds need {num_folds} groups of each class and there are "
        + " and ".join(f"{groups_of_class.get(label, 0)} of {name}" for label, name in enumerate(classes)),
        "lower data.num_folds",
    )
    kind, groups = (StratifiedKFold, None) if protocol == "image" else (StratifiedGroupKFold, cells["group"])
    splitter = kind(num_folds, shuffle=True, random_state=split_seed)
    folds = np.empty(len(cells), dtype=int)
    for number, (_, rows) in enumerate(splitter.split(cells, cells["label"], groups)):
        folds[rows] = number
    return folds


def _refuse_leaks(cells: pd.DataFrame) -> None:
    shared = cells[leaking(cells)]
    if shared.empty:
        return
    named = "; ".join(
        f"{group} ({', '.join(sorted(rows['split'].unique()))}), such as {', '.join(rows['path'].head(3))}"
        for group, rows in list(shared.groupby("group"))[:5]
    )
    raise InputError(
        f"{len(shared)} cells of {shared['group'].nunique()} groups are in two splits: {named}. Remove the copies "
        "from one of them, or use data.protocol=official, which reports them as a leak"
    )


def _require(condition: Any, problem: str, remedy: str) -> None:
    if not condition:
        raise InputError(f"{problem}: {remedy}")
