"""Data that changed, are missing or are damaged at the next start of a run."""

import shutil
import sys

import pytest
from PIL import Image

from leukemia.config import compose
from leukemia.errors import InputError
from leukemia.storage import cache
from leukemia.training.run import train


@pytest.fixture
def cut(command, demo_root, tmp_path, monkeypatch):
    """An interrupted run on a copy of the data: its settings, its data folder and its run folder."""
    root = tmp_path / "set"
    shutil.copytree(demo_root, root)
    settings = compose(command(f"data.root={root}"))
    with monkeypatch.context() as patch:
        patch.setattr("leukemia.training.run.write_final_metrics", lambda *arguments: sys.exit(143))
        with pytest.raises(SystemExit):
            train(settings, tmp_path / "run")
    return settings, root, tmp_path / "run"


def test_missing_and_changed_data_are_refused_by_name_until_they_are_back(cut, assert_same, undisturbed):
    settings, root, folder = cut
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"set: no such folder"):
        train(settings, folder)
    root.with_name("elsewhere").rename(root)

    cell = next(root.rglob("UID_*_all.bmp"))
    kept = cell.read_bytes()
    image = Image.open(cell)
    image.putpixel((225, 225), (1, 2, 3))
    image.save(cell)
    with pytest.raises(
        InputError, match=rf"data of the run in .* have changed \(1 changed, as .*{cell.name}\)"
    ):
        train(settings, folder)
    cell.unlink()
    with pytest.raises(InputError, match=rf"1 gone, as .*{cell.name}"):
        train(settings, folder)
    cell.write_bytes(kept)
    (cell.parent / "UID_1_999_1_all.bmp").write_bytes(kept)
    with pytest.raises(InputError, match=r"1 new, as .*UID_1_999_1_all\.bmp"):
        train(settings, folder)
    (cell.parent / "UID_1_999_1_all.bmp").unlink()

    prelim = next(root.rglob("*prelim*/1.bmp"))
    hidden = prelim.rename(prelim.with_name(".1.bmp"))
    with pytest.raises(InputError, match=r"rows whose image is missing\n.*row \d+: 1\.bmp"):
        train(settings, folder)
    hidden.rename(prelim)
    assert_same(train(settings, folder), undisturbed)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        ("features", "flipped"),
        pytest.param("features", "cut short", marks=pytest.mark.slow),
        pytest.param("pixels", "flipped", marks=pytest.mark.slow),
        pytest.param("pixels", "cut short", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_cache_is_built_again_and_the_metrics_stay(
    command, assert_same, undisturbed, tmp_path, monkeypatch, caplog, kind, harm
):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))
    settings = compose(command())
    train(settings, tmp_path / "first")
    file = max((tmp_path / "cache").glob(f"{kind}-*/*.npy"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-10] ^= 255
    file.write_bytes(content if harm == "flipped" else content[:-10])
    monkeypatch.setattr(cache, "_found_whole", set())  # as in a new process
    caplog.clear()
    assert_same(train(settings, tmp_path / "second"), undisturbed)
    (line,) = [line for line in caplog.messages if "is damaged" in line]
    assert file.name in line
    assert file.parent.name in line
