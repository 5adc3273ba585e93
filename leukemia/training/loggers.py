"""Loggers of a run: built for its folder, taken up again after a kill, and told its settings and final metrics."""

import csv
import io
import json
import logging
import os
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from lightning_fabric.utilities.logger import _convert_params, _flatten_dict
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from leukemia.errors import InputError
from leukemia.models.checkpoint import read_checkpoint
from leukemia.models.targets import TARGET, locate
from leukemia.storage.atomic import write_text
from leukemia.storage.plain_files import parse_json, read_text
from leukemia.training.distributed import is_rank_zero

log = logging.getLogger(__name__)
MEMORY = "loggers.json"  # {name of a logger: the id of its run in the tracker}
FIRST = ("network", "trainable_from")  # settings that are shown first
EXTRAS = ("mlflow", "wandb")  # packages that an extra of this one installs
STORE = "MLFLOW_TRACKING_URI"  # the user's own, for all runs
WRITE_EVERY = 1.0  # seconds between two writes of metrics.csv within an epoch


def check_loggers(nodes: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Refuse a tracker whose package is not installed, before a picture is read.

    Raises:
        InputError: with the pip command.
    """
    for name, node in nodes.items():
        found = locate(node[TARGET], f"logger.{name}") if node else None
        for kind, package in ((MLFlowLogger, "mlflow"), (WandbLogger, "wandb")):
            if isinstance(found, type) and issubclass(found, kind) and find_spec(package) is None:
                raise _needs(f"logger.{name}", package)


def build_loggers(
    nodes: Mapping[str, Mapping[str, Any] | None], folder: Path, build: Callable[..., Any]
) -> list[Logger]:
    """The loggers of a run; MLflow and W&B go on in the run that `loggers.json` of the folder remembers.

    Args:
        nodes: {name: a node with `_target_` and settings}; None is left out.
        folder: of the run.
        build: makes the logger: `build(node, key, **arguments)`.

    Raises:
        InputError: for a package that is not installed, a login that is missing, or what `build` refuses.
    """
    remembered = _remembered(folder)
    loggers, started = [], {}
    for name, node in nodes.items():
        if node is not None:
            loggers.append(_build(node, f"logger.{name}", folder, remembered.get(name), build))
            if isinstance(loggers[-1], MLFlowLogger | WandbLogger) and (run_id := loggers[-1].version):
                started[name] = run_id
    if is_rank_zero() and started not in ({}, remembered):
        write_text(folder / MEMORY, json.dumps(started, indent=2) + "\n")
    return loggers


def log_settings(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Tell every logger the settings of a run, at its start."""
    for logger in loggers:
        logger.log_hyperparams(_plain(settings))


def log_again(loggers: Sequence[Logger], checkpoint: Path) -> None:
    """Tell every logger the metrics of the last epoch in a checkpoint.

    Lightning logs an epoch's training metrics after its checkpoints are written, so a kill in between loses them.
    """
    content = read_checkpoint(checkpoint)
    loop = content["loops"]["fit_loop"]
    if content["history"] and loop["epoch_loop.batch_progress"]["is_last_batch"]:  # else within an epoch
        row = content["history"][-1]
        metrics = {name: value for name, value in row.items() if "/" in name} | {"epoch": row["epoch"] - 1}
        for logger in loggers:
            logger.log_metrics(metrics, step=loop["epoch_loop.state_dict"]["_batches_that_stepped"] - 1)


def log_final(loggers: Sequence[Logger], settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Tell every logger the metrics of the finished run as `final/NAME`, and close it.

    TensorBoard also shows them beside the settings, in its HParams tab.
    """
    final = {f"final/{name}": value for name, value in metrics.items()}
    for logger in loggers:
        logger.log_metrics(final)
        if isinstance(logger, TensorBoardLogger) and is_rank_zero():
            _show_in_hparams_tab(logger, _plain(settings), final)
    _close(loggers, "success")


@contextmanager
def closed_on_failure(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close the loggers where the run fails or is interrupted, so that the next run of this process has its own."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the run's own error is the one to see
            _close(loggers, "failed")
        raise


def log_figure(logger: Logger, name: str, figure: Figure, step: int) -> None:
    """Show a figure in a logger that takes pictures."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure, step)
    else:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        log_images(logger, name, np.asarray(canvas.buffer_rgba())[None, ..., :3], step)


def log_images(logger: Logger, name: str, images: np.ndarray, step: int) -> None:
    """Show pictures, uint8 (N, H, W, 3), in a logger that takes them."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_images(name, images, step, dataformats="NHWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, np.hstack(list(images)), f"{name}/step{step}.png")
    elif hasattr(logger, "log_image"):  # as W&B's
        logger.log_image(name, list(images), step)


class ResumableCSVLogger(CSVLogger):
    """Writes metrics.csv and hparams.yaml into the run folder, a row a step, and keeps the rows of earlier starts.

    Lightning's own deletes the file when it starts in a used folder. Here a step that is logged again takes the place
    of its row, so a run that was killed has each epoch once.
    """

    def __init__(self, save_dir: str | Path, prefix: str = "") -> None:
        super().__init__(save_dir, name="", version="", prefix=prefix)

    @property
    @rank_zero_experiment
    def experiment(self) -> "_RowsByStep":
        if self._experiment is None:
            self._experiment = _RowsByStep(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        rows = self.experiment.rows
        super().log_metrics(dict(metrics), max(rows, default=0) if step is None else step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.save()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.experiment.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.experiment.write()


class _RowsByStep(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Read the rows of an earlier start; Lightning's own deletes them here."""
        self.rows: dict[int, dict[str, Any]] = {}
        self._written, self._due = time.monotonic(), False
        path = Path(self.metrics_file_path)
        if path.is_file():
            text = read_text(path)
            try:
                for row in csv.DictReader(io.StringIO(text)):
                    self.rows[int(row["step"])] = {name: value for name, value in row.items() if value}
            except (KeyError, ValueError, TypeError):
                raise InputError(f"{path} is not a table of metrics by step: move it aside") from None

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        assert step is not None
        # An epoch's second message: validation and training metrics come one after the other.
        self._due |= step in self.rows
        values = {name: v.item() if hasattr(v, "item") else v for name, v in metrics_dict.items()}
        self.rows.setdefault(step, {"step": step}).update(values)

    def save(self) -> None:
        """Write the rows, except within an epoch where that was done a moment ago."""
        if self._due or time.monotonic() - self._written > WRITE_EVERY:
            self.write()

    def write(self) -> None:
        if not self.rows:
            return
        names = sorted({name for row in self.rows.values() for name in row} - {"step"})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[step] for step in sorted(self.rows))
        write_text(Path(self.metrics_file_path), text.getvalue())
        self._written, self._due = time.monotonic(), False


class ResumableMLFlowLogger(MLFlowLogger):
    """An MLFlowLogger for a run that is started several times: it logs each point and each parameter once."""

    # (step, value) by metric, as far as it was asked for
    _points: dict[str, set[tuple[int, float]]] | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        new = {}
        for name, value in metrics.items():
            point, points = (step or 0, float(value)), self._known(name)
            if point not in points:
                points.add(point)
                new[name] = value
        if new:
            super().log_metrics(new, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        known = self.experiment.get_run(self.run_id).data.params  # MLflow refuses to change one
        flat = _flatten_dict(_convert_params(params))
        super().log_hyperparams({name: value for name, value in flat.items() if name not in known})

    def _known(self, name: str) -> set[tuple[int, float]]:
        self._points = {} if self._points is None else self._points
        if name not in self._points:
            stored = re.sub("[^a-zA-Z0-9_/. -]+", "", "-".join(filter(None, (self._prefix, name))))
            history = self.experiment.get_metric_history(self.run_id, stored)
            self._points[name] = {(point.step, point.value) for point in history}
        return self._points[name]


def _build(
    node: Mapping[str, Any], key: str, folder: Path, remembered: str | None, build: Callable[..., Any]
) -> Logger:
    try:
        found = locate(node[TARGET], key)
        given = _arguments(found, node, folder, remembered)
        settings = {name: value for name, value in node.items() if value is not None or name not in given}
        logger = build(settings, key, **given)
    except Exception as error:
        if missing := _missing_package(error):
            raise _needs(key, missing) from None
        raise
    try:
        _start(logger, folder, remembered)
    except Exception as error:
        if remembered and getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            log.warning("%s: its run %s is not in the store: a new one is started", key, remembered)
            return _build(node, key, folder, None, build)
        reason = " ".join(str(error).split())[:300]
        remedy = f"run `wandb login`, or use {key}.offline=true" if isinstance(logger, WandbLogger) else (
            f"check {key}.tracking_uri"
        )  # fmt: skip
        raise InputError(f"{key} cannot start its run ({reason}): {remedy}") from error
    return logger


def _arguments(found: Any, node: Mapping[str, Any], folder: Path, remembered: str | None) -> dict[str, Any]:
    """The arguments that a logger's constructor takes from the run: its folder, its name, and the run in a tracker."""
    given: dict[str, Any] = {"save_dir": str(folder)} if _takes(found, "save_dir") else {}
    sweep = folder.absolute().parent
    if not isinstance(found, type):
        return given
    if issubclass(found, MLFlowLogger):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        given |= {"experiment_name": sweep.name, "run_name": folder.name, "run_id": remembered}
        given["tracking_uri"] = os.environ.get(STORE)
        if not (node.get("tracking_uri") or given["tracking_uri"]):
            given["tracking_uri"] = f"sqlite:///{sweep / 'mlflow.db'}"
            given["artifact_location"] = str(sweep / "mlartifacts")
    elif issubclass(found, WandbLogger):
        # By default SIGKILL loses 15 s of points.
        os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "0.2")
        given |= {"project": sweep.name, "name": folder.name, "id": remembered, "resume": "allow"}
    return given


def _takes(found: Any, argument: str) -> bool:
    """Whether a constructor takes an argument, itself or by handing `**kwargs` on to the class that it extends."""
    for kind in getattr(found, "__mro__", (found,)):
        parameters = signature(kind).parameters
        if argument in parameters:
            return True
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False


def _needs(key: str, package: str) -> InputError:
    what = f"'leukemia[{package}]'" if package in EXTRAS else package
    return InputError(f"{key} needs the package {package}: pip install {what}")


def _missing_package(error: BaseException | None) -> str | None:
    """The package that a ModuleNotFoundError behind an error asks for."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    words = re.findall(r"['\"`]([A-Za-z][\w-]*)", str(error))
    return error.name or next(iter(words), None)


@rank_zero_only
def _start(logger: Logger, folder: Path, remembered: str | None) -> None:
    """Begin or take up the run of a tracker, whose id is known from then on."""
    if isinstance(logger, MLFlowLogger):
        store, before = str(logger._tracking_uri), os.environ.get(STORE)
        # Jobs of a sweep start together, and one of them creates the store.
        lock = FileLock(folder.absolute().parent / ".mlflow.db.lock")  # no run is named as the store
        with lock if store.startswith("sqlite:") else nullcontext():
            run_id = logger.run_id
        if before is None:
            os.environ.pop(STORE, None)  # MLflow sets it, and the next run of this process has its own store
        if remembered:
            logger.experiment.update_run(run_id, status="RUNNING")
    elif isinstance(logger, WandbLogger):
        folder.mkdir(parents=True, exist_ok=True)  # W&B writes elsewhere where it is missing
        _ = logger.experiment


def _remembered(folder: Path) -> dict[str, str]:
    try:
        found = parse_json(read_text(folder / MEMORY), MEMORY)
    except (FileNotFoundError, InputError):
        return {}
    return {str(name): str(run) for name, run in found.items()}


def _plain(settings: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Flat plain values, the network and its freezing first."""
    ordered = {name: settings[name] for name in FIRST if name in settings} | dict(settings)
    return {name: value if isinstance(value, int | float) else str(value) for name, value in ordered.items()}


def _show_in_hparams_tab(
    logger: TensorBoardLogger, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> None:
    """As TensorBoardLogger.log_hyperparams with metrics; the tab sorts by name, settings marked `differs` first."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]
    from torch.utils.tensorboard.summary import hparams

    experiment, *session = hparams(dict(settings), dict(metrics))
    content = experiment.value[0].metadata.plugin_data
    shown = HParamsPluginData.FromString(content.content)
    for setting in shown.experiment.hparam_infos:
        setting.differs = setting.name in FIRST
    content.content = shown.SerializeToString()
    writer = logger.experiment._get_file_writer()
    for summary in (experiment, *session):
        writer.add_summary(summary)


def _close(loggers: Sequence[Logger], status: str) -> None:
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):  # else the next run of this process would write into the same one
            logger.experiment.finish(exit_code=0 if status == "success" else 1)
