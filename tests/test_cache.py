"""The cache: whole or not at all, bounded, and clear about a place it cannot use."""

import os

import pytest

from leukemia.cache import cache_dir, cached_folder
from leukemia.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))


def write(size):
    return lambda folder: (folder / "block").write_bytes(b"x" * size)


def test_the_cache_lies_where_the_environment_says_else_in_the_users_cache_folder(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LEUKEMIA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "leukemia"


def test_an_entry_is_built_once():
    built = []
    for _ in range(2):
        folder = cached_folder("pixels-a", lambda folder: built.append(folder))
    assert len(built) == 1
    assert folder.is_dir()


def test_a_failing_builder_leaves_nothing():
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_folder("pixels-a", fail)
    assert not [path for path in cache_dir().iterdir() if path.is_dir()]


def test_the_longest_unused_makes_room():
    for age, name in ((30, "pixels-a"), (20, "demo-b"), (10, "pixels-c")):
        folder = cached_folder(name, write(1000))
        os.utime(folder, (os.stat(folder).st_mtime - age,) * 2)
    cached_folder("pixels-a", write(1000))  # used again: b is the oldest now
    (cache_dir() / "thesis").mkdir()
    (cache_dir() / "thesis" / "chapter").write_text("x" * 5000)
    cached_folder("pixels-d", write(1000), max_gb=3e-6)
    assert sorted(path.name for path in cache_dir().iterdir() if path.is_dir()) == [
        "pixels-a",
        "pixels-c",
        "pixels-d",
        "thesis",
    ]


def test_a_cache_that_cannot_be_written_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="LEUKEMIA_CACHE"):
        cached_folder("pixels-a", write(1))
