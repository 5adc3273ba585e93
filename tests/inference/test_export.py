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
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

from leukemia.cli import main
from leukemia.data.transforms import d4, normalise
from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.inference.export import (
    FromPixels,
    _graph,
    _pictures,
    export,
    policy_in_full_precision,
    run_hash,
)
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.models.checkpoint import load_network
from leukemia.models.freezing import freeze
from leukemia.models.network import IMAGENET, StagedNetwork, pixel_logits
from leukemia.models.resnet import resnet
from leukemia.runs import Run

POLICY = Policy(-0.2, 0.3, 0.5, 0.1, 0.1, 0.2, 0.95, "subject", certified=True)


@pytest.fixture(scope="module")
def written(untrained_run, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture
def run(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Run(shutil.copytree(written.folder, tmp_path / "runs" / "run"))


@pytest.fixture(scope="module")
def exported(written, tmp_path_factory):
    return export(written, tmp_path_factory.mktemp("exported") / "run.onnx")


@pytest.fixture(scope="module")
def calibrated(untrained_run, tmp_path_factory):
    """The folder of a run with D4 augmentation at test time and a policy, and of its exported model."""
    folder = tmp_path_factory.mktemp("calibrated")
    run = untrained_run(folder / "run", tta="d4", gate=True)
    run.write_json("triage.json", POLICY.to_json())
    export(run, folder / "run.onnx")
    return folder


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


def test_the_same_csv_comes_from_the_run_and_from_the_file(calibrated, demo_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.bmp"
    broken.write_bytes(b"BM")
    Image.new("RGB", (450, 450), "white").save(tmp_path / "white.png")
    seen = (demo_root / "validation_data", tmp_path / "white.png", broken)
    tables = []
    for target in (calibrated / "run", calibrated / "run.onnx"):
        assert leukemia("predict", target, *seen, "-o", "out.csv") == 1
        tables.append(pd.read_csv("out.csv"))
    pd.testing.assert_frame_equal(*tables, atol=1e-4, rtol=1e-4)
    white = tables[1].set_index("path").loc[str(tmp_path / "white.png")]
    assert (white["decision"], white["decided_by"]) == ("review", "gate.json")
    assert tables[1]["unlike_by"].notna().sum() == len(tables[1]) - 1
    assert set(tables[1]["decision"].dropna()) & {"HEM", "ALL", "review"}
    assert tables[1]["calibrated_probability"].notna().sum() == len(tables[1]) - 1
    assert (tables[1]["tta"] == "d4").all()


def test_the_graph_gives_logit_and_calibrated_probability_for_any_number_of_cells(calibrated):
    session = onnxruntime.InferenceSession(calibrated / "run.onnx")
    predictor, rng = TorchPredictor(Run(calibrated / "run"), "cpu"), np.random.default_rng(0)
    for count in (1, 3, 70):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        logit, probability = session.run(["logit", "probability"], {"pixels": pixels})
        expected = predictor.logits(pixels)
        assert logit.shape == probability.shape == (count,)
        np.testing.assert_allclose(logit, expected, atol=1e-4)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-(0.5 * expected + 0.1))), atol=1e-4)


def test_the_metadata_hold_all_that_a_prediction_needs(calibrated):
    first = metadata(calibrated / "run.onnx")
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
    assert first["format"] == "leukemia.onnx.2"
    shown = [first[key] for key in ("image_size", "resize", "native_size", "tta")]
    assert shown == ["32", "squash", "450", "d4"]
    assert Policy.from_json(json.loads(first["policy"])) == POLICY
    assert first["run_hash"] == run_hash(Run(calibrated / "run"))


def test_without_a_policy_the_probability_is_the_plain_sigmoid_and_the_metadata_say_so(file):
    about = metadata(file)
    assert json.loads(about["calibration"]) == {"slope": 1.0, "intercept": 0.0, "source": "identity"}
    assert json.loads(about["policy"]) is None
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    logit, probability = onnxruntime.InferenceSession(file).run(["logit", "probability"], {"pixels": pixels})
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_a_run_of_other_weights_has_another_hash(run):
    before = run_hash(run)
    assert before == run_hash(run)
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["state_dict"]["net.stages.head.bias"] += 1
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
    said = capsys.readouterr().out
    assert "agrees with torch on 64 pictures" in said
    assert "the run computed in bf16-mixed, this file computes in 32-true" in said
    policy = json.loads(metadata("run.onnx")["policy"])
    assert policy["certified"] is False
    assert "bf16-mixed" in policy["why_not"]
    assert policy["thresholds"] == {"low": -0.2, "high": 0.3}
    assert json.loads(metadata("run.onnx")["checked"])["largest_difference_from_run"] > 1e-5


def test_without_its_pictures_a_run_is_checked_on_synthetic_cells(run, tmp_path):
    predictor = TorchPredictor(run, "cpu")
    pixels, of_run = _pictures(run, predictor)
    assert 0 < of_run <= 64
    synthetic, none = _pictures(with_data(run, root=str(tmp_path / "moved")), predictor)
    assert none == 0
    assert pixels.shape == synthetic.shape == (64, 32, 32, 3)


def test_a_file_that_computes_something_else_is_not_kept(run, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("leukemia.inference.export._graph", lambda *arguments: onnx.load(exported))
    content = torch.load(run.best_checkpoint, weights_only=True)
    content["state_dict"]["net.stages.head.bias"] += 0.001
    torch.save(content, run.best_checkpoint)
    assert leukemia("export", run.folder) == 2
    assert "nothing is kept" in capsys.readouterr().err
    assert not (tmp_path / "run.onnx").exists()


def test_normalisation_and_transforms_of_the_graph_are_the_packages():
    torch.manual_seed(0)
    net = StagedNetwork({"stem": nn.Conv2d(3, 2, 3), "head": nn.Sequential(nn.Flatten(), nn.Linear(2 * 30 * 30, 1))},
                        normalisation=((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))  # fmt: skip
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        logit, _ = FromPixels([net], "d4")(pixels)
        seen = [net(normalise(d4(pixels, number), *net.normalisation)) for number in range(8)]
    torch.testing.assert_close(logit, torch.stack(seen).mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("trainable_from", ["stem", "late", "head"])
def test_a_network_is_exported_whatever_is_frozen(trainable_from):
    torch.manual_seed(0)
    late = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net = StagedNetwork({"stem": nn.Conv2d(3, 4, 3), "late": late, "head": nn.Linear(4, 1)}).eval()
    freeze(net, trainable_from)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    proto = _graph(FromPixels([net], "none").eval(), pixels)
    (logit,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(["logit"], {"pixels": pixels})
    with torch.no_grad():
        np.testing.assert_allclose(logit, pixel_logits(net, torch.from_numpy(pixels)).numpy(), atol=1e-5)


def test_a_network_that_torch_cannot_trace_is_refused(run, monkeypatch, capsys):
    def untraceable(self, pixels):
        return (pixels.sum() if pixels.sum() > 0 else -pixels.sum(),) * 2

    monkeypatch.setattr(FromPixels, "forward", untraceable)
    assert leukemia("export", run.folder) == 2
    assert "use --format state_dict" in capsys.readouterr().err


def test_predictions_need_no_torch(run, file, demo_root, tmp_path):
    assert leukemia("predict", run.folder, demo_root / "validation_data", "-o", "with.csv") == 0
    without = """
import sys
BLOCKED = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "torchmetrics", "hydra", "omegaconf",
           "tensorboard", "sklearn", "matplotlib", "jinja2", "onnx", "onnxscript", "safetensors"}
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
        (lambda path: path.write_bytes(b"no model"), "not a model that onnxruntime can open"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a model that onnxruntime can open"),
        (lambda path: with_props(path, {}), "'nothing' of its format"),
        (lambda path: with_props(path, {"format": "leukemia.onnx.1"}), "export it again with this version"),
        (lambda path: with_props(path, {"format": "leukemia.onnx.2", "run": "run"}), "metadata are damaged"),
        (lambda path: with_props(path, {**metadata(path), "tta": "d5"}), "tta=d5 is unknown"),
    ],
    ids=["missing", "no model", "cut short", "not ours", "release 0.1", "damaged", "unknown tta"],
)
def test_a_file_that_is_not_an_exported_model_is_refused(file, demo_root, capsys, spoil, said):
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
    [(["--tta", "d4"], "tta=none"), (["--device", "cuda"], "runs on the processor")],
    ids=["tta", "device"],
)
def test_another_tta_or_device_than_the_files_is_refused(file, demo_root, capsys, arguments, said):
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
    ours = load_network(run.best_checkpoint).net
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    images = (pixels.permute(0, 3, 1, 2) / 255 - mean) / deviation
    with torch.no_grad():
        expected = pixel_logits(ours, pixels)
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
    started = resnet(18, weights="run.safetensors").state_dict()
    for name, tensor in load_network(run.best_checkpoint).net.state_dict().items():
        assert torch.equal(started[name], tensor), name
    with pytest.raises(InputError, match="does not fit this network"):
        resnet(50, weights="run.safetensors")
