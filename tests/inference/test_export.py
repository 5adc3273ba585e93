"""`leukemia export`: what is exported computes what the run does, here, in torchvision, in timm and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import resnet18

from leukemia.cli import main
from leukemia.config import compose
from leukemia.data.transforms import IMAGENET_MEAN, IMAGENET_STD, VIEWS, normalise, view
from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.inference.export import FromPixels, export, policy_in_full_precision, run_hash
from leukemia.models.checkpoint import load_classifier
from leukemia.models.classifier import CellClassifier
from leukemia.runs import Run
from leukemia.training.run import train

SETTINGS = ("model.net.weights=none", "data.image_size=32", "trainer=cpu", "trainer.precision=32-true",
            "trainer.max_epochs=1", "data.protocol=holdout", "data.cache_features=off")  # fmt: skip
POLICY = Policy(-0.2, 0.3, 0.5, 0.1, 0.1, 0.2, 0.95, "subject", certified=True)


@pytest.fixture(scope="module")
def trained(demo_root, tmp_path_factory):
    return train(compose([f"data.root={demo_root}", *SETTINGS]), tmp_path_factory.mktemp("export") / "run")


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Run(shutil.copytree(trained.folder, tmp_path / "runs" / "run"))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("exported") / "run.onnx")


@pytest.fixture
def file(exported, tmp_path, monkeypatch):
    """An exported model, as run.onnx in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(exported, tmp_path / "run.onnx"))


def with_data(run, **data):
    run.write_config({**run.config, "data": {**run.config["data"], **data}})
    return Run(run.folder)


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("views", [1, VIEWS])
def test_the_same_csv_comes_from_the_run_and_from_the_file(run, demo_root, tmp_path, views, capsys):
    run = with_data(run, test_views=views)
    run.write_json("triage.json", POLICY.to_json())
    assert leukemia("export", run.folder) == 0
    assert "agrees with torch on 64 pictures" in capsys.readouterr().out
    broken = tmp_path / "broken.bmp"
    broken.write_bytes(b"BM")
    tables = []
    for target in (run.folder, "run.onnx"):
        assert leukemia("predict", target, demo_root / "validation_data", broken, "-o", "out.csv") == 1
        tables.append(pd.read_csv("out.csv"))
    pd.testing.assert_frame_equal(*tables, atol=1e-4, rtol=0)
    assert set(tables[1]["decision"].dropna()) & {"HEM", "ALL", "review"}
    assert tables[1]["calibrated_probability"].notna().sum() == len(tables[1]) - 1
    assert (tables[1]["views"] == views).all()


def test_the_graph_gives_logit_and_calibrated_probability_for_any_number_of_cells(run):
    run.write_json("triage.json", POLICY.to_json())
    assert leukemia("export", run.folder, "-o", "model.onnx") == 0
    session = onnxruntime.InferenceSession("model.onnx")
    model, rng = load_classifier(run.best_checkpoint), np.random.default_rng(0)
    for count in (1, 3, 70):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        logit, probability = session.run(["logit", "probability"], {"pixels": pixels})
        with torch.no_grad():
            expected = model(torch.from_numpy(pixels)).numpy()
        assert logit.shape == probability.shape == (count,)
        np.testing.assert_allclose(logit, expected, atol=1e-4)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-(0.5 * expected + 0.1))), atol=1e-4)


def test_the_metadata_hold_what_a_prediction_needs(run):
    run.write_json("triage.json", POLICY.to_json())
    assert leukemia("export", run.folder) == 0
    first = metadata("run.onnx")
    about = {
        key: json.loads(first[key]) for key in ("classes", "calibration", "thresholds", "versions", "checked")
    }
    assert about["classes"] == ["HEM", "ALL"]
    assert about["calibration"] == {"slope": 0.5, "intercept": 0.1, "source": "triage.json"}
    assert about["thresholds"] == {"low": -0.2, "high": 0.3}
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert about["checked"]["images"] == 64
    assert 0 < about["checked"]["of_the_run"] <= 64
    assert about["checked"]["largest_difference"] <= 1e-4
    assert (first["image_size"], first["resize"], first["native_size"], first["views"]) == (
        "32",
        "squash",
        "450",
        "1",
    )
    assert Policy.from_json(json.loads(first["policy"])) == POLICY
    (run.folder / "triage.json").unlink()
    assert leukemia("export", run.folder) == 0
    second = metadata("run.onnx")
    assert second["run_hash"] == first["run_hash"]
    assert json.loads(second["calibration"]) == {"slope": 1.0, "intercept": 0.0, "source": "identity"}
    assert json.loads(second["policy"]) is None


def test_a_run_of_other_weights_has_another_hash(run):
    before = run_hash(run)
    assert before == run_hash(run)
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["state_dict"]["net.net.fc.bias"] += 1
    torch.save(checkpoint, run.best_checkpoint)
    assert run_hash(run) != before


def test_the_file_names_nothing_of_this_machine(file):
    content = file.read_bytes()
    for part in (str(Path(__file__).parents[2]), "site-packages", "leukemia/inference/export.py"):
        assert part.encode() not in content


def test_a_guarantee_on_half_precision_logits_is_not_carried_over(run, capsys):
    assert policy_in_full_precision(POLICY, "32-true") == POLICY
    assert policy_in_full_precision(None, "bf16-mixed") is None
    run.write_config({**run.config, "trainer": {**run.config["trainer"], "precision": "bf16-mixed"}})
    run.write_json("triage.json", POLICY.to_json())
    assert leukemia("export", run.folder) == 0
    assert "the run computed in bf16-mixed, this file computes in 32-true" in capsys.readouterr().out
    policy = json.loads(metadata("run.onnx")["policy"])
    assert policy["certified"] is False
    assert "bf16-mixed" in policy["why_not"]
    assert policy["thresholds"] == {"low": -0.2, "high": 0.3}
    assert json.loads(metadata("run.onnx")["checked"])["largest_difference_from_run"] > 1e-5


def test_without_its_pictures_a_run_is_checked_on_synthetic_cells(run, tmp_path):
    run = with_data(run, root=str(tmp_path / "moved"))
    assert leukemia("export", run.folder) == 0
    assert json.loads(metadata("run.onnx")["checked"])["of_the_run"] == 0


def test_a_file_that_computes_something_else_is_not_kept(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("leukemia.inference.export.IMAGENET_MEAN", (0.48, 0.456, 0.406))
    assert leukemia("export", run.folder) == 2
    assert "nothing is kept" in capsys.readouterr().err
    assert not (tmp_path / "run.onnx").exists()


def test_normalisation_and_views_of_the_graph_are_the_packages(trained):
    model = load_classifier(trained.best_checkpoint)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        logit, _ = FromPixels(model, VIEWS, 1.0, 0.0)(pixels)
        expected = torch.stack([model.net(normalise(view(pixels, number))) for number in range(VIEWS)]).mean(
            0
        )
    torch.testing.assert_close(logit, expected, atol=1e-5, rtol=0)


def test_predictions_need_no_torch(run, file, demo_root, tmp_path):
    assert leukemia("predict", run.folder, demo_root / "validation_data", "-o", "with.csv") == 0
    without = """
import sys
BLOCKED = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "torchmetrics", "hydra", "omegaconf",
           "tensorboard", "sklearn", "scipy", "matplotlib", "jinja2", "onnx", "onnxscript", "safetensors"}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from leukemia.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", without, "predict", "run.onnx", demo_root / "validation_data"]
    done = subprocess.run(
        [*map(str, command), "-o", "without.csv"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_csv("without.csv"), pd.read_csv("with.csv"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(b"no model"), "no model that onnxruntime can open"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "no model that onnxruntime can open"),
        (lambda path: with_props(path, {}), "'nothing' of its format"),
        (lambda path: with_props(path, {"format": "leukemia.onnx.1", "run": "run"}), "metadata are damaged"),
    ],
    ids=["missing", "no model", "cut short", "not ours", "damaged"],
)
def test_a_file_that_is_no_exported_model_is_refused(file, demo_root, capsys, spoil, said):
    spoil(file)
    assert leukemia("predict", "run.onnx", demo_root / "validation_data") == 2
    assert said in capsys.readouterr().err


def with_props(path, props):
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, props)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--views", 8], "1 views"), (["--device", "cuda"], "runs on the processor")],
    ids=["views", "device"],
)
def test_what_the_file_cannot_do_is_refused(file, demo_root, capsys, arguments, said):
    assert leukemia("predict", "run.onnx", demo_root / "validation_data", *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_missing_package_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert leukemia("export", run.folder) == 2
    assert "leukemia[onnx]" in capsys.readouterr().err


def test_the_ending_of_the_file_is_that_of_the_format(run, capsys):
    assert leukemia("export", run.folder, "--format", "state_dict", "-o", "weights.onnx") == 2
    assert ".safetensors" in capsys.readouterr().err


def test_torchvision_and_timm_load_the_state_dict_unchanged(run, tmp_path):
    assert leukemia("export", run.folder, "--format", "state_dict") == 0
    state = load_file("run.safetensors")
    ours = load_classifier(run.best_checkpoint)
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    images = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(
        IMAGENET_STD
    )[:, None, None]
    with torch.no_grad():
        expected = ours(pixels)
        for theirs in (resnet18(num_classes=1), timm.create_model("resnet18", num_classes=1)):
            theirs.load_state_dict(state, strict=True)
            torch.testing.assert_close(theirs.eval()(images).flatten(), expected, atol=1e-5, rtol=1e-5)
        by_timm = timm.create_model(
            "resnet18", num_classes=1, checkpoint_path=str(tmp_path / "run.safetensors")
        )
        torch.testing.assert_close(by_timm.eval()(images).flatten(), expected, atol=1e-5, rtol=1e-5)
    with safe_open("run.safetensors", "pt") as file:
        about = file.metadata()
    assert about["architecture"] == "resnet18"
    assert json.loads(about["classes"]) == ["HEM", "ALL"]


def test_the_state_dict_is_the_start_of_the_next_run(run):
    assert leukemia("export", run.folder, "--format", "state_dict") == 0
    started = CellClassifier(depth=18, weights="run.safetensors")
    for name, tensor in load_classifier(run.best_checkpoint).net.state_dict().items():
        assert torch.equal(started.net.state_dict()[name], tensor), name
    with pytest.raises(InputError, match="of another depth"):
        CellClassifier(depth=50, weights="run.safetensors")
