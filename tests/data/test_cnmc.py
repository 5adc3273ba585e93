"""A C-NMC folder is recognised in every layout in circulation, and what is wrong with it is named."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.data.cnmc import cnmc, scan_cnmc
from leukemia.data.files import natural
from leukemia.data.reader import COLUMNS
from leukemia.errors import InputError

TABLE = "C-NMC_test_prelim_phase_data_labels.csv"
ROWS = ["UID_57_29_1_all.bmp,1.bmp,1", "UID_H49_35_1_hem.bmp,2.bmp,0"]
TRAIN = ["fold_0/all/UID_1_1_1_all.bmp", "fold_1/hem/UID_H5_2_3_hem.bmp", "fold_2/hem/UID_h3_1_10_hem.bmp"]
PRELIM = ["1.bmp", "2.bmp"]
FINAL = ["1.bmp", "10.bmp", "9.bmp"]
LAYOUTS = {
    "kaggle": ("C-NMC_Leukemia/training_data/", "C-NMC_Leukemia/validation_data/C-NMC_test_prelim_phase_data/",
               "C-NMC_Leukemia/testing_data/C-NMC_test_final_phase_data/"),
    "kaggle_inside": ("training_data/", "validation_data/C-NMC_test_prelim_phase_data/",
                      "testing_data/C-NMC_test_final_phase_data/"),
    "tcia": ("C-NMC_training_data/", "C-NMC_test_prelim_phase_data/", "C-NMC_test_final_phase_data/"),
    "tcia_nested": ("PKG - C-NMC 2019/C-NMC_training_data/C-NMC_training_data/",
                    "PKG - C-NMC 2019/C-NMC_test_prelim_phase_data/C-NMC_test_prelim_phase_data/",
                    "PKG - C-NMC 2019/C-NMC_test_final_phase_data/C-NMC_test_final_phase_data/"),
    "challenge": ("", "phase2/", "phase3/"),
    "shouting": ("C-NMC_TRAINING_DATA/", "C-NMC_TEST_PRELIM_PHASE_DATA/", "c-nmc_test_final_phase_data/"),
}  # fmt: skip


def build(root: Path, layout: str = "tcia", rows: list[str] | None = None, table: str = "beside") -> Path:
    """The names of a small set; the files are empty, because a reader opens none."""
    train, prelim, final = LAYOUTS[layout]
    touch(root, *(train + name for name in TRAIN))
    touch(root, *(prelim + name for name in PRELIM), *(final + name for name in FINAL))
    folder = root / prelim if table == "inside" else (root / prelim).parent
    write_table(folder / TABLE, ROWS if rows is None else rows)
    return root


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_table(path: Path, rows: list[str], head: str = "Patient_ID,new_names,labels") -> None:
    path.write_text("\r\n".join([head, *rows]) + "\r\n", newline="")


def read(root: Path) -> pd.DataFrame:
    return cnmc(root)[0]


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        cnmc(root)
    return str(caught.value)


@pytest.mark.parametrize("table", ["inside", "beside"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_cells(tmp_path: Path, layout: str, table: str) -> None:
    table = read(build(tmp_path, layout, table=table))
    assert tuple(table.columns) == COLUMNS
    assert table["published_split"].tolist() == ["train"] * 3 + ["prelim"] * 2 + ["final"] * 3
    assert table["fold"].tolist() == [0, 1, 2] + [-1] * 5
    assert table["label"].tolist() == [1, 0, 0, 1, 0, -1, -1, -1]
    assert table["subject"].dropna().tolist() == ["1", "H5", "H3", "57", "H49"]
    assert table["subject"].isna().tolist() == [False] * 5 + [True] * 3
    assert all((tmp_path / path).is_file() for path in table["path"])
    assert table["path"].str.rpartition("/")[2].tolist()[-3:] == ["1.bmp", "9.bmp", "10.bmp"]


def test_types_of_columns_do_not_depend_on_what_is_in_them(tmp_path: Path) -> None:
    everything = read(build(tmp_path / "a"))
    touch(tmp_path / "b", "phase3/1.bmp")
    only_final = read(tmp_path / "b")
    pd.testing.assert_series_equal(everything.dtypes, only_final.dtypes)
    assert only_final["subject"].isna().all()


@given(
    suffix=st.sampled_from([".bmp", ".BMP", ".png", ".Jpg", ".jpeg", ".tif", ".TIFF"]),
    upper=st.booleans(),
    subject=st.integers(1, 999),
    healthy=st.booleans(),
    fold=st.integers(0, 2),
)
def test_case_and_suffix_of_names_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, upper: bool, subject: int, healthy: bool, fold: int
) -> None:
    root = tmp_path_factory.mktemp("set")
    kind, letter = ("hem", "h") if healthy else ("all", "")
    name = f"fold_{fold}/{kind}/uid_{letter}{subject}_7_8_{kind}"
    touch(root, (name.upper() if upper else name) + suffix)
    cell = read(root).iloc[0]
    assert (cell["label"], cell["fold"], cell["published_split"]) == (0 if healthy else 1, fold, "train")
    assert cell["subject"] == f"{letter}{subject}".upper()


def test_hidden_files_and_leftovers_of_unpacking_are_no_cells(tmp_path: Path) -> None:
    build(tmp_path)
    before = read(tmp_path)
    touch(
        tmp_path,
        "__MACOSX/fold_0/all/UID_9_9_9_all.bmp",
        "C-NMC_training_data/fold_0/all/._UID_1_1_1_all.bmp",
    )
    touch(
        tmp_path,
        ".cache/fold_0/all/UID_8_8_8_all.bmp",
        "C-NMC_training_data/Thumbs.db",
        "readme.txt",
        "plot.png",
    )
    pd.testing.assert_frame_equal(read(tmp_path), before)
    assert scan_cnmc(tmp_path).ignored == ("plot.png",)


def test_links_are_followed_once(tmp_path: Path) -> None:
    build(tmp_path / "disk")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "disk")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "around").symlink_to(tmp_path / "disk")
    assert len(read(tmp_path / "set")) == 8


def test_a_table_saved_with_semicolons_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    build(tmp_path)
    text = (tmp_path / TABLE).read_text().replace(",", ";")
    (tmp_path / TABLE).write_text(text, encoding="utf-8-sig")
    assert read(tmp_path)["label"].tolist()[3:5] == [1, 0]


def test_the_prelim_folder_alone_is_a_set(tmp_path: Path) -> None:
    root = build(tmp_path, table="inside") / "C-NMC_test_prelim_phase_data"
    assert read(root)["label"].tolist() == [1, 0]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "set.zip").touch()
    assert "is a file" in refusal(tmp_path / "set.zip")
    assert "Unpack its archives first" in refusal(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty")
    touch(tmp_path / "other", "cats/1.jpg", "dogs/2.jpg")
    message = refusal(tmp_path / "other")
    assert "none of its 2 images" in message
    assert "cats/, dogs/" in message
    assert "training_data/fold_0" in message
    assert "data=cells" in message


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ROWS[0], "UID_H49_35_1_hem.bmp,2.bmp,2"], f"{TABLE} row 3: '2'"),
        ([ROWS[0], "UID_H49_35_1_hem.bmp,2.bmp,"], f"{TABLE} row 3: ''"),
        ([ROWS[0], "UID_H49_35_1_hem.bmp,2.bmp,1"], "row 3: UID_H49_35_1_hem.bmp with label 1"),
        ([ROWS[0], "patient 49,2.bmp,0"], "row 3: 'patient 49'"),
        ([*ROWS, ROWS[0]], "row 4: 1.bmp"),
        ([*ROWS, "UID_57_29_1_all.bmp,3.bmp,1"], "rows whose image is missing"),
        (ROWS[:1], "without a row in the label table"),
        ([], "without a row in the label table"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: list[str], expected: str) -> None:
    message = refusal(build(tmp_path, rows=rows))
    assert expected in message
    assert "leukemia data check" in message


def test_a_missing_wrong_or_contradicting_table_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    table = tmp_path / TABLE
    write_table(tmp_path / "C-NMC_test_prelim_phase_data" / TABLE, [ROWS[0], "UID_57_1_1_all.bmp,2.bmp,1"])
    assert "that differ" in refusal(tmp_path)
    (tmp_path / "C-NMC_test_prelim_phase_data" / TABLE).unlink()
    write_table(table, ROWS, head="id,name,class")
    assert f"{TABLE}: id, name, class" in refusal(tmp_path)
    table.write_bytes(b"Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,\xff\n")
    assert "UTF-8" in refusal(tmp_path)
    table.unlink()
    assert "no table of the preliminary labels" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fold_0/all/cell.bmp", "not named like"),
        ("fold_0/all/UID_H1_1_1_hem.bmp", "contradicts their folder"),
        ("fold_3/all/UID_1_9_1_all.bmp", "a fold other than"),
        ("fold_1/all/UID_1_1_1_all.png", "there twice"),
        ("flod_1/all/UID_2_1_1_all.png", "outside of the folders"),
    ],
)
def test_a_wrong_image_is_named_and_the_scan_goes_on(tmp_path: Path, name: str, expected: str) -> None:
    root = build(tmp_path, "challenge")
    touch(root, name)
    assert expected in refusal(root)
    assert name in refusal(root)
    touch(root, "fold_2/hem/scan.png")
    scan = scan_cnmc(root)
    assert {"fold_2/hem/scan.png", name} <= {
        place.split(" and ")[0] for p in scan.problems for place in p.where
    }
    assert len(scan.table) >= 8


def test_a_message_stays_short_however_much_is_wrong(tmp_path: Path) -> None:
    root = build(tmp_path, "challenge")
    touch(root, *(f"fold_0/all/cell_{number}.bmp" for number in range(500)))
    message = refusal(root)
    assert "(500)" in message
    assert "and 497 more" in message
    assert len(message.splitlines()) < 10


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_the_order_of_numbers(numbers: list[int]) -> None:
    assert sorted((f"x{n}.bmp" for n in numbers), key=natural) == [f"x{n}.bmp" for n in sorted(numbers)]


@pytest.fixture(scope="module")
def all_names(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 15,114 names of the copy on Kaggle, of empty files."""
    root = tmp_path_factory.mktemp("names")
    folders = set()
    with open(shared / "data" / "cnmc_files.csv", newline="") as file:
        for row in csv.DictReader(file):
            path = root / row["path"]
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            path.touch()
    shutil.copy(shared / "data" / TABLE, root / "C-NMC_Leukemia" / "validation_data")
    return root


def test_the_whole_set_has_the_known_counts(all_names: Path) -> None:
    table = read(all_names)
    images = table.groupby(["published_split", "fold", "label"]).size().to_dict()
    assert images == {
        ("train", 0, 1): 2397, ("train", 0, 0): 1130, ("train", 1, 1): 2418, ("train", 1, 0): 1163,
        ("train", 2, 1): 2457, ("train", 2, 0): 1096, ("prelim", -1, 1): 1219, ("prelim", -1, 0): 648,
        ("final", -1, -1): 2586,
    }  # fmt: skip
    labelled = table[table["label"] >= 0]
    assert labelled.groupby(["published_split", "fold", "label"])["subject"].nunique().to_dict() == {
        ("train", 0, 1): 19, ("train", 0, 0): 9, ("train", 1, 1): 11, ("train", 1, 0): 3,
        ("train", 2, 1): 17, ("train", 2, 0): 14, ("prelim", -1, 1): 13, ("prelim", -1, 0): 15,
    }  # fmt: skip
    assert labelled["subject"].nunique() == 101
    h3 = table[table["subject"] == "H3"]
    assert h3["path"].str.contains("UID_h3_").sum() == 36
    sizes = table["subject"].value_counts()
    assert sizes["51"] == 757
    assert table["path"].is_unique


def test_the_real_sample_is_read(shared: Path) -> None:
    table = read(shared / "data" / "cnmc_sample")
    train = table[table["published_split"] == "train"]
    assert train["label"].value_counts().to_dict() == {1: 54, 0: 54}
    assert train.groupby("label")["subject"].nunique().to_dict() == {1: 22, 0: 14}
    assert sorted(train["fold"].unique()) == [0, 1, 2]
    assert table["published_split"].value_counts().to_dict() == {"train": 108, "prelim": 10, "final": 6}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_reading_the_names_takes_little_memory_and_time(all_names: Path) -> None:
    script = (
        "import sys, time; from leukemia.data.cnmc import cnmc; start = time.process_time(); "
        "cnmc(sys.argv[1]); seconds = time.process_time() - start; "
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM:')); "
        "print(seconds, int(peak.split()[1]) / 1024, 'torch' in sys.modules)"
    )
    run = [sys.executable, "-c", script, str(all_names)]
    seconds, megabytes, torch = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert float(seconds) < 1
    assert float(megabytes) < 200
    assert torch == "False"
