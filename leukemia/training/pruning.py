"""Pruning in a search: a run that falls behind the finished ones is stopped."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl

from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier, metric_names
from leukemia.runs import PRUNED, Run, Sweep

log = logging.getLogger(__name__)


class MedianPruning(pl.Callback):
    """Stops a run of a search whose best monitored figure so far is worse than the median of the finished runs' figures
    at the same epoch (the rule of Optuna's MedianPruner). A pruned run is finished as any other, with the figures of
    its best epoch, and says in pruned.json after which epoch it was stopped and what it was held against.

    The finished runs are those that the search knew when this run's turn came, so how long its neighbours take changes
    nothing. In a sweep that is no search there are none, and nothing is pruned.

    Args:
        folder: of the run; it lies in the search's.
        monitor: the figure, as `val/loss`.
        mode: `min` or `max`: where it is good.
        startup_runs: no run is pruned before so many are finished.
        warmup_epochs: no run is pruned in its first so many epochs.
    """

    def __init__(
        self,
        folder: Path | str,
        monitor: str = "val/loss",
        mode: str = "min",
        startup_runs: int = 5,
        warmup_epochs: int = 3,
    ) -> None:
        for name, number in (("startup_runs", startup_runs), ("warmup_epochs", warmup_epochs)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"{name}={number}: use a whole number from 0 up")
        if monitor not in metric_names("val"):
            raise ValueError(f"monitor={monitor} does not exist: use one of {', '.join(metric_names('val'))}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode}: use min or max")
        self.run, self.monitor, self.mode = Run(Path(folder)), monitor, mode
        self.startup_runs, self.warmup_epochs = startup_runs, warmup_epochs
        self.stopped_epoch = 0
        self.finished: dict[str, dict[int, float]] = {}

    def state_dict(self) -> dict[str, int]:
        return {"stopped_epoch": self.stopped_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.stopped_epoch = state_dict["stopped_epoch"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.stopped_epoch:  # else of a run that was killed before the checkpoint that says so
            (self.run.folder / PRUNED).unlink(missing_ok=True)
        self.finished = self._finished()  # they stay the same while the run trains

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the epoch's checkpoint is written, so that a resumed run knows that it is over."""
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or epoch == trainer.max_epochs:
            return
        assert isinstance(pl_module, CellClassifier)
        own = {int(row["epoch"]): row[self.monitor] for row in pl_module.history}
        own[epoch] = float(trainer.callback_metrics[self.monitor])
        if falls_behind(own, list(self.finished.values()), self.mode, self.startup_runs, self.warmup_epochs):
            best = (min if self.mode == "min" else max)(own.values())
            log.info(
                "pruned after epoch %d: %s was %.4f at best, worse than the median of the finished runs at this epoch",
                epoch, self.monitor, best,
            )  # fmt: skip
            told = {
                "epoch": epoch,
                "monitor": self.monitor,
                "best": best,
                "compared_with": list(self.finished),
            }
            self.run.write_json(PRUNED, told)
            self.stopped_epoch = epoch
            trainer.should_stop = True

    def _finished(self) -> dict[str, dict[int, float]]:
        """The monitored figure of the finished runs by epoch, by their names; those that cannot be read left out. None
        for a run that the search did not plan."""
        sweep, found = Sweep(self.run.folder.parent), {}
        for name in sweep.finished if self.run.name in sweep.planned else []:
            try:
                history = Run(sweep.folder / name).history
                found[name] = dict(zip(history["epoch"], history[self.monitor], strict=True))
            except (InputError, KeyError):
                continue
        return found


def falls_behind(
    own: Mapping[int, float],
    finished: Sequence[Mapping[int, float]],
    mode: str,
    startup_runs: int,
    warmup_epochs: int,
) -> bool:
    """Whether Optuna's MedianPruner would prune a trial, by the finite figures of its epochs and of finished trials."""
    own = _finite(own)
    finished = [figures for figures in map(_finite, finished) if figures]
    if not own or len(finished) < max(1, startup_runs):
        return False
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    better = min if mode == "min" else max
    pruner = optuna.pruners.MedianPruner(startup_runs, warmup_epochs + 1)
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize", pruner=pruner)
    for values in finished:
        study.add_trial(
            optuna.trial.create_trial(value=better(values.values()), intermediate_values=dict(values))
        )
    trial = study.ask()
    for epoch, value in own.items():
        trial.report(value, epoch)
    return trial.should_prune()


def _finite(figures: Mapping[int, float]) -> dict[int, float]:
    return {int(epoch): float(figure) for epoch, figure in figures.items() if math.isfinite(figure)}
