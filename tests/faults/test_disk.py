"""Full and read-only disks: one line says so, old files stay, and the run continues when there is room."""

import os

import pytest

from leukemia.config import compose
from leukemia.data.datamodule import CellDataModule
from leukemia.data.demo import write_demo
from leukemia.errors import InputError
from leukemia.reporting.html import write_report
from leukemia.runs import Run
from leukemia.storage.cache import UnusableCacheError, cache_dir
from leukemia.training.run import train

FULL = r"No space left on device; make room there"
PIXELS = 32 * 32 * 3  # bytes of a cell


def fill(folder, leave):
    """Fill the disk except for this many bytes."""
    room = os.statvfs(folder)
    (folder / "filling").write_bytes(bytes(max(room.f_bavail * room.f_frsize - leave, 0)))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # TensorBoard writes in one
@pytest.mark.parametrize(
    ("size", "file"),
    [
        ("40m", r"best\.ckpt"),  # a checkpoint has 45 MB
        pytest.param("16k", r"status\.json", marks=pytest.mark.slow),
        pytest.param("28k", "into .*run", marks=pytest.mark.slow),  # TensorBoard writes there
        pytest.param("60m", r"last\.ckpt", marks=pytest.mark.slow),
        pytest.param("100m", r"(best|last)\.ckpt", marks=pytest.mark.slow),  # of the second epoch
    ],
)
def test_a_run_on_a_full_disk_fails_clearly_and_goes_on_when_there_is_room(
    small_disk, command, assert_same, undisturbed, size, file
):
    folder = small_disk("-t", "tmpfs", "-o", f"size={size}", "tmpfs") / "run"
    settings = compose(command())
    with pytest.raises(InputError, match=f"cannot write .*{file}: {FULL}"):
        train(settings, folder)
    run = Run(folder)
    if (folder / "status.json").is_file():
        assert run.status["status"] == "failed"
        assert "No space left" in run.status["error"]
    assert not list(folder.rglob(".*.tmp"))
    small_disk("-t", "tmpfs", "-o", "remount,size=400m", "tmpfs")
    assert_same(train(settings, folder), undisturbed)


def test_a_cache_on_a_full_disk_is_refused_before_anything_is_computed(
    small_disk, command, tmp_path, monkeypatch
):
    disk = small_disk("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    monkeypatch.setenv("LEUKEMIA_CACHE", str(disk))
    with pytest.raises(UnusableCacheError, match=r"No space left on device; .*LEUKEMIA_CACHE"):
        train(compose(command()), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert [path.name for path in cache_dir().iterdir() if path.is_dir()] == []


def test_a_synthetic_set_that_does_not_fit_is_refused(small_disk, monkeypatch):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(small_disk("-t", "tmpfs", "-o", "size=2m", "tmpfs")))
    with pytest.raises(InputError, match="No space left on device"):
        _ = CellDataModule(demo_images=40).root
    assert [path.name for path in cache_dir().iterdir() if path.is_dir()] == []


def test_training_reads_pixels_where_the_feature_cache_does_not_fit(
    small_disk, command, assert_same, undisturbed, tmp_path, monkeypatch, caplog
):
    """The room is lost between the check of the disk and the writing."""
    disk = small_disk("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    monkeypatch.setenv("LEUKEMIA_CACHE", str(disk))
    monkeypatch.setattr(
        "leukemia.data.feature_cache.shutil.disk_usage", lambda place: type("", (), {"free": 1e9})
    )
    run = train(compose(command("data.augment=d4")), tmp_path / "run")
    assert run.metrics["n_images"] == undisturbed.metrics["n_images"]
    assert "data.cache_features=auto: off from here on, because cannot write the cache" in caplog.text


def test_a_report_on_a_full_disk_leaves_the_old_one_complete(small_disk, undisturbed, tmp_path):
    import shutil

    disk = small_disk("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    shutil.copytree(undisturbed.folder, disk / "run", ignore=shutil.ignore_patterns("checkpoints", "events*"))
    page = write_report(disk).read_text()
    fill(disk, leave=8192)
    (disk / "run" / "history.csv").unlink()  # another page, then
    with pytest.raises(InputError, match=rf"cannot write .*(report\.html|results\.md): {FULL}"):
        write_report(disk)
    assert (disk / "report.html").read_text() == page
    assert not list(disk.rglob(".*.tmp"))
    (disk / "filling").unlink()
    assert write_report(disk).read_text() != page


def test_a_read_only_data_folder_is_enough(
    small_disk, command, assert_same, undisturbed, demo_root, tmp_path
):
    folder = small_disk("--bind", str(demo_root), name="read-only")
    small_disk("-o", "remount,bind,ro", name="read-only")
    with pytest.raises(OSError, match="Read-only"):
        (folder / "new").touch()
    assert_same(train(compose(command(f"data.root={folder}")), tmp_path / "run"), undisturbed)


@pytest.mark.parametrize("where", ["run", "cache", "data demo"])
def test_a_read_only_output_folder_is_named(small_disk, command, tmp_path, monkeypatch, where):
    place = small_disk("-t", "tmpfs", "-o", "size=1m,ro", "tmpfs")
    write = {
        "run": lambda: train(compose(command()), place / "run"),
        "cache": lambda: train(compose(command()), tmp_path / "run"),
        "data demo": lambda: write_demo(place / "set", images=40),
    }[where]
    if where == "cache":
        monkeypatch.setenv("LEUKEMIA_CACHE", str(place))
    with pytest.raises(InputError, match=r"disk.*Read-only file system.*another"):
        write()
