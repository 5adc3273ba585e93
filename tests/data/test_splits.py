"""No group and no picture is in two splits, except where the protocol allows it; then it is counted."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia.data.splits import assign_splits, join_groups, leaking, splits_table, with_train_subjects
from leukemia.errors import InputError

few = settings(deadline=None, max_examples=settings.default.max_examples // 10)  # each cuts five folds


@st.composite
def tables(draw):
    """A table of 12 to 20 subjects a class in train and a few in prelim, and its hashes with some copies."""
    rows = []
    for split, least in (("train", 12), ("prelim", 2)):
        for label in (0, 1):
            for number in range(draw(st.integers(least, least + 8))):
                subject = f"{split[0].upper()}{label}{number}"
                for cell in range(draw(st.integers(1, 4))):
                    rows.append((f"{subject}_{cell}.bmp", label, subject, split, 0))
    table = pd.DataFrame(rows, columns=["path", "label", "subject", "published_split", "fold"])
    hashes = np.array([f"h{row}" for row in range(len(table))])
    training = table.index[(table["published_split"] == "train") & (table["label"] == 1)]
    for _ in range(draw(st.integers(0, 3))):
        a, b = draw(st.sampled_from(list(training))), draw(st.sampled_from(list(training)))
        hashes[a] = hashes[b]
    return table, hashes


@few
@given(drawn=tables(), protocol=st.sampled_from(["holdout", "subject_kfold"]), fold=st.integers(0, 4))
def test_a_held_out_split_shares_no_group_and_no_picture(drawn, protocol, fold):
    table, hashes = drawn
    cells = assign_splits(table, hashes, protocol, fold)
    for column in ("subject", "group", "pixel_hash"):
        assert cells.groupby(column)["split"].nunique().max() == 1
    assert not leaking(cells).any()
    assert set(cells["split"]) == {"train", "val", "test"}
    if protocol == "holdout":
        prelim = set(table.loc[table["published_split"] == "prelim", "path"])
        assert set(cells.loc[cells["split"] == "test", "path"]) == prelim


@few
@given(drawn=tables(), protocol=st.sampled_from(["subject_kfold", "image"]))
def test_every_training_cell_is_tested_in_exactly_one_fold(drawn, protocol):
    table, hashes = drawn
    tested = [
        path
        for fold in range(5)
        for path in assign_splits(table, hashes, protocol, fold).query("split == 'test'")["path"]
    ]
    assert sorted(tested) == sorted(table.loc[table["published_split"] == "train", "path"])


def test_val_is_the_next_folds_test(demo_table):
    table, hashes = demo_table
    for fold in range(5):
        val = assign_splits(table, hashes, "subject_kfold", fold).query("split == 'val'")["path"]
        test = assign_splits(table, hashes, "subject_kfold", (fold + 1) % 5).query("split == 'test'")["path"]
        assert list(val) == list(test)


def test_folds_depend_on_split_seed(demo_table):
    table, hashes = demo_table
    one, same, other = (
        assign_splits(table, hashes, "subject_kfold", 0, split_seed=seed) for seed in (0, 0, 1)
    )
    assert one.equals(same)
    assert not one.equals(other)


def test_official_trains_on_train_and_reports_prelim_without_a_test_split(demo_table):
    table, hashes = demo_table
    cells = assign_splits(table, hashes, "official")
    splits = dict(zip(cells["path"], cells["split"], strict=True))
    assert {
        path: "train" if split == "train" else "val"
        for path, split in zip(table["path"], table["published_split"], strict=True)
    } == splits


def test_subjects_that_share_a_picture_are_one_group_in_natural_order():
    subjects = pd.Series(["51", "75", "78", "51", "H10", "H3", "9", "51"])
    hashes = pd.Series(["a", "a", "b", "b", "c", "c", "d", "e"])
    groups = join_groups(subjects, hashes)
    assert list(groups) == ["51+75+78"] * 4 + ["H3+H10"] * 2 + ["9", "51+75+78"]


def test_cells_without_a_subject_join_only_their_copies():
    groups = join_groups(pd.Series([None, None, None]), pd.Series(["a", "b", "a"]))
    assert groups[0] == groups[2] != groups[1]


def test_a_copy_in_prelim_is_refused_in_holdout_and_counted_in_official(demo_table):
    table, hashes = demo_table
    hashes = hashes.copy()
    train, prelim = (
        table.index[table["published_split"] == "train"][0],
        table.index[table["published_split"] == "prelim"][0],
    )
    hashes[prelim] = hashes[train]
    with pytest.raises(InputError, match=r"are in two splits.*data\.protocol=official"):
        assign_splits(table, hashes, "holdout")
    cells = assign_splits(table, hashes, "official")
    shared = cells[leaking(cells)]
    assert table.loc[prelim, "path"] in set(shared["path"])
    assert {"train", "val"} == set(shared["split"])


def test_without_subjects_only_an_image_split_is_possible_and_every_cell_counts_as_leaking(demo_table):
    table, hashes = demo_table
    table = table.assign(subject=None)
    with pytest.raises(InputError, match=r"needs the subject.*data\.protocol=image"):
        assign_splits(table, hashes, "subject_kfold")
    assert leaking(assign_splits(table, hashes, "image")).all()


def test_an_image_split_of_known_subjects_leaks_where_a_subject_is_in_two_splits(demo_table):
    table, hashes = demo_table
    cells = assign_splits(table, hashes, "image")
    expected = cells.groupby("subject")["split"].transform("nunique") > 1
    assert (leaking(cells) >= expected).all()
    assert expected.any()


@pytest.mark.parametrize(
    ("fold", "folds", "named"),
    [(5, 5, "out of range"), (-1, 5, "out of range"), (0, 40, "lower data.num_folds")],
)
def test_folds_that_cannot_be_are_refused(demo_table, fold, folds, named):
    with pytest.raises(InputError, match=named):
        assign_splits(*demo_table, "subject_kfold", fold, folds)


def test_too_few_groups_are_counted_by_the_names_of_the_classes(demo_table):
    with pytest.raises(InputError, match=r"there are \d+ of HEM and \d+ of ALL"):
        assign_splits(*demo_table, "subject_kfold", 0, 40, classes=("HEM", "ALL"))


def test_the_table_of_splits_counts_images_subjects_and_classes(demo_table):
    cells = assign_splits(*demo_table, "holdout")
    table = splits_table(cells, ("HEM", "ALL"))
    assert list(table.index) == ["train", "val", "test"]
    assert table["images"].sum() == len(cells)
    assert (table["ALL"] + table["HEM"] == table["images"]).all()
    assert table.loc["test", "subjects"] == cells.loc[cells["split"] == "test", "subject"].nunique()


def test_subsets_of_training_subjects_are_nested_and_leave_the_other_splits_whole(demo_table):
    cells = assign_splits(*demo_table, protocol="holdout")
    train = cells[cells["split"] == "train"]
    before: set = set()
    for count in range(2, train["subject"].nunique() + 1):
        few = with_train_subjects(cells, count)
        of_few = few[few["split"] == "train"]
        subjects = set(of_few["subject"])
        assert len(subjects) == count
        assert before < subjects
        assert of_few["label"].nunique() == 2
        assert len(of_few) == train["subject"].isin(subjects).sum()  # all cells of a subject that is kept
        pd.testing.assert_frame_equal(
            few[few["split"] != "train"].reset_index(drop=True),
            cells[cells["split"] != "train"].reset_index(drop=True),
        )
        before = subjects
    pd.testing.assert_frame_equal(few, cells)
    other = with_train_subjects(cells, 4, split_seed=1)
    assert set(other["subject"]) != set(with_train_subjects(cells, 4)["subject"])


def test_a_subset_does_not_depend_on_the_order_of_the_cells(demo_table):
    cells = assign_splits(*demo_table, protocol="holdout")
    turned = with_train_subjects(cells[::-1].reset_index(drop=True), 5)
    assert set(turned["path"]) == set(with_train_subjects(cells, 5)["path"])


def test_more_subjects_than_there_are_and_unknown_subjects_are_refused(demo_table):
    cells = assign_splits(*demo_table, protocol="holdout")
    count = cells.loc[cells["split"] == "train", "subject"].nunique()
    with pytest.raises(InputError, match=rf"train_subjects={count + 1} is out of range: use 2 to {count}"):
        with_train_subjects(cells, count + 1)
    with pytest.raises(InputError, match="needs the subject of every training cell"):
        with_train_subjects(cells.assign(subject=None), 2)
