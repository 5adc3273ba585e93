"""Two classes of one's own cells are read from folders or a manifest, and what is wrong with them is named."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.data.class_folders import read_class_folders, scan_class_folders
from leukemia.data.cnmc import COLUMNS
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
        read_class_folders(root, positive)
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
    index, classes = read_class_folders(tmp_path, "blast")
    assert classes == ("normal", "blast")
    assert tuple(index.columns) == COLUMNS
    assert index["path"].tolist() == ["blast/slide 1/a.jpg", "normal/9.PNG", "normal/10.png"]
    assert index["label"].tolist() == [1, 0, 0]
    assert index["subject"].isna().all()
    assert set(index["published_split"]) == {"train"}
    assert set(index["fold"]) == {-1}
    assert read_class_folders(tmp_path, "normal")[0]["label"].tolist() == [0, 1, 1]


def test_a_class_can_be_a_number(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.png", "1/b.png")
    assert read_class_folders(tmp_path, 1)[1] == ("0", "1")  # type: ignore[arg-type]


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
    index, classes = read_class_folders(table, "blast")
    assert classes == ("normal", "blast")
    assert index["path"].tolist() == ["a.png", "sub/b.png", f"{tmp_path}/elsewhere/e.png", "c.png", "d.png"]
    assert index["label"].tolist() == [1, 0, 1, 0, -1]
    assert index["subject"].tolist()[:4] == ["007", "P2", "P4", "P3"]
    assert index["published_split"].tolist() == ["train", "train", "prelim", "prelim", "final"]
    assert all((table.parent / path).is_file() for path in index["path"])


@pytest.mark.parametrize("head", ["path,label", "LABEL,Path", "\ufeffpath;label", "id,label,path,comment"])
def test_columns_may_stand_in_any_order_and_case(tmp_path: Path, head: str) -> None:
    touch(tmp_path, "a.png", "b.png")
    delimiter = ";" if ";" in head else ","
    values = {"path": ["a.png", "b.png"], "label": ["x", "y"]}
    names = [name.strip("\ufeff").lower() for name in head.split(delimiter)]
    rows = [delimiter.join(values.get(name, ["", ""])[row] for name in names) for row in range(2)]
    index, _ = read_class_folders(manifest(tmp_path, *rows, head=head), "y")
    assert index["label"].tolist() == [0, 1]
    assert index["subject"].isna().all()


@given(
    st.lists(
        st.tuples(st.sampled_from(["x", "y"]), st.text("ab0 1é", min_size=1).map(str.strip).filter(bool)),
        min_size=2,
    ).filter(lambda cells: len({label for label, _ in cells}) == 2)
)
def test_a_manifest_says_what_its_index_says(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    touch(root, *(f"{number}.png" for number in range(len(cells))))
    table = root / "m.csv"
    pd.DataFrame(
        [(f"{number}.png", *cell) for number, cell in enumerate(cells)], columns=["path", "label", "subject"]
    ).to_csv(table, index=False)
    index, _ = read_class_folders(table, "y")
    assert index["label"].tolist() == [int(label == "y") for label, _ in cells]
    assert index["subject"].tolist() == [subject.upper() for _, subject in cells]


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


def test_what_is_no_set_is_named(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "no cell with a class" in refusal(tmp_path)
    assert "no .csv" in refusal(touch(tmp_path, "a.bmp") / "a.bmp")
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
    scan, _ = scan_class_folders(table, "blast")
    assert any("gone2.png" in place for problem in scan.problems for place in problem.where)


def test_an_image_outside_of_the_class_folders_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "blast/a.png", "normal/b.png", "stray.png")
    assert "stray.png" in refusal(tmp_path)


def test_real_cells_are_read(shared: Path) -> None:
    index, classes = read_class_folders(shared / "data" / "pbc_cells", "ig")
    assert classes == ("lymphocyte", "ig")
    assert index["label"].value_counts().to_dict() == {1: 2316, 0: 972}
