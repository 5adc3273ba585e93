"""The review page of an ensemble: the mean logit, and how far the networks differ."""

import shutil

import numpy as np
import pytest

from leukemia.app.review import Review
from leukemia.errors import InputError
from leukemia.evaluation.ensemble import NoSharedCells
from leukemia.runs import Ensemble, Run, open_model


@pytest.fixture
def ensemble(finished_run, tmp_path) -> Ensemble:
    """Two runs on the same cells, whose logits differ by 2, and the policy of their mean."""
    for number in (0, 1):
        run = Run(shutil.copytree(finished_run.folder, tmp_path / "sweep" / f"seed-{number}"))
        run.write_table(
            "predictions.csv", run.predictions.assign(logit=run.predictions["logit"] + 2 * number)
        )
        (run.folder / "triage.json").unlink()
    policy = finished_run.policy.to_json()
    policy["fitted_on"]["members"] = ["seed-0", "seed-1"]
    Run(tmp_path / "sweep").write_json("triage.json", policy)
    return open_model([tmp_path / "sweep"])


def test_the_page_shows_the_mean_and_the_deviation_of_the_members(ensemble, finished_run, serve):
    page = serve(ensemble)
    logit = finished_run.predictions["logit"] + 1
    assert sorted(cell.logit for cell in page.review.cells.values()) == pytest.approx(sorted(logit))
    assert page.review.policy.certified
    cell = page.review.cells[page.review.queues["review"][0]]
    shown = page.ask("GET", f"/api/cell?at={cell.id}&queue=review")[1]["cell"]
    ends = [1 / (1 + np.exp(-(cell.logit + side))) for side in (-1, 1)]
    points = 100 * (ends[1] - ends[0]) / np.sqrt(2)
    (note,) = shown["opinion"]["notes"]
    assert note.startswith(f"The 2 networks of the ensemble differ by {points:.0f} points")
    assert (ensemble.folder / "review" / "review.sqlite").is_file()


def test_one_network_is_not_said_to_differ(run, serve):
    page = serve(run)
    shown = page.ask("GET", f"/api/cell?at={page.review.queues['review'][0]}&queue=review")[1]["cell"]
    assert shown["opinion"]["notes"] == []


def test_an_added_picture_has_a_deviation_also_after_a_restart(ensemble, serve, cells_root):
    def scores(pixels):
        return {"logit": np.zeros(len(pixels)), "probability_sd": np.full(len(pixels), 0.25)}

    content = next((cells_root / "testing_data").rglob("*.bmp")).read_bytes()
    page = serve(ensemble)
    page.worker._scores = scores
    cell_id = page.ask("POST", "/api/pictures?name=new.bmp", content)[1]["cell"]
    page.wait_for_scores()
    assert page.review.cells[cell_id].probability_sd == 0.25
    again = serve(ensemble)
    again.wait_for_scores()
    assert again.review.queues["added"] == [cell_id]


def test_folds_review_new_pictures_and_have_no_held_out_cell_in_common(ensemble, cells_root, tmp_path):
    for member in ensemble.members:
        table = member.predictions
        member.write_table("predictions.csv", table.assign(path=f"{member.name}/" + table["path"]))
    folds = open_model([ensemble.folder])
    with pytest.raises(NoSharedCells, match="the folds of a k-fold"):
        Review(folds)
    review = Review(folds, cells_root / "testing_data")
    assert (review.root, dict(review.cells)) == (None, {})
    trained = folds.cells[folds.cells["split"] == "train"]["pixel_hash"].iloc[0]
    assert review.used_in(trained) == "train"
    review.store.close()


def test_runs_of_several_folders_have_no_place_for_decisions(finished_run, tmp_path):
    runs = [shutil.copytree(finished_run.folder, tmp_path / name / "run") for name in "ab"]
    with pytest.raises(InputError, match="lie in several folders"):
        Review(open_model(runs))
