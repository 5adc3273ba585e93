import io
import tempfile
import time

import numpy as np
import pytest
from PIL import Image

from leukemia.app import uploads
from leukemia.app.review import Review
from leukemia.app.uploads import checked_name, decoded, subject_of
from leukemia.data.pixels import pixel_hash
from leukemia.errors import InputError


def picture(seed=0, size=64, form="png"):
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return pixels, file.getvalue()


def wait(page):
    end = time.monotonic() + 20
    while page.intake.pending and time.monotonic() < end:
        time.sleep(0.02)
    assert page.intake.pending == 0


@pytest.mark.parametrize("name", ["a.png", "ward 3/57_1.BMP", "Zelle ä (1).jpeg", "a/b/c.tiff"])
def test_plain_names_are_taken(name):
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["../../x", "../x.png", "a/../b.png", "/etc/x.png", "a//b.png", "..\\x.png", "C:\\x.png", "a\0.png", "a\n.png", "",
     ".png", "=cmd.png", "a/@b.png", "x" * 300 + ".png", "a.svg", "a.html", "a", "a.png.exe", "a\u202egnp.png"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(InputError):
        checked_name(name)


@pytest.mark.parametrize(
    ("name", "subject"),
    [("UID_57_29_1_all.bmp", "57"), ("x/UID_h3_1_2_hem.bmp", "H3"), ("day 1/P07/4.png", "P07"), ("ALL/4.png", None),
     ("4.png", None)],
)  # fmt: skip
def test_a_name_tells_the_subject(name, subject):
    assert subject_of(name, ("HEM", "ALL")) == subject


@pytest.mark.parametrize("form", ["png", "bmp", "tiff"])
def test_pictures_are_decoded_to_the_pixel(form):
    pixels, content = picture(form=form)
    assert (decoded(content, "a.png") == pixels).all()


@pytest.mark.parametrize("form", ["gif", "eps", "ppm", "webp"])
def test_other_formats_are_refused_whatever_they_are_named(form):
    with pytest.raises(InputError, match=r"a\.png is no picture that can be read"):
        decoded(picture(form=form)[1], "a.png")


def test_what_is_cut_short_or_no_picture_is_refused_by_its_name_alone():
    whole = picture()[1]
    for content in (b"", b"<svg onload=alert(1)>", whole[: len(whole) // 2]):
        with pytest.raises(InputError, match=r"^a\.png") as refusal:
            decoded(content, "a.png")
        assert tempfile.gettempdir() not in str(refusal.value)


def test_a_small_file_of_very_many_pixels_is_refused_before_it_is_unpacked():
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "png")
    assert len(file.getvalue()) < uploads.MAX_BYTES
    with pytest.raises(InputError, match=r"a\.png"):
        decoded(file.getvalue(), "a.png")


def test_an_upload_is_scored_and_joins_the_queue_and_stays(serve, run):
    page = serve(run)
    pixels, content = picture()
    status, said, _ = page.ask("POST", "/api/pictures?name=P07%2Fnew.png", content)
    assert (status, said) == (202, {"cell": pixel_hash(pixels), "new": True})
    wait(page)
    cell = page.review.cells[pixel_hash(pixels)]
    assert (cell.path, cell.subject, cell.label, cell.added) == ("P07/new.png", "P07", None, True)
    assert page.review.orders["added"] == [cell.id]
    shown = page.ask("GET", f"/api/cell?at={cell.id}&queue=added")[1]["cell"]
    assert (shown["name"], shown["subject"]["name"]) == ("new.png", "P07")
    assert page.ask("POST", "/api/pictures?name=again.png", content)[1]["new"] is False
    again = serve(run)  # as after a restart
    assert again.review.cells[cell.id].logit == cell.logit


def test_a_picture_that_was_not_scored_when_the_page_died_is_scored_by_the_next(serve, run):
    page = serve(run)

    def fail(pixels):
        raise InputError("the network is gone")

    page.intake._logits = fail
    pixels, content = picture()
    page.ask("POST", "/api/pictures?name=new.png", content)
    wait(page)
    assert page.ask("GET", "/api/changes")[1]["problems"] == [
        "new.png and 0 more could not be scored: the network is gone"
    ]
    again = serve(run)
    wait(again)
    assert again.review.orders["added"] == [pixel_hash(pixels)]


def test_a_picture_that_the_model_was_trained_on_is_marked(serve, run, cells_root):
    page = serve(run)
    trained = run.cells[run.cells["split"] == "train"].iloc[0]
    content = (cells_root / trained["path"]).read_bytes()
    page.ask("POST", "/api/pictures?name=old.bmp", content)
    wait(page)
    shown = page.ask("GET", f"/api/cell?at={trained['pixel_hash']}&queue=added")[1]["cell"]
    assert "trained on this very picture" in shown["warning"]


@pytest.mark.parametrize(
    ("query", "content", "said"),
    [
        ("name=..%2F..%2Fx", b"x", "../../x is no plain file name: refused"),
        ("name=notes.txt", b"x", "notes.txt is no picture"),
        ("name=a.png", b"x", "a.png is no picture that can be read"),
        ("", b"x", "1 to 255 characters"),
    ],
)
def test_a_refused_upload_says_why_and_leaves_nothing(serve, run, query, content, said):
    page = serve(run)
    status, answer, _ = page.ask("POST", f"/api/pictures?{query}", content)
    assert status == 422
    assert said in answer["error"]
    assert page.review.store.pictures() == []
    assert not (page.review.folder / "pictures").exists()


def test_an_upload_that_is_too_large_is_refused_before_it_has_arrived(serve, run, monkeypatch):
    page = serve(run)
    status, said, _ = page.ask(
        "POST", "/api/pictures?name=a.png", b"x", Content_Length=str(uploads.MAX_BYTES + 1)
    )
    assert status == 422
    assert "larger than 20 MB" in said["error"]


def test_a_folder_is_reviewed_in_place_of_the_runs_own_cells(serve, run, tmp_path):
    folder = tmp_path / "mine"
    (folder / "P1").mkdir(parents=True)
    for seed in range(5):
        (folder / "P1" / f"{seed}.png").write_bytes(picture(seed)[1])
    (folder / "broken.png").write_bytes(b"no picture")
    page = serve(run, images=folder)
    wait(page)
    assert len(page.review.cells) == 5
    assert set(page.review.by_subject) == {"P1"}
    assert any("broken.png" in problem and str(folder) not in problem for problem in page.intake.problems)


def test_the_runs_own_folder_is_known_where_it_has_moved_to(run, cells_root, tmp_path):
    config = run.config
    config["data"]["root"] = str(tmp_path / "gone")
    run.write_config(config)
    with pytest.raises(InputError, match="--images DIR"):
        Review(run)
    review = Review(run, cells_root)
    assert (
        len(review.cells)
        == run.predictions["path"]
        .map(dict(zip(run.cells["path"], run.cells["pixel_hash"], strict=True)))
        .nunique()
    )
    review.store.close()
