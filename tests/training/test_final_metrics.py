"""The metrics of a run are those of its best checkpoint's tensors, on the reported split."""

import numpy as np
import pandas as pd
import pytest
import torch

from leukemia.config import compose
from leukemia.evaluation.metrics import METRICS
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.models.checkpoint import load_network
from leukemia.models.network import pixel_logits
from leukemia.runs import Run
from leukemia.training.final_metrics import logged_settings
from leukemia.training.run import train

SETTINGS = (
    "data.image_size=32", "data.batch_size=16", "data.protocol=holdout", "data.tta=d4", "model.net.weights=none",
    "model.trainable_from=head", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, demo_root) -> Run:
    return train(compose([f"data.root={demo_root}", *SETTINGS]), tmp_path_factory.mktemp("final") / "run")


def test_predictions_are_the_mean_logit_over_the_d4_transforms_of_the_best_checkpoint(run):
    from leukemia.data.pixels import decode, fit

    net, root = load_network(run.best_checkpoint).net, run.config["data"]["root"]
    for row in run.predictions.head(3).itertuples():
        image = torch.from_numpy(fit(decode(f"{root}/{row.path}"), 32, "squash", 450).copy())
        turned = [torch.rot90(image, turn, (0, 1)) for turn in range(4)]
        seen = torch.stack([*turned, *(picture.flip(1) for picture in turned)])
        with torch.inference_mode():
            assert float(pixel_logits(net, seen).double().mean()) == pytest.approx(row.logit, abs=1e-5)


def test_the_reported_split_is_the_one_that_chose_nothing(run):
    assert (run.metrics["split"], run.metrics["epoch_chosen_here"]) == ("test", False)
    cells = run.cells
    assert sorted(run.predictions["path"]) == sorted(cells["path"][cells["split"] == "test"])
    assert run.baseline["path"].tolist() == run.predictions["path"].tolist()


def test_every_registered_metric_is_written(run):
    assert set(METRICS) <= set(run.metrics)
    low, high = run.metrics["accuracy_interval"]
    assert low <= run.metrics["accuracy"] <= high
    assert run.metrics["better_than_majority"] == (low > run.metrics["majority_accuracy"])


def test_the_size_and_the_norm_of_the_network_are_written(run):
    size = run.metrics["network"]
    assert size["parameters"] == 11_177_025  # of torchvision's ResNet18 with one logit
    assert size["megabytes"] == pytest.approx(4 * size["parameters"] / 1e6, rel=0.002)
    assert size["norm"] == "batch"
    assert run.metrics["train_subjects"] == run.cells["subject"][run.cells["split"] == "train"].nunique()


def test_a_warm_cache_tells_the_cost_of_the_pass_that_filled_it(run, demo_root, tmp_path):
    cost = run.embedding
    assert (cost["stage"], cost["cells"], cost["device"]) == ("head", len(run.cells), "cpu")
    assert 0 < cost["seconds_per_cell"] < 10
    again = train(
        compose([f"data.root={demo_root}", *SETTINGS, "model.optimizer.lr=1e-4"]), tmp_path / "again"
    )
    assert again.embedding == cost


def test_loggers_show_the_network_and_its_freezing_first(run):
    settings = logged_settings(run.config)
    assert list(settings.items())[:2] == [("network", "resnet18"), ("trainable_from", "head")]
    assert settings["data.tta"] == "d4"
    assert not any(isinstance(value, dict | list) for value in settings.values())


def test_the_gap_is_the_difference_of_the_accuracies(run):
    history = run.history.set_index("epoch").loc[run.metrics["best_epoch"]]
    val = run.metrics["train_accuracy"] - run.metrics["train_val_gap"]
    assert val == pytest.approx(history["val/accuracy"], abs=1e-6)
    assert pd.notna(run.metrics["train_accuracy"])


def test_the_gate_is_that_of_the_training_cells_and_judges_the_reported_ones_as_predict_does(run):
    train, gate = run.cells[run.cells["split"] == "train"], run.gate
    assert gate.about["n_cells"] == len(train)
    assert (gate.about["unit"], gate.about["n_units"]) == ("group", train["group"].nunique())
    assert len(gate.cells) == train["pixel_hash"].nunique()
    predictor, table = TorchPredictor(run, "cpu"), run.predictions.head(8)
    pixels = np.stack([predictor.pixels(run.data.root / path) for path in table["path"]])
    np.testing.assert_allclose(predictor.scores(pixels)["unlike_by"], table["unlike_by"], rtol=1e-4)
    assert run.predictions["unlike"].notna().tolist() == (run.predictions["unlike_by"] > 1).tolist()
