"""Train one run or a sweep: `python -m leukemia.train [-m] OVERRIDES`."""

import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from leukemia.errors import InputError, exit_readably
from leukemia.terminal import PlainRecord, collects_seldom, ends_on_signals

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
WITH_A_WORD = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
)


def main() -> None:
    """The command line: exit 0 done, 1 done with failures listed, 2 refused, 130 / 143 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands us its errors instead of exiting with 1
    with collects_seldom(), ends_on_signals(), exit_readably():  # imports below take seconds
        import hydra

        from leukemia.config import VERSION_BASE, clear_about_overrides, conf_dir, with_appended

        prepare_process()
        # Hydra 1.4 builds only these targets itself; parts of a run are checked and built in config.py.
        version = VERSION_BASE or {"execution_whitelist": ["leukemia.training.sweep.SweepCallback"]}
        sys.argv[1:] = _options_last(with_appended(sys.argv[1:]))
        with clear_about_overrides():
            hydra.main(config_path=conf_dir(), config_name="train", **version)(run_hydra_job)()


def _options_last(words: Sequence[str]) -> list[str]:
    """The words of a command line, overrides first: Hydra's parser takes no options among them."""
    overrides: list[str] = []
    options: list[str] = []
    for before, word in pairwise(["", *words]):
        follows = before in WITH_A_WORD or (before == "--info" and "=" not in word)
        (options if word.startswith("-") or follows else overrides).append(word)
    return overrides + options


def prepare_process() -> None:
    """Install signal handlers, so that a run is recorded as interrupted, register the configuration's resolvers, and
    silence expected warnings."""
    import leukemia.config  # noqa: F401
    from leukemia.training import signals

    signals.install()
    logging.setLogRecordFactory(PlainRecord)
    for expected in (
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "The number of training batches .* is smaller than the logging interval",
        "GPU available but not used",  # by trainer=cpu
        "Found .* in eval mode at the start of training",  # frozen stages are
        "Checkpoint directory .* exists and is not empty",
        "The `srun` command is available",  # of a run on this machine itself
    ):
        warnings.filterwarnings("ignore", expected)


def run_hydra_job(config: "DictConfig") -> float | None:
    """Run one Hydra job. `SweepCallback` stores its exception, so that a sweep continues.

    Returns:
        The monitored metric at the best epoch, which a search optimises; None outside of a sweep.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from leukemia.config import asks_for_several_devices, checked, resolve

    settings = checked(config)  # a mistyped setting is answered before PyTorch and Lightning are loaded
    from leukemia.reporting.words import duration
    from leukemia.runs import Sweep
    from leukemia.training import signals
    from leukemia.training.run import train
    from leukemia.training.status import best_monitored, time_left

    for package in ("pytorch_lightning", "matplotlib"):  # now: an import sets the level of the first
        logging.getLogger(package).setLevel(logging.WARNING)
    signals.leave_if_asked()
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    if sweeping:
        if settings["trainer"].get("fast_dev_run"):
            raise InputError(
                "trainer.fast_dev_run (as debug=fast) writes no run, and a sweep reports runs: leave out -m"
            )
        if asks_for_several_devices(resolve(config)):
            raise InputError(
                "a sweep runs each job on one device, and trainer.devices or num_nodes asks for several: take "
                "trainer=auto with a launcher that gives each job a device, or run trainer=ddp without -m"
            )
        sweep = Sweep(folder.parent)
        if sweep.total:
            left = time_left(sweep, hydra_config.job.num)
            said = "" if left is None else f", about {duration(left)} left"
            log.info("run %d of %d%s", hydra_config.job.num + 1, sweep.total, said)
    try:
        run = train(config, folder, skip_done=sweeping)
        return best_monitored(run) if sweeping else None
    finally:
        if sweeping:
            gc.collect()  # networks and trainers hold each other: left to itself Python keeps dozens of runs in memory


if __name__ == "__main__":
    from leukemia.train import main as run_main  # the module once, under its own name

    run_main()
