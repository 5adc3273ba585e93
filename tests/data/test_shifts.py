"""Shifts change what they say, by as much as they say, and leave black background black where the change is optical."""

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from leukemia.data.handcrafted import is_background, measure
from leukemia.data.shifts import SHIFTS, SMEAR
from leukemia.data.synthetic import Traits, draw_cell

OPTICAL = ("blur", "defocus", "noise", "brightness", "contrast", "stain")


@pytest.fixture(scope="module")
def cell():
    return draw_cell(Traits(), np.random.default_rng(0), size=225)


def difference(first, second):
    return np.abs(first.astype(int) - second).mean()


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_is_a_pure_function_of_picture_and_strength(cell, name):
    shift, before = SHIFTS[name], cell.copy()
    cell.flags.writeable = False
    for strength in shift.strengths:
        found = shift(cell, strength)
        assert (found.shape, found.dtype) == (cell.shape, np.uint8)
        np.testing.assert_array_equal(found, shift(cell, strength))
    cell.flags.writeable = True
    np.testing.assert_array_equal(cell, before)
    np.testing.assert_array_equal(shift(cell, shift.none), cell)


@pytest.mark.parametrize("name", SHIFTS)
def test_the_further_a_strength_is_from_none_the_more_it_changes(cell, name):
    shift = SHIFTS[name]
    assert len(shift.strengths) == 5
    assert list(shift.strengths) == sorted(shift.strengths)
    assert sorted(strength for way in shift.ways for strength in way) == list(shift.strengths)
    for way in shift.ways:
        # JPEG rounds black itself up or down, by another amount at each quality.
        part = ~is_background(cell) if name == "jpeg" else slice(None)
        changes = [difference(cell[part], shift(cell, strength)[part]) for strength in way]
        assert changes[0] > 0
        assert changes == sorted(changes)


@pytest.mark.parametrize("name", OPTICAL)
def test_black_stays_black_under_an_optical_shift(cell, name):
    for strength in SHIFTS[name].strengths:
        assert not SHIFTS[name](cell, strength)[is_background(cell)].any()


@pytest.mark.parametrize("name", ["blur", "defocus"])
def test_an_evenly_coloured_cell_is_not_changed_by_a_lens_so_its_edge_does_not_darken(name):
    disc = np.hypot(*np.mgrid[-225:225, -225:225]) < 100
    even = np.where(disc[..., None], np.array([70, 30, 80], dtype=np.uint8), np.uint8(0))
    assert np.abs(SHIFTS[name](even, SHIFTS[name].strengths[-1]).astype(int) - even).max() <= 1


@pytest.mark.parametrize("factor", [0.6, 1.25, 2])
def test_brightness_multiplies_and_is_cut_at_white(cell, factor):
    mask = ~is_background(cell)
    expected = np.minimum(cell[mask] * float(factor), 255)
    assert np.abs(SHIFTS["brightness"](cell, factor)[mask] - expected).max() <= 1


def test_contrast_keeps_the_mean_of_the_cell_and_scales_its_spread(cell):
    mask = ~is_background(cell)
    weights = np.array([0.2989, 0.587, 0.114])  # of brightness, as ITU-R BT.601 has them
    before, after = cell[mask] @ weights, SHIFTS["contrast"](cell, 0.5)[mask] @ weights
    assert after.mean() == pytest.approx(before.mean(), abs=1)
    assert after.std() == pytest.approx(before.std() / 2, rel=0.1)


def test_noise_has_the_stated_deviation():
    grey = np.full((150, 150, 3), 128, dtype=np.uint8)
    noise = SHIFTS["noise"](grey, 16).astype(int) - 128
    assert noise.std() == pytest.approx(16, rel=0.02)
    assert abs(noise.mean()) < 0.3


def test_stain_turns_the_hue_and_moves_saturation_with_it(cell):
    import colorsys

    mask = ~is_background(cell)
    before = colorsys.rgb_to_hsv(*cell[mask].mean(axis=0) / 255)
    redder = colorsys.rgb_to_hsv(*SHIFTS["stain"](cell, 20)[mask].mean(axis=0) / 255)
    bluer = colorsys.rgb_to_hsv(*SHIFTS["stain"](cell, -20)[mask].mean(axis=0) / 255)
    assert 360 * (redder[0] - before[0]) == pytest.approx(20, abs=4)
    assert 360 * (bluer[0] - before[0]) == pytest.approx(-20, abs=4)
    assert redder[1] < before[1] < bluer[1]


def test_scale_scales_the_area_and_the_crop_moves_the_cell(cell):
    area = measure(np.stack([cell, SHIFTS["scale"](cell, 0.67), SHIFTS["scale"](cell, 1.5)]))[:, 0]
    np.testing.assert_allclose(area[1:] / area[0], [0.67**2, 1.5**2], rtol=0.05)
    moved = np.subtract(
        center_of_mass(~is_background(SHIFTS["crop"](cell, 40))), center_of_mass(~is_background(cell))
    )
    np.testing.assert_allclose(moved, [20, 20], atol=0.5)


def test_lengths_scale_with_the_picture(cell):
    half = cell[::2, ::2]
    centres = [
        np.array(center_of_mass(~is_background(SHIFTS["crop"](picture, 40)))) for picture in (cell, half)
    ]
    np.testing.assert_allclose(centres[1], centres[0] / 2, atol=0.6)


def test_rests_of_background_are_a_rim_of_smear_around_the_untouched_cell(cell):
    found, mask = SHIFTS["background"](cell, 10), ~is_background(cell)
    np.testing.assert_array_equal(found[mask], cell[mask])
    rim = (found == SMEAR).all(axis=-1) & ~mask
    outline = np.sqrt(mask.sum() * np.pi) * 2
    assert 4 * outline < rim.sum() < 10 * outline
    assert not found[~mask & ~rim].any()


@pytest.mark.parametrize("name", SHIFTS)
def test_an_empty_and_a_tiny_picture_are_survived(name):
    for picture in (np.zeros((40, 30, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)):
        for strength in SHIFTS[name].strengths:
            assert SHIFTS[name](picture, strength).shape == picture.shape
