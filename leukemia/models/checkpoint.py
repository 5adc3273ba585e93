"""Checkpoints, opened without Hydra and without code."""

from pathlib import Path
from typing import Any

from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.storage.torch_files import read_torch_file


def load_classifier(checkpoint: Path | str) -> CellClassifier:
    """The network of a checkpoint, on the processor and in eval mode; nothing is downloaded, no code is run.

    Raises:
        InputError: if the file is missing, cut short or no checkpoint of ours.
    """
    content = read_checkpoint(Path(checkpoint))
    try:
        model = CellClassifier(**{**content["hyper_parameters"], "weights": "none"})
        model.load_state_dict(content["state_dict"])
        model.on_load_checkpoint(content)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{checkpoint} is no checkpoint of a CellClassifier: {error}") from None
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        content = read_torch_file(path)
    except InputError as error:
        raise InputError(
            f"{path} cannot be read ({error}): run again with resume=restart, which moves the run aside"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is no checkpoint")
    return content
