"""Train one run: decide, build, fit, evaluate."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from leukemia.config import Settings, build, build_data, build_model, compose, resolve
from leukemia.data.datamodule import CellDataModule
from leukemia.errors import InputError, clear_about_limits
from leukemia.models.classifier import CellClassifier
from leukemia.models.optim import depends_on_epochs
from leukemia.runs import Run
from leukemia.storage.locks import exclusive_lock
from leukemia.storage.memory import give_freed_memory_back, keep_freed_memory
from leukemia.training.checkpoints import (
    bring_back_best,
    checkpoint_to_continue,
    is_over,
    read_best,
    restore_history,
    stopped_early,
)
from leukemia.training.distributed import end_after_rank_zero, is_rank_zero, rank_zero_decision
from leukemia.training.final_metrics import logged_settings, write_final_metrics
from leukemia.training.loggers import build_loggers, check_loggers, closed_on_failure, log_again, log_settings
from leukemia.training.resume import claim, lost_results, stored_settings
from leukemia.training.status import begun_by_this_job, recorded
from leukemia.training.trainer import build_trainer

log = logging.getLogger(__name__)


def fit(overrides: Sequence[str] = ()) -> Run:
    """Train one run, as the command `leukemia-train` does; for notebooks.

    Args:
        overrides: as on the command line; `hydra.run.dir=DIR` names the folder.

    Returns:
        The run; one that was finished before is given as it is.

    Raises:
        InputError: see `train`.
    """
    config = compose(overrides, with_hydra=True)
    return train(config, Path(config.hydra.run.dir), skip_done=True)


def train(config: DictConfig, folder: Path, skip_done: bool = False) -> Run:
    """Train the run that a configuration describes, and write its folder.

    Args:
        config: as composed.
        folder: of the run; an unfinished run in it is continued as `config.resume` says.
        skip_done: leave a finished run of the same settings as it is, instead of refusing it.

    Raises:
        InputError: if the settings, the data or the folder cannot be used; nothing is lost then.
    """
    run = Run(folder)
    settings = resolve(config, stored_settings(run, str(config.get("resume"))))
    with clear_about_limits(folder, _less_memory(settings)):
        if is_rank_zero():
            with exclusive_lock(folder):
                return _train(settings, run, skip_done)
        try:
            return _train(settings, run, skip_done)
        except InputError:
            end_after_rank_zero()


def _train(settings: Settings, run: Run, skip_done: bool) -> Run:
    check_loggers(settings["logger"])
    keep_freed_memory()
    pl.seed_everything(settings["seed"], verbose=False)
    torch.backends.cudnn.deterministic = True
    data = build_data(settings)
    model = build_model(settings, data.classes)
    trainer = build_trainer(settings, run)
    _compile(model, settings)
    if settings["trainer"].get("fast_dev_run"):
        trainer.fit(model, datamodule=data)
        log.info("fast_dev_run: training and validation work on a batch each; no run is written")
        return run
    data.prepare_data()
    decision = rank_zero_decision(trainer, partial(_decide, settings, run, data, model, trainer))
    run, data.cache_features = Run(Path(decision["folder"])), decision["cache_features"]
    if decision["state"] == "done":
        return _already_done(run, skip_done)
    limits = clear_about_limits(run.folder, _less_memory(settings))  # status.json has its words
    with recorded(run, _hardware(trainer, model)) if is_rank_zero() else nullcontext(), limits:
        trainer.loggers = build_loggers(settings["logger"], run.folder, build)
        with closed_on_failure(trainer.loggers):
            log_settings(trainer.loggers, logged_settings(settings))
            _fit(run, data, model, trainer, decision["state"], scores_best="best" in settings["callbacks"])
            give_freed_memory_back()
            if is_rank_zero():
                write_final_metrics(run, data, model, trainer)
    return run


def _less_memory(settings: Settings) -> str:
    data = settings["data"]
    return (
        f"take a smaller data.batch_size (it is {data['batch_size']}) or data.image_size (it is {data['image_size']}), "
        "or a machine with more; finished epochs are kept"
    )


def _fit(
    run: Run, data: CellDataModule, model: CellClassifier, trainer: pl.Trainer, state: str, scores_best: bool
) -> None:
    """Train from the start or from a checkpoint; nothing is left to do where training had come to its end."""
    if state == "repair":
        return _restore(run)
    checkpoint = None if state == "start" else checkpoint_to_continue(run, scores_best)
    if checkpoint is not None:
        log_again(trainer.loggers, checkpoint)
        if is_over(checkpoint, trainer.max_epochs):
            return _restore(run)
    with _clear_about_settings():
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    profiler = trainer.profiler  # type: ignore[attr-defined]
    if not isinstance(profiler, PassThroughProfiler):
        log.info("%s", profiler.summary())
    if not scores_best:
        trainer.save_checkpoint(run.best_checkpoint)  # the last epoch is scored


def _hardware(trainer: pl.Trainer, model: CellClassifier) -> dict[str, Any]:
    """The part of a session that the trainer and the model know."""
    return {
        "device": trainer.strategy.root_device.type,
        "devices": trainer.num_devices,
        "nodes": trainer.num_nodes,
        "precision": str(trainer.precision),
        "engine": model.engine,
        "threads": torch.get_num_threads(),
    }


def _restore(run: Run) -> None:
    """Write the history of a run that has come to its end, where it was lost; the other results are written anew."""
    if is_rank_zero() and not (run.folder / "history.csv").is_file():
        restore_history(run)


def _decide(
    settings: Settings, run: Run, data: CellDataModule, model: CellClassifier, trainer: pl.Trainer
) -> dict[str, Any]:
    """Rank zero's decision: to start, to go on, or that nothing is left to do. It writes the settings of a new run."""
    resume = "auto" if begun_by_this_job(run) else settings["resume"]
    state = claim(run, settings, data.cells, resume)
    decision = {"state": state, "folder": str(run.folder.absolute()), "cache_features": data.cache_features}
    if state == "done":
        bring_back_best(run)
        return decision
    if state == "extend":
        _say_whether_equal(run, model)
    if state == "repair":
        read_best(run)  # refused before the run is touched
    words = {
        "start": "starts",
        "continue": "goes on",
        "extend": f"goes on to epoch {trainer.max_epochs}",
        "repair": f"is done and lacks {', '.join(lost_results(run))}: computed again from best.ckpt",
    }
    log.info("%s %s\n%s", run.name, words[state], data.describe())
    if "last" not in settings["callbacks"]:
        log.warning("callbacks.last is left out: this run cannot be resumed")
    device, precision = trainer.strategy.root_device.type, str(trainer.precision)
    decision["cache_features"] = data.choose_cache(model, device, precision)
    if state in ("start", "extend"):
        found = {
            "root": str(data.root.absolute()),
            "classes": list(data.classes),
            "native_size": data.native_size,
        }
        found["cache_features"] = decision["cache_features"]
        run.write_config({**settings, "data": {**settings["data"], **found}})
    if state == "start":
        run.write_table("cells.csv", data.cells)
    return decision


def _say_whether_equal(run: Run, model: CellClassifier) -> None:
    """Say where an extended run differs from one that had as many epochs from the start.

    Raises:
        InputError: if early stopping ended the run, for it would end a longer one at the same epoch.
    """
    if epoch := stopped_early(run.last_checkpoint):
        raise InputError(
            f"{run.folder} was stopped early after epoch {epoch}: more epochs change nothing; start another run with "
            "callbacks.early_stopping=null or a larger callbacks.early_stopping.patience"
        )
    if depends_on_epochs(model.make_scheduler):
        log.warning(
            "the schedule depends on trainer.max_epochs: the extended run is not equal to a run of as many epochs"
        )


@contextmanager
def _clear_about_settings() -> Iterator[None]:
    """Refuse in one line settings that Lightning can check only while it trains, as a metric that is not logged."""
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, MisconfigurationException) or "conditioned on metric" in text:
            raise InputError(f"a callback or the trainer cannot work as it is set: {text}") from error
        raise


def _compile(model: CellClassifier, settings: Settings) -> None:
    if settings["compile"] and settings["trainer"]["accelerator"] == "cpu":
        log.info("compile=true: left out, because on a processor it takes a minute or two and gains nothing")
    elif settings["compile"]:
        model.compile_parts()


def _already_done(run: Run, skip_done: bool) -> Run:
    if not skip_done:
        raise InputError(
            f"{run.folder} holds this run, finished: see its metrics.json, choose another folder "
            "(hydra.run.dir=DIR or name=NAME), train it longer with resume=extend, or again with resume=restart"
        )
    log.info("%s is done already", run.name)
    return run
