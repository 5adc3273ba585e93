"""Checkpoints are written whole."""

import pytest

from leukemia.checkpoints import WholeCheckpointIO, read_checkpoint
from leukemia.errors import InputError


def test_a_killed_writer_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    writer = WholeCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(InputError, match=r"No space left on device; make room there"):
        writer.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
