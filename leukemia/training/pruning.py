"""Pruning in a search: a run that falls behind the finished ones is stopped."""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl

from leukemia.errors import InputError, is_whole
from leukemia.evaluation.metrics import monitored_names
from leukemia.models.classifier import CellClassifier
from leukemia.runs import PRUNED, Run, Sweep

log = logging.getLogger(__name__)


class MedianPruning(pl.Callback):
    """Stops a run of a search whose best monitored metric so far is worse than the median of the finished runs at the
    same epoch (the rule of Optuna's MedianPruner). A pruned run ends as any other, with the metrics of its best epoch.
    Its pruned.json holds the epoch and the runs that it was compared with.

    The finished runs are those that the search knew when it planned this run, so the time that its neighbours take
    changes nothing. Outside of a search there are none, and nothing is pruned.

    Args:
        folder: of the run; it lies in the search's.
        monitor: the metric, as `val/loss`.
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
            if not is_whole(number, 0):
                raise ValueError(f"{name}={number}: use a whole number from 0 up")
        if monitor not in monitored_names():
            raise ValueError(f"monitor={monitor} does not exist: use one of {', '.join(monitored_names())}")
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
            told = {"monitor": self.monitor, "best": best, "compared_with": list(self.finished)}
            self.run.write_json(PRUNED, {"epoch": epoch, **told})
            self.stopped_epoch = epoch
            trainer.should_stop = True

    def _finished(self) -> dict[str, dict[int, float]]:
        """The monitored metric of the finished runs by name and epoch, without unreadable runs. Empty for a run
        outside of the search's plan."""
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
    """Whether a run's best value so far is worse than the median of the finished runs at its last epoch.

    This is the rule of Optuna's MedianPruner. Values that are not finite do not count.

    Args:
        own: the metric of the run by epoch, from 1.
        finished: the same of finished runs.
        mode: `min` or `max`: where the metric is good.
        startup_runs, warmup_epochs: see `MedianPruning`.
    """
    own = _finite(own)
    finished = [values for values in map(_finite, finished) if values]
    epoch = max(own, default=0)
    at_this_epoch = [values[epoch] for values in finished if epoch in values]
    if len(finished) < startup_runs or epoch <= warmup_epochs or not at_this_epoch:
        return False
    median = statistics.median(at_this_epoch)
    return min(own.values()) > median if mode == "min" else max(own.values()) < median


def _finite(values: Mapping[int, float]) -> dict[int, float]:
    return {int(epoch): float(value) for epoch, value in values.items() if math.isfinite(value)}
