"""`leukemia explain`, as it is called."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leukemia.cli import main
from leukemia.commands.explain import gradcam_by_class
from leukemia.reporting.overlays import contact_sheet, overlay, side_by_side
from leukemia.runs import Run


@pytest.fixture(scope="module")
def written(untrained_run, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("explain") / "run", trainable_from="head", image_size=64)


@pytest.fixture
def run(written, tmp_path):
    return Run(shutil.copytree(written.folder, tmp_path / "run"))


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_without_paths_the_runs_own_cells_are_explained_into_its_folder(run, capsys):
    before = {path.name for path in run.folder.iterdir()}
    assert leukemia("explain", run.folder, "--sample", 6) == 0
    assert {path.name for path in run.folder.iterdir()} - before == {"gradcam.json", "gradcam.png"}
    found = json.loads((run.folder / "gradcam.json").read_text())
    assert (found["run"], found["split"], found["cells"], found["layer"]) == ("run", "test", 6, "layer4")
    assert found["sample"] == f"a random 6 of {len(run.predictions)} test cells (seed 0)"
    assert list(found["classes"]) == ["HEM", "ALL"]
    assert sum(of_class["cells"] for of_class in found["classes"].values()) == 6
    for of_class in found["classes"].values():
        if of_class["on_background"] is not None:
            assert 0.5 < of_class["background"] < 0.95  # cells are a fifth of the picture
            assert 0 < of_class["on_background"] < 1
    assert "Grad-CAM maps on the black background, a random 6 of" in capsys.readouterr().out


def test_paths_give_a_picture_each_and_unreadable_ones_are_listed(run, demo_root, tmp_path, capsys):
    files = sorted((demo_root / "testing_data").rglob("*.bmp"))[:3]
    broken = tmp_path / "broken.bmp"
    broken.write_bytes(b"BM")
    output = tmp_path / "pictures"
    assert leukemia("explain", run.folder, *files, broken, "-o", output) == 1
    names = [f"{number:04d}_{file.stem}.png" for number, file in enumerate(files, 1)]
    assert sorted(path.name for path in output.iterdir()) == [*names, "gradcam.json", "gradcam.png"]
    with Image.open(output / names[0]) as picture:
        assert picture.width > 2 * 300
    assert f"not read: {broken}" in capsys.readouterr().out
    assert not (run.folder / "gradcam.json").exists()
    assert json.loads((output / "gradcam.json").read_text())["cells"] == 3


def test_mistakes_are_refused_and_nothing_is_written(run, demo_root, tmp_path, capsys):
    assert leukemia("explain", run.folder, tmp_path / "nothing") == 2
    assert leukemia("explain", run.folder, "--sample", 0) == 2
    config = run.config
    run.write_config({**config, "data": {**config["data"], "root": str(tmp_path / "moved")}})
    assert leukemia("explain", run.folder) == 2
    assert "do not lie in" in capsys.readouterr().err
    run.write_config({**config, "data": {**config["data"], "image_size": 2}})
    assert leukemia("explain", run.folder, demo_root, "-o", tmp_path / "out") == 2
    assert "has none at 2 pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_share_is_a_mean_over_the_cells_of_a_decision():
    cells = pd.DataFrame({
        "decision": ["HEM", "ALL", "ALL", "ALL"],
        "on_background": [0.9, 0.2, 0.4, np.nan],
        "cell_alone": [0.3, 0.3, 0.1, 0.9],
        "background": [0.8, 0.8, 0.7, 0.1],
    })  # fmt: skip
    found = gradcam_by_class(cells, ("HEM", "ALL", "none"))
    assert found["ALL"] == {
        "cells": 3, "empty": 1, "on_background": 0.3, "cell_alone": 0.2, "background": 0.75,
        "quartiles": [0.25, 0.3, 0.35],
    }  # fmt: skip
    assert found["HEM"]["on_background"] == 0.9
    assert found["none"]["on_background"] is None


def test_a_cold_map_leaves_the_cell_as_it_is_and_a_hot_one_colours_it():
    cell = np.full((8, 8, 3), 90, np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    laid_over = overlay(cell, heat)
    np.testing.assert_array_equal(laid_over[:, :4], cell[:, :4])
    assert (laid_over[:, 4:, 0] > 150).all()  # bright yellow
    assert (laid_over[:, 4:, 2] > 60).all()


def test_a_contact_sheet_holds_every_picture_and_long_names_stay_inside():
    cell, heat = np.full((8, 8, 3), 90, np.uint8), np.ones((8, 8), np.float32)
    tile = side_by_side(cell, heat, ["a very long name of a file " * 9, "ALL, 0.93"], size=60)
    margin = np.asarray(tile)[:, -8:]
    assert (margin == 255).all()
    sheet = contact_sheet({"ALL": [tile] * 5, "HEM": [tile]}, "run")
    assert sheet.width == 4 * tile.width + 16
    assert sheet.height > 3 * tile.height
