from dataclasses import replace

import numpy as np
import pytest

from leukemia.app.review import Review
from leukemia.errors import InputError


def test_the_opinion_is_calibrated_and_triage_uses_the_raw_logit(review):
    cell = next(iter(review.cells.values()))
    high = review.opinion(replace(cell, logit=2.0))
    assert high.triage == "ALL"
    assert high.probability == pytest.approx(1 / (1 + np.exp(-(0.8 * 2 + 0.2))))
    assert review.thresholds()[1] == pytest.approx(high.probability)


def test_classes_native_size_and_scale_are_those_of_the_runs_configuration(run):
    config = run.config
    config["data"] |= {
        "classes": ["normal", "blast"],
        "native_size": None,
        "image_size": 48,
        "resize": "crop",
    }
    run.write_config(config)
    review = Review(run)
    assert (review.classes, review.native_size) == (("normal", "blast"), None)
    assert review.network_pixels(np.zeros((600, 600, 3), np.uint8)).shape == (48, 48, 3)
    assert {cell.label for cell in review.cells.values()} == {"normal", "blast"}
    review.store.close()


def test_a_run_whose_data_folder_has_moved_is_found_with_images(run, cells_root, tmp_path):
    config = run.config
    config["data"]["root"] = str(tmp_path / "gone")
    run.write_config(config)
    with pytest.raises(InputError, match="--images DIR"):
        Review(run)
    review = Review(run, cells_root)
    hashes = dict(zip(run.cells["path"], run.cells["pixel_hash"], strict=True))
    assert len(review.cells) == run.predictions["path"].map(hashes).nunique()
    review.store.close()
