"""The download lands in a new folder whole, or not at all and with advice."""

import contextlib
import io
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from leukemia.data.fetch import HANDLE, fetch
from leukemia.errors import InputError


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., str]], None]:
    """Puts a function in the place of kagglehub.dataset_download."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=50e9))

    def replace(download: Callable[..., str]) -> None:
        module = types.ModuleType("kagglehub")
        module.dataset_download = download  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kagglehub", module)

    return replace


def download(handle: str, *, output_dir: str, force_download: bool) -> str:
    assert handle == HANDLE
    (Path(output_dir) / "C-NMC_Leukemia").mkdir(parents=True)
    return output_dir


@pytest.mark.parametrize("exists", [False, True])
def test_the_set_lands_in_a_new_or_empty_folder(tmp_path: Path, kaggle: Callable, exists: bool) -> None:
    kaggle(download)
    root = tmp_path / "deep" / "cnmc"
    if exists:
        root.mkdir(parents=True)
    assert fetch(root) == root
    assert [path.name for path in root.iterdir()] == ["C-NMC_Leukemia"]
    assert [path.name for path in root.parent.iterdir()] == ["cnmc"]


def test_a_kaggle_notebook_has_it_elsewhere(tmp_path: Path, kaggle: Callable) -> None:
    kaggle(lambda handle, **_: str(tmp_path / "input"))
    assert fetch(tmp_path / "cnmc") == tmp_path / "input"


def test_nothing_is_overwritten(tmp_path: Path, kaggle: Callable) -> None:
    kaggle(download)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        fetch(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        fetch(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match=r"pip install 'leukemia\[kaggle\]'") as caught:
        fetch(tmp_path / "cnmc")
    assert "10.7937/tcia.2019.dc64i46r" in str(caught.value)


@pytest.mark.parametrize(
    "error", [ConnectionError("no route to host"), RuntimeError("401\n\nnot allowed"), KeyError()]
)
def test_a_failed_download_leaves_the_folder_as_it_was(
    tmp_path: Path, kaggle: Callable, error: Exception
) -> None:
    def fail(handle: str, *, output_dir: str, force_download: bool) -> str:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        (Path(output_dir) / "half.archive").touch()
        raise error

    kaggle(fail)
    with pytest.raises(InputError) as caught:
        fetch(tmp_path / "cnmc")
    for part in ("Kaggle token", "leukemia data check", "10.7937/tcia.2019.dc64i46r"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cnmc").exists()


def test_a_disk_that_is_too_small_is_named(
    tmp_path: Path, kaggle: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle(download)
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=3e9))
    with pytest.raises(InputError, match=r"3.0 GB free and C-NMC needs 10.4"):
        fetch(tmp_path / "cnmc")


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "link/outside.txt"])
def test_an_archive_never_writes_outside_of_the_folder(tmp_path: Path, kaggle: Callable, name: str) -> None:
    """Whoever unpacks it: here as plainly as can be, without a filter of its own."""
    outside = tmp_path / "deep"
    name = f"{outside}{name}" if name.startswith("/") else name

    def unpack(handle: str, *, output_dir: str, force_download: bool) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            if name.startswith("link"):
                link = tarfile.TarInfo("link")
                link.type, link.linkname = tarfile.SYMTYPE, str(outside)
                tar.addfile(link)
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(output_dir)
        return output_dir

    kaggle(unpack)
    outside.mkdir()
    with contextlib.suppress(InputError):  # an absolute name is taken as one below the folder
        fetch(outside / "cnmc")
    written = [path for path in tmp_path.rglob("outside.txt") if not path.is_relative_to(outside / "cnmc")]
    assert not written
    assert (outside / "cnmc").exists() == name.startswith("/")


def test_a_link_in_the_download_is_refused(tmp_path: Path, kaggle: Callable) -> None:
    def link(handle: str, *, output_dir: str, force_download: bool) -> str:
        Path(output_dir).mkdir(parents=True)
        (Path(output_dir) / "fold_0").symlink_to("/etc")
        return output_dir

    kaggle(link)
    with pytest.raises(InputError, match="fold_0, which is not a plain file"):
        fetch(tmp_path / "cnmc")
    assert list(tmp_path.iterdir()) == []
