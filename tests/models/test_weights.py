"""Weights come from where they were asked for, and nothing is unpickled on the way."""

import logging
import pickle
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, resnet18

from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.models.resnet import resnet
from leukemia.models.weights import published_state


def assert_same_body(net: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in published_state(net).items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, state[name].to(tensor.dtype)), name


def test_imagenet_weights_are_torchvisions_v1_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = resnet18().state_dict()
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    assert_same_body(resnet(18, weights="imagenet"), state)


def test_a_failed_download_names_the_file_its_place_and_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(InputError) as caught:
        resnet(18, weights="imagenet")
    for part in (
        "resnet18-f37072fd.pth",
        str(tmp_path / "hub" / "checkpoints"),
        "model.net.weights=PATH",
        "=none",
    ):
        assert part in str(caught.value)


def test_half_precision_with_another_head_fills_the_body_and_says_so(tmp_path, caplog):
    state = {
        name: t.half() if t.is_floating_point() else t
        for name, t in resnet18(num_classes=6).state_dict().items()
    }
    torch.save(state, tmp_path / "half.pth")
    torch.manual_seed(0)
    head = resnet(18, weights="none").stages.head.weight
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO):
        net = resnet(18, weights=str(tmp_path / "half.pth"))
    assert_same_body(net, state)
    assert torch.equal(net.stages.head.weight, head)
    assert "another size ([6, 512])" in caplog.text


def test_a_checkpoint_of_ours_fills_the_head_too(tmp_path):
    source = CellClassifier(resnet(18, weights="none"), criterion=Weighted())
    torch.save({"state_dict": source.state_dict()}, tmp_path / "best.ckpt")
    net = resnet(18, weights=str(tmp_path / "best.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), source.net.parameters(), strict=True))


def test_names_that_wrappers_put_before_those_of_torchvision_are_left_out(tmp_path):
    state = resnet18(num_classes=1).state_dict()
    torch.save(
        {"model": {f"module.model.{name}": tensor for name, tensor in state.items()}}, tmp_path / "x.pth"
    )
    net = resnet(18, weights=str(tmp_path / "x.pth"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in published_state(net).items())


def test_exported_weights_come_back_the_same(tmp_path):
    net = resnet(18, weights="none")
    save_file(
        {name: tensor.contiguous() for name, tensor in published_state(net).items()},
        tmp_path / "x.safetensors",
    )
    twin = resnet(18, weights=str(tmp_path / "x.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_network_without_published_names_keeps_its_own(tiny):
    net = tiny()
    assert list(published_state(net)) == list(net.state_dict())


def test_weights_of_another_network_are_refused_with_the_keys(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(InputError, match=r"missing: .*layer1.0.conv3.weight.*another network"):
        resnet(50, weights=str(tmp_path / "r18.pth"))


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut short"])
def test_a_file_that_does_not_hold_weights_is_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match="holds no weights"):
        resnet(18, weights=str(tmp_path / "x.pth"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.pth: no such file"):
        resnet(18, weights=str(tmp_path / "x.pth"))


class Weighted(torch.nn.BCEWithLogitsLoss):
    """A criterion with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, logits, labels):
        return super().forward(self.scale * logits, labels)


class Payload:
    """Unpickled as code it leaves a file behind."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_a_file_that_carries_code_is_refused_and_the_code_never_runs(tmp_path, save):
    save({"conv1.weight": Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="read safely"):
        resnet(18, weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_safetensors_fill_a_network_and_a_damaged_file_of_them_is_refused(tmp_path):
    state = resnet18().state_dict()
    save_file(state, tmp_path / "r18.safetensors")
    assert_same_body(resnet(18, weights=str(tmp_path / "r18.safetensors")), state)
    content = (tmp_path / "r18.safetensors").read_bytes()
    (tmp_path / "r18.safetensors").write_bytes(content[:-5])
    with pytest.raises(InputError, match="holds no weights"):
        resnet(18, weights=str(tmp_path / "r18.safetensors"))


def test_code_in_torchs_own_folder_is_refused_too(tmp_path, monkeypatch):
    """torch hashes what it downloads, not what lies there already."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save({"conv1.weight": Payload(tmp_path / "executed")}, file)
    with pytest.raises(InputError, match=r"could not be loaded \(it carries"):
        resnet(18, weights="imagenet")
    assert not (tmp_path / "executed").exists()
