import io
import tempfile

import numpy as np
import pytest
from PIL import Image

from leukemia.app import uploads
from leukemia.app.uploads import checked_name, decoded, subject_of
from leukemia.errors import InputError


def picture(seed=0, size=64, form="png"):
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return pixels, file.getvalue()


@pytest.mark.parametrize("name", ["a.png", "ward 3/57_1.BMP", "Zelle ä (1).jpeg", "a/b/c.tiff"])
def test_plain_names_are_accepted(name):
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
def test_the_subject_is_read_from_the_name(name, subject):
    assert subject_of(name, ("HEM", "ALL")) == subject


@pytest.mark.parametrize("form", ["png", "bmp", "tiff"])
def test_pictures_are_decoded_to_the_pixel(form):
    pixels, content = picture(form=form)
    assert (decoded(content, "a.png") == pixels).all()


@pytest.mark.parametrize("form", ["gif", "eps", "ppm", "webp"])
def test_other_formats_are_refused_under_any_name(form):
    with pytest.raises(InputError, match=r"^a\.png"):
        decoded(picture(form=form)[1], "a.png")


def test_a_file_that_is_cut_short_or_not_a_picture_is_refused_and_only_its_name_is_shown():
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


@pytest.mark.parametrize(
    ("query", "content", "said"),
    [
        ("name=..%2F..%2Fx", b"x", "../../x is not a plain file name: refused"),
        ("name=notes.txt", b"x", "notes.txt is not a picture"),
        ("name=a.png", b"x", "a.png: "),
        ("", b"x", "1 to 255 characters"),
    ],
)
def test_a_refused_upload_gives_the_reason_and_leaves_nothing(serve, run, query, content, said):
    page = serve(run)
    status, answer, _ = page.ask("POST", f"/api/pictures?{query}", content)
    assert status == 422
    assert said in answer["error"]
    assert page.review.store.pictures() == []
    assert not (page.review.folder / "pictures").exists()


def test_a_large_upload_is_refused_before_it_has_arrived(serve, run, monkeypatch):
    page = serve(run)
    status, said, _ = page.ask(
        "POST", "/api/pictures?name=a.png", b"x", Content_Length=str(uploads.MAX_BYTES + 1)
    )
    assert status == 422
    assert "larger than 20 MB" in said["error"]
