"""Cached features are the activations of the frozen stages, named by all that they depend on, computed once."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from leukemia.data.feature_cache import FeatureCache, FrozenPrefix, why_not
from leukemia.data.transforms import d4
from leukemia.errors import InputError
from leukemia.precision import autocast
from leukemia.storage.cache import cache_dir

pytestmark = pytest.mark.usefixtures("own_cache")
ALL = np.arange(70)


def cached(model, pixels, number=0, precision="32-true", cells=ALL, max_gb=None, device="cpu"):
    """The features of cells under one D4 transform."""
    cache = FeatureCache(model, pixels, {"train": [(cells, number)]}, device, precision, max_gb)
    return cache.load()["train"]


def direct(model, pixels, number=0, precision="32-true"):
    with torch.no_grad(), autocast("cpu", precision):
        return model.prefix(d4(torch.from_numpy(pixels.images), number))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("boundary", ["body", "head"])
@pytest.mark.parametrize("number", [0, 5])
def test_cached_features_are_the_activations_rounded_to_half(noise, staged, boundary, precision, number):
    model = staged(boundary)
    store = cached(model, noise, number, precision)
    expected = direct(model, noise, number, precision)
    assert store.arrays[0].dtype == np.float16
    assert store.dtype == expected.dtype
    # Half a unit in the last place of float16, and the order of a sum in another size of batch.
    tolerance = {"rtol": 2**-11, "atol": 1e-5} if precision == "32-true" else {"rtol": 0.02, "atol": 1e-3}
    np.testing.assert_allclose(store.arrays[0].astype(np.float32), expected.float().numpy(), **tolerance)


def test_a_cell_classifier_gives_the_same_logits_from_features_as_from_pixels(noise):
    from leukemia.models.classifier import CellClassifier
    from leukemia.models.resnet import resnet

    model = CellClassifier(resnet(depth=18, weights="none"), trainable_from="head").eval()
    assert isinstance(model, FrozenPrefix)
    batch = {"features": cached(model, noise).read(ALL, 0)}
    with torch.no_grad():
        whole = model(torch.from_numpy(noise.images))
        torch.testing.assert_close(model.logits(batch), whole, rtol=2e-3, atol=2e-3)


def test_activations_beyond_the_range_of_half_precision_are_stored_in_full(noise, staged):
    model = staged()
    with torch.no_grad():
        model.stages.body[1].weight.mul_(1e6)
    (stored,) = cached(model, noise).arrays
    assert stored.dtype == np.float32
    assert stored.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(stored, direct(model, noise).numpy(), rtol=1e-4)


def test_activations_that_are_not_numbers_are_refused_and_nothing_is_kept(noise, staged):
    model = staged()
    with torch.no_grad():
        model.stages.stem[0].weight[0] = float("inf")
    with pytest.raises(InputError, match="not finite for cells 0 to 15"):
        cached(model, noise)
    assert not list(cache_dir().glob("features-*"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_side_by_side_give_the_same_features(noise, staged, threads, count):
    one = staged()
    one.many_threads = False
    expected = cached(one, noise).arrays[0].copy()
    shutil.rmtree(cache_dir())
    threads(count)
    found = cached(staged(), noise).arrays[0]
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2**-10, atol=1e-5)


def test_they_are_computed_once_and_then_read(noise, staged, monkeypatch):
    first = cached(staged(), noise).arrays[0]
    monkeypatch.setattr(FeatureCache, "_compute", lambda *arguments: pytest.fail("computed again"))
    np.testing.assert_array_equal(cached(staged(), noise).arrays[0], first)  # equal weights, another object


def test_of_two_at_once_one_computes_and_the_other_waits(noise, staged, monkeypatch):
    computed = []
    compute = FeatureCache._compute
    monkeypatch.setattr(
        FeatureCache, "_compute", lambda self, *arguments: computed.append(1) or compute(self, *arguments)
    )
    models = [staged(), staged()]
    with ThreadPoolExecutor(2) as pool:
        first, second = (store.arrays[0] for store in pool.map(lambda model: cached(model, noise), models))
    assert len(computed) == 1
    np.testing.assert_array_equal(first, second)


def test_the_name_holds_all_that_they_depend_on_and_nothing_else(noise, staged):
    def folders():
        return {path.name for path in cache_dir().glob("features-*")}

    cached(staged(), noise)
    other_head = staged()
    with torch.no_grad():
        other_head.stages.head[1].weight.add_(1)
    cached(other_head, noise)
    assert len(folders()) == 1
    statistics = staged()
    statistics.stages.stem[1].running_mean.add_(1)
    other_engine = staged()
    other_engine.engine = "torch of another version"
    changed = [
        {"model": staged(seed=1)},
        {"model": statistics},
        {"model": staged("body")},
        {"pixels": replace(noise, key="other")},
        {"number": 1},
        {"precision": "bf16-mixed"},
        {"device": "cuda"},  # of training; this model stays where it is
        {"model": other_engine},
        {"cells": np.arange(5)},
    ]
    for count, change in enumerate(changed, start=2):
        cached(**{"model": staged(), "pixels": noise, **change})
        assert len(folders()) == count, change


def test_features_that_cost_more_to_read_than_to_compute_are_not_worth_it(noise, staged):
    def reason(boundary):
        return FeatureCache(staged(boundary), noise, {}, "cpu", "32-true").not_worth_it()

    assert reason("head") is None
    assert "reading 0.0 MB a cell costs more than the 0 million multiply-adds" in reason("body")


def test_multiply_adds_are_those_of_the_textbook(noise, staged):
    """A convolution of 3x3x3 to 16 channels and one of 3x3x16 to 8 channels, both at 16x16 pixels."""
    found = FeatureCache(staged(), noise, {}, "cpu", "32-true").multiply_adds
    assert found == (3 * 3 * 3 * 16 + 3 * 3 * 16 * 8) * 16 * 16


@pytest.mark.parametrize(
    ("boundary", "moves", "augmentation", "reason"),
    [
        ("body", True, "none", "model.unfreeze thaws"),
        (None, False, "none", "no stage is frozen"),
        ("body", False, "full", "data.augment=full"),
        ("body", False, "d4", None),
        ("head", False, "none", None),
    ],
)
def test_a_run_that_cannot_use_them_gives_the_reason(staged, boundary, moves, augmentation, reason):
    found = why_not(staged(boundary, moves), augmentation)
    assert found is None if reason is None else reason in found


def test_cached_features_need_no_more_room(noise, staged, monkeypatch):
    parts = [(ALL, number) for number in range(8)]
    cache = FeatureCache(staged(), noise, {"train": parts}, "cpu", "32-true", max_gb=1)
    assert cache.lacking_room() is None
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": cache.nbytes(70)}))
    assert "do not fit" in cache.lacking_room()
    FeatureCache(staged(), noise, {"train": parts[:7]}, "cpu", "32-true", max_gb=1).load()
    assert cache.lacking_room() is None
    small = FeatureCache(staged(), noise, {"train": parts}, "cpu", "32-true", max_gb=1e-6)
    assert "cache.max_gb=1e-06" in small.lacking_room()


def test_evicted_features_are_computed_again(noise, staged, caplog):
    caplog.set_level(logging.INFO)
    room = 1.5 * (2 * 70 * 8 + 300) / 1e9  # more than one folder with its checksums, less than two
    first = cached(staged(), noise, 0, max_gb=room).arrays[0].copy()
    cached(staged(), noise, 1, max_gb=room)
    assert len(list(cache_dir().glob("features-*"))) == 1
    np.testing.assert_array_equal(cached(staged(), noise, 0, max_gb=room).arrays[0], first)


def test_they_belong_to_equal_frozen_stages_only(noise, staged):
    model = staged()
    cache = FeatureCache(model, noise, {"train": [(ALL, 0)]}, "cpu", "32-true")
    assert cache.belongs_to(model)
    assert cache.belongs_to(staged())
    assert not cache.belongs_to(staged(seed=1))
    cache.load()
    model.stages.stem[1].running_mean.add_(1)  # the same object with other weights
    assert not cache.belongs_to(model)
    assert cache.belongs_to(staged())
