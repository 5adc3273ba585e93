"""A sweep, or several runs, as one model: the mean logit, the same for every command that takes it."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from leukemia.cli import main
from leukemia.evaluation.policy import Policy
from leukemia.inference.export import export
from leukemia.inference.predictor import open_predictor
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.models.resnet import resnet
from leukemia.runs import Ensemble, Run, open_model

MEMBERS = ["a", "b"]


def network(seed):
    torch.manual_seed(seed)
    net = resnet(18, weights="none")
    return net


@pytest.fixture(scope="module")
def written(untrained_run, tmp_path_factory):
    """A sweep of two runs, and a third one elsewhere that sees larger pictures."""
    folder = tmp_path_factory.mktemp("ensembles")
    for seed, name in enumerate(MEMBERS):
        untrained_run(folder / "sweep" / name, network(seed))
    untrained_run(folder / "larger", network(2), image_size=40)
    untrained_run(folder / "gated" / "a", network(0), gate=True)
    shutil.copytree(folder / "sweep" / "b", folder / "gated" / "b")
    return folder


@pytest.fixture
def sweep(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield written / "sweep"
    (written / "sweep" / "triage.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def exported(written):
    return export(open_model([written / "sweep"]), written / "sweep.onnx")


def policy(low=-0.1, high=0.1, **fitted_on):
    return Policy(low, high, 0.5, 0.1, 0.1, 0.1, 0.95, "subject", True, fitted_on=fitted_on)


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def predicted(*arguments):
    assert leukemia("predict", *arguments, "-o", "out.csv") == 0
    return pd.read_csv("out.csv")


def test_a_sweep_several_runs_and_the_exported_file_give_the_mean_logit(sweep, exported, demo_root):
    cells = demo_root / "validation_data"
    logits = np.stack([predicted(sweep / name, cells)["logit"] for name in MEMBERS])
    deviation = (1 / (1 + np.exp(-logits))).std(axis=0, ddof=1)
    for model in ([sweep], [sweep / name for name in MEMBERS], [exported]):
        table = predicted(*model, cells)
        np.testing.assert_allclose(table["logit"], logits.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(table["probability_sd"], deviation, atol=1e-4)
        assert (table["decided_by"] == "probability 0.5").all()
    assert deviation.max() > 1e-3


def test_one_run_has_no_deviation(sweep, demo_root):
    assert predicted(sweep / "a", demo_root / "validation_data")["probability_sd"].isna().all()


def test_the_file_of_an_ensemble_holds_each_members_logits_and_names(sweep, exported):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    logit, members = onnxruntime.InferenceSession(exported).run(
        ["logit", "member_logits"], {"pixels": pixels}
    )
    for column, name in enumerate(MEMBERS):
        alone = TorchPredictor(Run(sweep / name), "cpu").logits(pixels)
        np.testing.assert_allclose(members[:, column], alone, atol=1e-4)
    np.testing.assert_allclose(logit, members.mean(axis=1), atol=1e-6)
    about = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert (about["run"], json.loads(about["members"])) == ("sweep", MEMBERS)
    assert json.loads(about["checked"])["largest_difference"] <= 1e-4


@pytest.mark.slow
def test_a_cell_is_stopped_where_the_gate_of_a_member_stops_it_also_in_the_exported_file(
    written, demo_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (450, 450), "white").save("white.png")
    export(open_model([written / "gated"]))
    models = [written / "gated", Path("gated.onnx"), written / "gated" / "a"]
    whole, file, alone = (predicted(model, demo_root / "validation_data", "white.png") for model in models)
    pd.testing.assert_frame_equal(whole, file, atol=1e-3, rtol=0)
    np.testing.assert_allclose(whole["unlike_by"], alone["unlike_by"])
    assert (whole["decision"].iloc[-1], whole["decided_by"].iloc[-1]) == ("review", "gate.json")
    assert (whole["decision"] != "review").any()


def test_the_weights_of_an_ensemble_are_exported_one_by_one(sweep, capsys):
    assert leukemia("export", sweep, "--format", "state_dict") == 2
    assert f"export them one by one, as {sweep / 'a'}" in capsys.readouterr().err


def test_members_that_see_other_pictures_are_refused(sweep, demo_root, capsys):
    larger = sweep.parent / "larger"
    for command in (["predict", sweep / "a", larger, demo_root], ["export", sweep / "a", larger],
                    ["evaluate", sweep / "a", larger, "--ensemble"]):  # fmt: skip
        assert leukemia(*command) == 2
        said = capsys.readouterr().err
        assert f"{sweep / 'a'} has image_size 32 and {larger} has 40" in said


@pytest.mark.parametrize(("given", "said"), [
    (["{sweep}/a", "{sweep}/a", "{cells}"], "named twice"),
    (["{sweep}/a", "{sweep}/b"], "no PATH after the runs"),
    (["{sweep}", "nowhere"], "no such file or folder"),
    (["{cells}", "{sweep}/a", "{cells}"], "is not a run folder"),
])  # fmt: skip
def test_mistakes_in_naming_members_are_refused(sweep, demo_root, capsys, given, said):
    places = {"sweep": sweep, "cells": demo_root / "validation_data"}
    assert leukemia("predict", *[one.format(**places) for one in given]) == 2
    assert said in capsys.readouterr().err


def test_runs_that_are_not_finished_are_no_members(written, tmp_path):
    sweep = shutil.copytree(written / "sweep", tmp_path / "sweep")
    shutil.copytree(sweep / "a", sweep / "c")
    Run(sweep / "c").write_json("status.json", {"status": "failed", "error": "memory"})
    assert open_model([sweep]).member_names == MEMBERS
    shutil.rmtree(sweep / "b")
    assert not isinstance(open_model([sweep / "a"]), Ensemble)


def test_the_policy_of_an_ensemble_is_that_of_its_members_alone(sweep, demo_root, capsys):
    run = Run(sweep)
    run.write_json("triage.json", policy(members=MEMBERS).to_json())
    table = predicted(sweep, demo_root / "validation_data")
    assert (table["decided_by"] == "triage.json").all()
    expected = np.select([table["logit"] <= -0.1, table["logit"] >= 0.1], ["HEM", "ALL"], "review")
    assert (table["decision"] == expected).all()
    assert open_predictor([sweep / name for name in MEMBERS]).policy is None
    for other in ({}, {"members": ["a", "b", "c"]}):
        run.write_json("triage.json", policy(**other).to_json())
        assert leukemia("predict", sweep, demo_root) == 2
        assert f"call `leukemia triage {sweep} --ensemble`" in capsys.readouterr().err


def test_a_cell_that_one_member_trained_on_counts_as_trained_on(written, tmp_path):
    sweep = shutil.copytree(written / "sweep", tmp_path / "sweep")
    cells = Run(sweep / "b").cells
    tested = cells.index[cells["split"] == "test"][:2]
    cells.loc[tested, "split"] = ["train", "val"]
    Run(sweep / "b").write_table("cells.csv", cells)
    model = open_model([sweep])
    splits = model.cells.set_index("path")["split"]
    assert splits[cells.loc[tested, "path"]].tolist() == ["train", "val"]
    assert len(model.cells) == len(cells)


def test_one_picture_is_decided_on_the_screen(sweep, demo_root, tmp_path, capsys):
    picture = next(demo_root.rglob("*.bmp"))
    assert leukemia("predict", sweep / "a", picture) == 0
    said = capsys.readouterr().out
    logit = predicted(sweep / "a", picture)["logit"][0]
    assert said.startswith(f"{picture}: {'ALL' if logit >= 0 else 'HEM'}, probability of ALL ")
    assert f"{1 / (1 + np.exp(-logit)):.3f}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]  # which was asked for


def test_names_come_from_standard_input(sweep, demo_root, monkeypatch):
    pictures = sorted(demo_root.rglob("*.bmp"))[:3]
    lines = "\n".join(map(str, [*pictures, ""])).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert predicted(sweep / "a", "-")["path"].tolist() == [str(path) for path in pictures]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert leukemia("predict", sweep / "a", "-") == 2


def test_json_has_the_rows_of_the_table_and_nothing_else_is_printed(sweep, demo_root, tmp_path, capsys):
    broken = tmp_path / "broken.bmp"
    broken.write_bytes(b"BM")
    picture = next(demo_root.rglob("*.bmp"))
    assert leukemia("predict", sweep, picture, broken, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["classes"], found["decided_by"]) == (
        "sweep",
        ["HEM", "ALL"],
        "probability 0.5",
    )
    table = predicted(sweep, picture)
    first, second = found["cells"]
    assert list(first) == list(table.columns)
    assert first["logit"] == pytest.approx(table["logit"][0], abs=1e-4)
    assert first["error"] is None
    assert second["logit"] is None
    assert "not a readable picture" in second["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.bmp", "out.csv"]
