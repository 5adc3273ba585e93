"""Experiments as they are run: each keeps its promise about its splits, and a sweep ends in its reports."""

import json

import pandas as pd
import pytest

from leukemia.runs import Run

pytestmark = pytest.mark.slow


def test_cv_tests_every_training_cell_once_and_ends_in_metrics_triage_and_report(
    leukemia_train, small, tmp_path
):
    folder = tmp_path / "cv"
    code, out, err = leukemia_train(
        "-m",
        "experiment=cv",
        *small,
        "model.trainable_from=head",
        "trainer.max_epochs=1",
        f"hydra.sweep.dir={folder}",
    )
    assert code == 0, err
    runs = [Run(path.parent) for path in folder.glob("*/status.json")]
    assert len(runs) == 5
    tested = pd.concat([run.predictions for run in runs])
    training = runs[0].cells
    assert sorted(tested["path"]) == sorted(training["path"])
    assert not set.intersection(*(set(run.predictions["subject"]) for run in runs))
    assert "bootstrap of" in out
    policy = json.loads((folder / "triage.json").read_text())
    assert policy["certified"] is False
    assert "several models" in policy["why_not"]
    assert set(policy["calibration"]) == {"slope", "intercept"}
    assert 'id="triage-1"' in (folder / "report.html").read_text()


def test_backbones_ends_in_one_ranking_with_the_features_of_each_network_computed_once(
    leukemia_train, small, tmp_path
):
    folder = tmp_path / "backbones"
    code, out, err = leukemia_train(
        "-m",
        "experiment=backbones",
        *[setting for setting in small if not setting.startswith("model.net.depth")],
        "model/net=resnet18,efficientnet_b1",
        "model.trainable_from=head",
        "data.train_subjects=2,null",
        "data.num_folds=3",
        "data.fold=0,1,2",
        "trainer.max_epochs=1",
        f"hydra.sweep.dir={folder}",
    )
    assert code == 0, err
    assert "ranked by accuracy" in out
    assert "efficientnet_b1 from head" in out
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == 12
    assert len(results[["network", "embed_seconds"]].drop_duplicates()) == 2  # a pass each
    assert set(results["norm"]) == {"batch"}
    table = (folder / "results.md").read_text()
    assert "Accuracy % of 2 subjects" in table
    assert "handcrafted" in table


def test_challenge_chooses_the_epoch_on_training_groups_and_reports_prelim_with_d4(
    leukemia_train, small, tmp_path
):
    folder = tmp_path / "run"
    code, _, err = leukemia_train(
        "experiment=challenge",
        *small,
        "trainer.max_epochs=1",
        "data.batch_size=16",
        f"hydra.run.dir={folder}",
    )
    assert code == 0, err
    run = Run(folder)
    splits = run.cells.groupby("split")["path"].agg(
        lambda paths: {"validation_data" in path for path in paths}
    )
    assert splits.to_dict() == {"train": {False}, "val": {False}, "test": {True}}
    assert run.metrics["split"] == "test"
    assert run.metrics["epoch_chosen_here"] is False
    assert run.config["data"]["tta"] == "d4"
