from dataclasses import replace

import numpy as np
import pytest

from leukemia.app.cells import diameter
from leukemia.app.review import Review
from leukemia.errors import InputError
from leukemia.runs import Run


def test_the_opinion_is_calibrated_and_triage_uses_the_raw_logit(review):
    cell = replace(next(iter(review.cells.values())), logit=2.0, added=True)
    review.add([cell])
    high = review.opinion(cell)
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


@pytest.mark.parametrize("name", ["path", "subject", "logit"])
def test_a_table_of_predictions_that_lacks_a_column_is_refused_by_it(run, name):
    run.write_table("predictions.csv", run.predictions.drop(columns=name))
    with pytest.raises(InputError, match=rf"predictions\.csv.*{name}"):
        Review(Run(run.folder))


def test_the_diameter_is_that_of_a_disc_of_the_same_area():
    y, x = np.mgrid[:200, :200]
    disc = (((y - 100) ** 2 + (x - 90) ** 2) < 40**2)[..., None] * np.full(3, 120, np.uint8)
    assert diameter(disc) == pytest.approx(80, abs=0.5)
    assert diameter(np.zeros((50, 50, 3), np.uint8)) is None
    assert diameter(np.full((50, 50, 3), 200, np.uint8)) is None  # not cut out: the cell has no outline


def test_micrometres_come_from_a_column_of_the_table_of_cells(run):
    scales = ["0.05"] * (len(run.cells) - 1) + [""]
    run.write_table("cells.csv", run.cells.assign(um_per_pixel=scales))
    review = Review(Run(run.folder))
    assert {cell.um_per_pixel for cell in review.cells.values()} <= {0.05, None}
    assert any(cell.um_per_pixel for cell in review.cells.values())
    review.store.close()


@pytest.mark.parametrize("scale", ["wide", "0", "-1", "inf"])
def test_a_scale_that_is_not_a_number_of_micrometres_is_refused_with_its_row(run, scale):
    run.write_table("cells.csv", run.cells.assign(um_per_pixel=["", scale] + [""] * (len(run.cells) - 2)))
    with pytest.raises(InputError, match=r"um_per_pixel.*row 2"):
        Review(Run(run.folder))


def test_reference_cells_are_training_cells_of_both_classes_and_different_subjects(review, run):
    training = run.cells[run.cells["split"] == "train"].set_index("pixel_hash")
    found = list(review.references.values())
    assert [cell.label for cell in found] == ["HEM"] * 4 + ["ALL"] * 4
    assert len({cell.subject for cell in found}) == len(found)
    for cell in found:
        assert review.classes[training["label"][cell.id]] == cell.label
        assert review.picture(cell).shape == (96, 96, 3)


def test_without_the_training_pictures_there_are_no_reference_cells(run, tmp_path):
    table = run.cells
    alone = table["path"].where(table["split"] != "train", "gone/" + table["path"])
    run.write_table("cells.csv", table.assign(path=alone))
    review = Review(Run(run.folder))
    assert review.references == {}
    review.store.close()
