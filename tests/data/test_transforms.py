"""Augmentation varies cells, never the background, and follows from its seed alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from leukemia.data.transforms import IMAGENET_MEAN, IMAGENET_STD, VIEWS, augment, normalise, view
from leukemia.errors import InputError


def cells(count=6, size=33):
    """Noise in a disc on black."""
    noise = np.random.default_rng(0).integers(1, 256, (count, size, size, 3), dtype=np.uint8)
    y, x = np.mgrid[:size, :size] - size // 2
    return torch.from_numpy(noise * (x**2 + y**2 < (size / 4) ** 2)[None, :, :, None].astype(np.uint8))


def test_normalise_is_torchvisions_and_channels_last():
    batch = cells()
    expected = functional.normalize(
        batch.permute(0, 3, 1, 2).float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    images = normalise(batch)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_views_are_the_eight_symmetries_of_the_square():
    batch = cells(1)
    found = {view(batch, number).numpy().tobytes() for number in range(VIEWS)}
    assert len(found) == VIEWS
    turned_back = torch.rot90(view(batch, 1), -1, dims=(1, 2))
    assert torch.equal(turned_back, batch)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**48))
def test_views_only_move_pixels(seed):
    batch = cells()
    varied = augment(batch, "views", seed)
    assert varied.dtype == torch.uint8
    for before, after in zip(batch, varied, strict=True):
        assert any(torch.equal(view(before[None], number)[0], after) for number in range(VIEWS))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**48))
def test_full_leaves_black_black_and_values_in_range(seed):
    batch = cells()
    varied = augment(batch, "full", seed)
    assert varied.shape == batch.shape
    assert varied.min() >= 0
    assert varied.max() <= 255
    assert not augment(torch.zeros_like(batch), "full", seed).any()
    assert not varied[:, 0, 0].any()  # a corner: the disc never reaches it


def test_full_keeps_the_scale_of_a_cell_within_a_tenth():
    batch = cells(64)
    area = (augment(batch, "full", 0).sum(dim=-1) > 0).float().sum(dim=(1, 2)) / (batch.sum(dim=-1) > 0).sum(
        dim=(1, 2)
    )
    assert (area.sqrt() > 0.85).all()
    assert (area.sqrt() < 1.3).all()  # interpolation adds a rim of about a pixel


@pytest.mark.parametrize("augmentation", ["views", "full"])
def test_the_same_seed_varies_alike_and_another_does_not(augmentation):
    batch = cells()
    one, same, other = (augment(batch, augmentation, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_none_changes_nothing_and_an_unknown_name_is_refused():
    batch = cells()
    assert augment(batch, "none", 0) is batch
    with pytest.raises(InputError, match="none, views, full"):
        augment(batch, "some", 0)
