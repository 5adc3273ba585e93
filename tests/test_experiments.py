"""Experiments as they are run: what each promises about its splits, and what its sweep ends in."""

import json

import pandas as pd
import pytest

from leukemia.config import compose
from leukemia.runs import Run

pytestmark = pytest.mark.slow


def test_cv_tests_every_training_cell_once_and_ends_in_figures_triage_and_report(
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


def test_challenge_chooses_the_epoch_on_training_groups_and_reports_prelim_in_eight_views(
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
    assert run.config["data"]["test_views"] == 8


def test_challenge_is_prellberg_and_kramers_recipe():
    config = compose(["experiment=challenge"])
    rates = dict.fromkeys(("stem", "layer1", "layer2", "layer3", "layer4", "head"), config.model.optimizer.lr)
    assert {**rates, **config.model.stage_lr} == {
        "stem": 1e-6, "layer1": 1e-6, "layer2": 1e-4, "layer3": 1e-4, "layer4": 1e-4, "head": 1e-2,
    }  # fmt: skip
    assert (
        config.model.schedule,
        list(config.model.scheduler.step_epochs),
        config.model.scheduler.step_factor,
    ) == (
        "step",
        [2, 4],
        0.1,
    )
    assert (config.data.resize, config.data.image_size, config.data.batch_size) == ("crop", 300, 16)
    assert (config.model.class_weights, config.model.trainable_from, config.trainer.max_epochs) == (
        "balanced",
        "stem",
        6,
    )
