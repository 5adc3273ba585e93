"""The Lightning trainer of a run: its callbacks, its logger, and how it writes checkpoints."""

import sys
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from leukemia.config import build
from leukemia.runs import Run
from leukemia.training import signals
from leukemia.training.callbacks import HistoryFile, Pictures
from leukemia.training.checkpoints import WholeCheckpointIO
from leukemia.training.distributed import cluster_plugins


def build_trainer(config: DictConfig, run: Run) -> pl.Trainer:
    """The trainer that a configuration describes, with the callbacks that write the run's folder.

    Raises:
        InputError: for what `build` refuses.
    """
    logger = build(config.logger, save_dir=str(run.folder)) if config.get("logger") else False
    without = {"progress"} if not sys.stderr.isatty() else set()
    without |= {"learning_rate"} if not logger else set()  # it has nowhere to write to
    callbacks: list[pl.Callback] = [HistoryFile(run), Pictures()]
    for name, node in config.callbacks.items():
        if node is not None and name not in without:
            callbacks.append(build(node, **_place(name, run)))
    callbacks.append(signals.LeaveWithCheckpoint(run))
    plugins = [WholeCheckpointIO(), *cluster_plugins()]
    shown = {"enable_progress_bar": "progress" in config.callbacks and sys.stderr.isatty()}
    return build(
        config.trainer,
        callbacks=callbacks,
        logger=logger,
        default_root_dir=str(run.folder),
        plugins=plugins,
        **shown,
    )


def _place(callback: str, run: Run) -> dict[str, Any]:
    """What a callback of this name is told of the run's folder."""
    if callback in ("best", "last"):
        return {"dirpath": str(run.best_checkpoint.parent)}
    return {"folder": str(run.folder)} if callback == "pruning" else {}
