"""Files of tensors: a flipped byte is noticed, code is refused by name and never runs."""

import os
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from leukemia.errors import InputError
from leukemia.storage.arrays import file_hash
from leukemia.storage.torch_files import read_torch_file


class Payload:
    """Unpickled as code it leaves a file behind."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


CONTENT = {"weight": torch.arange(300.0), "history": [{"epoch": 1, "loss": 0.25}], "epoch": 3}


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


def test_what_was_saved_is_read(tmp_path):
    torch.save(CONTENT, tmp_path / "a.ckpt")
    assert equal(read_torch_file(tmp_path / "a.ckpt"), CONTENT)
    torch.save(CONTENT, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert equal(read_torch_file(tmp_path / "old.pth"), CONTENT)
    save_file({"weight": CONTENT["weight"]}, tmp_path / "a.safetensors")
    assert equal(read_torch_file(tmp_path / "a.safetensors"), {"weight": CONTENT["weight"]})


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path):
    torch.save(CONTENT, tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    refused = 0
    for at in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[at] ^= 1 << random.Random(at).randrange(8)
        (tmp_path / "b.ckpt").write_bytes(flipped)
        try:
            assert equal(read_torch_file(tmp_path / "b.ckpt"), CONTENT), at
        except InputError:
            refused += 1
    assert refused > 500  # the 1,200 bytes of the tensor among them


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_file_cut_short_is_refused(tmp_path, name, share):
    if name == "a.ckpt":
        torch.save(CONTENT, tmp_path / name)
    else:
        save_file({"weight": CONTENT["weight"]}, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError):
        read_torch_file(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_never_runs(tmp_path, zipped):
    state = {"state_dict": {"conv1.weight": Payload(tmp_path / "executed")}}
    torch.save(state, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"carries (io|_io)\.open, and .* is never run") as caught:
        read_torch_file(tmp_path / "evil.ckpt")
    assert "trust" not in str(caught.value)  # torch's advice to open it all the same is not passed on
    assert not (tmp_path / "executed").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_pipe_or_a_folder_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match="not a file"):
            read_torch_file(tmp_path / f"{name}{suffix}")
        assert file_hash(tmp_path / f"{name}{suffix}") == ""


def test_a_script_module_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02}.")
    with pytest.raises(InputError):
        read_torch_file(tmp_path / "script.pt")


def test_a_compressed_archive_is_refused_before_it_unpacks(tmp_path):
    torch.save({"weight": torch.zeros(10_000_000)}, tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as archive,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    with pytest.raises(InputError, match="compressed"):
        read_torch_file(tmp_path / "bomb.ckpt")
