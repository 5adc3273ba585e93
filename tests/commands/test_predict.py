"""`leukemia predict`, as it is called."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leukemia.cli import main
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.subjects import summary_by_subject
from leukemia.inference.torch_predictor import TorchPredictor


@pytest.fixture(scope="module")
def written(untrained_run, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture
def run(written):
    yield written
    (written.folder / "triage.json").unlink(missing_ok=True)


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def policy(low, high, **fields):
    return Policy(low, high, 0.5, 0.1, 0.1, 0.1, 0.95, "subject", True, **fields)


@pytest.mark.parametrize("tta", ["none", "d4"])
def test_the_logits_of_files_are_those_of_the_run(run, demo_root, tmp_path, tta):
    output = tmp_path / "out.csv"
    reported = demo_root / "validation_data"
    assert leukemia("predict", run.folder, reported, "-o", output, "--tta", tta) == 0
    table = pd.read_csv(output)
    logits = table.set_index("path")["logit"]
    logits.index = [str(path).removeprefix(f"{demo_root}/") for path in logits.index]
    expected = run.predictions.set_index("path")["logit"]
    assert set(logits.index) == set(expected.index)
    assert (table["tta"] == tta).all()
    if tta == "none":
        np.testing.assert_allclose(logits[expected.index], expected, atol=1e-4)
        assert (table["decided_by"] == "probability 0.5").all()
        assert (table["decision"] == np.where(table["logit"] >= 0, "ALL", "HEM")).all()
        assert table["calibrated_probability"].isna().all()
    else:
        assert not np.allclose(logits[expected.index], expected, atol=1e-4)


def test_a_policy_decides_and_calibrates(run, demo_root, tmp_path):
    low, high = np.quantile(run.predictions["logit"], [0.3, 0.7])
    run.write_json("triage.json", policy(low, high).to_json())
    assert leukemia("predict", run.folder, demo_root / "validation_data", "-o", tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    expected = np.where(table["logit"] <= low, "HEM", np.where(table["logit"] >= high, "ALL", "review"))
    assert (table["decision"] == expected).all()
    assert set(expected) == {"HEM", "ALL", "review"}
    np.testing.assert_allclose(
        table["calibrated_probability"], 1 / (1 + np.exp(-(0.5 * table["logit"] + 0.1))), rtol=1e-6
    )


def test_thresholds_of_another_tta_are_refused(run, demo_root, tmp_path, capsys):
    run.write_json("triage.json", policy(-1, 1, fitted_on={"views": 1}).to_json())
    assert leukemia("predict", run.folder, demo_root, "--tta", "d4", "-o", tmp_path / "out.csv") == 2
    assert "logits with tta=none and not with tta=d4: use none" in capsys.readouterr().err


def test_an_unreadable_file_is_a_row_and_the_rest_goes_on(run, demo_root, tmp_path, capsys):
    bad = tmp_path / "broken.bmp"
    bad.write_bytes(b"BM and no more")
    good = next(demo_root.rglob("*.bmp"))
    output = tmp_path / "out.csv"
    assert leukemia("predict", run.folder, bad, good, "--challenge", "-o", output) == 1
    table = pd.read_csv(output)
    assert table["error"].notna().tolist() == [True, False]
    assert table["logit"].isna().tolist() == [True, False]
    assert "not a readable picture" in capsys.readouterr().out
    assert not (tmp_path / "isbi_valid.predict").exists()


def test_a_name_that_is_not_utf8_is_scored_and_spelled_in_the_table(run, demo_root, tmp_path, capsys):
    good = next(demo_root.rglob("*.bmp"))
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in (b"a.bmp", b"b\xff%.bmp"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(good.read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/c\xfe.bmp")).write_bytes(b"BM and no more")
    output = tmp_path / "out.csv"
    assert leukemia("predict", run.folder, folder, "-o", output) == 1
    table = pd.read_csv(output)
    assert table["path"].str.removeprefix(f"{folder}/").tolist() == ["a.bmp", "b%FF%.bmp", "c%FE.bmp"]
    assert table["logit"].notna().tolist() == [True, True, False]
    assert table["logit"][0] == pytest.approx(table["logit"][1], abs=1e-4)
    assert "c%FE.bmp" in table["error"][2]
    assert "c%FE.bmp" in capsys.readouterr().out


def test_a_name_cannot_command_the_terminal(run, demo_root, tmp_path, capsys):
    shutil.copy(next(demo_root.rglob("*.bmp")), tmp_path / "\x1b[2J.bmp")
    (tmp_path / "\x1b]0;mine\x07.bmp").write_bytes(b"x")
    leukemia("predict", run.folder, tmp_path, "-o", tmp_path / "out.csv")
    said = "".join(capsys.readouterr())
    assert r"\x1b[2J.bmp: " in said
    assert r"not read: " in said
    assert r"\x1b]0;mine\x07.bmp" in said
    assert not {"\x1b", "\x07"} & set(said)


def test_names_do_not_run_as_formulas_in_a_spreadsheet(run, demo_root, tmp_path, monkeypatch):
    good = next(demo_root.rglob("*.bmp"))
    names = ["=cmd().bmp", "+1.bmp", "-1.bmp", "@sum.bmp", "\tx.bmp"]
    for name in names:
        (tmp_path / name).write_bytes(good.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert leukemia("predict", run.folder, *[name for name in names if name[0] != "-"], ".",
                    "--subjects", "([=+@-]).*bmp", "-o", "out.csv") == 0  # fmt: skip
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [row[name] for row in rows for name in ("path", "subject", "decision", "error") if row[name]]
    assert not [text for text in texts if text.startswith(tuple("=+-@\t\r"))]
    assert "'=cmd().bmp" in texts
    assert "'=" in texts
    assert all(float(row["logit"]) for row in rows)  # numbers stay numbers, also negative ones
    with open("out_subjects.csv", newline="") as file:
        assert {row["subject"][0] for row in csv.DictReader(file)} == {"'"}


def test_cells_are_kept_when_predict_dies(run, demo_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("leukemia.data.pixels.AT_ONCE", 8)
    calls = []

    def member_outputs(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [(pixels.mean(axis=(1, 2, 3)) - 10, None)]

    monkeypatch.setattr("leukemia.inference.torch_predictor.TorchPredictor.member_outputs", member_outputs)
    output = tmp_path / "out.csv"
    assert leukemia("predict", run.folder, demo_root, "-o", output) == 130
    assert not output.exists()
    partial = pd.read_csv(tmp_path / "out.partial.csv")
    assert len(partial) == 16
    assert "16 cells are kept in" in capsys.readouterr().err
    assert leukemia("predict", run.folder, demo_root, "-o", output) == 0
    assert not (tmp_path / "out.partial.csv").exists()
    assert (pd.read_csv(output).iloc[:16][["path", "logit"]] == partial[["path", "logit"]]).all(axis=None)


def test_the_challenges_file_has_a_line_an_image_in_the_order_of_their_numbers(run, demo_root, tmp_path):
    final = demo_root / "testing_data"
    assert leukemia("predict", run.folder, final, "--challenge", "-o", tmp_path / "out.csv") == 0
    lines = (tmp_path / "isbi_valid.predict").read_text().split()
    table = pd.read_csv(tmp_path / "out.csv")
    number = table["path"].str.extract(r"(\d+)\.bmp$")[0].astype(int)
    by_number = table.assign(number=number).sort_values("number")
    assert by_number["number"].tolist() == list(range(1, len(table) + 1))
    assert lines == [str(int(logit >= 0)) for logit in by_number["logit"]]


def test_subjects_come_from_the_csv_of_the_preliminary_labels(run, demo_root, tmp_path):
    (csv,) = demo_root.rglob("*prelim*labels*.csv")
    output = tmp_path / "out.csv"
    assert leukemia("predict", run.folder, csv.parent, "--subjects", csv, "-o", output) == 0
    table = pd.read_csv(output, dtype={"subject": str})
    expected = run.predictions.assign(name=run.predictions["path"].str.rpartition("/")[2]).set_index("name")
    names = table["path"].str.rpartition("/")[2]
    assert table["subject"].tolist() == expected.loc[names, "subject"].tolist()
    assert table["label"].tolist() == expected.loc[names, "label"].tolist()
    summary = pd.read_csv(tmp_path / "out_subjects.csv", dtype={"subject": str})
    assert summary["cells"].sum() == len(table)
    assert set(summary["subject"]) == set(table["subject"])


def test_subjects_come_from_names(run, demo_root, tmp_path):
    pattern = r"uid_(h?\d+)_"
    given = [demo_root / "training_data" / "fold_0", "--subjects", pattern, "-o", tmp_path / "o.csv"]
    assert leukemia("predict", run.folder, *given) == 0
    cells = run.cells.set_index("path")["subject"]
    table = pd.read_csv(tmp_path / "o.csv", dtype={"subject": str})
    paths = table["path"].str.removeprefix(f"{demo_root}/")
    assert table["subject"].tolist() == cells[paths].tolist()


def test_the_summary_of_a_subject_by_hand():
    table = pd.DataFrame({
        "subject": ["A", "A", "A", "B", "B", None],
        "logit": [2.0, 1.0, -9.0, -1.0, 0.5, 3.0],
        "decision": ["ALL", "review", "HEM", "HEM", "review", "ALL"],
    })  # fmt: skip
    a, b = summary_by_subject(table, ("HEM", "ALL")).to_dict("records")
    assert a == {"subject": "A", "cells": 3, "share_ALL": 2 / 3, "mean_logit": -2.0, "vote": "ALL",
                 "decided_HEM": 1, "decided_ALL": 1, "decided_review": 1}  # fmt: skip
    assert b == {"subject": "B", "cells": 2, "share_ALL": 0.5, "mean_logit": -0.25, "vote": "HEM",
                 "decided_HEM": 1, "decided_ALL": 0, "decided_review": 1}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), [
    (["{root}", "-o", "{run}/x.csv"], "keeps its own predictions"),
    (["{root}", "-o", "{root}/no/such/x.csv"], "is not a folder"),
    (["{root}/*.gif"], "no such file or folder"),
    (["{root}", "--subjects", "UID_"], "has no group"),
    (["{root}", "--subjects", "("], "neither a .csv nor a regular expression"),
    (["{root}", "--subjects", "no(thing)like"], "tells the subject of none"),
    (["{root}", "--subjects", "nowhere.csv"], "no such file"),
    (["nowhere.csv"], "no such file"),
    (["{root}", "--device", "warp"], "cannot be used"),
])  # fmt: skip
def test_mistakes_are_refused_and_nothing_is_written(
    run, demo_root, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    given = [argument.format(root=demo_root, run=run.folder) for argument in arguments]
    before = sorted(run.folder.rglob("*"))
    assert leukemia("predict", run.folder, *given) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert sorted(run.folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["predict", "explain", "export", "app"])
@pytest.mark.parametrize(("given", "remedy"), [
    ("nowhere", "there is no such folder"),
    ("{run}/checkpoints/best.ckpt", "give the run folder that holds it, {run}"),
    ("copy.ckpt", "give the run folder that holds it"),
    ("{sweep}", "it holds 1 of them, give one, as {run}"),
    ("{root}", "give the folder of a run"),
])  # fmt: skip
def test_a_path_that_is_not_a_run_is_refused_with_the_folder_to_give(
    run, demo_root, capsys, command, given, remedy
):
    places = {"run": run.folder, "sweep": run.folder.parent, "root": demo_root}
    path, remedy = given.format(**places), remedy.format(**places)
    assert leukemia(command, path, *([demo_root] if command == "predict" else [])) == 2
    said = capsys.readouterr().err
    assert said == f"error: {path} is not a run folder (a folder with a status.json): {remedy}\n"


@pytest.mark.parametrize("command", ["predict", "explain", "export"])
def test_a_run_of_release_0_1_is_refused_in_one_line(untrained_run, demo_root, tmp_path, capsys, command):
    run = untrained_run(tmp_path / "run")
    run.write_config({**run.config, "model": {"depth": 18}})
    run.best_checkpoint.unlink()
    assert leukemia(command, run.folder, *([demo_root] if command != "export" else [])) == 2
    said = capsys.readouterr().err
    assert "is a run of release 0.1" in said
    assert said.count("\n") == 1


def test_a_run_without_a_checkpoint_is_refused_without_talk_of_training(
    untrained_run, demo_root, tmp_path, capsys
):
    run = untrained_run(tmp_path / "run")
    run.best_checkpoint.write_bytes(run.best_checkpoint.read_bytes()[:500])
    assert leukemia("predict", run.folder, demo_root) == 2
    run.best_checkpoint.unlink()
    assert leukemia("predict", run.folder, demo_root) == 2
    said = capsys.readouterr().err
    assert said.count("best.ckpt cannot be read") == 2
    assert "resume" not in said


@pytest.fixture(scope="module")
def gated(untrained_run, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("gated") / "run", gate=True)


@pytest.fixture
def foreign(tmp_path):
    """Pictures that are not cells: noise, a white and a black one."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (450, 450, 3), dtype=np.uint8)
    for name, pixels in {"noise": noise, "white": noise * 0 + 255, "black": noise * 0}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_foreign_pictures_go_to_review_whatever_the_policy_releases(gated, foreign, tmp_path, capsys):
    everything = Policy(0.0, 1e-9, None, None, 1, 1, 0.95, "subject", True)
    for policy_beside in (False, True):
        if policy_beside:
            gated.write_json("triage.json", everything.to_json())
        assert leukemia("predict", gated.folder, foreign, "-o", tmp_path / "out.csv") == 0
        table = pd.read_csv(tmp_path / "out.csv")
        assert (table["decision"] == "review").all()
        assert (table["decided_by"] == "gate.json").all()
        assert table["unlike"].str.contains("99 % of the training cells").all()
        assert (table["unlike_by"] > 1).all()
        assert "3 cells unlike the training cells, for review" in capsys.readouterr().out
    (gated.folder / "triage.json").unlink()


def test_the_cells_that_set_the_limits_pass(gated, tmp_path):
    cells = gated.cells
    files = [gated.data.root / path for path in cells["path"][cells["split"] == "train"]]
    assert leukemia("predict", gated.folder, *files, "-o", tmp_path / "out.csv") == 0
    assert (pd.read_csv(tmp_path / "out.csv")["unlike_by"] <= 1).mean() > 0.9


def test_a_stopped_training_cell_is_marked(gated):
    predictor = TorchPredictor(gated, "cpu")
    cells = gated.cells
    (path,) = cells["path"][cells["split"] == "train"].head(1)
    pixels = predictor.pixels(gated.data.root / path)[None]
    (gate,) = predictor.gates
    predictor.gates = (replace(gate, limit=1e-9),)
    assert predictor.unlike_words(predictor.scores(pixels))[0].endswith("(a training cell)")
    assert not predictor.unlike_words(predictor.scores(255 - pixels))[0].endswith("(a training cell)")


def test_a_run_without_a_gate_is_used_with_a_loud_line(run, demo_root, tmp_path, capsys):
    assert leukemia("predict", run.folder, next(demo_root.rglob("*.bmp")), "-o", tmp_path / "out.csv") == 0
    assert "WARNING: run has no gate.json" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out.csv")[["unlike", "unlike_by"]].isna().all(axis=None)
