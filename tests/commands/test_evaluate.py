"""From run folders to evaluation: which tables are put together, and which caveats stand beside them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from leukemia.cli import main
from leukemia.commands.evaluate import evaluated
from leukemia.errors import InputError
from leukemia.reporting.evidence import comparison, comparisons, metrics_of, setting_results
from leukemia.reporting.evidence_page import evidence
from leukemia.reporting.results import results_table
from leukemia.runs import Run, Sweep


def write_run(folder, stage, seed, fold, protocol="subject_kfold", shift=0.0):
    rng = np.random.default_rng([seed, fold, len(stage)])
    subject = np.repeat([f"{fold}-{number}" for number in range(8)], 12)
    label = np.repeat([1, 0, 1, 0, 1, 0, 1, 0], 12)
    logit = 2 * label - 1 + rng.normal(0, 1.5, 96) + shift * fold  # models of folds differ in scale
    table = pd.DataFrame({"path": [f"{fold}/{row}.bmp" for row in range(96)], "subject": subject, "split": "test",
                          "label": label, "logit": logit})  # fmt: skip
    run = Run(folder / f"{stage}-{seed}-{fold}")
    run.write_config(
        {
            "seed": seed,
            "data": {"protocol": protocol, "fold": fold},
            "model": {
                "net": {"_target_": "leukemia.models.resnet.resnet", "depth": 18},
                "trainable_from": stage,
            },
        }
    )
    run.write_json("status.json", {"status": "done"})
    run.write_json("metrics.json", {
        "accuracy": 0.5, "split": "test", "epoch_chosen_here": False, "leaks": 0, "better_than_majority": True,
        "classes": ["HEM", "ALL"], "n_images": 96,
    })  # fmt: skip
    run.write_table("predictions.csv", table)
    run.write_table(
        "cells.csv",
        table.assign(group=table["subject"], pixel_hash=table["path"])[
            ["path", "subject", "group", "label", "split", "pixel_hash"]
        ],
    )
    return table


def test_cells_without_groups_are_those_of_their_subjects(tmp_path):
    table = write_run(tmp_path, "head", 0, 0)
    run = Run(tmp_path / "head-0-0")
    run.write_table("cells.csv", run.cells.drop(columns="group"))
    (model,) = setting_results(tmp_path)
    assert model.replicates[0]["subject"].equals(table["subject"])


def test_folds_pool_their_metrics_at_a_threshold_and_average_auroc_within(tmp_path):
    tables = {
        (seed, fold): write_run(tmp_path, "head", seed, fold, shift=3)
        for seed in (0, 1)
        for fold in (0, 1, 2)
    }
    (model,) = setting_results(tmp_path)
    assert model.pooled
    assert len(model.replicates) == 2
    found = metrics_of(model)
    accuracies, areas = [], []
    for seed in (0, 1):
        pooled = pd.concat([tables[seed, fold] for fold in (0, 1, 2)])
        accuracies.append(((pooled["logit"] >= 0) == pooled["label"]).mean())
        areas.append(
            np.mean([roc_auc_score(tables[seed, k]["label"], tables[seed, k]["logit"]) for k in (0, 1, 2)])
        )
        assert (
            abs(roc_auc_score(pooled["label"], pooled["logit"]) - areas[-1]) > 0.02
        )  # pooling would tell another
    accuracy, area = found["cells"]["accuracy"], found["cells"]["auroc"]
    assert accuracy["value"] == pytest.approx(np.mean(accuracies))
    assert accuracy["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (accuracy["lowest"], accuracy["highest"]) == (min(accuracies), max(accuracies))
    assert area["value"] == pytest.approx(np.mean(areas))
    assert (found["n_images"], found["n_subjects"], found["unit"]) == (288, 24, "subject")


def test_settings_of_a_sweep_are_compared_on_the_same_cells(tmp_path):
    a = pd.concat([write_run(tmp_path, "head", 0, fold) for fold in (0, 1)])
    b = pd.concat([write_run(tmp_path, "layer4", 0, fold) for fold in (0, 1)])
    (found,) = comparisons(setting_results(tmp_path))
    means = [((table["logit"] >= 0) == table["label"]).mean() for table in (a, b)]
    assert found["accuracy"]["difference"] == pytest.approx(means[1] - means[0])
    assert (found["first"], found["second"]) == ("ResNet18 from head", "ResNet18 from layer4")


def test_a_split_by_image_is_marked(tmp_path):
    for fold in (0, 1):
        write_run(tmp_path, "head", 0, fold, protocol="image")
    (model,) = setting_results(tmp_path)
    assert model.marks == ["LEAKS: split by image"]


def of_folds(tmp_path, folds, protocol="subject_kfold", num_folds=5):
    """Runs by seed and fold; with protocol=holdout each reports on the same cells."""
    for seed, fold in folds:
        write_run(tmp_path, "head", seed, fold, protocol)
        run = Run(tmp_path / f"head-{seed}-{fold}")
        config = run.config
        config["data"]["num_folds"] = num_folds
        run.write_config(config)
        if protocol == "holdout":
            run.write_table("predictions.csv", run.predictions.assign(
                path=[f"{row}.bmp" for row in range(96)], subject=run.predictions["subject"].str[2:],
            ))  # fmt: skip
            (run.folder / "cells.csv").unlink()
    (model,) = setting_results(tmp_path)
    return model


def test_folds_that_are_missing_are_said(tmp_path):
    assert of_folds(tmp_path, [(0, 0), (0, 1), (0, 2), (0, 4)]).marks == ["4 of 5 folds"]


def test_all_folds_need_no_word(tmp_path):
    assert of_folds(tmp_path, [(0, 0), (0, 1)], num_folds=2).marks == []


def test_seeds_of_different_folds_are_said(tmp_path):
    model = of_folds(tmp_path, [(0, 0), (0, 1), (1, 0)], num_folds=2)
    assert model.marks == ["seeds of different folds (seed 0: 0, 1; seed 1: 0)"]


@pytest.mark.parametrize(
    ("runs", "over"),
    [
        ([(0, 0), (0, 1)], "folds"),
        ([(0, 0), (1, 0)], "seeds"),
        ([(0, 0), (1, 0), (0, 1)], "seeds and folds"),
    ],
)
def test_what_varies_is_named(tmp_path, runs, over):
    model = of_folds(tmp_path, runs, protocol="holdout")
    assert len(model.replicates) == len(runs)
    assert metrics_of(model)["over"] == over
    assert f"over {over}: sd" in evaluated(tmp_path)
    proof = evidence(Sweep(tmp_path), results_table(Sweep(tmp_path)))
    assert proof.tables["seeds"].rows[0][1] == over
    assert any(note.startswith(f"With several {over}, ") for note in proof.notes)


def test_the_report_says_why_there_are_no_intervals(tmp_path):
    write_run(tmp_path, "head", 0, 0)
    run = Run(tmp_path / "head-0-0")
    run.write_table("predictions.csv", run.predictions.iloc[:24])
    notes = evidence(Sweep(tmp_path), results_table(Sweep(tmp_path))).notes
    assert any("no intervals, a class has fewer than two subjects to draw from" in note for note in notes)
    assert any("not recalibrated: a class of a model has fewer than two subjects" in note for note in notes)


class TestMarksOfDifferences:
    def sweep(self, tmp_path):
        """Two settings; of the second, the epoch was chosen on these cells, and a cell leaks."""
        for stage in ("head", "layer4"):
            write_run(tmp_path, stage, 0, 0, protocol="holdout")
        run = Run(tmp_path / "layer4-0-0")
        run.write_json("metrics.json", {**run.metrics, "epoch_chosen_here": True, "leaks": 1})
        return tmp_path

    MARKS = [  # noqa: RUF012
        "LEAKS: 1 of 96 cells not independent of training (ResNet18 from layer4)",
        "epoch chosen on these cells (ResNet18 from layer4)",
    ]

    def test_the_marks_of_either_stand_beside_it(self, tmp_path):
        (found,) = comparisons(setting_results(self.sweep(tmp_path)))
        assert found["marks"] == self.MARKS
        assert f"NOTE: {self.MARKS[0]}" in evaluated(tmp_path).split("minus")[-1]
        proof = evidence(Sweep(tmp_path), results_table(Sweep(tmp_path)))
        assert proof.tables["differences"].marks == [self.MARKS]

    def test_marks_of_both_are_said_once(self, tmp_path):
        models = setting_results(self.sweep(tmp_path))
        found = comparison(models[1], models[1])
        assert found["marks"] == models[1].marks

    def test_models_of_one_name_are_named_by_their_runs(self, tmp_path):
        for seed in (0, 1):
            write_run(tmp_path / str(seed), "head", seed, 0, protocol="holdout")
        first, second = (tmp_path / str(seed) / f"head-{seed}-0" for seed in (0, 1))
        assert "head-1-0 minus head-0-0, the same cells" in evaluated(first, against=second)

    def test_runs_of_one_name_are_named_by_their_folders(self, tmp_path):
        for name in ("a", "b"):
            write_run(tmp_path / name, "head", 0, 0, protocol="holdout")
        first, second = tmp_path / "a", tmp_path / "b"
        assert f"{second} minus {first}, the same cells" in evaluated(first, against=second)


def exit_code(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return ended.value.code


class TestUnreadablePredictions:
    def sweep(self, tmp_path):
        for stage in ("head", "layer4"):
            write_run(tmp_path, stage, 0, 0)
        (tmp_path / "head-0-0" / "predictions.csv").write_text("path,label,logit\na,1,none\n")
        return tmp_path

    def test_the_other_settings_are_evaluated_and_the_exit_code_is_1(self, tmp_path, capsys):
        assert exit_code(self.sweep(tmp_path)) == 1
        said = capsys.readouterr().out
        assert "ResNet18 from layer4: 96 cells" in said
        assert re.search(r"not read: ResNet18 from head: .*predictions.csv: logit 'none' in row 1", said)
        assert exit_code(tmp_path, "--json") == 1
        assert len(json.loads(capsys.readouterr().out)["problems"]) == 1

    def test_a_run_alone_is_refused(self, tmp_path):
        assert exit_code(self.sweep(tmp_path) / "head-0-0") == 2


class TestAnybodysTable:
    def model(self, tmp_path, splits, **columns):
        rows = len(splits)
        table = pd.DataFrame({"path": [f"{row}.bmp" for row in range(rows)], "label": [0, 1] * (rows // 2),
                              "logit": np.linspace(-1, 1, rows), "split": splits}).assign(**columns)  # fmt: skip
        table.to_csv(tmp_path / "table.csv", index=False)
        (model,) = setting_results(tmp_path / "table.csv")
        return model

    @pytest.mark.parametrize(
        ("splits", "kept", "marks"),
        [
            (["train", "val", "final", "val"], 2,
             ["epoch chosen on these cells", "split val only, 2 cells of final, train left out"]),
            (["train", "final"], 1, ["split final only, 1 cell of train left out"]),
            (["train", "Val "], 1,
             ["epoch chosen on these cells", "split val only, 1 cell of train left out"]),
            (["TEST", "test ", "train", "val"], 2, ["split test only, 2 cells of val, train left out"]),
            (["train", " Train"], 2, ["LEAKS: these cells trained the model"]),
            (["", ""], 2, []),
        ],
    )  # fmt: skip
    def test_held_out_cells_come_first_with_their_caveats(self, tmp_path, splits, kept, marks):
        model = self.model(tmp_path, splits)
        assert len(model.replicates[0]) == kept
        assert model.marks == marks
        assert metrics_of(model)["epoch_chosen_here"] == ("epoch chosen on these cells" in marks)

    def test_cells_without_a_split_are_not_dropped_silently(self, tmp_path):
        with pytest.raises(InputError, match=r"2 of 4 rows have no split, as row 2: name the split"):
            self.model(tmp_path, ["test", "", "test", " "])

    def test_a_column_fold_of_their_own_changes_nothing(self, tmp_path):
        plain = metrics_of(self.model(tmp_path, ["test"] * 40))
        folds = metrics_of(self.model(tmp_path, ["test"] * 40, fold=[0, 0, 1, 1] * 10))
        assert folds == plain

    def test_why_there_are_no_intervals_and_nothing_is_recalibrated_is_said(self, tmp_path):
        model = self.model(tmp_path, ["test"] * 40, subject=["a", "b"] * 20)
        assert metrics_of(model)["calibration"]["after"] is None
        said = evaluated(tmp_path / "table.csv")
        assert (
            "no intervals: a class has fewer than two subjects to draw from (0 positive, 0 negative" in said
        )
        assert "95 % intervals" not in said
        assert (
            "calibration after (cross-fitted): none: a class of a model has fewer than two subjects" in said
        )


def test_a_checkpoint_is_not_taken_for_a_table(tmp_path):
    (tmp_path / "best.ckpt").write_bytes(b"PK\x03\x04\x80")
    with pytest.raises(
        InputError, match=r"best.ckpt is not a folder: give the folder of a run or of a sweep"
    ):
        evaluated(tmp_path / "best.ckpt")


def test_the_stopped_cells_are_counted_by_reason_and_subject(tmp_path):
    table = write_run(tmp_path, "head", 0, 0)
    run = Run(tmp_path / "head-0-0")
    assert "gate: none" in evaluated(run.folder)
    by = np.where(table["subject"] == "0-3", 1.5, 0.2)
    why = np.where(by > 1, "more blurred than 99 % of the training cells", None)
    run.write_table("predictions.csv", table.assign(unlike=why, unlike_by=by))
    text = evaluated(run.folder)
    assert "gate: 12 of 96 cells are unlike the training cells" in text
    assert "12 more blurred than 99 % of the training cells" in text
    assert "of 0-3 (12 of 12)" in text
    assert json.loads(evaluated(run.folder, as_json=True))["unlike"]["stopped"] == 12
