"""The cache: whole or not at all, bounded, and clear about a place it cannot use."""

import os

import pytest

from leukemia.errors import InputError
from leukemia.storage import cache, checksums
from leukemia.storage.cache import cache_dir, cached_folder


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
    cached_folder("pixels-d", write(1000), max_gb=3.5e-6)
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


def built_again(name, content=b"0123456789" * 1000):
    """Ask for a folder of two files as a new process does; whether it had to be built."""
    built = []

    def build(folder):
        built.append(folder)
        (folder / "map").write_bytes(content)
        (folder / "below").mkdir()
        (folder / "below" / "empty").write_bytes(b"")

    cache._found_whole.clear()
    folder = cached_folder(name, build)
    assert (folder / "map").read_bytes() == content
    return bool(built)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "map").write_bytes(b"0123456789" * 999), "map has 9,990 bytes and not 10,000"),
        (lambda folder: flip(folder / "map", 5000), "1 of 3 blocks of map differ from what was written"),
        (lambda folder: flip(folder / "map", 9999), "1 of 3 blocks of map"),
        (lambda folder: (folder / "map").unlink(), "map is missing"),
        (lambda folder: (folder / "below" / "more").write_text("x"), "below/more does not belong there"),
        (lambda folder: (folder / "checksums.json").unlink(), "checksums.json is missing"),
        (lambda folder: (folder / "checksums.json").write_text("{"), "it cannot be read"),
        (lambda folder: (folder / "checksums.json").write_text('{"map": 1, "below/empty": 2}'), "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_built_again_and_said_in_one_line(monkeypatch, caplog, harm, told):
    monkeypatch.setattr(checksums, "BLOCK", 4000)
    assert built_again("pixels-a")
    assert not built_again("pixels-a")
    harm(cache_dir() / "pixels-a")
    assert built_again("pixels-a")
    (line,) = caplog.messages
    assert told in line
    assert line.endswith("It is built again")
    assert not built_again("pixels-a")


def test_contents_are_read_once_by_a_process_and_sizes_each_time(monkeypatch):
    assert built_again("pixels-a")
    cached_folder("pixels-a", lambda folder: pytest.fail("built"))
    flip(cache_dir() / "pixels-a" / "map", 5)
    cached_folder("pixels-a", lambda folder: pytest.fail("read again"))
    os.truncate(cache_dir() / "pixels-a" / "map", 5)
    rebuilt = []
    cached_folder("pixels-a", rebuilt.append)
    assert rebuilt


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
