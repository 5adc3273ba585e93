"""A checkpoint builds the network alone, runs no code, and says what is wrong with it."""

import pickle
import subprocess
import sys

import pytest
import torch

from leukemia.errors import InputError
from leukemia.models.checkpoint import load_classifier, load_network, read_checkpoint
from leukemia.models.classifier import CellClassifier
from leukemia.models.engine import Frozen
from leukemia.models.freezing import prefix
from leukemia.models.network import pixel_logits, pixel_outputs
from leukemia.models.resnet import resnet

PIXELS = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)


def checkpoint(file, net=None, **changes):
    """A checkpoint as training writes it, with these entries changed."""
    model = CellClassifier(net or resnet(18, weights="none"), "last", classes=("HEM", "ALL"))
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "network": {"node": model.net.node if net is None else None, "native_size": 450},
        "history": [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.1}],
    }
    torch.save({**content, **changes}, file)
    return model.net.eval()


def test_the_network_comes_back_with_everything_that_prediction_needs(tmp_path):
    expected = pixel_logits(checkpoint(tmp_path / "x.ckpt"), PIXELS)
    loaded = load_network(tmp_path / "x.ckpt")
    assert torch.equal(pixel_logits(loaded.net, PIXELS), expected)
    assert not loaded.net.training
    assert (loaded.classes, loaded.native_size, loaded.trainable_from, loaded.epoch) == (
        ("HEM", "ALL"),
        450,
        "layer4",
        2,
    )
    assert loaded.node == {"_target_": "leukemia.models.resnet.resnet", "name": "resnet18", "weights": "none"}
    assert [row["epoch"] for row in loaded.history] == [1, 2]


def test_a_checkpoint_of_release_01_is_refused_as_such(tmp_path):
    content = {"state_dict": {}, "hyper_parameters": {"depth": 18, "trainable_from": "layer4"}, "history": []}
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"old\.ckpt is a checkpoint of release 0\.1: train it again"):
        load_network(tmp_path / "old.ckpt")


def test_the_classifier_comes_back_with_its_settings(tmp_path):
    net = checkpoint(tmp_path / "x.ckpt")
    expected, _ = pixel_outputs(net, PIXELS, Frozen(prefix(net)))
    model = load_classifier(tmp_path / "x.ckpt")
    assert torch.equal(model(PIXELS), expected)
    assert (model.trainable_from, model.hparams["classes"], len(model.history)) == (
        "layer4",
        ["HEM", "ALL"],
        2,
    )


def test_a_network_is_loaded_without_lightning_and_without_hydra(tmp_path):
    checkpoint(tmp_path / "x.ckpt")
    code = (
        "import sys; from leukemia.models.checkpoint import load_network; load_network(sys.argv[1]); "
        "assert not {'pytorch_lightning', 'lightning', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.ckpt"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_network_of_ones_own_loads_with_the_network_at_hand(tiny, tmp_path):
    net = checkpoint(tmp_path / "x.ckpt", tiny())
    with pytest.raises(InputError, match=r"does not say how .*load_from_checkpoint\(PATH, net=NET\)"):
        load_network(tmp_path / "x.ckpt")
    loaded = load_network(tmp_path / "x.ckpt", tiny())
    assert torch.equal(pixel_logits(loaded.net, PIXELS), pixel_logits(net, PIXELS))
    assert (loaded.node, loaded.trainable_from) == (None, "pool")
    with pytest.raises(
        InputError, match=r"not a checkpoint of a CellClassifier, or of another network.*Missing key"
    ):
        load_network(tmp_path / "x.ckpt", resnet(18, weights="none"))


def test_weights_that_a_checkpoint_asks_for_are_neither_read_nor_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("leukemia.models.weights._download", pytest.fail)
    monkeypatch.setattr("leukemia.models.weights.read_state_dict", pytest.fail)
    for weights in ("imagenet", str(tmp_path / "x.ckpt")):
        node = {"_target_": "leukemia.models.resnet.resnet", "depth": 18, "weights": weights}
        checkpoint(tmp_path / "x.ckpt", network={"node": node, "native_size": None})
        assert load_network(tmp_path / "x.ckpt").node["weights"] == "none"


NODE = {"_target_": "leukemia.models.resnet.resnet", "depth": 18}


@pytest.mark.parametrize(
    "changes",
    [
        {"network": None},
        {"network": {"native_size": None}},
        {"network": {"node": NODE}},
        {"network": {"node": NODE, "native_size": "x"}},
        {"network": {"node": {**NODE, "depth": 50}, "native_size": None}},
        {"hyper_parameters": {}},
        {"hyper_parameters": {"trainable_from": "last", "classes": ["one"]}},
        {"hyper_parameters": {"trainable_from": "last", "classes": 3}},
        {"state_dict": {}},
        {"state_dict": 3},
        {"history": [3]},
        {"history": 3},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, changes):
    checkpoint(tmp_path / "x.ckpt", **changes)
    with pytest.raises(InputError, match=r"x.ckpt"):
        load_network(tmp_path / "x.ckpt")


def test_settings_that_the_classifier_does_not_take_are_refused(tmp_path):
    settings = {"trainable_from": "last", "classes": ["HEM", "ALL"], "unknown": 1}
    checkpoint(tmp_path / "x.ckpt", hyper_parameters=settings)
    with pytest.raises(InputError, match=r"x.ckpt is not a checkpoint of a CellClassifier: .*unknown"):
        load_classifier(tmp_path / "x.ckpt")


def test_a_file_without_a_checkpoint_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(InputError, match=r"list.ckpt is not a checkpoint"):
        read_checkpoint(tmp_path / "list.ckpt")
    with pytest.raises(InputError, match=r"none.ckpt cannot be read"):
        read_checkpoint(tmp_path / "none.ckpt")


class Payload:
    """Unpickled as code it leaves a file behind."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_a_checkpoint_that_carries_code_is_refused_and_the_code_never_runs(tmp_path, save):
    save({"state_dict": {}, "hyper_parameters": Payload(tmp_path / "executed")}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=r"evil.ckpt cannot be read"):
        load_network(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def doubled(times=60):
    value = ["x"]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "changes",
    [
        {
            "network": {
                "node": {"_target_": "leukemia.models.resnet.resnet", "depth": doubled()},
                "native_size": None,
            }
        },
        {"network": {"node": None, "native_size": doubled()}},
        {"hyper_parameters": {"trainable_from": doubled(), "classes": ["HEM", "ALL"]}},
        {"hyper_parameters": {"trainable_from": "head", "classes": ["ALL"]}},
        {"hyper_parameters": {"trainable_from": "head", "classes": list("ABCDE")}},
        {"hyper_parameters": {"trainable_from": "head", "classes": ["ALL", "ALL"]}},
        {"hyper_parameters": {"trainable_from": "head", "classes": doubled()}},
        {"history": doubled()},
        {"history": [{"epoch": float("inf")}]},
        {"history": {"a": 1}},
        {"network": {"node": None, "native_size": float("nan")}},
    ],
    ids=range(11),
)
def test_a_checkpoint_of_another_shape_is_refused_at_once(tmp_path, changes):
    file = tmp_path / "x.ckpt"
    checkpoint(file, **changes)
    with pytest.raises(InputError) as refusal:
        load_network(file)
    assert str(file) in str(refusal.value)
    assert len(str(refusal.value)) < 500
