"""Mutated pictures and tables are read or refused: no crash, no hang, less than 1 GB."""

import contextlib
import io
import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from leukemia.data.check import check
from leukemia.data.class_folders import scan_class_folders
from leukemia.data.cnmc import scan_cnmc
from leukemia.data.pixels import MAX_PIXELS, decode
from leukemia.errors import InputError
from leukemia.evaluation.predictions import read_predictions
from leukemia.runs import Run

SLOW = 10_000  # milliseconds for one file, on a busy machine
quick = settings(
    deadline=SLOW, suppress_health_check=list(HealthCheck)
)  # the profile sets the number of examples
NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


@contextlib.contextmanager
def one_gigabyte():
    """No more than that on top of what the process has: beyond it Python raises MemoryError, and C code would crash."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 10**9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def encoded(form, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, form, **options)
    return file.getvalue()


PICTURES = {
    "bmp": [encoded("bmp"), encoded("bmp", "L"), encoded("bmp", "P"), encoded("bmp", "1")],
    "png": [
        *(encoded("png", mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")),
        encoded("png", pnginfo=None, compress_level=0),
    ],
    "jpg": [
        encoded("jpeg"),
        encoded("jpeg", "L"),
        encoded("jpeg", "CMYK"),
        encoded("jpeg", progressive=True, subsampling=2),
        encoded(
            "jpeg",
            exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00",
        ),
    ],
    "tif": [encoded("tiff"), encoded("tiff", compression="tiff_lzw"), encoded("tiff", "P")],
}
NUMBERS = [0, 1, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1]
places = st.floats(0, 1, exclude_max=True)
mutations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), places, st.integers(0, 255)),
        st.tuples(st.just("number"), places, st.sampled_from(NUMBERS)),
        st.tuples(
            st.just("head"), st.integers(0, 60), st.sampled_from(NUMBERS)
        ),  # sizes and counts lie there
        st.tuples(st.just("cut"), places, st.just(0)),
        st.tuples(st.just("remove"), places, st.integers(1, 40)),
        st.tuples(st.just("repeat"), places, st.integers(1, 400)),
    ),
    min_size=1,
    max_size=6,
)


def mutated(content, how):
    content = bytearray(content)
    for kind, place, value in how:
        at = place if kind == "head" else int(place * len(content))
        if kind == "set" and content:
            content[at] = value
        elif kind in ("number", "head"):
            content[at : at + 4] = struct.pack("<I" if value % 2 else ">I", value)
        elif kind == "cut":
            del content[at:]
        elif kind == "remove":
            del content[at : at + value]
        elif kind == "repeat":
            content[at:at] = content[at : at + 8] * value
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_mutated_picture_is_read_or_refused(place, suffix):
    file = place / f"cell.{suffix}"

    @quick
    @given(source=st.sampled_from(PICTURES[suffix]), how=mutations)
    def read(source, how):
        file.write_bytes(mutated(source, how))
        with one_gigabyte(), warnings.catch_warnings(action="ignore"), contextlib.suppress(InputError):
            image = decode(file)
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            assert image.size <= 3 * MAX_PIXELS

    read()


def with_number(content, at, *numbers, order="<"):
    """A copy with unsigned 32-bit numbers at a place."""
    content = bytearray(content)
    content[at : at + 4 * len(numbers)] = struct.pack(f"{order}{len(numbers)}I", *numbers)
    return bytes(content)


def png_claim(chunk, name=None):
    """A PNG whose last chunk of a kind claims 2 GB."""
    content = encoded("png")
    at = content.rindex(chunk)
    return with_number(content, at - 4, 2**31 - 1, order=">").replace(chunk, name or chunk)


def tiff_claim(tag, count, **options):
    """A TIFF one of whose entries claims so many values of 4 bytes, from the place of the entry on."""
    content = encoded("tiff", **options)
    start = int.from_bytes(content[4:8], "little")
    for at in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], "little"), 12):
        if int.from_bytes(content[at : at + 2], "little") == tag:
            return with_number(
                content, at + 2, 4 | count << 16 & 0xFFFF0000, count >> 16 | at << 16 & 0xFFFF0000
            )
    raise KeyError(tag)


CLAIMS = {
    "png pixels": png_claim(b"IDAT"),  # PIL asked for all of it at once
    "png text": png_claim(b"IEND", b"tEXt"),
    "png private": png_claim(b"IEND", b"prVt"),
    "bmp header": with_number(encoded("bmp"), 14, 2**31 - 1),
    "bmp offset": with_number(encoded("bmp"), 10, 2**31 - 1),
    "bmp colours": with_number(encoded("bmp", "P"), 46, 2**31 - 1),
    "bmp size": with_number(encoded("bmp"), 18, 4096, 4096),
    "bmp runs": with_number(with_number(encoded("bmp", "P"), 30, 1), 18, 4096, 4096),
    "jpeg segment": encoded("jpeg")[:4] + b"\xff\xff" + encoded("jpeg")[6:],
    **{
        f"tiff {tag} {options.get('compression', '')}": tiff_claim(tag, 2**29, **options)
        for tag in (273, 258)  # offsets, bits
        for options in ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"})
    },
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_that_claims_more_than_it_has_is_refused_in_little_memory(tmp_path, claim):
    (tmp_path / "claim").write_bytes(CLAIMS[claim])
    with (
        one_gigabyte(),
        warnings.catch_warnings(action="ignore"),
        pytest.raises(InputError, match="not a readable"),
    ):
        decode(tmp_path / "claim")


def bomb(form):
    """A picture of 30,000 x 30,000 pixels in a few bytes: 2.7 GB when decoded."""
    if form == "bmp":
        return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    content = bytearray(encoded(form))
    if form == "png":
        import zlib

        content[16:24] = struct.pack(">II", 30000, 30000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", 30000, 30000)
    return bytes(content)


@pytest.mark.parametrize("form", ["bmp", "png", "jpeg"])
def test_a_decompression_bomb_is_refused_by_its_size_before_it_is_decoded(tmp_path, form):
    (tmp_path / "bomb").write_bytes(bomb(form))
    with one_gigabyte(), pytest.raises(InputError, match=r"30000x30000 pixels|decompression bomb"):
        decode(tmp_path / "bomb")


def test_the_largest_picture_that_is_read_fits_into_a_gigabyte(tmp_path):
    side = int(MAX_PIXELS**0.5)
    Image.new("RGBA", (side, side)).save(tmp_path / "largest.png", compress_level=1)
    with one_gigabyte():
        assert decode(tmp_path / "largest.png").shape == (side, side, 3)


@pytest.mark.parametrize("name", ["cell.bmp", "cell.png"])
def test_a_format_that_runs_another_program_is_refused_under_any_name(tmp_path, name, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("ran a program"))
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(InputError, match="not a readable picture"):
        decode(tmp_path / name)


@pytest.mark.timeout(20)
def test_a_pipe_or_a_device_in_place_of_a_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "UID_1_1_1_all.bmp")
    os.mkfifo(tmp_path / "labels.csv")
    for path in (tmp_path / "UID_1_1_1_all.bmp", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a file"):
            decode(path)
    with pytest.raises(InputError):
        scan_class_folders(tmp_path / "labels.csv")
    with pytest.raises(InputError):
        check(tmp_path)


MANIFEST = (
    "path,label,subject,split\na/1.bmp,cat,7,train\na/2.bmp,dog,8,test\na/3.bmp,dog,,\na/4.bmp,,9,final\n"
)
LABELS = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H3_2_1_hem.bmp,2.bmp,0\n"
PREDICTIONS = (
    "path,subject,split,label,logit,probability\na.bmp,7,test,1,2.5,0.92\nb.bmp,H3,test,0,-1e3,0.0\n"
)
WORDS = [
    '"',
    ",",
    "\n",
    "\r",
    "\0",
    ";",
    "\ufeff",
    "../",
    "/",
    "1e999",
    "nan",
    "-1",
    "é",
    "\ud7ff",
    "=cmd()",
    "'",
    "a" * 200,
]
texts = st.lists(
    st.tuples(
        places,
        st.one_of(st.sampled_from(WORDS), st.text(max_size=5)),
        st.integers(0, 12),
        st.integers(1, 300),
    ),
    min_size=1,
    max_size=5,
)


def mutated_text(text, how):
    for place, word, removed, times in how:
        at = int(place * (len(text) + 1))
        text = text[:at] + word * (times if times > 290 else 1) + text[at + removed :]
    return text.encode("utf-8", "surrogatepass")


@quick
@given(how=texts, damage=st.one_of(st.just([]), mutations))
@example(how=[(0.3, "\0", 0, 1)], damage=[])
def test_a_mutated_manifest_is_read_or_refused(place, how, damage):
    folder = place / "manifest"
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        (folder / "a" / f"{number}.bmp").touch()
    (folder / "cells.csv").write_bytes(mutated(mutated_text(MANIFEST, how), damage))
    with one_gigabyte(), contextlib.suppress(InputError):
        scan = scan_class_folders(folder / "cells.csv", "dog")
        assert len(scan.classes) == 2
        assert scan.table["label"].isin([-1, 0, 1]).all()


@quick
@given(how=texts, damage=st.one_of(st.just([]), mutations))
def test_a_mutated_label_table_is_read_or_refused(place, how, damage):
    folder = place / "cnmc" / "C-NMC_test_prelim_phase_data"
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        (folder / f"{number}.bmp").touch()
    (folder / "labels.csv").write_bytes(mutated(mutated_text(LABELS, how), damage))
    with one_gigabyte():
        scan = scan_cnmc(folder)
    assert len(scan.table) == 2
    assert scan.table["label"].isin([-1, 0, 1]).all()


@quick
@given(how=texts, damage=st.one_of(st.just([]), mutations))
def test_a_mutated_table_of_predictions_is_read_or_refused(place, how, damage):
    (place / "predictions.csv").write_bytes(mutated(mutated_text(PREDICTIONS, how), damage))
    with one_gigabyte(), warnings.catch_warnings(action="ignore"):
        with contextlib.suppress(InputError):
            table = read_predictions(place / "predictions.csv")
            assert table["label"].astype(float).isin([0, 1]).all()
        with contextlib.suppress(InputError):
            _ = Run(place).predictions
