"""Every picture is decoded once, and equal pictures are known as such."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from leukemia.data import pixels
from leukemia.data.pixels import centre_crop, decode, fit, load_pixels, pixel_hash, read_all, read_in_batches
from leukemia.errors import InputError
from leukemia.storage.cache import cache_dir


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Equal pictures of another test would be in the cache already."""
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))


def write_cells(folder, count=4, size=40):
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(len(str(folder))).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    names = [f"{number}.bmp" for number in range(count)]
    for name, image in zip(names, noise, strict=True):
        Image.fromarray(image).save(folder / name)
    return names, noise


def test_the_map_holds_each_file_resized_and_hashed(tmp_path):
    names, noise = write_cells(tmp_path / "cells")
    found = load_pixels(tmp_path / "cells", names, size=32)
    assert found.images.shape == (4, 32, 32, 3)
    for row, image in enumerate(noise):
        np.testing.assert_array_equal(found.images[row], fit(image, 32))
        assert found.hashes[row] == pixel_hash(image)


def test_a_second_start_decodes_nothing(tmp_path, monkeypatch):
    names, _ = write_cells(tmp_path / "cells")
    first = load_pixels(tmp_path / "cells", names, size=32)
    monkeypatch.setattr(pixels, "decode", lambda path: pytest.fail("decoded again"))
    again = load_pixels(tmp_path / "cells", names, size=32)
    assert again.key == first.key
    np.testing.assert_array_equal(again.images, first.images)


@pytest.mark.parametrize("change", ["content", "size", "resize", "order"])
def test_the_key_names_what_was_put_in(tmp_path, change):
    names, _ = write_cells(tmp_path / "cells")
    before = load_pixels(tmp_path / "cells", names, size=32).key
    size, resize = 32, "squash"
    if change == "content":
        Image.fromarray(np.zeros((41, 41, 3), np.uint8)).save(tmp_path / "cells" / names[0])
    elif change == "size":
        size = 33
    elif change == "resize":
        resize = "crop"
    else:
        names = names[::-1]
    assert load_pixels(tmp_path / "cells", names, size, resize).key != before


def times(folder, names):
    """Set the times of archives that are unpacked without their own."""
    for name in names:
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))


def test_two_sets_of_equal_names_sizes_and_times_have_their_own_pixels(tmp_path):
    for name in ("one", "other one"):
        names, _ = write_cells(tmp_path / name)
        times(tmp_path / name, names)
    one, other = (load_pixels(tmp_path / name, names, size=32) for name in ("one", "other one"))
    assert one.key != other.key
    assert not set(one.hashes) & set(other.hashes)
    assert not np.array_equal(one.images, other.images)


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path, how):
    names, _ = write_cells(tmp_path / "cells")
    times(tmp_path / "cells", names)
    before = load_pixels(tmp_path / "cells", names, size=32)
    changed = fit(decode(tmp_path / "cells" / names[0])[::-1], 40)
    new = tmp_path / "new.bmp"
    Image.fromarray(changed).save(new)
    if how == "in place":
        (tmp_path / "cells" / names[0]).write_bytes(new.read_bytes())
    else:
        new.rename(tmp_path / "cells" / names[0])
    times(tmp_path / "cells", names)
    after = load_pixels(tmp_path / "cells", names, size=32)
    assert after.hashes[0] == pixel_hash(changed) != before.hashes[0]
    np.testing.assert_array_equal(after.images[0], fit(changed, 32))


def test_a_copy_of_a_set_is_compared_and_decoded_once(tmp_path, monkeypatch):
    names, _ = write_cells(tmp_path / "cells")
    first = load_pixels(tmp_path / "cells", names, size=32)
    shutil.copytree(tmp_path / "cells", tmp_path / "copy")
    monkeypatch.setattr(pixels, "decode", lambda path: pytest.fail("decoded again"))
    assert load_pixels(tmp_path / "copy", names, size=32).key == first.key


def test_pictures_that_change_while_they_are_decoded_are_refused(tmp_path, monkeypatch):
    names, _ = write_cells(tmp_path / "cells")

    def decode_and_change(path):
        found = decode(path)
        Image.fromarray(found[::-1]).save(path)
        return found

    monkeypatch.setattr(pixels, "decode", decode_and_change)
    with pytest.raises(InputError, match="changed while they were read"):
        load_pixels(tmp_path / "cells", names, size=32)
    assert not list(cache_dir().glob(".pixels-*.tmp-*"))


def test_two_at_once_build_one_map(tmp_path, monkeypatch):
    names, _ = write_cells(tmp_path / "cells", count=8)
    decoded = []
    monkeypatch.setattr(pixels, "decode", lambda path: decoded.append(path) or decode(path))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_pixels(tmp_path / "cells", names, size=32), range(4)))
    assert len(decoded) == 8
    assert len({one.key for one in found}) == 1


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    names, _ = write_cells(tmp_path / "cells")
    script = (
        "import os, sys; from pathlib import Path; from leukemia.data import pixels\n"
        "real = pixels.decode\n"
        "def dying(path):\n"
        "    if path.name == '3.bmp': os.kill(os.getpid(), 9)\n"
        "    return real(path)\n"
        "pixels.decode = dying\n"
        "pixels.load_pixels(Path(sys.argv[1]), sys.argv[2:], size=32)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cells"), *names], env=dict(os.environ)
    )
    assert killed.returncode == -9
    assert list(cache_dir().glob(".pixels-*.tmp-*"))
    found = load_pixels(tmp_path / "cells", names, size=32)
    assert all(found.hashes)
    assert not list(cache_dir().glob(f".pixels-{found.key}.tmp-*"))


def test_unreadable_pictures_are_named_and_nothing_is_kept(tmp_path):
    names, _ = write_cells(tmp_path / "cells")
    file = tmp_path / "cells" / names[2]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"1 of 4 pictures cannot be read .*\n.*2\.bmp"):
        load_pixels(tmp_path / "cells", names, size=32)
    assert not list(cache_dir().glob(".pixels-*.tmp-*"))


def test_files_are_read_in_order_ahead_of_their_turn_and_an_unreadable_one_tells_why(tmp_path):
    names, noise = write_cells(tmp_path / "cells", count=9)
    files = [str(tmp_path / "cells" / name) for name in [*names[:4], "none.bmp", *names[4:]]]
    begun = []
    found = read_all(files, lambda file: begun.append(file) or decode(file), ahead=3)
    first = next(found)
    np.testing.assert_array_equal(first, noise[0])
    others = list(found)
    assert str(others.pop(3)) == f"{files[4]}: no such file"
    np.testing.assert_array_equal(others, noise[1:])
    assert len(begun) == 10
    begun.clear()
    found = read_all(files, lambda file: begun.append(file) or decode(file), ahead=3)
    next(found)
    found.close()
    assert len(begun) <= 3


def test_fewer_large_cells_are_held_at_once():
    """A stranger's run or model says how large its cells are."""
    files = [str(number) for number in range(70)]
    for size, at_once in ((32, 64), (512, 64), (1024, 16), (4096, 1)):
        batches = list(read_in_batches(files, str, size))
        assert [start for start, _ in batches] == list(range(0, 70, at_once))
        assert [item for _, items in batches for item in items] == files


def test_the_final_sets_600_is_cut_to_the_centre_450_and_then_squashed():
    image = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(image, 224, native_size=450), fit(image[75:525, 75:525], 224))


def test_crop_keeps_the_pictures_own_scale():
    image = np.random.default_rng(0).integers(0, 256, (450, 450, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(image, 300, "crop"), image[75:375, 75:375])


@given(height=st.integers(1, 30), width=st.integers(1, 30), size=st.integers(1, 30))
def test_a_centre_crop_keeps_what_fits_and_pads_with_black(height, width, size):
    image = np.full((height, width, 3), 7, dtype=np.uint8)
    cropped = centre_crop(image, size)
    assert cropped.shape == (size, size, 3)
    assert (cropped == 7).all(axis=2).sum() == min(height, size) * min(width, size)


def test_the_hash_sees_pixels_and_not_the_file(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image.save(tmp_path / "a.bmp", dpi=(10, 10))
    image.save(tmp_path / "b.png")
    assert pixel_hash(decode(tmp_path / "a.bmp")) == pixel_hash(decode(tmp_path / "b.png"))
    turned = np.ascontiguousarray(decode(tmp_path / "a.bmp").reshape(30, 20, 3))
    assert pixel_hash(turned) != pixel_hash(decode(tmp_path / "a.bmp"))


def test_a_picture_of_16_bits_is_refused_and_transparent_pixels_are_black(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.tif")
    with pytest.raises(
        InputError, match=r"deep\.tif: colour mode I;16 is not supported; save it as 8-bit RGB"
    ):
        decode(tmp_path / "deep.tif")
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert not decode(tmp_path / "clear.png").any()


def test_a_tiff_of_several_pages_is_refused_by_their_number(tmp_path):
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"pages\.tif: it holds 3 pictures; save each as a file of its own"):
        decode(tmp_path / "pages.tif")


def test_a_file_that_is_too_large_for_a_cell_is_not_read(tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(pixels.MAX_BYTES + 1)
    with pytest.raises(InputError, match=r"68 MB are too many for a single cell"):
        decode(tmp_path / "large.png")
