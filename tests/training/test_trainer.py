"""Callbacks and the trainer of a run: each can be left out or replaced, and refusals come before a picture is read."""

import logging

import pandas as pd
import pytest
import torch

from leukemia.config import compose
from leukemia.errors import InputError
from leukemia.models.checkpoint import read_checkpoint
from leukemia.runs import Run
from leukemia.training.run import train


@pytest.fixture
def head(small) -> list[str]:
    """A head on cached features: two epochs in a second."""
    return [*small, "model.trainable_from=head"]


def test_without_best_the_last_epoch_is_scored_and_kept_as_best(head, tmp_path):
    run = train(compose([*head, "callbacks.best=null"]), tmp_path / "run")
    assert run.metrics["best_epoch"] == 2
    best, last = read_checkpoint(run.best_checkpoint), read_checkpoint(run.last_checkpoint)
    assert len(best["history"]) == 2
    for name, tensor in last["state_dict"].items():
        assert torch.equal(tensor, best["state_dict"][name]), name


def test_without_last_a_run_says_that_it_cannot_be_resumed(head, tmp_path, caplog):
    run = train(compose([*head, "callbacks.last=null"]), tmp_path / "run")
    assert "this run cannot be resumed" in caplog.text
    assert not run.last_checkpoint.exists()
    assert run.status["status"] == "done"


@pytest.mark.parametrize(
    "off", ["callbacks=none", "~callbacks.early_stopping", "callbacks.early_stopping=null"]
)
def test_early_stopping_and_all_callbacks_can_be_left_out(head, tmp_path, off):
    run = train(compose([*head, off, "trainer.max_epochs=8", "model.optimizer.lr=1e-9"]), tmp_path / "run")
    assert len(run.history) == 8  # nothing gets better, and nothing stops it
    assert run.status["status"] == "done"


def test_the_monitored_metric_is_one_setting(head, tmp_path):
    run = train(compose([*head, "monitor=val/auroc", "trainer.max_epochs=4"]), tmp_path / "run")
    best = run.history.loc[run.history["val/auroc"].idxmax(), "epoch"]
    assert run.metrics["best_epoch"] == best


def test_fast_dev_run_writes_no_run_and_says_so(head, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(compose([*head, "debug=fast"]), tmp_path / "run")
    assert "no run is written" in caplog.text
    assert not (tmp_path / "run").exists()


def test_a_sweep_of_fast_dev_runs_is_refused(leukemia_train, head, tmp_path):
    code, _, said = leukemia_train("-m", *head, "debug=fast", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert code == 2
    assert "fast_dev_run (as debug=fast) writes no run, and a sweep reports runs: leave out -m" in said
    assert not (tmp_path / "sweep").exists()


def test_overfit_learns_the_same_two_batches_each_epoch(small, tmp_path):
    settings = [
        *small,
        "debug=overfit",
        "model.trainable_from=stem",
        "trainer.max_epochs=6",
        "model.optimizer.lr=1e-3",
    ]
    run = train(compose(settings), tmp_path / "run")
    assert run.history["train/loss"].iloc[-1] < 0.5 * run.history["train/loss"].iloc[0]


def test_a_profile_is_shown(head, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(compose([*head, "debug=profile", "trainer.max_epochs=1"]), tmp_path / "run")
    assert "run_training_epoch" in caplog.text


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "+callbacks.swa={_target_:pytorch_lightning.callbacks.StochasticWeightAveraging,swa_lrs:1e-2}",
            "not validated",
        ),
        ("trainer.enable_checkpointing=false", "callbacks.best=null"),
        ("trainer.precision=64-true", "bf16-mixed"),
        ("trainer.gradient_clip_algorithm=some", "refuses its settings"),
        ("callbacks.early_stopping.mode=up", "mode"),
        ("model.optimizer.lr=-1", "model.optimizer.lr"),
        ("trainer.num_nodes=2", "torchrun or srun"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_a_picture_is_read(
    head, tmp_path, monkeypatch, override, named
):
    monkeypatch.setattr(
        "leukemia.data.datamodule.load_pixels", lambda *_, **__: pytest.fail("pictures were read")
    )
    with pytest.raises(InputError, match=named):
        train(compose([*head, "data.protocol=holdout", override]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_clipping_and_accumulation_are_the_trainers(head, tmp_path):
    one = train(compose([*head, "trainer.accumulate_grad_batches=2"]), tmp_path / "one")
    two = train(compose([*head, "data.batch_size=32"]), tmp_path / "two")
    assert one.config["trainer"]["accumulate_grad_batches"] == 2
    assert len(one.history) == len(two.history) == 2
    clipped = train(
        compose([*head, "trainer.gradient_clip_val=1e-12", "model/optimizer=sgd"]), tmp_path / "clipped"
    )
    assert clipped.history["train/loss"].diff().abs().iloc[-1] < 0.05


def test_a_longer_run_equals_an_extended_one(head, tmp_path):
    train(compose([*head, "trainer.max_epochs=2"]), tmp_path / "run")
    extended = train(compose([*head, "trainer.max_epochs=4", "resume=extend"]), tmp_path / "run")
    whole = train(compose([*head, "trainer.max_epochs=4"]), tmp_path / "whole")
    pd.testing.assert_frame_equal(extended.history, whole.history)
    pd.testing.assert_frame_equal(extended.predictions, whole.predictions)
    assert extended.config["trainer"]["max_epochs"] == 4
    with pytest.raises(InputError, match=r"resume=extend needs a larger trainer\.max_epochs"):
        train(compose([*head, "trainer.max_epochs=4", "resume=extend"]), tmp_path / "run")


def test_an_extended_run_says_where_it_differs_from_a_longer_one(head, tmp_path, caplog):
    settings = [*head, "model/scheduler=cosine"]
    train(compose(settings), tmp_path / "run")
    train(compose([*settings, "trainer.max_epochs=3", "resume=extend"]), tmp_path / "run")
    assert "depends on trainer.max_epochs" in caplog.text


def test_a_run_that_stopped_early_is_not_extended(head, tmp_path):
    stops = [*head, "model.optimizer.lr=1e-15", "callbacks.early_stopping.patience=1", "trainer.max_epochs=6"]
    run = train(compose(stops), tmp_path / "run")
    assert len(run.history) < 6
    with pytest.raises(InputError, match="stopped early after epoch"):
        train(compose([*stops, "trainer.max_epochs=9", "resume=extend"]), tmp_path / "run")
    assert Run(run.folder).status["status"] == "done"


def test_lightnings_own_csv_logger_does_not_fail_a_run(head, tmp_path):
    own = "+logger.mine._target_=pytorch_lightning.loggers.CSVLogger"
    run = train(compose([*head, "logger=none", own]), tmp_path / "run")
    assert run.status["status"] == "done"
    assert list(run.folder.rglob("metrics.csv"))
