"""The Lightning trainer of a run: its callbacks, and how it writes checkpoints."""

import logging
import sys
from inspect import signature
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar

from leukemia.config import Settings, build
from leukemia.errors import InputError
from leukemia.models.targets import TARGET, locate
from leukemia.runs import Run
from leukemia.training.averaging import adapted, check_callbacks
from leukemia.training.callbacks import HistoryFile, LeaveWithCheckpoint, Pictures
from leukemia.training.checkpoints import WholeCheckpointIO
from leukemia.training.distributed import cluster_plugins

log = logging.getLogger(__name__)


def build_trainer(settings: Settings, run: Run) -> pl.Trainer:
    """The trainer of a run, with the callbacks that write its folder; its loggers come later.

    Raises:
        InputError: for settings that a callback or the trainer refuses.
    """
    trainer = settings["trainer"]
    if trainer.get("enable_checkpointing") is False:
        raise InputError(
            "trainer.enable_checkpointing=false: leave them out with callbacks.best=null callbacks.last=null"
        )
    shown = sys.stderr.isatty() and trainer.get("enable_progress_bar", True)
    callbacks = _callbacks(settings, run)
    if not shown:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    if not settings["logger"] or trainer.get("fast_dev_run"):
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    if not trainer.get("fast_dev_run"):
        last = LeaveWithCheckpoint(run, "last" in settings["callbacks"])
        callbacks = [HistoryFile(run), Pictures(), *callbacks, last]
    given = {key: value for key, value in trainer.items() if key != "enable_progress_bar"}
    return build(
        given,
        "trainer",
        callbacks=callbacks,
        logger=False,
        default_root_dir=str(run.folder),
        plugins=[WholeCheckpointIO(), *cluster_plugins(trainer["num_nodes"])],
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )


def _callbacks(settings: Settings, run: Run) -> list[pl.Callback]:
    """The callbacks of the configuration; each is told of the run folder where its constructor asks for it."""
    callbacks = []
    for name, node in settings["callbacks"].items():
        key = f"callbacks.{name}"
        kind = locate(node[TARGET], key)
        place: dict[str, Any] = {}
        if issubclass(kind, ModelCheckpoint):
            place["dirpath"] = str(run.best_checkpoint.parent)
        elif "folder" in signature(kind).parameters:
            place["folder"] = str(run.folder)
        callbacks.append(adapted(build(node, key, **place)))
    check_callbacks(callbacks)
    return callbacks
