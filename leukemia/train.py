"""Train one run or a sweep: `python -m leukemia.train [-m] OVERRIDES`."""

import gc
import logging
import os
import sys
import traceback
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from leukemia.config import asks_for_several_devices, conf_dir, explain
from leukemia.errors import (
    InputError,
    exit_readably,
)
from leukemia.reporting.words import duration
from leukemia.runs import Run, Sweep
from leukemia.storage.atomic import remove_if_empty
from leukemia.training import signals
from leukemia.training.run import _plain, best_monitored, train
from leukemia.training.status import record_refusal, time_left
from leukemia.training.sweep import SweepWatch

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
            from leukemia.training.sweep import end_sweep

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


def run_hydra_job(config: DictConfig) -> float | None:
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


_task = hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")(run_hydra_job)


if __name__ == "__main__":
    from leukemia.train import main as run_main  # the module once, under its own name

    run_main()
