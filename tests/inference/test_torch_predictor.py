"""Logits come in the order of the cells, in eval mode, and without Lightning."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from leukemia.data.datamodule import CellDataModule
from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.inference.predictor import open_predictor
from leukemia.inference.torch_predictor import TorchPredictor, predict_outputs, predictions_table
from leukemia.models.classifier import CellClassifier
from leukemia.models.resnet import resnet
from leukemia.runs import Run

HEAVY = (
    "pytorch_lightning",
    "lightning_fabric",
    "torchmetrics",
    "hydra",
    "omegaconf",
    "sklearn",
    "matplotlib",
)


@pytest.fixture(scope="module")
def run(untrained_run, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("predictor") / "run")


def test_predictions_are_the_networks_eval_output_cell_by_cell(demo_root):
    torch.manual_seed(0)
    data = CellDataModule(str(demo_root), image_size=32, batch_size=8, augment="full")
    model = CellClassifier(resnet(18, weights="none"), trainable_from="stem").eval()
    logits, _features = predict_outputs(model.outputs, data.batches("val"))
    cells = data.cells[data.cells["split"] == "val"]
    table = predictions_table(cells, logits)
    assert list(table.columns) == ["path", "subject", "split", "label", "logit", "probability"]
    row_of = {path: row for row, path in enumerate(data.table["path"])}
    with torch.inference_mode():
        for path, logit in zip(table["path"][:5], table["logit"], strict=False):
            alone = model(torch.from_numpy(data.pixels.images[[row_of[path]]]))
            np.testing.assert_allclose(logit, alone.item(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table["probability"], torch.sigmoid(torch.tensor(logits)).numpy())


def test_with_d4_a_logit_is_the_mean_over_flips_and_quarter_turns(demo_root):
    data = CellDataModule(str(demo_root), image_size=32, batch_size=8)

    def corner(batch):
        values = batch["pixels"][:, 0, :2, 0].double()
        return values @ torch.tensor([1.0, 100.0], dtype=torch.float64), values

    logits, _features = predict_outputs(corner, data.batches("val"), tta="d4")
    pixels = data.pixels.images[data.cells["split"] == "val"][..., 0].astype(float)
    first = [pixels[:, row, column] for row in (0, -1) for column in (0, -1)]
    second = [
        pixels[:, r, c] for r, c in ((0, 1), (1, 0), (0, -2), (1, -1), (-1, 1), (-2, 0), (-1, -2), (-2, -1))
    ]
    np.testing.assert_allclose(logits, np.mean(first, axis=0) + 100 * np.mean(second, axis=0))


def test_the_predictor_gives_the_predictions_of_the_run(run, demo_root):
    predictor = TorchPredictor(run, "cpu")
    table = run.predictions.head(5)
    pixels = np.stack([predictor.pixels(demo_root / path) for path in table["path"]])
    np.testing.assert_allclose(predictor.logits(pixels), table["logit"], atol=1e-5)
    assert (predictor.classes, predictor.native_size, predictor.tta) == (("HEM", "ALL"), 450, "none")
    assert not predictor.nets[0].training


def test_predicting_imports_neither_lightning_nor_hydra(run, demo_root):
    code = f"""
import sys
from pathlib import Path
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.inference.predictor import open_predictor
predictor = open_predictor(Path({str(run.folder)!r}), "cpu")
predictor.logits(predictor.pixels(Path({str(demo_root / run.predictions["path"][0])!r}))[None])
print(*[name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize(("views", "tta"), [(8, "none"), (1, "d4")])
def test_thresholds_of_another_tta_are_refused(run, monkeypatch, views, tta):
    policy = Policy(-1, 1, 0.5, 0.1, 0.1, 0.1, 0.95, "subject", True, fitted_on={"views": views})
    monkeypatch.setattr(Run, "policy", policy)
    with pytest.raises(InputError, match=f"with tta={'d4' if views == 8 else 'none'} and not with tta={tta}"):
        TorchPredictor(run, "cpu", tta)


def test_an_unknown_tta_is_refused(run):
    with pytest.raises(InputError, match="tta=views is unknown"):
        TorchPredictor(run, "cpu", "views")


def test_a_network_without_lightning_keeps_the_precision_of_the_run(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    full = TorchPredictor(run, "cpu").logits(pixels)
    run.write_config({**run.config, "trainer": {"precision": "bf16-mixed"}})
    half = TorchPredictor(Run(run.folder), "cpu").logits(pixels)
    assert 0 < np.abs(full - half).max() < 0.2


@pytest.mark.parametrize("damage", [{"data": {}}, {"trainer": None}])
def test_a_damaged_configuration_is_refused(run, damage, monkeypatch):
    monkeypatch.setattr(Run, "config", {**run.config, **damage})
    with pytest.raises(InputError, match=r"config\.yaml: .* is needed"):
        open_predictor(run.folder)


def test_a_network_of_other_tensors_is_refused(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run")
    content = torch.load(run.best_checkpoint, weights_only=True)
    content["state_dict"]["net.stages.head.weight"] = nn.Linear(3, 1).weight.detach()
    torch.save(content, run.best_checkpoint)
    with pytest.raises(InputError, match="is not a checkpoint of a CellClassifier"):
        TorchPredictor(run, "cpu")
