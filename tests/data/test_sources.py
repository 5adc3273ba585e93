"""Training on stored activations is training on pixels; whoever they do not belong to does not get them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from leukemia import predict_logits
from leukemia.config import build, compose
from leukemia.data.datamodule import CellDataModule
from leukemia.data.feature_cache import FrozenFeatures
from leukemia.models.checkpoint import load_classifier
from leukemia.models.classifier import CellClassifier
from leukemia.runs import Run
from leukemia.storage.cache import cache_dir
from leukemia.training.run import train


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))


def both_ways(settings, folder):
    return [
        train(compose([*settings, f"data.cache_features={switch}"]), folder / switch)
        for switch in ("auto", "off")
    ]


@pytest.mark.parametrize(
    "settings",
    [
        ["model.trainable_from=head"],
        ["model.trainable_from=head", "trainer.precision=bf16-mixed"],
        ["model.trainable_from=layer4", "data.protocol=holdout"],
        ["model.trainable_from=layer4", "data.augment=d4", "data.protocol=subject_kfold"],
        ["model.trainable_from=layer3", "data.augment=d4", "trainer.precision=bf16-mixed"],
    ],
    ids=" ".join,
)
def test_a_run_on_stored_activations_gives_the_figures_of_a_run_on_pixels(small, tmp_path, settings):
    stored, direct = both_ways([*small, *settings], tmp_path)
    assert list(cache_dir().glob("features-*"))
    assert stored.config["data"]["features"] == "auto"
    # Rounding to half precision grows through Adam's first steps, which look at a gradient's sign only.
    columns = ["train/loss", "val/loss"]
    np.testing.assert_allclose(stored.history[columns], direct.history[columns], rtol=0.02, atol=0.005)
    pd.testing.assert_frame_equal(
        stored.predictions.drop(columns=["logit", "probability"]),
        direct.predictions.drop(columns=["logit", "probability"]),
    )
    np.testing.assert_allclose(stored.predictions["logit"], direct.predictions["logit"], atol=0.05)
    again = load_classifier(stored.best_checkpoint)  # holds the whole network
    data = build(compose([*small, *settings]).data, seed=0)
    data.setup()
    precision = stored.config["trainer"]["precision"]
    logits = predict_logits(again, data.batches(data.reported_split), precision=precision)
    np.testing.assert_allclose(logits, stored.predictions["logit"], atol=0.01)


def test_no_picture_goes_through_the_frozen_stages_twice(small, tmp_path, monkeypatch):
    settings = [*small, "model.trainable_from=head", "data.augment=d4"]
    passes = []
    activations = FrozenFeatures._activations

    def counted(self, images, number):
        passes.append((len(images), number))
        return activations(self, images, number)

    monkeypatch.setattr(FrozenFeatures, "_activations", counted)
    monkeypatch.setattr(CellClassifier, "forward", lambda *arguments: pytest.fail("the whole network ran"))
    run = train(compose([*settings, "trainer.max_epochs=3"]), tmp_path / "run")
    splits = run.cells["split"].value_counts()
    seen = sum(count for count, _ in passes if count > 1)  # single cells are asked for their shape
    assert seen == 8 * splits["train"] + splits["val"]
    passes.clear()
    train(compose([*settings, "trainer.max_epochs=3", "model.optimizer.lr=1e-2"]), tmp_path / "again")
    assert not [count for count, _ in passes if count > 1]


def test_of_two_runs_at_once_one_computes_and_the_other_waits(small, tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from leukemia import compose\nfrom leukemia.train import train\n"
        "from leukemia.data.feature_cache import FrozenFeatures\n"
        "compute = FrozenFeatures._compute\n"
        "def slow(self, part, folder):\n"
        "    print(len(part[0]), file=open(sys.argv[1], 'a'))\n"
        "    time.sleep(3)\n"
        "    compute(self, part, folder)\n"
        "FrozenFeatures._compute = slow\n"
        "train(compose(sys.argv[3:]), Path(sys.argv[2]))\n"
    )
    computed = tmp_path / "computed"
    runs = [
        subprocess.Popen([sys.executable, "-c", script, computed, tmp_path / str(number), *small])
        for number in range(2)
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    first, second = (Run(tmp_path / str(number)) for number in range(2))
    splits = first.cells["split"].value_counts()
    assert sorted(map(int, computed.read_text().split())) == sorted([splits["train"], splits["val"]])
    pd.testing.assert_frame_equal(first.predictions, second.predictions)


def test_where_they_cannot_be_used_the_run_says_why_and_remembers(leukemia_train, small, tmp_path):
    folder = tmp_path / "run"
    command = [*small, "trainer.max_epochs=1", "cache.max_gb=1e-6", f"hydra.run.dir={folder}"]
    code, out, err = leukemia_train(*command)
    assert code == 0, err
    assert out.count("data.cache_features=auto: off, because") == 1
    assert "exceed cache.max_gb=1e-06" in out
    assert "  features: 'off'" in (folder / "config.yaml").read_text()


def test_a_grid_over_boundaries_differs_in_the_boundary_only(leukemia_train, small, tmp_path):
    """What follows from the settings is no setting of its own: stem trains on pixels, head on activations."""
    folder = tmp_path / "grid"
    sweep = [*small, "trainer.max_epochs=1", "model.trainable_from=head,stem", f"hydra.sweep.dir={folder}"]
    code, out, err = leukemia_train("-m", *sweep)
    assert code == 0, err
    assert "data.cache_features=auto: on" in out
    assert "with model.trainable_from=stem no stage is frozen" in out
    assert "features" not in "".join(pd.read_csv(folder / "results.csv").columns)


def test_a_disk_that_fills_up_meanwhile_is_said_and_the_run_goes_on(
    leukemia_train, small, tmp_path, monkeypatch
):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FrozenFeatures, "_compute", full)
    command = [*small, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"]
    code, out, err = leukemia_train(*command)
    assert code == 0, err
    assert "off from here on, because cannot write the cache" in out
    assert (tmp_path / "run" / "metrics.json").is_file()


def fitted(data, seed):
    torch.manual_seed(seed)
    model = CellClassifier(trainable_from="head", weights="none")
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **dict.fromkeys(off, False))
    trainer.fit(model, datamodule=data)
    return model


def test_a_notebook_trains_on_them_and_another_network_never_gets_them(demo_root):
    data = CellDataModule(str(demo_root), image_size=32, batch_size=16)
    first = fitted(data, seed=0)
    assert data.batches("val", net=first.net).stored.name == "features"
    assert data.batches("val").stored.name == "pixels"
    on_features = predict_logits(first, data.batches("val", net=first.net))
    np.testing.assert_allclose(on_features, predict_logits(first, data.batches("val")), atol=2e-3)
    other = CellClassifier(trainable_from="head", weights="none")
    assert data.batches("val", net=other.net).stored.name == "pixels"
    second = fitted(data, seed=1)
    assert data.batches("val", net=second.net).stored.name == "features"
    assert data.batches("val", net=first.net).stored.name == "pixels"
    np.testing.assert_allclose(
        predict_logits(second, data.batches("val", net=second.net)),
        predict_logits(second, data.batches("val")),
        atol=2e-3,
    )


def test_resident_and_features_take_two_words(demo_root):
    for key in ("features", "resident"):
        with pytest.raises(ValueError, match=f"data.{key}=on is unknown: use one of auto, off"):
            CellDataModule(str(demo_root), **{key: "on"})
