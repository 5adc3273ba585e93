"""Checkpoints of a run: written whole, and found again where the run folder lies now."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from leukemia.errors import InputError
from leukemia.models.checkpoint import read_checkpoint
from leukemia.runs import Run
from leukemia.storage.atomic import atomic_write

log = logging.getLogger(__name__)
TO_CONTINUE = ("callbacks", "loops")  # what Lightning takes up


def checkpoint_to_continue(run: Run, needs_best: bool = True) -> Path:
    """last.ckpt; where that is missing or damaged best.ckpt, an earlier epoch of the same run.

    From best.ckpt a run takes longer to come to the same metrics, because all randomness derives from seed, epoch and
    batch.

    Args:
        run: that goes on.
        needs_best: whether the run will be scored by its best.ckpt.

    Raises:
        InputError: if neither can be read, or last.ckpt can and the best epoch is lost.
    """
    try:
        content = _read(run.last_checkpoint, TO_CONTINUE)
    except InputError as error:
        epoch = len(read_best(run, TO_CONTINUE)["history"])
        log.warning("%s: the run goes on from best.ckpt, after epoch %d", error, epoch)
        return run.best_checkpoint
    if content["history"] and needs_best:
        read_best(run)  # better refused now than at the end
    return run.last_checkpoint


def read_best(run: Run, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The content of best.ckpt.

    Args:
        run: that it is of.
        needs: mappings that it has to hold.

    Raises:
        InputError: if it cannot be read, with the remedy.
    """
    try:
        return _read(run.best_checkpoint, needs)
    except InputError as error:
        raise InputError(f"{error}: run again with resume=restart, which moves the run aside") from None


def restore_history(run: Run) -> None:
    """Write history.csv from last.ckpt; where that cannot be read from best.ckpt, which ends at its own epoch."""
    try:
        history = _read(run.last_checkpoint)["history"]
    except InputError as error:
        history = read_best(run)["history"]
        log.warning("%s: history.csv ends with epoch %d", error, len(history))
    run.write_table("history.csv", pd.DataFrame(history))


def bring_back_best(run: Run) -> None:
    """Write a finished run's lost best.ckpt from last.ckpt, if that is of the same epoch; else say what needs it.

    Predictions and metrics stay as they are."""
    if run.best_checkpoint.is_file():
        return
    try:
        same = len(_read(run.last_checkpoint)["history"]) == run.metrics["best_epoch"]
    except (InputError, LookupError, TypeError):
        same = False
    if same:
        with atomic_write(run.best_checkpoint) as file:
            file.write(run.last_checkpoint.read_bytes())
        if (run.folder / "gate.json").is_file():
            run.bind_gate()
        log.info("%s lacked best.ckpt: written again from last.ckpt, which is of the same epoch", run.name)
    else:
        log.warning(
            "%s lacks best.ckpt: its metrics and predictions are complete, but predict, explain, export and the page's "
            "heat maps need it; bring it back, or train again with resume=restart",
            run.name,
        )


def _read(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a checkpoint that training wrote, with some mappings in it.

    Raises:
        InputError: if it cannot be read, is another file of tensors, or lacks one of the mappings.
    """
    content = read_checkpoint(path)
    if not isinstance(content.get("history"), list):
        raise InputError(f"{path} cannot be read (it is not a checkpoint of a training run)")
    if lacking := [name for name in needs if not isinstance(content.get(name), dict)]:
        raise InputError(f"{path} has no {' and no '.join(lacking)} (as with save_weights_only)")
    return content


def stopped_early(checkpoint: Path) -> int:
    """The epoch (from 1) at which a callback ended training; 0 where none did."""
    return _stopped_early(_read(checkpoint))


def is_over(checkpoint: Path, max_epochs: int | None) -> bool:
    """Whether training had come to its end when the checkpoint was written."""
    content = _read(checkpoint)
    return bool(_stopped_early(content)) or len(content["history"]) >= (max_epochs or float("inf"))


def _stopped_early(content: dict[str, Any]) -> int:
    stopped = [
        state.get("stopped_epoch")
        for state in content.get("callbacks", {}).values()
        if isinstance(state, dict)
    ]
    return len(content["history"]) if any(stopped) else 0


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and then takes its place: a killed writer leaves the old one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that a resumed run takes up again although its folder was moved or is mounted elsewhere.

    Lightning's own forgets the best score where the folder's path has changed.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:  # one file each, whatever a stranger's checkpoint says
            return str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}") if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})
