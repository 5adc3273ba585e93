"""Train one run: decide, build, fit, evaluate."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from leukemia.config import absolute_paths, build, resolve_auto
from leukemia.data.datamodule import CellDataModule
from leukemia.errors import InputError, clear_about_limits
from leukemia.models.checkpoint import read_checkpoint
from leukemia.models.classifier import CellClassifier
from leukemia.runs import Run
from leukemia.storage.locks import exclusive_lock
from leukemia.training.checkpoints import checkpoint_to_continue
from leukemia.training.distributed import Meeting, meeting
from leukemia.training.final_metrics import write_final_metrics
from leukemia.training.memory import keep_freed_memory
from leukemia.training.resume import claim
from leukemia.training.status import begun_by_this_job, recorded
from leukemia.training.trainer import build_trainer

log = logging.getLogger(__name__)


def train(config: DictConfig, folder: Path, skip_done: bool = False) -> Run:
    """Train the run that a configuration describes, and write its folder.

    Args:
        config: as composed.
        folder: of the run; an unfinished run in it is continued as `config.resume` says.
        skip_done: leave a finished run of the same settings as it is, instead of refusing it.

    Raises:
        InputError: if the settings, the data or the folder cannot be used; nothing is lost then.
    """
    with meeting(config.trainer.num_nodes) as processes, clear_about_limits(folder, _less_memory(config)):
        if processes.first:
            with exclusive_lock(folder):
                return _train(config, Run(folder), processes, skip_done)
        return _train(config, Run(folder), processes, skip_done)


def _train(config: DictConfig, run: Run, processes: Meeting, skip_done: bool) -> Run:
    first = processes.first
    config = absolute_paths(config)
    wanted = _plain(config)
    if not first:
        decided = processes.hear()
        state = decided["state"]
        if state == "refused":
            processes.end_after_first()
        run = Run(Path(decided["folder"]))
        if state == "done":
            return run
        config.trainer.precision = decided["precision"]
        config.data.cache_features = decided["features"]
    config = resolve_auto(config)
    keep_freed_memory()
    pl.seed_everything(config.seed, verbose=False)
    torch.backends.cudnn.deterministic = True
    data: CellDataModule = build(config.data, seed=config.seed, max_gb=config.cache.max_gb)
    model: CellClassifier = build(config.model, classes=list(data.classes))
    if config.compile and config.trainer.accelerator == "cpu":
        log.info("compile=true: left out, because on a processor it takes a minute or two and gains nothing")
    elif config.compile:
        model.net.compile()
    if first:
        data.prepare_data()
        resume = "auto" if begun_by_this_job(run) else config.resume
        state = claim(run, wanted, data.cells, resume)
        if state == "done":
            done = _already_done(run, skip_done)
            processes.tell({"state": "done", "folder": str(run.folder.absolute())}, await_others=True)
            return done
        log.info("%s %s\n%s", run.name, "goes on" if state == "continue" else "starts", data.describe())
        if state == "continue":  # as it was chosen then
            config.trainer.precision = run.config["trainer"]["precision"]
            data.cache_features = run.config["data"].get("features", "off")
    trainer = build_trainer(config, run)
    device = trainer.strategy.root_device.type
    config.data.cache_features = data.choose_features(model, device, str(trainer.precision))
    if first and state == "start":
        config.data.root = str(data.root.absolute())
        run.write_config(_plain(config))
        run.write_table("cells.csv", data.cells)
    if first:
        chosen = {"precision": str(config.trainer.precision), "features": config.data.cache_features}
        processes.tell({"state": state, "folder": str(run.folder.absolute()), **chosen})
    with recorded(run) if first else nullcontext(), clear_about_limits(run.folder, _less_memory(config)):
        checkpoint = checkpoint_to_continue(run) if state == "continue" else None
        if checkpoint is None or not _is_over(checkpoint, trainer.max_epochs):
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if first:
            write_final_metrics(run, data, trainer)
    return run


def _less_memory(config: DictConfig) -> str:
    return (
        f"take a smaller data.batch_size (it is {config.data.batch_size}) or data.image_size "
        f"(it is {config.data.image_size}), or a machine with more; what was finished is kept"
    )


def _is_over(checkpoint: Path, max_epochs: int | None) -> bool:
    """Whether training had come to its end when the checkpoint was written."""
    state = read_checkpoint(checkpoint)
    stopped = any(callback.get("stopped_epoch") for callback in state["callbacks"].values())
    return bool(stopped) or len(state["history"]) >= (max_epochs or float("inf"))


def _already_done(run: Run, skip_done: bool) -> Run:
    if not skip_done:
        raise InputError(
            f"{run.folder} holds this run, finished: see its metrics.json, choose another folder "
            "(hydra.run.dir=DIR or name=NAME), or run it again with resume=restart"
        )
    log.info("%s is done already", run.name)
    return run


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def best_monitored(run: Run) -> float | None:
    """The monitored figure of a finished run at its best epoch; None where there is none."""
    try:
        monitor = run.config["callbacks"]["early_stopping"]["monitor"]
        return float(run.history.set_index("epoch").loc[run.metrics["best_epoch"], monitor])
    except (InputError, KeyError, TypeError, ValueError):
        return None
