"""The synthetic set is a C-NMC set: layout, names, proportions, subjects, and cells that differ as told."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leukemia.data import demo
from leukemia.data.class_folders import class_folders
from leukemia.data.cnmc import cnmc
from leukemia.data.demo import plan, write_demo
from leukemia.data.splits import assign_splits
from leukemia.errors import InputError

IMAGES = 150


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("sets") / "C-NMC_Leukemia", images=IMAGES, seed=3)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_reader_finds_the_planned_cells(root: Path) -> None:
    planned = plan(IMAGES, seed=3).set_index("path")
    found = cnmc(root)[0].set_index("path")
    assert set(found.index) == set(planned.index)
    planned = planned.loc[found.index]
    for column in ("published_split", "fold"):
        assert (found[column] == planned[column]).all()
    labelled = found["published_split"] != "final"
    for column in ("label", "subject"):
        assert (found[column] == planned[column])[labelled].all()
    assert (found["label"][~labelled] == -1).all()
    assert found["subject"][~labelled].isna().all()


def test_names_and_label_table_are_those_of_kaggle(root: Path) -> None:
    train = [path for path in contents(root) if path.startswith("training_data/")]
    pattern = r"training_data/fold_[012]/(all/UID_\d+_\d+_\d+_all|hem/UID_[Hh]\d+_\d+_\d+_hem)\.bmp"
    assert all(re.fullmatch(pattern, path) for path in train)
    spelled = [path for path in train if "UID_h" in path]
    assert spelled
    assert all("fold_2/hem/UID_h3_" in path for path in spelled)

    folder = root / "validation_data"
    labels = pd.read_csv(folder / "C-NMC_test_prelim_phase_data_labels.csv")
    assert list(labels.columns) == ["Patient_ID", "new_names", "labels"]
    assert list(labels["new_names"]) == [f"{k}.bmp" for k in range(1, len(labels) + 1)]
    assert labels["Patient_ID"].str.fullmatch(r"UID_H?\d+_\d+_\d+_(all|hem)\.bmp").all()
    assert (labels["Patient_ID"].str.endswith("_all.bmp") == (labels["labels"] == 1)).all()
    assert len(list((folder / "C-NMC_test_prelim_phase_data").iterdir())) == len(labels)


def test_files_have_the_formats_of_c_nmc(root: Path) -> None:
    sizes = {"training_data": 608_454, "validation_data": 608_538, "testing_data": 1_080_054}
    for path in root.rglob("*.bmp"):
        assert path.stat().st_size == sizes[path.relative_to(root).parts[0]]
    assert pixels(next(root.glob("validation_data/*/1.bmp"))).shape == (450, 450, 3)
    final = pixels(next(root.glob("testing_data/*/1.bmp")))
    assert final.shape == (600, 600, 3)
    assert final[75:525, 75:525].any()
    final = final.copy()
    final[75:525, 75:525] = 0
    assert not final.any()


def test_the_full_plan_has_the_counts_of_c_nmc() -> None:
    cells = plan(15_114)
    assert cells.groupby(["published_split", "fold"]).size().to_dict() == {
        ("train", 0): 3527,
        ("train", 1): 3581,
        ("train", 2): 3553,
        ("prelim", -1): 1867,
        ("final", -1): 2586,
    }
    labelled = cells[cells["published_split"] != "final"]
    assert labelled.groupby(["published_split", "label"]).size().tolist() == [648, 1219, 3389, 7272]
    assert labelled.groupby(["published_split", "label"])["subject"].nunique().tolist() == [15, 13, 26, 47]
    assert cells.loc[cells["published_split"] == "final", "subject"].nunique() == 17
    assert cells.loc[cells["published_split"] == "train"].groupby("fold")["subject"].nunique().tolist() == [
        28,
        14,
        31,
    ]
    sizes = cells.groupby("subject").size()
    assert sizes.min() < 25
    assert sizes.max() > 400


@pytest.mark.parametrize("images", [40, 41, 97, 400, 3_000])
def test_any_number_of_images_keeps_proportions_and_enough_subjects(images: int) -> None:
    cells = plan(images)
    assert len(cells) == images
    assert cells["path"].is_unique
    assert cells["name"].is_unique
    assert (cells["published_split"] == "train").mean() == pytest.approx(10_661 / 15_114, abs=0.03)
    train = cells[cells["published_split"] == "train"]
    assert train["label"].mean() == pytest.approx(7272 / 10_661, abs=0.03)
    subjects = cells.groupby(["published_split", "label"])["subject"].nunique()
    assert subjects["train"].min() >= 6
    assert subjects["prelim"].min() >= 2


@pytest.mark.parametrize("seed", range(5))
def test_a_subject_has_one_label_one_split_and_one_fold(seed: int) -> None:
    cells = plan(300, seed)
    kinds = cells[["subject", "label", "published_split", "fold"]].drop_duplicates()
    assert kinds["subject"].is_unique


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_set_has_five_folds_with_both_classes(seed: int) -> None:
    cells = plan(40, seed)
    pictures = cells["same_as"].fillna(cells["path"]).to_numpy()
    index = cells.assign(subject=cells["subject"].where(cells["published_split"] != "final"))
    index["label"] = index["label"].where(cells["published_split"] != "final", -1)
    for fold in range(5):
        splits = assign_splits(index, pictures, "subject_kfold", fold=fold)
        assert (splits.groupby("split")["label"].nunique() == 2).all()


def test_some_pictures_are_there_twice_under_two_subjects_of_a_class(root: Path) -> None:
    cells = plan(IMAGES, seed=3).set_index("path")
    copies = cells[cells["same_as"].notna()]
    originals = cells.loc[copies["same_as"]]
    assert set(copies["label"]) == {0, 1}
    assert (copies["label"].to_numpy() == originals["label"].to_numpy()).all()
    assert (copies["subject"].to_numpy() != originals["subject"].to_numpy()).all()
    for path, original in copies["same_as"].items():
        assert (root / str(path)).read_bytes() == (root / original).read_bytes()
    train = [content for path, content in contents(root).items() if path.startswith("training_data/")]
    assert len(train) - len(set(train)) == len(copies)


def test_the_background_is_black_and_all_cells_are_larger(root: Path) -> None:
    cells = cnmc(root)[0]
    cells = cells[cells["label"] >= 0]
    area = np.array([pixels(root / path).any(axis=2).mean() for path in cells["path"]])
    assert area.min() > 0.03
    assert area.max() < 0.5
    assert 0.1 < area.mean() < 0.4
    ratio = area[cells["label"] == 1].mean() / area[cells["label"] == 0].mean()
    assert 1.1 < ratio < 1.6


def test_a_seed_gives_the_same_bytes_on_any_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = contents(write_demo(tmp_path / "a", images=40, seed=1, size=96))
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 1)
    assert contents(write_demo(tmp_path / "b", images=40, seed=1, size=96)) == first
    other = contents(write_demo(tmp_path / "c", images=40, seed=2, size=96))
    assert not set(first.values()) & {value for path, value in other.items() if path.endswith(".bmp")}


def test_a_given_structure_is_written_as_it_is(tmp_path: Path) -> None:
    structure = plan(60).query("published_split == 'train'").drop(columns="same_as")
    found = cnmc(write_demo(tmp_path / "set", size=64, structure=structure))[0]
    assert sorted(found["path"]) == sorted(structure["path"])
    assert found.groupby("subject").size().to_dict() == structure.groupby("subject").size().to_dict()


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_demo(tmp_path / "set", images=40, size=64)
    assert contents(tmp_path) == {"set/mine.txt": b"mine"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_demo(tmp_path / "file" / "set", images=40, size=64)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert len(cnmc(write_demo(tmp_path, images=40, size=64))[0]) == 40


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "draw_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "set", images=40, size=64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"images": 39}, {"images": 15_115}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        write_demo(tmp_path / "set", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_study_has_as_many_test_subjects_as_a_triage_policy_needs() -> None:
    cells = plan(2090, kind="study")
    subjects = cells.groupby(["published_split", "label"])["subject"].nunique()
    assert subjects["prelim"].to_dict() == {0: 32, 1: 64}
    assert subjects["train"].to_dict() == {0: 26, 1: 47}
    assert cells["path"].is_unique


def test_the_other_cells_are_a_manifest_of_two_other_classes(tmp_path: Path) -> None:
    manifest = write_demo(tmp_path / "others", images=80, size=64, kind="others")
    table, classes, _ = class_folders(manifest, positive="open")
    assert classes == ("clumped", "open")
    assert len(table) == 80
    assert set(table["published_split"]) == {"train", "prelim"}
    planned = plan(80, kind="others").set_index("path").loc[table["path"]]
    assert (planned["label"].to_numpy() == table["label"]).all()
    assert table["subject"].notna().all()


def test_an_unknown_kind_of_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cnmc, study, others"):
        write_demo(tmp_path / "set", kind="some")
