"""Shared by the tests: their own cache, a small synthetic set, and real samples where they exist."""

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import settings

gc.set_threshold(10_000)  # there is much to look through and little garbage
torch.set_num_threads(1)  # tiny networks; threads would wait for each other
settings.register_profile("ci", derandomize=True, deadline=None)  # the same examples in every run
examples = int(os.environ.get("EXAMPLES", "1000"))
settings.register_profile(
    "fuzz", max_examples=examples, deadline=None, print_blob=True
)  # fresh ones: make fuzz
settings.load_profile("ci")
with suppress(
    ImportError
):  # OpenVINO imports it; its handler would close the stream in which pytest captures
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__
ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    gc.freeze()  # the tests themselves stay to the end


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The tests' own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LEUKEMIA_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")  # of the processes that tests start
        yield folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A synthetic C-NMC set of 120 images."""
    from leukemia.data.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("demo") / "C-NMC_Leukemia", images=120, seed=0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real cells and weights beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not there")
    return folder


@pytest.fixture(scope="session")
def untrained_run(demo_root):
    """A function that writes the run folder of an untrained network on the synthetic set: config.yaml, cells.csv,
    predictions.csv, status.json and best.ckpt, with `gate` also gate.json. It takes the folder, a network, and settings
    of the data."""

    def write(folder, net=None, *, trainable_from="last", gate=False, **settings):
        from leukemia.data.datamodule import CellDataModule
        from leukemia.inference.torch_predictor import predict_outputs, predictions_table
        from leukemia.models.network import pixel_outputs
        from leukemia.models.resnet import resnet
        from leukemia.runs import Run

        torch.manual_seed(0)
        net = net or resnet(18, weights="none")
        data = CellDataModule(
            str(demo_root), protocol="holdout", **{"image_size": 32, "batch_size": 20, **settings}
        )
        net.train()
        with torch.no_grad():
            for batch in data.batches("train"):
                pixel_outputs(net, batch["pixels"])  # BatchNorm statistics, so that logits are of usual size
        net.eval()
        logits, _ = predict_outputs(
            lambda batch: pixel_outputs(net, batch["pixels"]), data.batches("test"), tta=data.tta
        )
        run = Run(Path(folder))
        plain = {"root": str(demo_root), "protocol": "holdout", "resize": data.resize, "tta": data.tta}
        plain |= {
            "image_size": data.image_size,
            "classes": list(data.classes),
            "native_size": data.native_size,
        }
        run.write_config({
            "seed": 0, "name": run.name, "data": plain, "trainer": {"precision": "32-true"},
            "model": {"net": net.node or {"_target_": "mylab.Net"}, "trainable_from": trainable_from},
        })  # fmt: skip
        run.write_table("cells.csv", data.cells)
        run.write_table(
            "predictions.csv", predictions_table(data.cells[data.cells["split"] == "test"], logits)
        )
        run.write_json("status.json", {"status": "done"})
        run.best_checkpoint.parent.mkdir()
        torch.save({
            "state_dict": {f"net.{name}": tensor for name, tensor in net.state_dict().items()},
            "hyper_parameters": {"trainable_from": trainable_from, "unfreeze": None, "stage_lr": None,
                                 "class_weights": "none", "classes": list(data.classes), "monitor": "val/loss"},
            "network": {"node": net.node, "native_size": data.native_size},
            "history": [{"epoch": 1}],
        }, run.best_checkpoint)  # fmt: skip
        if gate:
            from leukemia.training.final_metrics import gate_of

            outputs = predict_outputs(
                lambda batch: pixel_outputs(net, batch["pixels"]), data.batches("train")
            )
            run.write_gate(gate_of(data, outputs[1]))
        return run

    return write


SMALL = (  # a run of seconds
    "model.net.weights=none",
    "data.image_size=32",
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
)


@pytest.fixture
def small(demo_root) -> list[str]:
    """Overrides of a run of seconds on the synthetic set."""
    return [f"data.root={demo_root}", *SMALL]


@pytest.fixture
def threads():
    """Sets the number of PyTorch's threads for a test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.fixture
def leukemia_train(monkeypatch, capfd):
    """The command `leukemia-train`, in this process: call it with overrides, get (exit code, stdout, stderr)."""
    from leukemia.train import main

    def call(*overrides: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["leukemia-train", *map(str, overrides)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capfd.readouterr())

    return call
