"""The result of a reader is filled in, or refused with the name of the reader and the reason."""

import functools

import pandas as pd
import pytest

from leukemia.data.reader import COLUMNS, check_reader, check_reader_result, read_cells
from leukemia.errors import InputError, name_of

PATHS = ["a.png", "b.png", "c.png"]


def result(classes=("normal", "blast"), native_size=None, **columns):
    return pd.DataFrame({"path": PATHS, "label": [1, 0, -1], **columns}), classes, native_size


def test_path_and_label_are_enough_and_the_rest_has_defaults():
    table, classes, native_size = check_reader_result(result(), "mylab.cells")
    assert tuple(table.columns) == COLUMNS
    assert table["subject"].isna().all()
    assert table["published_split"].tolist() == ["train"] * 3
    assert table["fold"].tolist() == [-1] * 3
    assert (classes, native_size) == (("normal", "blast"), None)


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        ([7, 8, 7], ["7", "8", "7"]),
        ([7.0, None, 8.0], ["7", None, "8"]),  # pandas makes floats of numbers beside a missing one
        (["p1 ", "007", ""], ["P1", "007", None]),
        ([None, None, None], [None] * 3),
    ],
)
def test_subjects_become_upper_case_text(subjects, expected):
    table, _, _ = check_reader_result(result(subject=subjects), "mylab.cells")
    assert [None if pd.isna(subject) else subject for subject in table["subject"]] == expected


def test_types_and_order_of_columns_do_not_depend_on_the_reader():
    given = result(site=["A", "B", "A"], fold=[1.0, None, 2.0], published_split=["train", "prelim", "final"])
    shuffled = given[0][["site", "fold", "published_split", "label", "path"]].set_axis([5, 6, 7])
    table, _, _ = check_reader_result((shuffled, *given[1:]), "mylab.cells")
    assert tuple(table.columns) == (*COLUMNS, "site")
    assert table["fold"].tolist() == [1, -1, 2]
    assert table.index.tolist() == [0, 1, 2]
    plain, _, _ = check_reader_result(result(), "mylab.cells")
    pd.testing.assert_series_equal(table[list(COLUMNS)].dtypes, plain.dtypes)


@pytest.mark.parametrize(
    ("wrong", "refused"),
    [
        (None, "returned NoneType, not the three values"),
        (result()[:2], "returned tuple, not the three values"),
        (([{"path": "a.png"}], ("a", "b"), None), "returned a list as table, not a DataFrame"),
        (result(classes=("a",)), "two names are needed"),
        (result(classes="ab"), "two names are needed"),
        (result(classes=("a", "a")), "they have to differ"),
        (result(native_size=45.5), "native_size=45.5: give a number of pixels up to 4096, or None"),
        (result(native_size=True), "native_size=True"),
        (result(native_size=0), "native_size=0"),
        ((result()[0].drop(columns="label"), ("a", "b"), None), "returned no column label; there are path"),
        ((result()[0].iloc[:0], ("a", "b"), None), "a table without a row"),
        (result(path=["a.png", 7, "c.png"]), "returned path 7 in row 1: use text"),
        (result(path=["a.png", None, "c.png"]), "in row 1: use text"),
        (result(path=["a.png", "b.png", "a.png"]), "'a.png' in row 2: which is there twice"),
        (result(label=["ALL", "HEM", "ALL"]), "returned label 'ALL' in row 0.*use 1, 0, or -1"),
        (result(label=[1, None, 0]), "returned label nan in row 1"),
        (result(label=[1, 2, 0]), r"returned label .*2.* in row 1"),
        (
            result(published_split=["train", "val", "final"]),
            "published_split 'val' in row 1: use one of train, pre",
        ),
        (result(published_split=["final", "train", "final"]), "published_split=final have label -1"),
        (result(fold=[0, 0.5, 1]), "returned fold .*0.5.* in row 1: use whole numbers"),
        (result(fold=["a", 0, 1]), "returned fold 'a' in row 0: use whole numbers"),
        (result(group=["g"] * 3), "has the column group, and cells.csv has a column of that name already"),
        (result(split=["train"] * 3, pixel_hash=["h"] * 3), "has the column split, pixel_hash"),
        ((result()[0].rename(columns={"label": 3}), ("a", "b"), None), "columns whose names are not text"),
        ((pd.concat([result()[0]] * 2, axis=1), ("a", "b"), None), "two columns of one name"),
    ],
)
def test_any_other_result_is_refused_by_the_name_of_the_reader(wrong, refused):
    with pytest.raises(InputError, match=rf"^the reader mylab\.cells .*{refused}"):
        check_reader_result(wrong, "mylab.cells")


def cells(root, positive="blast"):
    assert root == "here"
    return result(classes=("other", positive))


class Layout:
    """A reader that is an object."""

    def __call__(self, root):
        return result()


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        (cells, "cells"),
        (functools.partial(functools.partial(cells), positive="x"), "cells"),
        (Layout(), "Layout"),
    ],
)
def test_a_reader_is_a_function_a_partial_or_an_object_and_has_a_name(reader, name):
    assert name_of(reader) == f"{__name__}.{name}"
    check_reader(reader)


def test_positive_goes_to_a_reader_that_takes_it():
    assert read_cells(cells, "here", "blast")[1] == ("other", "blast")
    assert read_cells(functools.partial(cells, positive="x"), "here")[1] == ("other", "x")
    check_reader(cells, "blast")
    check_reader(lambda root, **settings: None, "blast")
    for reader in (Layout(), lambda root: None):
        with pytest.raises(InputError, match=r"data\.positive=blast: the reader .* does not take it"):
            check_reader(reader, "blast")


def test_labels_may_be_booleans():
    table, _, _ = check_reader_result(result(label=[True, False, True]), "mylab.cells")
    assert table["label"].tolist() == [1, 0, 1]


def test_a_reader_that_fails_is_named_with_the_line():
    with pytest.raises(
        InputError, match=r"data.reader \(.*broken\) fails on here: KeyError: 'site' \(test_reader"
    ):
        read_cells(broken, "here")


def broken(root):
    return {}["site"]
