"""Two classes of one's own cells are read from folders or a manifest, and what is wrong with them is named."""

import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.data.class_folders import class_folders, scan_class_folders
from leukemia.data.cnmc import scan_cnmc
from leukemia.data.reader import COLUMNS
from leukemia.errors import InputError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def manifest(root: Path, *rows: str, head: str = "path,label,subject,split") -> Path:
    table = root / "cells.csv"
    table.write_text("\n".join([head, *rows]) + "\n")
    return table


def refusal(root: Path, positive: str | None = "blast") -> str:
    with pytest.raises(InputError) as caught:
        class_folders(root, positive)
    return str(caught.value)


def test_two_class_folders_are_a_set(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "normal/10.png",
        "normal/9.PNG",
        "blast/slide 1/a.jpg",
        "blast/.b.jpg",
        "blast/notes.txt",
        "x.csv",
    )
    table, classes, _ = class_folders(tmp_path, "blast")
    assert classes == ("normal", "blast")
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == ["blast/slide 1/a.jpg", "normal/9.PNG", "normal/10.png"]
    assert table["label"].tolist() == [1, 0, 0]
    assert table["subject"].isna().all()
    assert set(table["published_split"]) == {"train"}
    assert set(table["fold"]) == {-1}
    assert class_folders(tmp_path, "normal")[0]["label"].tolist() == [0, 1, 1]


def test_a_class_can_be_a_number(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.png", "1/b.png")
    assert class_folders(tmp_path, 1)[1] == ("0", "1")  # type: ignore[arg-type]


def test_a_manifest_is_a_set(tmp_path: Path) -> None:
    touch(tmp_path / "lab", "a.png", "sub/b.png", "c.png", "d.png")
    touch(tmp_path, "elsewhere/e.png")
    table = manifest(
        tmp_path / "lab",
        "a.png,blast,007,",
        "./sub/../sub/b.png, normal ,p2,train",
        "",
        f"{tmp_path}/lab/c.png,normal,p3,Test",
        f"{tmp_path}/elsewhere/e.png,blast,p4,prelim",
        "d.png,,,final",
    )
    cells, classes, _ = class_folders(table, "blast")
    assert classes == ("normal", "blast")
    assert cells["path"].tolist() == ["a.png", "sub/b.png", f"{tmp_path}/elsewhere/e.png", "c.png", "d.png"]
    assert cells["label"].tolist() == [1, 0, 1, 0, -1]
    assert cells["subject"].tolist()[:4] == ["007", "P2", "P4", "P3"]
    assert cells["published_split"].tolist() == ["train", "train", "prelim", "prelim", "final"]
    assert all((table.parent / path).is_file() for path in cells["path"])


@pytest.mark.parametrize("name", ["split", "published_split", "Split"])
def test_further_columns_are_kept_and_the_split_has_two_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    head = f"Site,path,age_group,label,fold,{name}"
    rows = ["B,a.png,,x,3,train", "A,b.png,60-69,y,1,test", "A,c.png,0-9,y,1,train"]
    table, _, native_size = class_folders(manifest(tmp_path, *rows, head=head), "y")
    assert tuple(table.columns) == (*COLUMNS, "site", "age_group")
    assert table["path"].tolist() == ["a.png", "c.png", "b.png"]
    assert table["published_split"].tolist() == ["train", "train", "prelim"]
    assert table["site"].tolist() == ["B", "A", "A"]
    assert table["age_group"].fillna("?").tolist() == ["?", "0-9", "60-69"]
    assert set(table["fold"]) == {-1}
    assert native_size is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("path,label,split,published_split", "which mean the same: keep one"),
        (
            "path,label,group",
            "has the column group, and cells.csv has a column of that name already: rename it",
        ),
        ("path,label,pixel_hash", "has the column pixel_hash"),
        ("path,label,Site,Label,site,,", "has the column label, site twice: keep one"),
    ],
)
def test_columns_that_clash_are_refused(tmp_path: Path, head: str, expected: str) -> None:
    touch(tmp_path, "a.png", "b.png")
    assert expected in refusal(manifest(tmp_path, "a.png,x", "b.png,blast", head=head))


@pytest.mark.parametrize("head", ["path,label", "LABEL,Path", "\ufeffpath;label", "id,label,path,comment"])
def test_columns_may_stand_in_any_order_and_case(tmp_path: Path, head: str) -> None:
    touch(tmp_path, "a.png", "b.png")
    delimiter = ";" if ";" in head else ","
    values = {"path": ["a.png", "b.png"], "label": ["x", "y"]}
    names = [name.strip("\ufeff").lower() for name in head.split(delimiter)]
    rows = [delimiter.join(values.get(name, ["", ""])[row] for name in names) for row in range(2)]
    table, _, _ = class_folders(manifest(tmp_path, *rows, head=head), "y")
    assert table["label"].tolist() == [0, 1]
    assert table["subject"].isna().all()


@given(
    st.lists(
        st.tuples(st.sampled_from(["x", "y"]), st.text("ab0 1é", min_size=1).map(str.strip).filter(bool)),
        min_size=2,
    ).filter(lambda cells: len({label for label, _ in cells}) == 2)
)
def test_the_cells_are_the_rows_of_the_manifest(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    touch(root, *(f"{number}.png" for number in range(len(cells))))
    table = root / "m.csv"
    pd.DataFrame(
        [(f"{number}.png", *cell) for number, cell in enumerate(cells)], columns=["path", "label", "subject"]
    ).to_csv(table, index=False)
    found, _, _ = class_folders(table, "y")
    assert found["label"].tolist() == [int(label == "y") for label, _ in cells]
    assert found["subject"].tolist() == [subject.upper() for _, subject in cells]


def test_there_are_exactly_two_classes_and_one_is_positive(tmp_path: Path) -> None:
    touch(tmp_path, "set/blast/a.png", "set/blast/b.png")
    assert "one class and two are needed: blast (2 cells)" in refusal(tmp_path / "set")
    touch(tmp_path, "set/normal/a.png")
    assert f"give {tmp_path / 'set'}" in refusal(tmp_path)
    message = refusal(tmp_path / "set", None)
    assert "blast (2 cells), normal (1 cells)" in message
    assert "data.positive=blast" in message
    assert "Did you mean data.positive=blast?" in refusal(tmp_path / "set", "Blasts")
    assert "Name one of them" in refusal(tmp_path / "set", "qqq")
    touch(tmp_path, "set/band/a.png")
    assert "has 3 classes" in refusal(tmp_path / "set")


def test_a_root_without_a_data_set_is_named(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "this csv file does not exist" in refusal(tmp_path / "nowhere.csv")
    assert "no cell with a class" in refusal(tmp_path)
    assert "not a .csv" in refusal(touch(tmp_path, "a.bmp") / "a.bmp")
    assert "has no column label" in refusal(manifest(tmp_path, "a.bmp,x", head="path,class"))
    assert "its columns are none" in refusal(touch(tmp_path, "empty.csv") / "empty.csv")
    assert "no cell with a class" in refusal(manifest(tmp_path))
    (tmp_path / "latin.csv").write_bytes("path,label\nzell\u00e4.png,x\n".encode("latin-1"))
    assert "not UTF-8" in refusal(tmp_path / "latin.csv")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("c.png,,p,", "row 4: c.png"),
        ("c.png,x,,", "without a subject"),
        ("gone.png,x,p,", "does not exist"),
        ("../gone/c.png,x,p,", "does not exist"),
        ("./a.png,x,p,", "one already"),
        ("c.png,x,p,validation", "row 4: 'validation'"),
        ("c.png,x,p,final", "final cells have no label"),
        (",x,p,", "rows without a path"),
        ("c.png,x,p,train,extra", "more fields than columns"),
    ],
)
def test_a_wrong_row_is_named_and_the_scan_goes_on(tmp_path: Path, row: str, expected: str) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png", "d.png")
    table = manifest(tmp_path, "a.png,x,p,", "b.png,blast,q,", row, "gone2.png,x,p,")
    assert expected in refusal(table)
    assert "row 4" in refusal(table)
    scan = scan_class_folders(table, "blast")
    assert any("gone2.png" in place for problem in scan.problems for place in problem.where)


def test_an_image_outside_of_the_class_folders_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "blast/a.png", "normal/b.png", "stray.png")
    assert "stray.png" in refusal(tmp_path)


def test_real_cells_are_read(shared: Path) -> None:
    table, classes, _ = class_folders(shared / "data" / "pbc_cells", "ig")
    assert classes == ("lymphocyte", "ig")
    assert table["label"].value_counts().to_dict() == {1: 2316, 0: 972}


@pytest.mark.parametrize("reader", ["class_folders", "cnmc"])
def test_names_that_are_not_utf8_are_listed(tmp_path, reader):
    folder = tmp_path / "C-NMC" / "training_data" / "fold_0" / "all" if reader == "cnmc" else tmp_path / "all"
    folder.mkdir(parents=True)
    for name in (b"UID_1_1_1_all.bmp", b"UID_1_1_\xff_all.bmp"):
        with open(os.fsencode(folder) + b"/" + name, "wb"):
            pass
    (tmp_path / "hem").mkdir()
    (tmp_path / "hem" / "b.bmp").touch()
    scan = scan_cnmc(tmp_path / "C-NMC") if reader == "cnmc" else scan_class_folders(tmp_path, "all")
    (problem,) = [each for each in scan.problems if "UTF-8" in each.what]
    (where,) = problem.where
    assert where.endswith("UID_1_1_%FF_all.bmp")
    assert "UID_1_1_1_all.bmp" in "".join(scan.table["path"])
