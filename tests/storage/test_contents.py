"""Hashes of contents: by the bytes, and read again only where a file may have changed."""

import os
import time

import pytest

from leukemia.errors import InputError
from leukemia.storage import contents
from leukemia.storage.cache import cache_dir
from leukemia.storage.contents import content_hashes, file_hash

MOST = 1000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode())
    return folder


def read_by(monkeypatch, root, paths=("a", "b")):
    """The hashes, and the files that were read for them."""
    read = []
    with monkeypatch.context() as patch:
        patch.setattr(
            contents, "file_hash", lambda file: read.append(os.path.basename(file)) or file_hash(file)
        )
        return content_hashes(root, list(paths), MOST), sorted(read)


def test_a_settled_file_is_read_once(root, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -1e12)
    first, read = read_by(monkeypatch, root)
    assert read == ["a", "b"]
    assert first == [file_hash(root / "a"), file_hash(root / "b")]
    assert read_by(monkeypatch, root, ("b", "a")) == (first[::-1], [])


def test_a_file_as_young_as_a_time_stamp_is_coarse_is_read_again(root, monkeypatch):
    read_by(monkeypatch, root)
    assert read_by(monkeypatch, root)[1] == ["a", "b"]


def test_an_edit_that_restores_the_time_is_read_again(root, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -1e12)
    (first, second), _ = read_by(monkeypatch, root)
    before = os.stat(root / "a")
    time.sleep(0.02)
    (root / "a").write_bytes(b"A")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    hashes, read = read_by(monkeypatch, root)
    assert read == ["a"]
    assert hashes[0] != first
    assert hashes[1] == second


def test_another_root_is_read_itself_also_where_it_took_the_place_of_the_first(root, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -1e12)
    read_by(monkeypatch, root)
    root.rename(root.with_name("old"))
    root.mkdir()
    for name in ("a", "b"):
        (root / name).write_bytes(name.upper().encode())
    hashes, read = read_by(monkeypatch, root)
    assert read == ["a", "b"]
    assert hashes == [file_hash(root / "a"), file_hash(root / "b")]
    assert read_by(monkeypatch, root.with_name("old"))[1] == ["a", "b"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"root": 1, "files": 3}', '{"files": {"a": [1]}}'])
def test_a_damaged_index_costs_time_only(root, monkeypatch, damage):
    monkeypatch.setattr(contents, "SETTLED", -1e12)
    hashes, _ = read_by(monkeypatch, root)
    (index,) = cache_dir().glob("contents-*.json")
    index.write_text(damage)
    assert read_by(monkeypatch, root) == (hashes, ["a", "b"])
    assert read_by(monkeypatch, root) == (hashes, [])


def test_pipes_and_giants_are_not_read_and_a_missing_file_is_named(root):
    os.mkfifo(root / "pipe")
    with open(root / "giant", "wb") as file:
        file.truncate(MOST + 1)
    assert content_hashes(root, ["pipe", "giant"], MOST) == ["", ""]
    with pytest.raises(InputError, match=r"gone: No such file or directory; did the data folder change"):
        content_hashes(root, ["gone"], MOST)


def test_a_cache_that_cannot_be_written_costs_time_only(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "file" / "cache"))
    assert content_hashes(root, ["a"], MOST) == [file_hash(root / "a")]
