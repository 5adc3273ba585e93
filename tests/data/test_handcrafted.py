"""Shapes of known area, colour and roundness are measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from leukemia.data.datamodule import CellDataModule
from leukemia.data.handcrafted import AT_ONCE, handcrafted_features, measure
from leukemia.evaluation.gate import HANDCRAFTED


def ellipse(half_height, half_width, colour=(200, 100, 50), size=224, centre=None):
    y, x = np.mgrid[:size, :size]
    top, left = centre or (size / 2, size / 2)
    inside = ((y - top) / half_height) ** 2 + ((x - left) / half_width) ** 2 <= 1
    return (inside[..., None] * np.array(colour)).astype(np.uint8)


@given(st.floats(20, 60), st.floats(20, 60), st.floats(-15, 15), st.floats(-15, 15))
def test_an_ellipse_anywhere_has_its_own_area_and_roundness(a, b, down, right):
    (found,) = measure(ellipse(a, b, centre=(112 + down, 112 + right))[None])
    assert found[0] == pytest.approx(np.pi * a * b / 224**2, rel=0.02)
    assert found[4] == pytest.approx(2 * a * b / (a**2 + b**2), rel=0.01)
    np.testing.assert_allclose(found[1:4], (200, 100, 50), rtol=1e-6)
    assert found[list(HANDCRAFTED).index("hue")] == pytest.approx(150)


def test_a_black_picture_has_no_cell():
    np.testing.assert_array_equal(
        measure(np.zeros((1, 32, 32, 3), np.uint8)), np.zeros((1, len(HANDCRAFTED)))
    )


def test_every_cell_of_a_map_is_measured_once_and_kept(demo_root, monkeypatch):
    pixels = CellDataModule(str(demo_root), image_size=64).pixels
    assert len(pixels.images) > AT_ONCE
    first = handcrafted_features(pixels)
    np.testing.assert_allclose(first, np.concatenate([measure(image[None]) for image in pixels.images]))
    monkeypatch.setattr("leukemia.data.handcrafted.measure", None)
    np.testing.assert_array_equal(handcrafted_features(pixels), first)


def test_leukemic_cells_of_the_real_sample_are_larger(shared):
    data = CellDataModule(str(shared / "data" / "cnmc_sample"), protocol="image")
    area = handcrafted_features(data.pixels)[:, 0]
    assert 0.65 < roc_auc_score(data.table["label"], area) < 0.9  # 0.756 on 163 cells
