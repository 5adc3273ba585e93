"""ArrayStore activations are those of the frozen stages, named by all that they depend on, and computed once."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from leukemia.data.feature_cache import FrozenFeatures, why_not
from leukemia.data.pixels import Pixels
from leukemia.data.transforms import normalise, view
from leukemia.errors import InputError
from leukemia.models.resnet import DEPTHS, StagedResNet
from leukemia.precision import autocast
from leukemia.storage.cache import cache_dir


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()


@pytest.fixture
def pixels() -> Pixels:
    """Noise: 70 cells, more than the pass takes at once."""
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    return Pixels(images, np.arange(70).astype(str), "noise")


def network(depth=18, trainable_from="layer4", seed=0) -> StagedResNet:
    torch.manual_seed(seed)
    return StagedResNet(depth, trainable_from)


def load(net, pixels, number=0, precision="32-true", cells=None, max_gb=None):
    cells = np.arange(len(pixels.images)) if cells is None else cells
    (stored,), dtype = FrozenFeatures(net, pixels, "cpu", precision, max_gb).load([(cells, number)])
    return stored, dtype


def direct(net, pixels, number=0, precision="32-true"):
    with autocast("cpu", precision):
        return net.prefix(normalise(view(torch.from_numpy(pixels.images), number)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("trainable_from", ["layer2", "layer3", "layer4", "head"])
@pytest.mark.parametrize("number", [0, 5])
def test_stored_activations_are_the_direct_ones_rounded_to_half(pixels, trainable_from, precision, number):
    net = network(trainable_from=trainable_from)
    stored, dtype = load(net, pixels, number, precision)
    expected = direct(net, pixels, number, precision)
    assert stored.dtype == np.float16
    assert dtype == expected.dtype
    # Half a unit in the last place of float16, and what another size of batch does to a sum in float32.
    tolerance = {"rtol": 2**-11, "atol": 1e-5}
    np.testing.assert_allclose(stored.astype(np.float32), expected.float().numpy(), **tolerance)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_suffix_gives_the_logits_of_the_whole_network(pixels, depth):
    net = network(depth, "head").eval()
    stored, dtype = load(net, pixels)
    with torch.no_grad():
        whole = net(normalise(torch.from_numpy(pixels.images)))
        split = net.suffix(torch.from_numpy(np.array(stored)).to(dtype))
    torch.testing.assert_close(split, whole, rtol=2e-3, atol=2e-3)


def test_activations_beyond_the_range_of_half_precision_are_stored_in_full(pixels):
    net = network()
    with torch.no_grad():
        net.net.layer3[1].bn2.weight.mul_(1e6)
    stored, _ = load(net, pixels)
    assert stored.dtype == np.float32
    assert stored.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(stored, direct(net, pixels).numpy(), rtol=1e-4)


def test_activations_that_are_no_numbers_are_refused_and_nothing_is_kept(pixels):
    net = network()
    with torch.no_grad():
        net.net.conv1.weight[0] = float("inf")
    with pytest.raises(InputError, match="not finite for cells 0 to 15"):
        load(net, pixels)
    assert not list(cache_dir().glob("features-*"))


def test_an_unfrozen_network_cannot_change_them(pixels):
    net = network()
    before = load(net, pixels)[0].copy()
    net.train()
    net(normalise(torch.from_numpy(pixels.images)))  # BatchNorm of what trains moves
    np.testing.assert_array_equal(load(net, pixels)[0], before)


def test_they_are_computed_once_and_read_from_then_on(pixels, monkeypatch):
    net = network()
    first = load(net, pixels)[0]
    monkeypatch.setattr(FrozenFeatures, "_compute", lambda *arguments: pytest.fail("computed again"))
    np.testing.assert_array_equal(load(network(), pixels)[0], first)  # the same weights, another object


def test_whatever_they_depend_on_is_in_their_name_and_nothing_else(pixels):
    def folders():
        return {path.name for path in cache_dir().glob("features-*")}

    load(network(), pixels)
    other_head = network()
    with torch.no_grad():
        other_head.net.fc.weight.add_(1)
        other_head.net.layer4[0].conv1.weight.add_(1)
    load(other_head, pixels)
    assert len(folders()) == 1
    statistics = network()
    statistics.net.layer1[0].bn1.running_mean.add_(1)
    changed = [
        {"net": network(seed=1)},
        {"net": statistics},
        {"net": network(trainable_from="layer3")},
        {"pixels": replace(pixels, key="other")},
        {"number": 1},
        {"precision": "bf16-mixed"},
        {"cells": np.arange(5)},
    ]
    for count, change in enumerate(changed, start=2):
        load(**{"net": network(), "pixels": pixels, **change})
        assert len(folders()) == count, change


def test_boundaries_whose_activations_are_larger_than_they_are_dear_run_as_before(pixels):
    def stored(depth, stage):
        return FrozenFeatures(network(depth, stage), pixels, "cpu", "32-true").not_worth_it() is None

    assert [stored(18, stage) for stage in ("layer1", "layer2", "layer3", "layer4", "head")] == [
        False,
        True,
        True,
        True,
        True,
    ]
    assert not stored(50, "layer2")
    assert stored(50, "layer3")


def test_multiply_adds_are_those_of_the_textbook(pixels):
    """conv1 of 7x7x3 to 64 channels at 16x16 pixels; a block of layer1 has two 3x3 convolutions at 8x8."""
    found = FrozenFeatures(network(trainable_from="layer2"), pixels, "cpu", "32-true").multiply_adds
    assert found == 7 * 7 * 3 * 64 * 16 * 16 + 4 * 3 * 3 * 64 * 64 * 8 * 8


@pytest.mark.parametrize(
    ("stage", "scheduled", "augmentation", "reason"),
    [
        ("layer4", True, "none", "model.unfreeze thaws"),
        ("stem", False, "none", "no stage is frozen"),
        ("layer4", False, "full", "data.augment=full"),
        ("layer4", False, "views", None),
        ("head", False, "none", None),
    ],
)
def test_a_policy_that_cannot_use_them_says_why(stage, scheduled, augmentation, reason):
    found = why_not(network(trainable_from=stage), scheduled, augmentation)
    assert found is None if reason is None else reason in found


def test_what_lies_in_the_cache_needs_no_room(pixels, monkeypatch):
    features = FrozenFeatures(network(), pixels, "cpu", "32-true", max_gb=1)
    parts = [(np.arange(70), number) for number in range(8)]
    assert features.lacking_room(parts) is None
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": features.nbytes(70)}))
    assert "do not fit" in features.lacking_room(parts)
    features.load(parts[:7])
    assert features.lacking_room(parts) is None
    small = FrozenFeatures(network(), pixels, "cpu", "32-true", max_gb=1e-6)
    assert "cache.max_gb=1e-06" in small.lacking_room(parts)


def test_evicted_activations_are_computed_again(pixels, caplog):
    caplog.set_level(logging.INFO)
    net, room = network(), 1.5 * FrozenFeatures(network(), pixels, "cpu", "32-true").nbytes(70) / 1e9
    first = load(net, pixels, 0, max_gb=room)[0].copy()
    load(net, pixels, 1, max_gb=room)
    assert len(list(cache_dir().glob("features-*"))) == 1
    np.testing.assert_array_equal(load(net, pixels, 0, max_gb=room)[0], first)
