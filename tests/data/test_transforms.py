"""Augmentation varies cells, never the background, and follows from its seed alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from leukemia.data.transforms import D4, augment, d4, normalise
from leukemia.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cells(count=6, size=33):
    """Noise in a disc on black."""
    noise = np.random.default_rng(0).integers(1, 256, (count, size, size, 3), dtype=np.uint8)
    y, x = np.mgrid[:size, :size] - size // 2
    return torch.from_numpy(noise * (x**2 + y**2 < (size / 4) ** 2)[None, :, :, None].astype(np.uint8))


def test_normalise_is_torchvisions_and_channels_last():
    batch = cells()
    expected = functional.normalize(batch.permute(0, 3, 1, 2).float() / 255, list(MEAN), list(STD))
    images = normalise(batch, MEAN, STD)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_normalise_does_the_same_arithmetic_to_the_bit_as_it_ever_did():
    batch = cells()
    mean, std = (255 * torch.tensor(values) for values in (MEAN, STD))
    expected = ((batch.float() - mean) / std).permute(0, 3, 1, 2)
    assert torch.equal(normalise(batch, MEAN, STD), expected)
    assert not torch.equal(normalise(batch, (0.5,) * 3, (0.5,) * 3), expected)  # each network has its own


def test_d4_are_the_eight_symmetries_of_the_square():
    batch = cells(1)
    found = {d4(batch, number).numpy().tobytes() for number in range(D4)}
    assert len(found) == D4
    turned_back = torch.rot90(d4(batch, 1), -1, dims=(1, 2))
    assert torch.equal(turned_back, batch)


@settings(deadline=None)
@given(seed=st.integers(0, 2**48))
def test_d4_augmentation_only_moves_pixels(seed):
    batch = cells()
    varied = augment(batch, "d4", seed)
    assert varied.dtype == torch.uint8
    for before, after in zip(batch, varied, strict=True):
        assert any(torch.equal(d4(before[None], number)[0], after) for number in range(D4))


@settings(deadline=None)
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


@pytest.mark.parametrize("augmentation", ["d4", "full"])
def test_the_same_seed_varies_alike_and_another_does_not(augmentation):
    batch = cells()
    one, same, other = (augment(batch, augmentation, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_none_changes_nothing_and_an_unknown_name_is_refused():
    batch = cells()
    assert augment(batch, "none", 0) is batch
    with pytest.raises(InputError, match="none, d4, full"):
        augment(batch, "some", 0)
