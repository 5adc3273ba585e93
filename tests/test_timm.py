"""Runs of timm's networks: trained, resumed, explained and exported from overrides alone."""

import json
import os
import subprocess
import sys

import onnx
import pandas as pd
import pytest
import timm
import torch
from pytorch_lightning import seed_everything
from safetensors import safe_open
from safetensors.torch import load_file

from leukemia.cli import main
from leukemia.config import compose
from leukemia.models.checkpoint import load_network
from leukemia.models.freezing import stage_names
from leukemia.models.timm_nets import timm as staged
from leukemia.models.weights import published_state
from leukemia.runs import Run
from leukemia.training.run import train

VIT = "vit_small_patch14_dinov2"
SIZES = {"convnext_atto": 32, VIT: 42, "seresnext50_32x4d": 64, "efficientnet_b1": 64}


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def overrides(small, name, *further):
    settings = ["model/net=timm", f"model.net.name={name}", f"data.image_size={SIZES[name]}"]
    return [*small, *settings, "model.net.weights=none", "data.protocol=holdout", *further]


@pytest.fixture
def untrained(untrained_run, tmp_path):
    def write(name):
        net = staged(name, weights="none", image_size=SIZES[name])
        return untrained_run(tmp_path / "run", net, image_size=SIZES[name])

    return write


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_killed_run_continues_to_the_bit_and_frozen_stages_keep_every_bit(small, tmp_path, name):
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from leukemia import CellClassifier, compose\nfrom leukemia.training.run import train\n"
        "step = CellClassifier.training_step\n"
        "def dying(self, batch, number):\n"
        "    if self.current_epoch == 1 and number == 1: os.kill(os.getpid(), 9)\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = dying\n"
        "train(compose(sys.argv[2:]), Path(sys.argv[1]))\n"
    )
    settings = overrides(small, name, "model.trainable_from=last", "data.augment=d4")
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed"), *settings],
        env=dict(os.environ),
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(Run(tmp_path / "killed").history) == 1
    whole, resumed = (train(compose(settings), tmp_path / folder) for folder in ("whole", "killed"))
    one, other = (
        torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (whole, resumed)
    )
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key
    pd.testing.assert_frame_equal(whole.predictions, resumed.predictions)
    seed_everything(0, verbose=False)
    fresh = staged(name, weights="none", image_size=SIZES[name])
    frozen = stage_names(fresh)[:-2]
    for key, tensor in fresh.state_dict().items():
        if key.split(".")[1] in frozen:
            assert torch.equal(tensor, one[f"net.{key}"]), key


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_a_run_is_exported_as_onnx_and_under_timms_names(untrained, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = untrained(name)
    assert leukemia("export", run.folder, "-o", "run.onnx") == 0  # it compares with torch, to 1e-4
    about = {entry.key: entry.value for entry in onnx.load("run.onnx").metadata_props}
    assert json.loads(about["checked"])["largest_difference"] <= 1e-4
    assert leukemia("export", run.folder, "--format", "state_dict", "-o", "run.safetensors") == 0
    with safe_open("run.safetensors", "pt") as file:
        assert file.metadata()["architecture"] == name
    settings = {"img_size": SIZES[name]} if name == VIT else {}
    theirs = timm.create_model(name, num_classes=1, checkpoint_path="run.safetensors", **settings).eval()
    ours = published_state(load_network(run.best_checkpoint).net)
    assert all(torch.equal(tensor, ours[key]) for key, tensor in theirs.state_dict().items())
    assert set(load_file("run.safetensors")) == set(theirs.state_dict())


@pytest.mark.parametrize(
    ("name", "method", "layer"),
    [
        ("convnext_atto", "Grad-CAM", "stage4"),
        (VIT, "Grad-CAM on the grid of patch tokens", "block12"),
    ],
)
def test_gradcam_json_says_what_was_explained(untrained, name, method, layer):
    run = untrained(name)
    assert leukemia("explain", run.folder, "--sample", 4) == 0
    found = json.loads((run.folder / "gradcam.json").read_text())
    assert (found["method"], found["layer"], found["cells"]) == (method, layer, 4)


def test_the_command_line_refuses_a_size_that_patches_do_not_divide_before_pictures_are_decoded(
    leukemia_train, demo_root
):
    code, _, said = leukemia_train(
        f"data.root={demo_root}", "model/net=timm", f"model.net.name={VIT}", "model.net.weights=none",
        "model.trainable_from=block9", "data.image_size=100",
    )  # fmt: skip
    assert code == 2
    assert "use data.image_size=98" in said
    code, _, said = leukemia_train(f"data.root={demo_root}", "model/net=timm")
    assert code == 2
    assert "model.net.name is not given" in said
