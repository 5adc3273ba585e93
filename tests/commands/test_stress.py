import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from leukemia.cli import main
from leukemia.commands import stress as command
from leukemia.data.pixels import decode, fit
from leukemia.data.shifts import SHIFTS
from leukemia.evaluation.policy import Policy
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.reporting.stress import stress_page
from leukemia.runs import Run

POLICY = Policy(None, None, 1.0, 0.0, 0.3, 0.3, 0.95, "subject", certified=True)


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def stressed(untrained_run, tmp_path_factory):
    run = untrained_run(tmp_path_factory.mktemp("stress") / "run")
    assert leukemia("stress", run.folder, "--shifts", "blur", "brightness") == 0
    return run


@pytest.fixture
def run(stressed, tmp_path):
    return Run(shutil.copytree(stressed.folder, tmp_path / stressed.name))


def certify(run, **changes):
    run.write_json("triage.json", replace(POLICY, **changes).to_json())


def scores_of(run):
    return pd.read_csv(run.folder / "stress.csv")


def test_each_strength_is_scored_as_the_run_scores_a_picture(stressed, demo_root):
    scores, predictor = scores_of(stressed), TorchPredictor(stressed, "cpu")
    assert scores["path"].tolist() == stressed.predictions["path"].tolist()
    pictures = [decode(demo_root / path) for path in scores["path"][:6]]
    for name, strength in (("blur", 3), ("brightness", 0.6), ("brightness", 2)):
        pixels = [
            fit(SHIFTS[name](picture, strength), predictor.image_size, predictor.resize)
            for picture in pictures
        ]
        found = scores[f"{name} {strength:g}"]
        np.testing.assert_allclose(predictor.logits(np.stack(pixels)), found[:6], atol=1e-4)
        assert not np.allclose(found, stressed.predictions["logit"], atol=1e-3)


def test_without_a_shift_the_result_is_the_runs_to_the_bit_and_through_the_same_code_to_rounding(
    stressed, demo_root
):
    from leukemia.evaluation.metrics import cell_metrics

    none, own = stressed.stress["none"], cell_metrics(stressed.predictions)
    for name in ("accuracy", "auroc", "ece"):
        assert none[name]["value"] == pytest.approx(own[name], abs=1e-12)
        assert none[name]["difference"] == 0
    predictor, shift = TorchPredictor(stressed, "cpu"), SHIFTS["blur"]
    paths = stressed.predictions["path"]
    pixels = [
        fit(shift(decode(demo_root / path), shift.none), predictor.image_size, predictor.resize)
        for path in paths
    ]
    np.testing.assert_allclose(predictor.logits(np.stack(pixels)), stressed.predictions["logit"], atol=1e-5)
    assert stressed.stress["rescored"] < 1e-5


def test_a_second_start_scores_nothing_again_and_a_kill_loses_one_strength_at_most(run, monkeypatch, capsys):
    before = scores_of(run)
    scored = []
    monkeypatch.setattr(command, "_score", lambda *given: scored.append(given[2:4]))
    assert leukemia("stress", run.folder, "--shifts", "blur", "brightness") == 0
    assert not scored
    pd.testing.assert_frame_equal(scores_of(run), before)

    def killed(predictor, pictures, shift, strength, bar):
        if scored:
            raise KeyboardInterrupt
        scored.append((shift.name, strength))
        return {"logit": np.zeros(len(before))}

    monkeypatch.setattr(command, "_score", killed)
    assert leukemia("stress", run.folder, "--shifts", "jpeg") == 130
    assert set(scores_of(run)) == {*before, "jpeg 10"}


def test_scores_of_another_model_are_not_used(run, capsys):
    table = run.predictions
    run.write_table("predictions.csv", table.assign(logit=table["logit"] + 1))
    assert leukemia("stress", Run(run.folder).folder, "--shifts", "blur") == 0
    assert "scored again" in capsys.readouterr().out
    assert not [name for name in scores_of(run) if name.startswith("brightness")]


def test_with_a_certified_policy_it_says_up_to_which_strength_the_bounds_hold(run, capsys):
    certify(run)  # it releases nothing, so that no shift can break a bound
    assert leukemia("stress", run.folder, "--shifts", "blur", "brightness") == 0
    said = capsys.readouterr().out
    if False in run.stress["none"]["holds"].values():  # too few subjects show nothing
        assert "not shown on" in said
        assert run.stress["shifts"][1]["until"] == [None, None]
    else:
        assert "shown to keep its certified bounds (missed at most 0.3, false alarm at most 0.3)" in said
        assert run.stress["shifts"][1]["until"] == [0.6, 2]
    assert stress_page(run).table.columns[-1] == "Bounds"


def test_the_sentence_names_both_ends_of_a_shift_that_has_two_directions():
    from leukemia.reporting.stress import sentence

    def shift(name, until):
        return {
            "title": SHIFTS[name].title,
            "unit": SHIFTS[name].unit,
            "none": SHIFTS[name].none,
            "until": until,
        }

    shifts = [
        shift("brightness", [0.6, None]),
        shift("jpeg", [50]),
        shift("blur", [2]),
        shift("noise", [None]),
    ]
    said = sentence({"certified": False, "what": "9 cells", "shifts": shifts})
    assert (
        "up to brightness 0.6 to 1 (factor), JPEG 50 (quality), blur 2 (σ, pixels); at no tried strength of noise"
        in said
    )


def test_without_a_certified_policy_nothing_is_said_on_safety(run):
    assert "Nothing is said on safety" in run.stress["sentence"]
    page = stress_page(run)
    assert page.sentence == run.stress["sentence"]
    assert len(page.table.rows) == 1 + 2 * 5
    assert len([ax for ax in page.figure.axes if ax.get_visible()]) == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda found: found.update(model="other@123"), "of another model"),
        (lambda found: found.update(policy=POLICY.to_json()), "of another triage policy"),
        (lambda found: found.pop("shifts"), "is damaged"),
        (lambda found: found["shifts"][0].update(strengths=[{"strength": "__import__('os')"}]), "is damaged"),
        (lambda found: found["none"].update(accuracy=None), "is damaged"),
        (lambda found: found["shifts"][0].update(none="0"), None),
    ],
)
def test_results_that_are_damaged_or_of_another_run_are_refused_in_one_line(run, damage, said):
    from leukemia.errors import InputError

    found = run.stress
    damage(found)
    (run.folder / "stress.json").write_text(json.dumps(found))
    if said is None:
        assert stress_page(run)
        return
    with pytest.raises(InputError, match=said) as refused:
        stress_page(run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", ["logit", "path", "gate", "text"])
def test_damaged_scores_are_refused(run, capsys, damage):
    table = scores_of(run)
    if damage == "logit":
        table.loc[0, "blur 1"] = np.nan
    elif damage == "path":
        table.loc[0, "path"] = "other.bmp"
    elif damage == "gate":
        table = table.assign(**{"none unlike": 0.5}).drop(columns="blur 1 unlike", errors="ignore")
    else:
        table["blur 1"] = "=cmd()"
    table.to_csv(run.folder / "stress.csv", index=False)
    assert leukemia("stress", run.folder, "--shifts", "blur") == 2
    assert "is damaged: remove it" in capsys.readouterr().err


def test_pictures_that_are_not_the_runs_and_unknown_shifts_are_refused(run, tmp_path, demo_root, capsys):
    assert leukemia("stress", run.folder, "--shifts", "rotation") == 2
    assert "--shifts=rotation is unknown" in capsys.readouterr().err
    moved = shutil.copytree(demo_root, tmp_path / "cells")
    first, second = run.predictions["path"][:2]
    shutil.copy(moved / first, moved / second)
    run.write_config({**run.config, "data": {**run.config["data"], "root": str(moved)}})
    assert leukemia("stress", run.folder, "--shifts", "jpeg") == 2
    assert "has other pixels than the run scored" in capsys.readouterr().err
    (moved / first).unlink()
    assert leukemia("stress", run.folder, "--shifts", "jpeg") == 2
    assert "no such file" in capsys.readouterr().err
