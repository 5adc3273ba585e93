"""Files are written whole, and the disk has them in order."""

import os
import stat

import pytest

from leukemia.errors import InputError
from leukemia.storage.atomic import write_text


def test_the_file_is_on_the_disk_before_it_replaces_the_old_one_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append(("sync", os.fstat(descriptor).st_ino if is_folder else "file"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    write_text(tmp_path / "status.json", "{}")
    assert done == [("sync", "file"), "replace", ("sync", tmp_path.stat().st_ino)]
    assert (tmp_path / "status.json").read_text() == "{}"


def test_a_folder_in_the_place_of_a_file_is_named_and_stays(tmp_path):
    (tmp_path / "triage.json").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*triage\.json: Is a directory"):
        write_text(tmp_path / "triage.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["triage.json"]


def test_a_file_system_that_syncs_no_folders_is_taken_as_it_is(tmp_path, monkeypatch):
    fsync = os.fsync

    def refused(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    write_text(tmp_path / "status.json", "{}")
    assert (tmp_path / "status.json").read_text() == "{}"
