"""Files of tensors of unknown origin: read without running code in them, and with their checksums compared."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from leukemia.errors import InputError
from leukemia.storage import arrays

UNREADABLE = (*arrays.UNREADABLE, IndexError, AttributeError, pickle.UnpicklingError, SafetensorError)


def read_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save` or of safetensors, its tensors mapped from the file where possible.

    Only tensors and plain values are opened (`weights_only=True`). torch does not compare the checksums that it
    writes, so they are compared here, in a tenth of a second for 300 MB. Files in the format before torch 1.6 and
    safetensors have none.

    Raises:
        InputError: if the file is damaged, holds anything else, or has another format; with the reason only.
    """
    try:
        if not path.is_file():
            raise OSError("it is not a file")  # a pipe would block
        if path.suffix == ".safetensors":
            return load_file(path)
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:
            _compare_checksums(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        raise InputError(reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """The reason why a file could not be opened, on one line, without torch's advice to open it anyway."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        if named := re.search(r"GLOBAL (\S+)", text):
            return (
                f"it carries {named.group(1)}, and only tensors and plain values are read: code is never run"
            )
        if said := re.search(r"WeightsUnpickler error:\s*(.+)", text):
            return f"it is not a file of tensors and plain values: {said.group(1).strip()}"
        if "Weights only load failed" in text:
            return "it holds more than tensors and plain values"
    return text.splitlines()[0] if text.strip() else type(error).__name__


def _compare_checksums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        arrays.check_stored(archive, path.stat().st_size)
        if wrong := archive.testzip():
            raise ValueError(f"it is damaged: {wrong} differs from what was written")
