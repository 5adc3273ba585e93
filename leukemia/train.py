"""Train one run or a sweep: `python -m leukemia.train [-m] OVERRIDES`."""

import gc
import logging
import os
import sys
import traceback
import warnings
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leukemia import signals
from leukemia.allocator import keep_freed_memory
from leukemia.checkpoints import checkpoint_to_continue, read_checkpoint
from leukemia.config import (
    SweepWatch,
    absolute_paths,
    asks_for_several_devices,
    build,
    conf_dir,
    explain,
    resolve_auto,
)
from leukemia.data.datamodule import CellDataModule
from leukemia.errors import (
    InputError,
    clear_about_limits,
    exit_readably,
)
from leukemia.figures import write_figures
from leukemia.locks import alone_in
from leukemia.models.classifier import CellClassifier
from leukemia.ranks import Meeting, meeting
from leukemia.reporting.words import duration
from leukemia.resume import claim
from leukemia.runs import Run, Sweep, remove_if_empty
from leukemia.status import begun_by_this_job, record_refusal, recorded, time_left
from leukemia.trainer import build_trainer

log = logging.getLogger(__name__)


def main() -> None:
    """The command line: exit 0 done, 1 done with failures listed, 2 refused, 130 / 143 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands us its errors instead of exiting with 1
    prepare_process()
    with exit_readably(), ExitStack() as SweepWatch.held:
        try:
            _task()
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(explain(error)) from None
        except ValueError as error:
            if not str(error).startswith("Config group override"):
                raise  # else Hydra's own, of a group that is set to null
            raise InputError("a group of settings is null: leave it out with ~GROUP, as ~logger") from None
        if SweepWatch.folder is not None:
            from leukemia.finish import end_sweep

            sys.exit(end_sweep(SweepWatch.folder, SweepWatch.ended, SweepWatch.held))
        for _, failure in SweepWatch.ended:
            if failure is not None:
                raise failure


def prepare_process() -> None:
    """End on signals as on an error, so that a run is recorded as interrupted; say nothing of what is meant so."""
    signals.install()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    warnings.filterwarnings(
        "ignore", "The number of training batches .* is smaller than the logging interval"
    )
    warnings.filterwarnings("ignore", "GPU available but not used")  # by trainer=cpu
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")  # frozen stages are
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", "The `srun` command is available")  # of a run on this machine itself


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
            with alone_in(folder):
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
        config.data.features = decided["features"]
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
            data.features = run.config["data"].get("features", "off")
    trainer = build_trainer(config, run)
    device = trainer.strategy.root_device.type
    config.data.features = data.choose_features(model, device, str(trainer.precision))
    if first and state == "start":
        config.data.root = str(data.root.absolute())
        run.write_config(_plain(config))
        run.write_table("cells.csv", data.cells)
    if first:
        chosen = {"precision": str(config.trainer.precision), "features": config.data.features}
        processes.tell({"state": state, "folder": str(run.folder.absolute()), **chosen})
    with recorded(run) if first else nullcontext(), clear_about_limits(run.folder, _less_memory(config)):
        checkpoint = checkpoint_to_continue(run) if state == "continue" else None
        if checkpoint is None or not _is_over(checkpoint, trainer.max_epochs):
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if first:
            write_figures(run, data, trainer)
    return run


def task_of_a_job(config: DictConfig) -> float | None:
    """One job of Hydra's, in whatever process: what fails is kept, so that a sweep goes on and Hydra adds no words.

    Returns:
        The figure that a search optimises; None for a run that failed.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    failure = None
    try:
        if sweeping and asks_for_several_devices(config):
            raise InputError(
                "a sweep runs each job on one device, and trainer.devices or num_nodes asks for several: take "
                "trainer=auto with a launcher that gives each job a device, or run trainer=ddp without -m"
            )
        if sweeping and (total := Sweep(folder.parent).total):
            left = time_left(Sweep(folder.parent), hydra_config.job.num)
            said = "" if left is None else f", about {duration(left)} left"
            log.info("run %d of %d%s", hydra_config.job.num + 1, total, said)
        train(config, folder, skip_done=sweeping)
    except Exception as error:
        failure = error
        if sweeping:
            with suppress(InputError):  # of a full disk
                record_refusal(Run(folder), _plain(config), error)
            log.error("%s failed: %s", folder.name, error)
            if not isinstance(error, InputError):
                traceback.print_exc()
            error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold what the run held
        else:
            remove_if_empty(folder)
    SweepWatch.ended.append((folder, failure))
    if sweeping:
        gc.collect()  # networks and trainers hold each other: left to itself Python keeps dozens of runs in memory
        signals.leave_if_asked()
    return best_monitored(Run(folder)) if failure is None and sweeping else None


_task = hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")(task_of_a_job)


def best_monitored(run: Run) -> float | None:
    """The monitored figure of a finished run at its best epoch; None where there is none."""
    try:
        monitor = run.config["callbacks"]["early_stopping"]["monitor"]
        return float(run.history.set_index("epoch").loc[run.metrics["best_epoch"], monitor])
    except (InputError, KeyError, TypeError, ValueError):
        return None


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


if __name__ == "__main__":
    from leukemia.train import main as run_main  # the module once, under its own name

    run_main()
