"""A lab's own package: every part is swapped from the command line, and every command works on the run.

The package is the one of docs/extending.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from leukemia.cli import main
from leukemia.models.checkpoint import load_classifier
from leukemia.runs import Run

ROOT = Path(__file__).parents[1]
PARTS = (
    "data.reader._target_=mylab.slides",
    "data.protocol=subject_kfold",
    "model/net=own", "model.net._target_=mylab.Tiny", "+model.net.width=4", "model.trainable_from=late",
    "model/criterion=own", "model.criterion._target_=mylab.smooth_loss", "+model.criterion.smoothing=0.2",
    "model/optimizer=own", "model.optimizer._target_=torch.optim.RMSprop", "+model.optimizer.lr=1e-3",
    "model/scheduler=own", "model.scheduler._target_=mylab.halving", "+model.scheduler.every=1",
    "+callbacks.hello._target_=mylab.Hello",
    "logger=none", "+logger.text._target_=mylab.TextLogger",
)  # fmt: skip
QUICK = (
    "data.image_size=32", "data.batch_size=16", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=3",
    "trainer.gradient_clip_val=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory, demo_root) -> Path:
    """A folder with mylab.py and a third layout of data."""
    folder = tmp_path_factory.mktemp("lab")
    page = (ROOT / "docs" / "extending.md").read_text()
    (module,) = re.findall(r"```python\n(# mylab\.py\n.*?)```", page, re.DOTALL)
    (folder / "mylab.py").write_text(module)
    (folder / "slides").mkdir()
    rows = []
    for path in sorted((demo_root / "training_data").rglob("*.bmp")):
        shutil.copy(path, folder / "slides" / path.name)
        blast = path.parent.name == "all"
        rows.append({"file": path.name, "blast": int(blast), "patient": path.name.split("_")[1], "site": "A"})
    pd.DataFrame(rows).to_csv(folder / "slides" / "slides.csv", index=False)
    return folder


def command(lab: Path, *arguments: str, program: tuple[str, ...] = ("-m", "leukemia.train")):
    """A command in the lab's folder, as a user gives it."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=lab,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def trained(lab) -> Run:
    done = command(lab, *QUICK, *PARTS, "data.root=slides", "hydra.run.dir=whole")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("hello, epoch") == 3
    return Run(lab / "whole")


def test_every_part_is_the_labs_own(trained):
    config = trained.config
    assert config["data"]["classes"] == ["normal", "blast"]
    assert config["data"]["native_size"] is None
    assert config["model"]["net"] == {"_target_": "mylab.Tiny", "width": 4}
    assert (trained.cells["site"] == "A").all()
    assert trained.history["lr"].tolist() == pytest.approx([1e-2, 5e-3, 2.5e-3])  # the highest, of the head
    state = torch.load(trained.last_checkpoint, weights_only=True)
    assert "square_avg" in str(state["optimizer_states"][0]["state"][0].keys())  # RMSprop's
    text = (trained.folder / "log.txt").read_text()
    assert text.startswith("{'network': 'Tiny', 'trainable_from': 'late'")
    assert "final/accuracy" in text
    labels = torch.tensor(trained.predictions["label"].to_numpy(), dtype=torch.float32)
    logits = torch.tensor(trained.predictions["logit"].to_numpy(), dtype=torch.float32)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert trained.metrics["loss"] == pytest.approx(float(loss), abs=1e-5)  # the plain cross-entropy


@pytest.mark.slow
def test_a_killed_run_of_own_parts_ends_as_the_undisturbed_one(lab, trained):
    (lab / "dies.py").write_text(
        "import os; from leukemia import CellClassifier; from leukemia.train import main\n"
        "step = CellClassifier.training_step\n"
        "def dying(self, batch, number):\n"
        "    if self.current_epoch == 1 and number == 2: os.kill(os.getpid(), 9)\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = dying; main()\n"
    )
    settings = [*QUICK, *PARTS, "data.root=slides", "hydra.run.dir=killed"]
    assert command(lab, *settings, program=("dies.py",)).returncode == -9
    again = command(lab, *settings)
    assert again.returncode == 0, again.stderr
    assert "killed goes on" in again.stdout
    killed = Run(lab / "killed")
    pd.testing.assert_frame_equal(killed.predictions, trained.predictions)
    pd.testing.assert_frame_equal(killed.history, trained.history)


def test_the_frozen_stages_are_those_of_the_seed(trained, lab, monkeypatch):
    monkeypatch.syspath_prepend(str(lab))
    from mylab import Tiny
    from pytorch_lightning import seed_everything

    seed_everything(0, verbose=False)
    fresh, state = Tiny(4).state_dict(), torch.load(trained.last_checkpoint, weights_only=True)["state_dict"]
    for name, tensor in fresh.items():
        frozen = name.startswith(("stages.stem", "stages.middle"))
        assert torch.equal(tensor, state[f"net.{name}"]) == frozen, name


def test_evaluate_and_report_name_the_network(trained, capsys):
    for arguments in (["evaluate", str(trained.folder)], ["report", str(trained.folder)]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
    assert "Tiny from late" in capsys.readouterr().out
    assert "Tiny from late" in (trained.folder / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["predict", "explain", "export"])
def test_a_networks_package_has_to_be_trusted_by_name(lab, trained, verb):
    pictures = [] if verb == "export" else [str(next((lab / "slides").glob("*.bmp")))]
    output = {"predict": ["-o", "p.csv"], "explain": ["-o", "maps"], "export": ["-o", "m.onnx"]}[verb]
    arguments = [verb, "whole", *pictures, *output]
    refused = command(lab, *arguments, program=("-m", "leukemia.cli"))
    assert refused.returncode == 2
    assert "LEUKEMIA_TRUST=mylab" in refused.stderr
    assert "Traceback" not in refused.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEUKEMIA_TRUST", "mylab")
        done = command(lab, *arguments, program=("-m", "leukemia.cli"))
    assert done.returncode == 0, done.stderr


def test_predictions_are_those_of_the_run(lab, trained):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEUKEMIA_TRUST", "mylab")
        done = command(lab, "predict", "whole", "slides", "-o", "all.csv", program=("-m", "leukemia.cli"))
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(lab / "all.csv")
    found = dict(zip(table["path"].map(lambda path: Path(path).name), table["logit"], strict=True))
    for row in trained.predictions.itertuples():
        assert found[row.path] == pytest.approx(row.logit, abs=1e-5)


def test_a_network_at_hand_loads_without_trust(lab, trained, monkeypatch):
    monkeypatch.syspath_prepend(str(lab))
    from mylab import Tiny

    model = load_classifier(trained.best_checkpoint, net=Tiny(4))
    assert model.hparams["classes"] == ["normal", "blast"]


@pytest.mark.slow
def test_yaml_of_ones_own_works_for_every_group_and_in_a_sweep(lab):
    nodes = {
        "model/net/tiny": {"_target_": "mylab.Tiny", "width": 4},
        "model/criterion/smooth": {"_target_": "mylab.smooth_loss"},
        "model/optimizer/rms": {"_target_": "torch.optim.RMSprop", "lr": 1e-3},
        "model/scheduler/half": {"_target_": "mylab.halving", "_partial_": True},
        "callbacks/hello": {"hello": {"_target_": "mylab.Hello"}},
        "logger/text": {"text": {"_target_": "mylab.TextLogger"}},
    }
    for name, node in nodes.items():
        file = lab / "mine" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(node))
    (lab / "mine" / "data").mkdir(exist_ok=True)
    (lab / "mine" / "data" / "slides.yaml").write_text(
        "defaults: [cnmc]\nreader: {_target_: mylab.slides}\nroot: slides\nprotocol: subject_kfold\n"
    )
    chosen = ["data=slides", *(name.rpartition("/")[0] + "=" + name.rpartition("/")[2] for name in nodes)]
    done = command(
        lab, "--config-dir", "mine", "-m", *QUICK, *chosen, "trainer.max_epochs=1", "model.trainable_from=head,last",
        "hydra.sweep.dir=grid",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(lab / "grid" / "results.csv")
    assert results["network"].tolist() == ["Tiny", "Tiny"]
    assert set(results["trainable_from"]) == {"head", "last"}
