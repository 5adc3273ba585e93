"""What a run folder from others may build: `predict`, `explain` and `export`, as they are called."""

import os
import shutil
import sys

import pytest
import torch

from leukemia.cli import main
from leukemia.models.network import StagedNetwork
from leukemia.runs import Run

MYLAB = """
from collections import OrderedDict

from torch import nn


class Tiny(nn.Module):
    normalisation = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self, width=8):
        super().__init__()
        self.stages = nn.Sequential(OrderedDict(
            stem=nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU()),
            middle=nn.Sequential(nn.Conv2d(width, width, 3, 2), nn.ReLU()),
            late=nn.Sequential(nn.Conv2d(width, 2 * width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            head=nn.Linear(2 * width, 1),
        ))
        self.node = {"_target_": "mylab.Tiny", "width": width}


class Part(nn.Module):
    def __init__(self, value):
        open("executed", "w").close()


def family(**settings):
    open("executed", "w").close()
"""


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a package of a lab's own in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEUKEMIA_TRUST", raising=False)
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "__init__.py").write_text(MYLAB)
    yield tmp_path
    sys.modules.pop("mylab", None)


@pytest.fixture(scope="module")
def written(untrained_run, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("trust") / "run")


@pytest.fixture
def run_of(written, here):
    """A function that writes a run whose checkpoint and configuration name this network."""

    def write(node):
        run = Run(shutil.copytree(written.folder, here / "run"))
        content = torch.load(run.best_checkpoint, weights_only=True)
        content["network"]["node"] = node
        torch.save(content, run.best_checkpoint)
        run.write_config({**run.config, "model": {"net": node, "trainable_from": "last"}})
        return Run(run.folder)

    return write


@pytest.fixture
def run(here, untrained_run, monkeypatch):
    """A run of the lab's own network of four stages, as `mylab` was never imported."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(here)
        from mylab import Tiny
    run = untrained_run(here / "run", Tiny(4), image_size=64)
    del sys.modules["mylab"]
    return run


def commands(run, root):
    yield "predict", run.folder, root / "validation_data"
    yield "explain", run.folder, "--sample", 4
    yield "export", run.folder, "-o", "model.onnx"
    yield "export", run.folder, "-o", "weights.safetensors", "--format", "state_dict"


def test_a_network_of_ones_own_is_predicted_explained_and_exported_once_its_package_is_trusted(
    run, here, demo_root, monkeypatch, capsys
):
    import pandas as pd
    from safetensors import safe_open

    monkeypatch.setenv("LEUKEMIA_TRUST", "otherlab,mylab")
    for command in commands(run, demo_root):
        assert leukemia(*command) == 0, capsys.readouterr().err
    predictions = pd.read_csv("predictions.csv")
    assert leukemia("predict", "model.onnx", demo_root / "validation_data", "-o", "exported.csv") == 0
    assert (predictions["logit"] - pd.read_csv("exported.csv")["logit"]).abs().max() < 1e-4
    assert run.gradcam["layer"] == "late"
    with safe_open("weights.safetensors", "pt") as file:
        assert file.metadata()["architecture"] == "Tiny"
        assert set(file.keys()) == {name[4:] for name in torch.load(run.best_checkpoint)["state_dict"]}


def test_it_is_refused_in_one_line_where_its_package_is_not_trusted(run, here, demo_root, capsys):
    before = sorted(here.rglob("*"))
    for command in commands(run, demo_root):
        assert leukemia(*command) == 2
        said = capsys.readouterr().err
        assert "asks for the network 'mylab.Tiny', which is not trusted" in said
        assert "LEUKEMIA_TRUST=mylab" in said
        assert said.count("\n") == 1
    assert "mylab" not in sys.modules
    assert sorted(here.rglob("*")) == before


def test_a_network_without_a_name_is_refused_with_the_python_that_loads_it(
    here, untrained_run, demo_root, capsys
):
    stages = {"stem": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
              "head": torch.nn.Linear(4, 1)}  # fmt: skip
    run = untrained_run(here / "run", StagedNetwork(stages))
    assert leukemia("predict", run.folder, demo_root) == 2
    said = capsys.readouterr().err
    assert "load_from_checkpoint(PATH, net=NET)" in said
    assert said.count("\n") == 1


HOSTILE = {
    "a system call": {"_target_": "os.system", "command": "touch executed"},
    "its other name": {"_target_": "posix.system", "command": "touch executed"},
    "a builtin": {"_target_": "builtins.eval", "source": "open('executed', 'w')"},
    "a process": {"_target_": "subprocess.Popen", "args": ["touch", "executed"]},
    "a function of torch": {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "family", "source": "local"},
    "a function by torch's import of it": {"_target_": "torch.os.system", "command": "touch executed"},
    "a class of torch that is not a network": {"_target_": "torch.package.PackageExporter", "f": "executed"},
    "a network with a bad ending": {"_target_": "torch.nn.Linear.__init__", "in_features": 1, "out_features": 1},
    "positional arguments": {"_target_": "torch.nn.Linear", "_args_": [1, 1]},
    "a partial": {"_target_": "torch.nn.Linear", "_partial_": True, "in_features": 1, "out_features": 1},
    "a switch of Hydra's": {"_target_": "torch.nn.Linear", "_recursive_": True, "in_features": 1, "out_features": 1},
    "a target within": {"_target_": "torch.nn.Linear", "in_features": {"_target_": "os.system", "command": "touch it"}},
    "a target within a list": {"_target_": "torch.nn.Linear", "in_features": [[{"_target_": "mylab.family"}]]},
    "a class of torch without stages": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
    "an untrusted function": {"_target_": "mylab.family"},
    "an untrusted class": {"_target_": "mylab.Part", "value": 1},
    "no text": {"_target_": ["os", "system"]},
    "a list": ["os.system", "touch executed"],
    "another function of ours": {"_target_": "leukemia.data.demo.write_demo", "root": "executed"},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_network_is_refused_and_nothing_is_executed(run_of, here, demo_root, capsys, name):
    run = run_of(HOSTILE[name])
    before = sorted(here.rglob("*"))
    for command in commands(run, demo_root):
        assert leukemia(*command) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert "mylab" not in sys.modules
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("target", ["mylab.family", "mylab.nn.Linear", "mylab.Part"])
def test_a_trusted_package_gives_its_own_classes_only(run_of, demo_root, capsys, monkeypatch, target):
    monkeypatch.setenv("LEUKEMIA_TRUST", "mylab")
    run = run_of({"_target_": target, "in_features": 1, "out_features": 1})
    assert leukemia("predict", run.folder, demo_root) == 2
    assert not os.path.exists("executed")
    assert capsys.readouterr().err.count("\n") == 1
