import os
import threading

import numpy as np
from PIL import Image

from leukemia.app.png import png_bytes
from leukemia.app.review import Review
from leukemia.app.scoring_worker import NOT_COMPARED, ScoringWorker
from leukemia.data.pixels import pixel_hash
from leukemia.errors import InputError


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return pixels, png_bytes(Image.fromarray(pixels))


def test_an_upload_is_scored_and_joins_the_queue_and_stays(serve, run):
    page = serve(run)
    pixels, content = picture()
    status, said, _ = page.ask("POST", "/api/pictures?name=P07%2Fnew.png", content)
    assert (status, said) == (202, {"cell": pixel_hash(pixels), "new": True})
    page.wait_for_scores()
    cell = page.review.cells[pixel_hash(pixels)]
    assert (cell.path, cell.subject, cell.label, cell.added) == ("P07/new.png", "P07", None, True)
    assert page.review.queues["added"] == [cell.id]
    shown = page.ask("GET", f"/api/cell?at={cell.id}&queue=added")[1]["cell"]
    assert (shown["name"], shown["subject"]["name"]) == ("new.png", "P07")
    assert page.ask("POST", "/api/pictures?name=again.png", content)[1]["new"] is False
    again = serve(run)  # as after a restart
    assert again.review.cells[cell.id].logit == cell.logit


def test_a_picture_without_a_score_is_scored_after_a_restart(serve, run):
    page = serve(run)

    def fail(pixels):
        raise InputError("the network is gone")

    page.worker._scores = fail
    pixels, content = picture()
    page.ask("POST", "/api/pictures?name=new.png", content)
    page.wait_for_scores()
    assert page.ask("GET", "/api/changes")[1]["problems"] == [
        "new.png and 0 more could not be scored: the network is gone"
    ]
    again = serve(run)
    again.wait_for_scores()
    assert again.review.queues["added"] == [pixel_hash(pixels)]


def test_a_picture_that_the_model_was_trained_on_is_marked(serve, run, cells_root):
    page = serve(run)
    trained = run.cells[run.cells["split"] == "train"].iloc[0]
    content = (cells_root / trained["path"]).read_bytes()
    page.ask("POST", "/api/pictures?name=old.bmp", content)
    page.wait_for_scores()
    shown = page.ask("GET", f"/api/cell?at={trained['pixel_hash']}&queue=added")[1]["cell"]
    assert "trained on this picture" in shown["notes"][0]


def test_an_upload_that_the_gate_stops_says_why_before_a_decision(serve, run):
    page = serve(run)
    why = "larger than 99 % of the training cells"
    page.worker._scores = lambda pixels: {
        "logit": np.full(len(pixels), 9.0),
        "unlike": np.full(len(pixels), why),
    }
    pixels, content = picture()
    page.ask("POST", "/api/pictures?name=noise.png", content)
    page.wait_for_scores()
    shown = page.ask("GET", f"/api/cell?at={pixel_hash(pixels)}&queue=review")[1]["cell"]
    assert shown["notes"] == [f"Unlike the training cells: {why}."]
    assert shown["opinion"]["triage"] == "Triage sends this cell to review."
    assert page.review.queues["review"][0] == pixel_hash(pixels)


def test_after_a_restart_a_gated_picture_is_reviewed_until_the_gate_has_looked_again(serve, run):
    page = serve(run)
    pixels, content = picture()
    page.ask("POST", "/api/pictures?name=noise.png", content)
    page.wait_for_scores()
    (run.folder / "gate.json").write_text("{}")
    compared = threading.Event()

    def scores(pixels):
        assert compared.wait(60)
        return page.worker._scores(pixels)

    review = Review(run)
    worker = ScoringWorker(review, scores)
    worker.restore()
    try:
        cell = review.cells[pixel_hash(pixels)]
        assert (cell.unlike, review.queues["review"][0]) == (NOT_COMPARED, cell.id)
        compared.set()
        worker.close()
        worker._thread.join(60)
        assert review.cells[cell.id].unlike is None
    finally:
        compared.set()
        review.store.close()


def test_a_folder_is_reviewed_instead_of_the_runs_own_cells(serve, run, tmp_path):
    folder = tmp_path / "mine"
    (folder / "P1").mkdir(parents=True)
    for seed in range(5):
        (folder / "P1" / f"{seed}.png").write_bytes(picture(seed)[1])
    (folder / "broken.png").write_bytes(b"no picture")
    page = serve(run, images=folder)
    page.wait_for_scores()
    assert len(page.review.cells) == 5
    assert set(page.review.by_subject) == {"P1"}
    assert any("broken.png" in problem and str(folder) not in problem for problem in page.worker.problems)


def test_a_name_that_is_not_utf8_is_scored_with_the_rest_of_its_batch(serve, run, tmp_path, decide):
    folder = tmp_path / "mine" / "P1"
    folder.mkdir(parents=True)
    for name in (b"a.png", b"b\xff.png", b"c\xfe.png"):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"not a picture" if name.startswith(b"c") else picture(name[0])[1])
    page = serve(run, tmp_path / "mine")
    page.wait_for_scores()
    paths = {cell.path: cell.id for cell in page.review.cells.values()}
    assert paths.keys() == {"P1/a.png", "P1/b%FF.png"}
    assert page.ask("GET", f"/api/cell?at={paths['P1/b%FF.png']}")[1]["cell"]["name"] == "b%FF.png"
    (problem,) = page.ask("GET", "/api/changes")[1]["problems"]
    assert problem.startswith("P1/c%FE.png")
    decide(page.review, "Ann", paths["P1/a.png"], "ALL")
    decide(page.review, "Ann", paths["P1/b%FF.png"], "HEM")
    status, text, _ = page.ask("GET", "/export/manifest.csv")
    assert status == 200
    (copied,) = [line.split(",")[0] for line in text.decode().splitlines() if ",HEM," in line]
    assert (np.asarray(Image.open(copied)) == picture(ord("b"))[0]).all()
    assert b"b%FF.png" in page.ask("GET", "/export/decisions.csv")[1]
