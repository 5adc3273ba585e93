"""The check calls a set whole exactly where it is, and lists whatever is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leukemia.data import check as module
from leukemia.data.check import KNOWN, check
from leukemia.data.check_result import Check
from leukemia.data.cnmc import cnmc, scan_cnmc
from leukemia.data.cnmc_labels import COLUMNS as TABLE_COLUMNS
from leukemia.data.duplicates import find_duplicates
from leukemia.data.splits import join_groups
from leukemia.errors import InputError

TRAIN = ["0/all/UID_1_1_1_all", "0/hem/UID_H1_1_1_hem", "1/all/UID_2_1_1_all", "1/hem/UID_H2_1_1_hem",
         "2/all/UID_3_1_1_all", "2/hem/UID_H3_1_1_hem"]  # fmt: skip
ROWS = ["UID_57_1_1_all.bmp,1.bmp,1", "UID_H49_1_1_hem.bmp,2.bmp,0"]


def draw(path: Path, number: int, size: int = 450) -> None:
    """A cell on black whose pixels tell its number."""
    image = np.zeros((size, size, 3), np.uint8)
    middle = size // 2
    image[middle - 20 : middle + 20, middle - 20 : middle + 20] = 50 + number
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten cells that are a whole set."""
    for number, name in enumerate(TRAIN):
        draw(tmp_path / f"fold_{name}.bmp", number)
    draw(tmp_path / "phase2/1.bmp", 10)
    draw(tmp_path / "phase2/2.png", 11)
    draw(tmp_path / "phase3/1.bmp", 12, 600)
    draw(tmp_path / "phase3/2.bmp", 13, 600)
    (tmp_path / "phase2" / "labels.csv").write_text("\n".join([",".join(TABLE_COLUMNS), *ROWS]))
    monkeypatch.setattr(
        module,
        "KNOWN",
        {f"fold {fold}": (2, 1, 1, 1, 1) for fold in range(3)}
        | {"train": (6, 3, 3, 3, 3), "prelim": (2, 1, 1, 1, 1), "final": (2, None, None, None, None)}
        | {"all": (10, 4, 4, 4, 4)},
    )
    return tmp_path


def said(result: Check, what: str) -> tuple[str, ...]:
    """Where the check found a problem."""
    return next((problem.where for problem in result.problems if what in problem.what), ())


def test_a_whole_set_is_whole(small: Path) -> None:
    result = check(small)
    assert result.ok, result.problems
    assert not result.notes
    assert result.sizes == {"450x450": 8, "600x600": 2}
    assert result.lines()[-1] == "The set is whole."
    assert "No two pictures are identical." in result.lines()


def missing(root: Path) -> None:
    (root / "fold_2/all/UID_3_1_1_all.bmp").unlink()


def truncated(root: Path) -> None:
    path = root / "fold_2/all/UID_3_1_1_all.bmp"
    path.write_bytes(path.read_bytes()[:5000])


def empty(root: Path) -> None:
    (root / "phase3/1.bmp").write_bytes(b"")


def odd(root: Path) -> None:
    draw(root / "phase3/1.bmp", 12, 450)


def moved(root: Path) -> None:
    (root / "fold_1/all/UID_2_1_1_all.bmp").rename(root / "fold_1/all/UID_1_2_1_all.bmp")


def two_classes(root: Path) -> None:
    (root / "fold_0/hem/UID_H1_1_1_hem.bmp").rename(root / "fold_0/hem/UID_1_2_1_hem.bmp")


def swapped(root: Path) -> None:
    (root / "fold_0/hem/UID_H1_1_1_hem.bmp").rename(root / "fold_0/all/UID_9_1_1_all.bmp")


def shared_subject(root: Path) -> None:
    (root / "fold_1/all/UID_2_1_1_all.bmp").rename(root / "fold_1/all/UID_57_2_1_all.bmp")


def two_labels(root: Path) -> None:
    draw(root / "fold_1/hem/UID_H2_1_1_hem.bmp", 0)


def doubled_row(root: Path) -> None:
    with open(root / "phase2/labels.csv", "a") as file:
        file.write(f"\n{ROWS[0]}\n")


def doubled_image(root: Path) -> None:
    draw(root / "fold_0/all/UID_1_1_1_all.png", 30)


@pytest.mark.parametrize(
    ("spoil", "what", "where"),
    [
        (missing, "numbers that differ", "fold 2: 1 image missing, 1 subject missing"),
        (truncated, "cannot be read", "fold_2/all/UID_3_1_1_all.bmp: not a readable picture"),
        (empty, "cannot be read", "phase3/1.bmp: not a readable picture"),
        (odd, "another size", "phase3/1.bmp: 450x450, not 600x600"),
        (moved, "two folds", "1: fold 0, 1"),
        (two_classes, "two classes", "1: class ALL, HEM"),
        (swapped, "numbers that differ", "fold 0: 1 ALL too many, 1 HEM missing, 1 ALL subject too many"),
        (swapped, "numbers that differ", "1 HEM subject missing"),
        (shared_subject, "both in train and in prelim", "57: published_split train, prelim"),
        (two_labels, "different labels", "fold_0/all/UID_1_1_1_all.bmp = fold_1/hem/UID_H2_1_1_hem.bmp"),
        (doubled_row, "one already", "phase2/labels.csv row 4"),
        (doubled_image, "there twice", "UID_1_1_1_all.png"),
    ],
)
def test_whatever_is_wrong_is_listed(
    small: Path, spoil: Callable[[Path], None], what: str, where: str
) -> None:
    spoil(small)
    result = check(small)
    assert not result.ok
    assert any(where in place for place in said(result, what)), result.problems
    assert where in "\n".join(result.lines())
    assert "not whole" in result.lines()[-1]


def test_everything_wrong_is_listed_at_once(small: Path) -> None:
    spoilers = (truncated, empty, two_classes, doubled_row, doubled_image)
    for spoil in spoilers:
        spoil(small)
    result = check(small)
    assert len(result.problems) >= 5
    assert len(said(result, "cannot be read")) == 2


def test_a_final_picture_equals_a_training_picture_by_its_centre(small: Path) -> None:
    draw(small / "phase3/1.bmp", 0, 600)
    found = check(small).duplicates
    assert found.sets == (("fold_0/all/UID_1_1_1_all.bmp", "phase3/1.bmp"),)
    assert found.between == {"final and train": 1}


def test_equal_pixels_in_train_and_prelim_are_noted(small: Path) -> None:
    draw(small / "phase2/1.bmp", 0)
    result = check(small)
    assert result.ok
    assert result.notes[0].where == ("fold_0/all/UID_1_1_1_all.bmp = phase2/1.bmp",)
    assert result.duplicates.groups == {"1+57": 2}
    assert "1+57" in "\n".join(result.lines())


def test_the_outcome_is_plain_data(small: Path) -> None:
    draw(small / "phase2/1.bmp", 0)
    truncated(small)
    outcome = json.loads(json.dumps(check(small).to_dict()))
    assert outcome["ok"] is False
    assert outcome["duplicates"]["groups"] == {"1+57": 2}


def test_long_lists_are_cut_in_the_text_only(small: Path) -> None:
    for number in range(60):
        (small / f"fold_0/all/UID_1_1_{number + 2}_all.bmp").touch()
    result = check(small)
    assert len(said(result, "cannot be read")) == 60
    assert "    and 40 more" in result.lines()
    assert len(result.lines()) < 60


def test_cells_of_ones_own_have_no_known_numbers(tmp_path: Path) -> None:
    for number in range(4):
        draw(tmp_path / ("ab"[number % 2]) / f"{number}.png", number, size=30 + number)
    result = check(tmp_path, "class_folders", "a")
    assert result.ok
    assert [note.what for note in result.notes] == ["no cell has a subject"]
    assert result.lines()[-1] == "No problem was found."
    assert "known" not in "\n".join(result.lines())
    (tmp_path / "m.csv").write_text(
        "path,label,subject,split\na/0.png,a,p,\nb/1.png,b,q,\na/2.png,a,p,test\n"
    )
    result = check(tmp_path / "m.csv", "class_folders", "a")
    assert said(result, "both in train and in prelim") == ("P: published_split train, prelim",)


def test_a_root_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        check(tmp_path)


def test_messages_of_the_check_name_its_own_options(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    draw(tmp_path / "a/1.png", 1, size=30)
    draw(tmp_path / "b/2.png", 2, size=30)
    for positive, expected in (
        (None, "with --positive a or --positive b"),
        ("A", "Did you mean --positive a?"),
    ):
        with pytest.raises(InputError) as caught:
            check(tmp_path, "class_folders", positive)
        assert expected in str(caught.value)
        assert "data." not in str(caught.value)
    with pytest.raises(InputError, match="add --reader class_folders"):
        check(tmp_path, positive="a")
    with pytest.raises(InputError, match="--reader cells is unknown: use one of cnmc, class_folders"):
        check(tmp_path, "cells")


@settings(deadline=None, max_examples=settings.default.max_examples // 4)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABCD"), st.sampled_from("uvwxyz"), st.integers(0, 2)),
        min_size=1,
        max_size=25,
    )
)
def test_pairs_are_what_counting_by_hand_gives(cells: list[tuple[str, str, int]]) -> None:
    table = pd.DataFrame(
        {
            "path": [str(row) for row in range(len(cells))],
            "label": 1,
            "subject": pd.Series([subject for subject, _, _ in cells], dtype="str"),
            "published_split": "train",
            "fold": [fold for _, _, fold in cells],
        }
    )
    found = find_duplicates(table, pd.Series([picture for _, picture, _ in cells], dtype="str"))
    pairs = [(one, other) for n, one in enumerate(cells) for other in cells[:n] if one[1] == other[1]]
    assert found.within.get("train", 0) == len(pairs)
    assert sum(found.across_folds.values()) == sum(one[2] != other[2] for one, other in pairs)
    assert found.across_subjects.get("A and B", 0) == sum(
        {one[0], other[0]} == {"A", "B"} for one, other in pairs
    )
    assert found.within_subjects == sum(one[0] == other[0] for one, other in pairs)
    assert not found.contradictions


def test_known_numbers_add_up() -> None:
    folds = [KNOWN[f"fold {fold}"] for fold in range(3)]
    assert tuple(map(sum, zip(*folds, strict=True))) == KNOWN["train"]
    assert tuple(map(sum, zip(KNOWN["train"][1:], KNOWN["prelim"][1:], strict=True))) == KNOWN["all"][1:]
    assert sum(KNOWN[split][0] for split in ("train", "prelim", "final")) == KNOWN["all"][0] == 15114


def test_the_real_names_and_digests_are_a_whole_set(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pd.read_csv(shared / "data" / "cnmc_files.csv")
    for folder in files["path"].str.rpartition("/")[0].unique():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for path in files["path"]:
        (tmp_path / path).touch()
    table = "C-NMC_test_prelim_phase_data_labels.csv"
    (tmp_path / files["path"][files["path"].str.endswith(table)].item()).write_bytes(
        (shared / "data" / table).read_bytes()
    )
    table = cnmc(tmp_path)[0]
    digests = table["path"].map(files.set_index("path")["sha256"])
    side = table["published_split"].map({"train": 450, "prelim": 450, "final": 600})
    sizes = pd.Series([(n, n) for n in side], dtype=object)
    monkeypatch.setattr(module, "_decode", lambda *_: (digests, sizes))

    result = check(tmp_path)
    assert result.ok, result.problems
    assert not result.notes
    found = result.duplicates
    assert found.within == {"train": 104, "final": 2}
    assert found.between == {}
    assert sum(found.across_folds.values()) == 94
    assert found.across_subjects == {
        "20 and 21": 71, "51 and 78": 11, "51 and 75": 10, "H2 and H4": 3, "H2 and H5": 2, "H2 and H6": 1,
        "H3 and H10": 1,
    }  # fmt: skip
    assert found.within_subjects == 5
    assert set(found.groups) == {"20+21", "51+75+78", "H2+H4+H5+H6", "H3+H10"}
    train = table[table["published_split"] == "train"]
    groups = join_groups(train["subject"], digests[train.index])
    joined = groups[groups.str.contains("+", regex=False)].unique()
    assert set(joined) == set(found.groups)
    assert groups.nunique() == 73 - (1 + 2 + 3 + 1)


def test_the_real_sample_is_no_whole_set(shared: Path) -> None:
    root = shared / "data" / "cnmc_sample"
    result = check(root, progress=False)
    assert not scan_cnmc(root).problems
    assert [problem.what for problem in result.problems] == [
        "numbers that differ from those of the whole set"
    ]
    assert result.sizes == {"450x450": 118, "600x600": 6}
