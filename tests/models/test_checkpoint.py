"""A checkpoint opens by its own content alone; anything else is refused with the name of its file."""

import os

import pytest
import torch

from leukemia.errors import InputError
from leukemia.models.checkpoint import load_classifier, load_network
from leukemia.models.classifier import CellClassifier
from leukemia.models.resnet import resnet


class Payload:
    """Unpickled as code it leaves a folder behind."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def content():
    model = CellClassifier(resnet(depth=18, weights="none"))
    network = {"node": model.net.node, "native_size": None}
    return {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "history": [],
        "network": network,
    }


def test_a_checkpoint_gives_the_network_that_was_saved(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    found = load_network(tmp_path / "a.ckpt").net.state_dict()
    assert all(torch.equal(found[name[4:]], tensor) for name, tensor in content["state_dict"].items())


def test_code_in_a_checkpoint_never_runs(tmp_path, content):
    torch.save({**content, "history": Payload(tmp_path / "executed")}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=r"evil\.ckpt cannot be read"):
        load_classifier(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"hyper_parameters": None},
        {"hyper_parameters": {"trainable_from": "layer4", "classes": ["HEM", "ALL"], "unknown": 1}},
        {"network": None},
        {"state_dict": {}},
        {"state_dict": 7},
        {"history": None, "state_dict": None},
    ],
    ids=str,
)
def test_other_content_is_refused_with_the_name_of_the_file(tmp_path, content, changed):
    torch.save({**content, **changed}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt is not a checkpoint of a CellClassifier"):
        load_classifier(tmp_path / "a.ckpt")


def test_opening_a_checkpoint_downloads_and_reads_nothing_else(tmp_path, monkeypatch, content):
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: pytest.fail("downloads"))
    content["network"]["node"]["weights"] = "imagenet"
    torch.save(content, tmp_path / "a.ckpt")
    load_classifier(tmp_path / "a.ckpt")
