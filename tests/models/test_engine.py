"""The engine gives the activations of the frozen stages, faster, and follows its network."""

import copy
import importlib.util
import logging
import sys
import threading

import pytest
import torch
from torch import nn

from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.models.engine import Frozen, folded
from leukemia.models.freezing import Prefix, freeze, prefix, stage_names
from leukemia.models.network import StagedNetwork
from leukemia.models.resnet import resnet
from leukemia.precision import autocast


def timm(name, size):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    from leukemia.models.timm_nets import timm

    return timm(name, weights="none", image_size=size)


NETWORKS = {
    "resnet18": lambda: resnet(18, weights="none"),
    "resnext50_32x4d": lambda: resnet(name="resnext50_32x4d", weights="none"),
    "timm's resnet26d": lambda: timm("resnet26d", 64),
    "timm's efficientnet_b1": lambda: timm("efficientnet_b1", 64),
    "timm's vit": lambda: timm("vit_small_patch14_dinov2", 56),
}


def images(count: int = 3, size: int = 56) -> torch.Tensor:
    values = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last)


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch statistics of noise, so that folding has something to fold."""
    with torch.no_grad():
        net.train().stages(images(16))
    return net.eval()


def norms(stages: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in stages.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_at_every_boundary_folded_stages_give_the_activations_in_full_precision(name):
    torch.manual_seed(0)
    net = with_statistics(NETWORKS[name]())
    for stage in (stage_names(net)[1], stage_names(net)[-2], "head"):
        freeze(net, stage)
        expected, found = prefix(net)(images()), Frozen(prefix(net))(images())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert not found.requires_grad


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "timm's resnet26d"])
def test_no_batch_norm_is_left_behind_a_convolution(name):
    net = NETWORKS[name]()
    freeze(net, "head")
    assert norms(folded(prefix(net), images(1))) == 0


def test_the_network_itself_stays_as_it_is():
    net = resnet(18, weights="none")
    freeze(net, "head")
    before = copy.deepcopy(net.state_dict())
    Frozen(prefix(net))(images())
    assert norms(net) == 20
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.load_state_dict(resnet(18, weights="none").state_dict()),
        lambda net: net.stages.stem[1].running_mean.add_(1),
        lambda net: net.double().float(),
    ],
    ids=["weights", "statistics", "dtype"],
)
def test_the_engine_follows_a_network_that_changes(change):
    net = resnet(18, weights="none")
    freeze(net, "layer2")
    frozen = Frozen(prefix(net))
    frozen(images())
    with torch.no_grad():
        change(net)
    torch.testing.assert_close(frozen(images()), prefix(net)(images()), rtol=1e-4, atol=1e-4)


def test_a_copy_has_an_engine_of_its_own():
    net = resnet(18, weights="none")
    freeze(net, "layer2")
    pair = copy.deepcopy((net, Frozen(prefix(net))))
    with torch.no_grad():
        net.stages.stem[0].weight.zero_()
    torch.testing.assert_close(pair[1](images()), prefix(pair[0])(images()), rtol=1e-4, atol=1e-4)


class Branches(nn.Module):
    """A stage that cannot be traced: it looks at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, values):
        values = self.norm(self.conv(values))
        return values if values.mean() > 0 else -values


class Twice(nn.Module):
    """A stage that folding would break: its convolution is also used without the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(2)

    def forward(self, values):
        return self.norm(self.conv(values)) + self.conv(-values)


@pytest.mark.parametrize("stage", [Branches, Twice])
def test_stages_that_cannot_be_traced_or_would_differ_stay_as_they_are(stage):
    net = StagedNetwork({"stem": stage(), "pool": nn.Flatten(), "head": nn.Linear(1, 1)})
    freeze(net.eval(), "pool")
    assert list(folded(prefix(net), images(1))) == [net.stages.stem]


def test_without_a_frozen_stage_or_without_images_there_is_nothing_to_prepare():
    assert torch.equal(Frozen(Prefix())(images()), images())
    net = resnet(18, weights="none")
    freeze(net, "head")
    assert Frozen(prefix(net))(images(0)).shape == (0, 512)


def test_an_engine_that_began_in_inference_mode_serves_training_too():
    net = resnet(18, weights="none")
    freeze(net, "layer4")
    frozen = Frozen(prefix(net))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        first = frozen(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net.stages.layer4(frozen(images())).sum().backward()
        assert torch.equal(frozen(images()), first)


@pytest.fixture
def two_threads(threads):
    threads(2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", ["layer1", "layer4", "head"])
def test_images_side_by_side_have_the_activations_that_each_has_alone(two_threads, stage, precision):
    net = with_statistics(resnet(18, weights="none"))
    freeze(net, stage)
    frozen, seen = Frozen(prefix(net)), images(5)
    with autocast("cpu", precision), torch.inference_mode():
        found, expected = frozen(seen), torch.cat([frozen(image[None]) for image in seen])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert found.is_inference()
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())


class Own(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)


class Remembers(nn.Module):
    """A user's own stage, which keeps a value from one line to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.threads = nn.Conv2d(3, 4, 3), set()

    def forward(self, values):
        self.threads.add(threading.get_ident())
        return self.conv(values)


def test_a_users_own_stage_is_called_by_one_thread(two_threads):
    net = StagedNetwork({"stem": Remembers(), "pool": nn.Flatten(), "head": nn.Linear(4, 1)})
    freeze(net.eval(), "pool")
    frozen = Frozen(prefix(net))
    frozen(images(8))
    assert not frozen.many_threads
    assert net.stages.stem.threads == {threading.get_ident()}


# OpenVINO

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@needs_openvino
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", ["layer4", "head"])
def test_openvino_gives_the_activations_in_the_type_and_layout_of_the_stages(two_threads, stage, precision):
    torch.manual_seed(0)
    net = with_statistics(resnet(18, weights="none"))
    freeze(net, stage)
    with autocast("cpu", precision):
        expected, frozen = prefix(net)(images()), Frozen(prefix(net), "openvino")
        found = frozen(images())
        assert torch.equal(copy.deepcopy(frozen)(images()), found)
        # A cell's activations do not depend on its batch.
        assert torch.equal(torch.cat([frozen(images()[:1]), frozen(images()[1:])]), found)
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    share = 1e-5 if precision == "32-true" else 2e-2
    assert float((found - expected).abs().max() / expected.abs().max()) < share


@needs_openvino
def test_openvino_computes_a_users_own_stages_side_by_side(two_threads):
    torch.manual_seed(0)
    net = StagedNetwork({"stem": nn.Sequential(Own()), "pool": nn.Flatten(), "head": nn.Linear(4, 1)})
    freeze(net.eval(), "pool")
    frozen = Frozen(prefix(net), "openvino")
    torch.testing.assert_close(frozen(images(3)), prefix(net)(images(3)), rtol=1e-4, atol=1e-4)
    assert frozen.many_threads


@needs_openvino
def test_openvino_follows_a_network_that_changes_and_reports_to_nobody():
    net = resnet(18, weights="none")
    freeze(net, "layer2")
    frozen = Frozen(prefix(net), "openvino")
    frozen(images())
    with torch.no_grad():
        net.stages.stem[1].running_mean.add_(1)
    torch.testing.assert_close(frozen(images()), prefix(net)(images()), rtol=1e-4, atol=1e-4)
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_openvino_leaves_the_loggers_of_the_process_as_they_are():
    def state():
        root = logging.getLogger()
        return root.level, list(root.handlers), list(root.filters)

    net = resnet(18, weights="none")
    freeze(net, "layer1")
    before = state()
    Frozen(prefix(net), "openvino")(images())
    assert state() == before


@needs_openvino
def test_openvino_refuses_in_a_line_what_it_cannot_compute():
    net = StagedNetwork({"stem": Branches(), "pool": nn.Flatten(), "head": nn.Linear(1, 1)})
    freeze(net.eval(), "pool")

    def failing(*given):
        raise RuntimeError("not now")

    net.stages.stem.register_forward_pre_hook(failing)
    with pytest.raises(
        InputError, match=r"engine=openvino cannot compute the frozen stages .*: use model.engine"
    ):
        Frozen(prefix(net), "openvino")(images())


def test_an_engine_that_is_unknown_or_not_installed_is_refused_with_the_remedy(monkeypatch):
    with pytest.raises(InputError, match=r"model.engine=tensorrt is unknown: use one of torch, openvino"):
        Frozen(Prefix(), "tensorrt")
    monkeypatch.setattr("leukemia.models.engine.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed: pip install 'leukemia\[openvino\]'"):
        CellClassifier(resnet(18, weights="none"), engine="openvino")
