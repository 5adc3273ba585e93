"""One run: the same settings give the same numbers, a killed run ends as an undisturbed one, frozen is frozen."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from threading import current_thread

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from leukemia.config import compose
from leukemia.errors import InputError
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.models.checkpoint import load_classifier
from leukemia.models.classifier import CellClassifier
from leukemia.models.freezing import stage_names
from leukemia.models.metrics import EpochMetrics
from leukemia.models.resnet import resnet
from leukemia.runs import Run
from leukemia.storage.contents import file_hash
from leukemia.training.run import train


def state(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same_run(one: Run, other: Run) -> None:
    for name, tensor in state(one.last_checkpoint).items():
        assert torch.equal(tensor, state(other.last_checkpoint)[name]), name
    pd.testing.assert_frame_equal(one.history, other.history)
    pd.testing.assert_frame_equal(one.predictions, other.predictions)
    assert one.metrics == other.metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory, demo_root) -> Run:
    """Four epochs with shuffling, full augmentation, a schedule and a thaw: all that could differ on resume."""
    return train(compose(everything_on(demo_root)), tmp_path_factory.mktemp("runs") / "whole")


def everything_on(demo_root) -> list[str]:
    return [
        f"data.root={demo_root}",
        "data.augment=full",
        "data.image_size=32",
        "data.batch_size=16",
        "data.protocol=holdout",
        "model.net.weights=none",
        "model.trainable_from=layer4",
        "model.unfreeze={3: layer3}",
        "model/scheduler=cosine",
        "model.scheduler.warmup_epochs=1",
        "model/optimizer=adamw",
        "model.optimizer.weight_decay=0.01",
        "model.class_weights=balanced",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=4",
    ]


def test_a_run_folder_holds_what_the_design_promises(finished):
    for name in ("config.yaml", "cells.csv", "history.csv", "predictions.csv", "metrics.json", "status.json"):
        assert (finished.folder / name).is_file()
    assert finished.best_checkpoint.is_file()
    assert finished.last_checkpoint.is_file()
    assert list(finished.folder.glob("events.out.tfevents.*"))
    assert finished.status["status"] == "done"
    assert finished.history["epoch"].tolist() == [1, 2, 3, 4]
    assert list(finished.cells.columns) == ["path", "subject", "group", "label", "split", "pixel_hash"]
    assert finished.predictions["split"].unique().tolist() == ["test"]
    assert finished.metrics["epoch_chosen_here"] is False
    assert finished.metrics["leaks"] == 0


def test_metrics_are_those_of_the_predictions_by_another_library(finished):
    table, metrics = finished.predictions, finished.metrics
    decided = (table["logit"] >= 0).astype(int)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(table["label"], decided))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(table["label"], decided))
    assert metrics["f1_weighted"] == pytest.approx(f1_score(table["label"], decided, average="weighted"))
    assert metrics["auroc"] == pytest.approx(roc_auc_score(table["label"], table["logit"]))
    assert metrics["loss"] == pytest.approx(log_loss(table["label"], table["probability"]), rel=1e-6)
    assert metrics["n_images"] == len(table)
    assert metrics["n_subjects"] == table["subject"].nunique()


def test_the_logged_curve_at_the_best_epoch_is_what_metrics_says(small, tmp_path):
    run = train(compose([*small, "trainer.max_epochs=3"]), tmp_path / "run")
    metrics = run.metrics
    assert metrics["split"] == "val"
    assert metrics["epoch_chosen_here"] is True
    best = run.history.set_index("epoch").loc[metrics["best_epoch"]]
    assert best["val/loss"] == run.history["val/loss"].min()
    for name in (
        "accuracy",
        "balanced_accuracy",
        "f1_weighted",
        "auroc",
        "sensitivity",
        "specificity",
        "loss",
    ):
        assert best[f"val/{name}"] == pytest.approx(metrics[name], abs=1e-5), name
    assert metrics["train_val_gap"] == pytest.approx(
        metrics["train_accuracy"] - metrics["accuracy"], abs=1e-6
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_does_not(finished, demo_root, tmp_path):
    again = train(compose(everything_on(demo_root)), tmp_path / "again")
    assert_same_run(finished, again)
    other = train(compose([*everything_on(demo_root), "seed=1", "trainer.max_epochs=1"]), tmp_path / "other")
    assert not np.allclose(other.history["train/loss"][0], finished.history["train/loss"][0])


@pytest.mark.parametrize("epoch", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_run_continues_to_the_bit(finished, demo_root, tmp_path, epoch):
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from leukemia import CellClassifier, compose\nfrom leukemia.training.run import train\n"
        "step = CellClassifier.training_step\n"
        "def dying(self, batch, number):\n"
        "    if self.current_epoch + 1 == int(sys.argv[1]) and number == 2: os.kill(os.getpid(), 9)\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = dying\n"
        "train(compose(sys.argv[3:]), Path(sys.argv[2]))\n"
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", script, str(epoch), str(folder), *everything_on(demo_root)]
    killed = subprocess.run(command, env=dict(os.environ), capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert Run(folder).status["status"] == "running"
    assert len(Run(folder).history) == epoch - 1
    assert_same_run(finished, train(compose(everything_on(demo_root)), folder))


@pytest.mark.slow
def test_a_run_killed_after_its_last_epoch_only_predicts(finished, demo_root, tmp_path, monkeypatch):
    folder = tmp_path / "late"
    monkeypatch.setattr("leukemia.training.run.write_final_metrics", lambda *arguments: sys.exit(143))
    with pytest.raises(SystemExit):
        train(compose(everything_on(demo_root)), folder)
    assert Run(folder).status["status"] == "interrupted"
    monkeypatch.undo()
    monkeypatch.setattr(CellClassifier, "training_step", lambda *arguments: pytest.fail("trained again"))
    monkeypatch.setenv("LEUKEMIA_CACHE", os.environ["LEUKEMIA_CACHE"])
    assert_same_run(finished, train(compose(everything_on(demo_root)), folder))


@pytest.mark.parametrize("stage", ["stem", "layer1", "layer3", "layer4", "head"])
def test_training_under_lightning_leaves_frozen_stages_bit_identical(small, tmp_path, stage):
    settings = [*small, f"model.trainable_from={stage}", "trainer.max_epochs=1", "data.augment=d4"]
    run = train(compose(settings), tmp_path / "run")
    from pytorch_lightning import seed_everything

    seed_everything(0, verbose=False)
    fresh = resnet(18, weights="none")
    trained = state(run.last_checkpoint)
    frozen = stage_names(fresh)[: stage_names(fresh).index(stage)]
    for name, tensor in fresh.state_dict().items():
        if name.split(".")[1] in frozen:
            assert torch.equal(tensor, trained[f"net.{name}"]), name
    head = "stages.head.weight"
    assert not torch.equal(fresh.state_dict()[head], trained[f"net.{head}"])


def test_a_checkpoint_loads_without_hydra_and_without_code(finished):
    content = torch.load(finished.best_checkpoint, weights_only=True)
    assert content["hyper_parameters"]["unfreeze"] == {3: "layer3"}
    assert content["hyper_parameters"]["classes"] == ["HEM", "ALL"]
    assert content["network"] == {
        "node": {"_target_": "leukemia.models.resnet.resnet", "name": "resnet18", "weights": "none"},
        "native_size": 450,
    }
    assert not any("pos_weight" in name for name in content["state_dict"])  # of the balanced criterion
    model = load_classifier(finished.best_checkpoint)
    assert model.history[-1]["epoch"] == finished.metrics["best_epoch"]


def test_a_run_moved_between_start_and_resume_keeps_its_best_epoch(small, tmp_path, monkeypatch):
    """The first epoch is made the best; after the move no later one may take its place."""
    losses = iter([0.1, 0.5, 0.6, 0.4])
    finish = EpochMetrics.finish

    def scripted(self, criterion):
        values, confusion = finish(self, criterion)
        if not self.training:
            values["loss"] = next(losses)
        return values, confusion

    monkeypatch.setattr(EpochMetrics, "finish", scripted)
    monkeypatch.setattr(
        CellClassifier, "on_validation_epoch_start", lambda self: self.val_metrics.eval(), raising=False
    )
    step = CellClassifier.training_step

    def cut(self, batch, number):
        if self.current_epoch == 2 and "before" in self.trainer.default_root_dir:
            raise KeyboardInterrupt
        return step(self, batch, number)

    monkeypatch.setattr(CellClassifier, "training_step", cut)
    settings = [*small, "model.trainable_from=head", "trainer.max_epochs=4"]
    with pytest.raises(SystemExit):
        train(compose(settings), tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    assert train(compose(settings), tmp_path / "after").metrics["best_epoch"] == 1


@pytest.mark.slow
def test_where_the_last_checkpoint_is_damaged_the_best_one_ends_in_the_same_metrics(
    small, tmp_path, monkeypatch, caplog
):
    """The first epoch is made the best, so that there is something to compute again."""
    settings = [*small, "trainer.max_epochs=3", "model/scheduler=cosine", "data.augment=full"]
    finish = EpochMetrics.finish

    def first_is_best(self, criterion):
        values, confusion = finish(self, criterion)
        if len(seen) % 2:  # validation comes before training's end
            values["loss"] = values["loss"] + len(seen)
        seen.append(values)
        return values, confusion

    with monkeypatch.context() as patch:
        patch.setattr(EpochMetrics, "finish", first_is_best)
        seen = [None]
        whole = train(compose(settings), tmp_path / "whole")
        patch.setattr("leukemia.training.run.write_final_metrics", lambda *arguments: sys.exit(143))
        seen = [None]
        with pytest.raises(SystemExit):
            train(compose(settings), tmp_path / "run")
        last = Run(tmp_path / "run").last_checkpoint
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 16
        last.write_bytes(content)
        patch.undo()
        patch.setattr(EpochMetrics, "finish", first_is_best)
        seen = [None] * 3
        run = train(compose(settings), tmp_path / "run")
    assert whole.metrics["best_epoch"] == 1
    assert "last.ckpt cannot be read (it is damaged" in caplog.text
    assert "goes on from best.ckpt, after epoch 1" in caplog.text
    assert_same_run(run, whole)


def test_where_both_checkpoints_are_damaged_the_run_is_refused_with_the_remedy(small, tmp_path, monkeypatch):
    settings = [*small, "model.trainable_from=head"]
    monkeypatch.setattr("leukemia.training.run.write_final_metrics", lambda *arguments: sys.exit(143))
    with pytest.raises(SystemExit):
        train(compose(settings), tmp_path / "run")
    run = Run(tmp_path / "run")
    run.best_checkpoint.write_bytes(run.best_checkpoint.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"best\.ckpt cannot be read .*resume=restart"):
        train(compose(settings), tmp_path / "run")  # the metrics would be of that one
    run.last_checkpoint.write_bytes(run.last_checkpoint.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"best\.ckpt cannot be read .*resume=restart"):
        train(compose(settings), tmp_path / "run")


def test_on_a_processor_nothing_is_compiled_and_the_run_says_so(small, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(CellClassifier, "compile_parts", lambda self: pytest.fail("compiled"))
    settings = [*small, "compile=true", "trainer.max_epochs=1", "model.trainable_from=head"]
    assert train(compose(settings), tmp_path / "run").status["status"] == "done"
    assert "compile=true: left out" in caplog.text


def test_two_processes_never_train_in_one_folder(small, tmp_path):
    with FileLock(tmp_path / ".run.lock"), pytest.raises(InputError, match="in the hands of another process"):
        train(compose(small), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_optimizer_holds_from_the_start_what_a_schedule_will_thaw(finished):
    groups = torch.load(finished.last_checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {group["name"].removesuffix("-no_decay") for group in groups} == {"layer3", "layer4", "head"}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["trainer.limit_val_batches=0"], "Early stopping conditioned on metric `val/loss`"),
        (["callbacks.best.monitor=val/los"], "monitor='val/los'"),
    ],
)
def test_a_metric_that_is_not_logged_is_refused_in_one_line(small, tmp_path, overrides, named):
    with pytest.raises(InputError, match="cannot work as it is set: .*" + named):
        train(compose([*small, *overrides]), tmp_path / "run")


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_the_rate(small, tmp_path):
    with pytest.raises(InputError, match=r"not finite at step \d+ \(epoch 1, learning rate 1e\+31\)"):
        # the head's rate: model.head_lr_factor is 10
        train(compose([*small, "model.optimizer.lr=1e30", "model.trainable_from=stem"]), tmp_path / "run")
    assert Run(tmp_path / "run").status["status"] == "failed"
    assert "not finite" in Run(tmp_path / "run").status["error"]


def test_a_finished_run_is_refused_or_skipped_but_never_overwritten(small, tmp_path):
    settings = [*small, "trainer.max_epochs=1", "model.trainable_from=head"]
    run = train(compose(settings), tmp_path / "run")
    before = run.last_checkpoint.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"finished.*resume=restart"):
        train(compose(settings), tmp_path / "run")
    train(compose(settings), tmp_path / "run", skip_done=True)
    assert run.last_checkpoint.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        train(compose([*settings, "seed=1"]), tmp_path / "run")


def test_a_finished_run_that_lost_results_is_repaired_from_its_best_checkpoint(
    finished, demo_root, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    names = ("history.csv", "predictions.csv", "baseline.csv", "gate.json", "gate.npz", "metrics.json")
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    for name in names:
        (folder / name).unlink()
    (folder / "triage.json").write_text("a later command wrote this")
    monkeypatch.setattr(CellClassifier, "training_step", lambda *arguments: pytest.fail("trained again"))
    assert train(compose(everything_on(demo_root)), folder).status["status"] == "done"
    for name in names:
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    assert (folder / "triage.json").read_text() == "a later command wrote this"
    assert f"lacks {', '.join(names)}" in caplog.text


def test_a_finished_run_without_results_and_best_checkpoint_is_refused_and_stays(
    finished, demo_root, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "metrics.json").unlink()
    Run(folder).best_checkpoint.unlink()
    with pytest.raises(InputError, match=r"best\.ckpt cannot be read .*resume=restart"):
        train(compose(everything_on(demo_root)), folder)
    assert Run(folder).status == finished.status


def test_where_the_last_checkpoint_is_missing_the_best_one_ends_in_the_same_metrics(
    finished, demo_root, tmp_path, caplog
):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = Run(folder)
    run.last_checkpoint.unlink()
    run.write_json("status.json", {**run.status, "status": "running"})
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        train(compose([*everything_on(demo_root), "seed=1"]), folder)
    run = train(compose(everything_on(demo_root)), folder)
    assert f"goes on from best.ckpt, after epoch {finished.metrics['best_epoch']}" in caplog.text
    pd.testing.assert_frame_equal(run.history, finished.history)
    pd.testing.assert_frame_equal(run.predictions, finished.predictions)
    assert run.metrics == finished.metrics
    assert len(run.status["sessions"]) == 2


def test_changed_weights_under_the_same_path_make_another_run(small, tmp_path):
    weights = tmp_path / "weights.pth"
    settings = [*small, f"model.net.weights={weights}", "trainer.max_epochs=1", "model.trainable_from=head"]
    torch.manual_seed(1)
    torch.save(resnet(18, weights="none").state_dict(), weights)
    run = train(compose(settings), tmp_path / "run")
    assert run.config["files"] == {"model.net.weights": file_hash(weights)}
    shutil.copy(weights, tmp_path / "copy.pth")
    shutil.move(tmp_path / "copy.pth", weights)  # the same content in another file
    assert train(compose(settings), tmp_path / "run", skip_done=True).status == run.status
    torch.save(resnet(18, weights="none").state_dict(), weights)
    with pytest.raises(InputError, match=r"files\.model\.net\.weights is \w{32} there and \w{32} here"):
        train(compose(settings), tmp_path / "run", skip_done=True)


@pytest.mark.slow
def test_bf16_learns_as_fp32_does(small, tmp_path):
    losses = {
        precision: train(compose([*small, f"trainer.precision={precision}"]), tmp_path / precision).history[
            "train/loss"
        ]
        for precision in ("32-true", "bf16-mixed")
    }
    np.testing.assert_allclose(losses["32-true"], losses["bf16-mixed"], atol=0.05)


def test_tensorboard_shows_curves_rates_norms_pictures_and_the_settings_of_the_run(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.folder))
    events.Reload()
    tags = events.Tags()
    scalars = set(tags["scalars"])
    assert {"train/loss", "val/loss", "val/auroc", "train/grad_norm", "final/accuracy"} <= scalars
    assert any(tag.startswith("lr-") and "layer3" in tag for tag in scalars)
    assert {"train/batch", "val/confusion"} <= set(tags["images"])
    assert len(events.Images("val/confusion")) == 4
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert {"network", "trainable_from"} == set(_hparams(finished)[:2])


def _hparams(run: Run) -> list[str]:
    return [line.partition(":")[0] for line in (run.folder / "hparams.yaml").read_text().splitlines()]


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_cell_has_the_same_logit_in_training_and_in_prediction_with_either_engine(small, tmp_path, engine):
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    settings = ["model.trainable_from=head", f"model.engine={engine}", "trainer.precision=bf16-mixed"]
    run = train(compose([*small, *settings, "trainer.max_epochs=1"]), tmp_path / engine)
    predictor = TorchPredictor(run)
    paths = [run.data.root / path for path in run.predictions["path"]]
    logits = predictor.logits(np.stack([predictor.pixels(path) for path in paths]))
    np.testing.assert_allclose(logits, run.predictions["logit"], atol=1e-4)
    name = f"{engine} {version(engine)}"
    assert run.embedding["engine"] == run.status["sessions"][0]["engine"] == name
    assert run.engine == engine


@pytest.mark.slow
def test_a_feature_pass_on_two_threads_that_was_cut_off_is_computed_again_to_the_bit(
    small, tmp_path, monkeypatch, threads
):
    threads(2)
    settings = [*small, "model.trainable_from=head", "trainer.max_epochs=1", "logger=none"]
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "one"))
    whole = train(compose(settings), tmp_path / "whole")
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "two"))
    prefix, seen = CellClassifier.prefix, []

    def cut_off(self, pixels):
        seen.append(current_thread().name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return prefix(self, pixels)

    monkeypatch.setattr(CellClassifier, "prefix", cut_off)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(compose(settings), tmp_path / "run")
    monkeypatch.setattr(CellClassifier, "prefix", prefix)
    assert len({name for name in seen if name.startswith("leukemia")}) == 2
    assert not list((tmp_path / "two").glob("features-*"))
    assert_same_run(train(compose(settings), tmp_path / "run"), whole)
