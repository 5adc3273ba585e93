"""No group and no picture stands on two splits, unless that was asked for and is counted."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia.data.splits import assign_splits, join_groups, leaking, splits_table
from leukemia.errors import InputError


@st.composite
def indices(draw):
    """An index of 12 to 20 subjects a class in train and a few in prelim, and its hashes with some copies."""
    rows = []
    for split, least in (("train", 12), ("prelim", 2)):
        for label in (0, 1):
            for number in range(draw(st.integers(least, least + 8))):
                subject = f"{split[0].upper()}{label}{number}"
                for cell in range(draw(st.integers(1, 4))):
                    rows.append((f"{subject}_{cell}.bmp", label, subject, split, 0))
    index = pd.DataFrame(rows, columns=["path", "label", "subject", "published_split", "fold"])
    hashes = np.array([f"h{row}" for row in range(len(index))])
    training = index.index[(index["published_split"] == "train") & (index["label"] == 1)]
    for _ in range(draw(st.integers(0, 3))):
        a, b = draw(st.sampled_from(list(training))), draw(st.sampled_from(list(training)))
        hashes[a] = hashes[b]
    return index, hashes


@settings(deadline=None, max_examples=40)
@given(given_index=indices(), split=st.sampled_from(["holdout", "subject_kfold"]), fold=st.integers(0, 4))
def test_a_held_out_side_shares_no_group_and_no_picture(given_index, split, fold):
    index, hashes = given_index
    cells = assign_splits(index, hashes, split, fold)
    for column in ("subject", "group", "pixel_hash"):
        assert cells.groupby(column)["split"].nunique().max() == 1
    assert not leaking(cells).any()
    assert set(cells["split"]) == {"train", "val", "test"}
    if split == "holdout":
        prelim = set(index.loc[index["published_split"] == "prelim", "path"])
        assert set(cells.loc[cells["split"] == "test", "path"]) == prelim


@settings(deadline=None, max_examples=15)
@given(given_index=indices(), split=st.sampled_from(["subject_kfold", "image"]))
def test_every_training_cell_is_tested_in_exactly_one_fold(given_index, split):
    index, hashes = given_index
    tested = [
        path
        for fold in range(5)
        for path in assign_splits(index, hashes, split, fold).query("split == 'test'")["path"]
    ]
    assert sorted(tested) == sorted(index.loc[index["published_split"] == "train", "path"])


def test_val_is_the_next_folds_test(demo_index):
    index, hashes = demo_index
    for fold in range(5):
        val = assign_splits(index, hashes, "subject_kfold", fold).query("split == 'val'")["path"]
        test = assign_splits(index, hashes, "subject_kfold", (fold + 1) % 5).query("split == 'test'")["path"]
        assert list(val) == list(test)


def test_folds_depend_on_split_seed(demo_index):
    index, hashes = demo_index
    one, same, other = (
        assign_splits(index, hashes, "subject_kfold", 0, split_seed=seed) for seed in (0, 0, 1)
    )
    assert one.equals(same)
    assert not one.equals(other)


def test_official_trains_on_train_and_reports_prelim_without_a_test_side(demo_index):
    index, hashes = demo_index
    cells = assign_splits(index, hashes, "official")
    splits = dict(zip(cells["path"], cells["split"], strict=True))
    assert {
        path: "train" if split == "train" else "val"
        for path, split in zip(index["path"], index["published_split"], strict=True)
    } == splits


def test_subjects_that_share_a_picture_are_one_group_in_natural_order():
    subjects = pd.Series(["51", "75", "78", "51", "H10", "H3", "9", "51"])
    hashes = pd.Series(["a", "a", "b", "b", "c", "c", "d", "e"])
    groups = join_groups(subjects, hashes)
    assert list(groups) == ["51+75+78"] * 4 + ["H3+H10"] * 2 + ["9", "51+75+78"]


def test_cells_without_a_subject_join_only_their_copies():
    groups = join_groups(pd.Series([None, None, None]), pd.Series(["a", "b", "a"]))
    assert groups[0] == groups[2] != groups[1]


def test_a_copy_in_prelim_is_refused_in_holdout_and_counted_in_official(demo_index):
    index, hashes = demo_index
    hashes = hashes.copy()
    train, prelim = (
        index.index[index["published_split"] == "train"][0],
        index.index[index["published_split"] == "prelim"][0],
    )
    hashes[prelim] = hashes[train]
    with pytest.raises(InputError, match=r"stand on two splits.*data\.split=official"):
        assign_splits(index, hashes, "holdout")
    cells = assign_splits(index, hashes, "official")
    shared = cells[leaking(cells)]
    assert index.loc[prelim, "path"] in set(shared["path"])
    assert {"train", "val"} == set(shared["split"])


def test_without_subjects_only_an_image_split_is_possible_and_every_cell_counts_as_leaking(demo_index):
    index, hashes = demo_index
    index = index.assign(subject=None)
    with pytest.raises(InputError, match=r"needs the subject.*data\.split=image"):
        assign_splits(index, hashes, "subject_kfold")
    assert leaking(assign_splits(index, hashes, "image")).all()


def test_an_image_split_of_known_subjects_leaks_where_a_subject_is_on_two_sides(demo_index):
    index, hashes = demo_index
    cells = assign_splits(index, hashes, "image")
    expected = cells.groupby("subject")["split"].transform("nunique") > 1
    assert (leaking(cells) >= expected).all()
    assert expected.any()


@pytest.mark.parametrize(
    ("fold", "folds", "named"),
    [(5, 5, "out of range"), (-1, 5, "out of range"), (0, 40, "lower data.num_folds")],
)
def test_folds_that_cannot_be_are_refused(demo_index, fold, folds, named):
    with pytest.raises(InputError, match=named):
        assign_splits(*demo_index, "subject_kfold", fold, folds)


def test_too_few_groups_are_counted_by_the_names_of_the_classes(demo_index):
    with pytest.raises(InputError, match=r"there are \d+ of HEM and \d+ of ALL"):
        assign_splits(*demo_index, "subject_kfold", 0, 40, classes=("HEM", "ALL"))


def test_the_table_of_sides_counts_images_subjects_and_classes(demo_index):
    cells = assign_splits(*demo_index, "holdout")
    table = splits_table(cells, ("HEM", "ALL"))
    assert list(table.index) == ["train", "val", "test"]
    assert table["images"].sum() == len(cells)
    assert (table["ALL"] + table["HEM"] == table["images"]).all()
    assert table.loc["test", "subjects"] == cells.loc[cells["split"] == "test", "subject"].nunique()
