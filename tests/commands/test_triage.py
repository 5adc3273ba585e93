import json

import numpy as np
import pandas as pd
import pytest

from leukemia.cli import main
from leukemia.runs import Run


def cells(subjects=60, prefix="", seed=0):
    """Well separated cells of as many positive as negative subjects."""
    rng = np.random.default_rng(seed)
    label = np.repeat([1, 0], subjects * 20)
    subject = np.repeat([f"{prefix}{number}" for number in range(2 * subjects)], 20)
    return pd.DataFrame({
        "path": [f"{prefix}{row}.bmp" for row in range(len(label))], "subject": subject, "label": label,
        "logit": 3 * (2 * label - 1) + rng.standard_normal(len(label)),
    })  # fmt: skip


def write_run(folder, split="test", subjects=60, leaks=0, **config):
    run = Run(folder)
    table = cells(subjects).assign(split=split)
    run.write_config(
        {
            "seed": 0,
            "data": {
                "protocol": "holdout",
                "fold": 0,
                "tta": "none",
                "image_size": 64,
                "resize": "squash",
                "native_size": None,
                "classes": ["HEM", "ALL"],
                "root": "nowhere",
                **config,
            },
            "model": {
                "net": {"_target_": "leukemia.models.resnet.resnet", "depth": 18},
                "trainable_from": "head",
            },
        }
    )
    run.write_json("status.json", {"status": "done"})
    run.write_json("metrics.json", {
        "accuracy": 0.9, "split": split, "epoch_chosen_here": split == "val", "leaks": leaks, "classes": ["HEM", "ALL"],
        "better_than_majority": True, "majority_accuracy": 0.5, "n_images": len(table),
    })  # fmt: skip
    run.write_table("predictions.csv", table)
    trained = cells(5, prefix="T").assign(split="train")
    known = pd.concat([table, trained], ignore_index=True)
    run.write_table(
        "cells.csv",
        known.assign(group=known["subject"], pixel_hash=known["path"])[
            ["path", "subject", "group", "label", "split", "pixel_hash"]
        ],
    )
    return run


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_a_run_is_certified_on_its_test_split(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert leukemia("triage", run.folder, "--prevalence", "0.1") == 0
    said = capsys.readouterr().out
    assert said.startswith("Floor, missed: from 60 ALL subjects")
    assert "At a prevalence of 10.00 % ALL (as stated)" in said
    policy = json.loads((run.folder / "triage.json").read_text())
    assert set(policy) >= {
        "thresholds", "calibration", "max_missed", "max_false_alarm", "confidence", "unit", "certified", "why_not",
        "released", "fitted_on",
    }  # fmt: skip
    assert policy["certified"] is True
    assert policy["thresholds"]["low"] < policy["thresholds"]["high"]


def test_bounds_that_cannot_be_met_exit_with_1_and_certify_nothing(tmp_path, capsys):
    run = write_run(tmp_path / "run", subjects=13)
    assert leukemia("triage", run.folder) == 1
    assert "0.247" in capsys.readouterr().out
    assert not run.policy.certified


def test_unmet_bounds_leave_a_certified_policy_alone(tmp_path):
    run = write_run(tmp_path / "run")
    assert leukemia("triage", run.folder) == 0
    before = (run.folder / "triage.json").read_bytes()
    assert leukemia("triage", run.folder, "--max-missed", "0.001") == 1
    assert (run.folder / "triage.json").read_bytes() == before


def test_where_the_epoch_was_chosen_nothing_is_certified(tmp_path):
    run = write_run(tmp_path / "run", split="val")
    assert leukemia("triage", run.folder) == 1
    assert not run.policy.certified
    assert "the epoch was chosen on these cells" in run.policy.why_not


def test_leaking_cells_certify_nothing(tmp_path):
    run = write_run(tmp_path / "run", leaks=7)
    assert leukemia("triage", run.folder) == 1
    assert "7 of these cells are not independent" in run.policy.why_not


def test_a_run_is_certified_on_cells_of_ones_own(tmp_path):
    run = write_run(tmp_path / "run", split="val")
    cells(70, prefix="N").to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv") == 0
    assert run.policy.certified


def test_subjects_that_trained_the_model_are_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    own = cells(70, prefix="N")
    own.loc[own["subject"] == "N3", "subject"] = " t1"
    own.to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv") == 2
    assert "1 subjects that trained" in capsys.readouterr().err
    assert not (run.folder / "triage.json").exists()


def test_cells_that_trained_the_model_are_refused_whatever_folder_they_are_named_in(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    own = cells(70, prefix="N").drop(columns="subject")
    own.loc[3, "path"] = f"somewhere/else/{run.cells['path'].iloc[-1]}"
    own.to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv", "--unit", "cell") == 2
    assert "1 cells that trained run" in capsys.readouterr().err


def test_training_cells_are_known_by_the_end_of_their_path_and_subjects_with_their_prefix(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    run.write_table("cells.csv", run.cells.assign(path="training_data/fold_0/all/" + run.cells["path"]))
    own = cells(70, prefix="N")
    own.loc[3, "path"] = "all/T7.bmp"
    own.to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv") == 2
    assert "1 cells that trained run" in capsys.readouterr().err
    own = cells(70, prefix="N")
    own.loc[own["subject"] == "N3", "subject"] = "UID_T1"
    own.to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv") == 2
    assert "1 subjects that trained" in capsys.readouterr().err


def test_a_table_that_does_not_name_its_subjects_certifies_nothing(tmp_path):
    run = write_run(tmp_path / "run")
    cells(70, prefix="N").drop(columns="subject").to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv", "--unit", "cell") == 1
    assert "no column `subject`" in run.policy.why_not


@pytest.mark.parametrize("split", ["train", "Val "])
def test_rows_of_a_split_that_trained_or_chose_are_refused(tmp_path, capsys, split):
    run = write_run(tmp_path / "run")
    own = cells(70, prefix="N").assign(split="test")
    own.loc[0, "split"] = split
    own.to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv") == 2
    assert "1 rows of split train or val" in capsys.readouterr().err


def test_cells_of_a_subject_taken_as_independent_are_warned_of_and_do_not_replace_a_better_policy(
    tmp_path, capsys
):
    run = write_run(tmp_path / "run")
    assert leukemia("triage", run.folder, "--unit", "cell") == 0
    assert "WARNING: unit=cell" in capsys.readouterr().out
    assert "120 subjects" in run.policy.fitted_on["assumed"]
    assert leukemia("triage", run.folder) == 0
    assert "WARNING" not in capsys.readouterr().out
    assert leukemia("triage", run.folder, "--unit", "cell") == 1
    assert "Nothing is written" in capsys.readouterr().out
    assert run.policy.unit == "subject"


@pytest.mark.parametrize("prevalence", ["30", "0", "nan"])
def test_a_prevalence_that_is_not_a_share_is_refused_first(tmp_path, capsys, prevalence):
    run = write_run(tmp_path / "run")
    assert leukemia("triage", run.folder, "--prevalence", prevalence) == 2
    said = capsys.readouterr()
    assert "--prevalence" in said.err
    assert said.out == ""
    assert run.policy is None


def test_a_policy_that_cannot_be_read_is_named_and_replaced(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    (run.folder / "triage.json").write_text('{"thresholds": {}}')
    assert leukemia("triage", run.folder) == 0
    assert "move it aside" in capsys.readouterr().out
    assert run.policy.certified


@pytest.mark.parametrize(("tta", "code"), [(["none", "d4"], 2), (["many"], 2), (["d4"], 0)])
def test_logits_of_a_table_are_all_with_the_same_test_time_augmentation(tmp_path, capsys, tta, code):
    run = write_run(tmp_path / "run")
    own = cells(70, prefix="N")
    own.assign(tta=(tta * len(own))[: len(own)]).to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", run.folder, "--on", tmp_path / "own.csv") == code
    if code:
        assert "the column `tta`" in capsys.readouterr().err
    else:
        assert run.policy.fitted_on["views"] == 8


def test_a_policy_keeps_the_test_time_augmentation_of_its_run(tmp_path):
    run = write_run(tmp_path / "run", tta="d4")
    assert leukemia("triage", run.folder) == 0
    assert run.policy.fitted_on["views"] == 8


def test_a_sweep_names_the_cells_of_its_policy_and_asks_for_the_run_where_there_is_one(tmp_path, capsys):
    write_run(tmp_path / "sweep" / "a", split="val")
    assert leukemia("triage", tmp_path / "sweep") == 2
    assert f"holds one finished run: name it, {tmp_path / 'sweep' / 'a'}" in capsys.readouterr().err
    run = write_run(tmp_path / "sweep" / "b", split="val")
    run.write_config(run.config | {"seed": 1})
    leukemia("triage", tmp_path / "sweep")
    why_not = Run(tmp_path / "sweep").policy.why_not
    assert "the first of several models" in why_not
    assert "epoch chosen on these cells" in why_not


def test_pooled_folds_are_not_certified_and_say_why(tmp_path):
    for fold in (0, 1):
        run = write_run(tmp_path / "sweep" / f"fold-{fold}", protocol="subject_kfold", fold=fold)
        run.write_table("predictions.csv", run.predictions.assign(
            path=f"{fold}-" + run.predictions["path"], subject=f"{fold}-" + run.predictions["subject"]
        ))  # fmt: skip
    assert leukemia("triage", tmp_path / "sweep") == 0
    policy = Run(tmp_path / "sweep").policy
    assert not policy.certified
    assert "predictions of several models" in policy.why_not
    assert policy.released > 0


def write_ensemble(folder, **settings):
    """A sweep of two seeds on the same test split; returns the mean logit."""
    logits = []
    for seed in (0, 1):
        run = write_run(folder / f"seed-{seed}", **settings)
        run.write_config(run.config | {"seed": seed})
        table = cells(seed=seed).assign(split=settings.get("split", "test"))
        run.write_table("predictions.csv", table)
        logits.append(table["logit"])
    return np.mean(logits, axis=0)


def test_seeds_of_one_split_are_certified_as_an_ensemble(tmp_path, capsys):
    logit = write_ensemble(tmp_path / "sweep")
    assert leukemia("triage", tmp_path / "sweep", "--ensemble") == 0
    assert "the test split of the mean logit of the 2 runs of sweep" in capsys.readouterr().out
    policy = Run(tmp_path / "sweep").policy
    assert policy.certified
    assert policy.fitted_on["members"] == ["seed-0", "seed-1"]
    alone = Run(tmp_path / "alone")  # the same policy as of one run with the mean logits
    write_run(alone.folder).write_table("predictions.csv", cells().assign(split="test", logit=logit))
    assert leukemia("triage", alone.folder) == 0
    assert (alone.policy.low, alone.policy.high) == (policy.low, policy.high)


def test_an_ensemble_is_not_certified_on_cells_that_chose_an_epoch_or_leak(tmp_path):
    for name, settings, reason in (
        ("val", {"split": "val"}, "the epoch was chosen"),
        ("leaks", {"leaks": 3}, "3 of these"),
    ):
        write_ensemble(tmp_path / name)
        run = write_run(tmp_path / name / "seed-1", **settings)
        run.write_config(run.config | {"seed": 1})
        assert leukemia("triage", tmp_path / name, "--ensemble") == 1
        assert reason in Run(tmp_path / name).policy.why_not


def test_folds_of_a_k_fold_are_refused_as_an_ensemble_but_on_new_cells(tmp_path, capsys):
    for fold in (0, 1):
        run = write_run(tmp_path / "sweep" / f"fold-{fold}", protocol="subject_kfold", fold=fold)
        run.write_table("predictions.csv", run.predictions.assign(path=f"{fold}-" + run.predictions["path"]))
    assert leukemia("triage", tmp_path / "sweep", "--ensemble") == 2
    assert "each of them trained another member" in capsys.readouterr().err
    cells(70, prefix="N").assign(probability_sd=0.1).to_csv(tmp_path / "own.csv", index=False)
    assert leukemia("triage", tmp_path / "sweep", "--ensemble", "--on", tmp_path / "own.csv") == 0
    assert Run(tmp_path / "sweep").policy.certified


def test_cells_that_trained_any_member_and_logits_of_one_network_are_refused(tmp_path, capsys):
    write_ensemble(tmp_path / "sweep")
    own = cells(70, prefix="N")
    own.loc[own["subject"] == "N3", "subject"] = "V9"
    own.to_csv(tmp_path / "own.csv", index=False)
    run = Run(tmp_path / "sweep" / "seed-1")
    run.write_table("cells.csv", run.cells.replace({"subject": {"T1": "V9"}}))
    given = ["triage", tmp_path / "sweep", "--ensemble", "--on", tmp_path / "own.csv"]
    assert leukemia(*given) == 2
    assert "1 subjects that trained seed-1" in capsys.readouterr().err
    cells(70, prefix="N").assign(probability_sd=np.nan).to_csv(tmp_path / "own.csv", index=False)
    assert leukemia(*given) == 2
    assert "has logits of one network" in capsys.readouterr().err


def test_one_run_is_not_an_ensemble(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    for command in ("triage", "evaluate"):
        assert leukemia(command, run.folder, "--ensemble") == 2
        assert "is one run" in capsys.readouterr().err or command == "evaluate"


def test_evaluate_gives_the_ensemble_and_its_paired_difference_to_the_best_member(tmp_path, capsys):
    logit = write_ensemble(tmp_path / "sweep", split="test")
    assert leukemia("evaluate", tmp_path / "sweep", "--ensemble", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    label = cells()["label"]
    assert found["cells"]["accuracy"]["value"] == pytest.approx(np.mean((logit >= 0) == label))
    best = max(member["accuracy"] for member in found["members"])
    (against,) = found["comparisons"]
    assert against["second"] == "Ensemble of 2 models"
    assert against["first"] in [member["name"] for member in found["members"]]
    difference = against["accuracy"]
    assert difference["difference"] == pytest.approx(found["cells"]["accuracy"]["value"] - best)
    assert difference["low"] <= difference["difference"] <= difference["high"]
    each = [cells(seed=seed)["logit"] for seed in (0, 1)]
    assert found["disagreement"]["classes_differ"] == pytest.approx(np.mean((each[0] >= 0) != (each[1] >= 0)))
    assert leukemia("evaluate", *(tmp_path / "sweep").iterdir(), "--ensemble") == 0
    assert "they differ in the class of" in capsys.readouterr().out


def test_seeds_of_pooled_folds_are_an_ensemble_within_each_fold(tmp_path, capsys):
    expected = []
    for fold in (0, 1):
        logits = []
        for seed in (0, 1):
            run = write_run(tmp_path / "sweep" / f"{fold}-{seed}", protocol="subject_kfold", fold=fold)
            run.write_config(run.config | {"seed": seed})
            table = cells(seed=2 * fold + seed, prefix=f"{fold}-").assign(split="test")
            run.write_table("predictions.csv", table)
            run.write_table("cells.csv", table.assign(group=table["subject"], pixel_hash=table["path"]))
            logits.append(table["logit"])
        expected.append((np.mean(logits, axis=0) >= 0) == table["label"])
    assert leukemia("evaluate", tmp_path / "sweep", "--ensemble", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"]["accuracy"]["value"] == pytest.approx(np.mean(expected))
    assert len(found["members"]) == 2
    for fold in (0, 1):
        (tmp_path / "sweep" / f"{fold}-1").rename(tmp_path / f"{fold}-1")
    assert leukemia("evaluate", tmp_path / "sweep", "--ensemble") == 2
    assert "needs two models of the same cells" in capsys.readouterr().err


def test_evaluate_prints_intervals_and_json(tmp_path, capsys):
    run = write_run(tmp_path / "run", split="val")
    assert leukemia("evaluate", run.folder) == 0
    said = capsys.readouterr().out
    assert "epoch chosen on these cells" in said
    assert "bootstrap of subjects within class" in said
    assert leukemia("evaluate", run.folder, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["epoch_chosen_here"] is True
    assert content["cells"]["accuracy"]["low"] <= content["cells"]["accuracy"]["value"]
    assert content["subjects"]["n"] == 120


def test_evaluate_takes_anybodys_table_and_says_where_subjects_are_missing(tmp_path, capsys):
    cells(10).drop(columns="subject").to_csv(tmp_path / "table.csv", index=False)
    assert leukemia("evaluate", tmp_path / "table.csv") == 0
    assert "too narrow" in capsys.readouterr().out


def test_evaluate_compares_two_tables_of_the_same_cells(tmp_path, capsys):
    cells(10).to_csv(tmp_path / "one.csv", index=False)
    cells(10, seed=1).to_csv(tmp_path / "two.csv", index=False)
    assert leukemia("evaluate", tmp_path / "one.csv", "--against", tmp_path / "two.csv", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert found["accuracy"]["low"] <= found["accuracy"]["difference"] <= found["accuracy"]["high"]
