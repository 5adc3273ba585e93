"""How a sweep ends: what failed, figures of its pooled folds, a triage policy of them, and the report."""

import logging
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from leukemia.commands.evaluate import evaluated
from leukemia.commands.triage import triage
from leukemia.errors import DivergedError, InputError, OutOfMemoryError
from leukemia.identity import grid_names
from leukemia.reporting.evidence import setting_results
from leukemia.reporting.html import write_report
from leukemia.reporting.results import read_status
from leukemia.runs import PLAN, STUDY, Run, Sweep
from leukemia.storage.atomic import remove_if_empty, remove_left_behind
from leukemia.storage.locks import exclusive_lock
from leukemia.terminal import emphasised

log = logging.getLogger(__name__)
Ended = tuple[Path, Exception | None]  # a run's folder, and why it failed


def end_sweep(folder: Path, ended: Sequence[Ended], held: ExitStack) -> int:
    """Write the report of a sweep and list what failed.

    Args:
        folder: of the sweep.
        ended: its runs and why they failed, as far as this process ran them.
        held: what keeps others out of the folder.

    Returns:
        The exit code: 0, or 1 where runs failed.
    Raises:
        InputError: if every run was refused; what they left is removed.
    """
    ended = ended or _ended_elsewhere(Sweep(folder))
    errors = [error for _, error in ended if error is not None]
    if errors and len(errors) == len(ended) and all(_is_refusal(error) for error in errors):
        for run_folder, _ in ended:
            if {path.name for path in run_folder.iterdir()} == {"config.yaml", "status.json"}:
                shutil.rmtree(run_folder)
        if not any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()):
            for about_nothing in ("multirun.yaml", PLAN, STUDY):
                (folder / about_nothing).unlink(missing_ok=True)
            held.close()
            remove_if_empty(folder)
        raise InputError("; ".join(dict.fromkeys(map(str, errors))))
    print(finish_sweep(folder))
    for run_folder, error in ended:
        if error is not None:
            print(emphasised(f"failed: {run_folder.name}: {error}", sys.stderr), file=sys.stderr)
    return 1 if errors else 0


def finish_sweep(folder: Path) -> Path:
    """Write the report of a sweep. Where folds are pooled, first print their figures with intervals, and where they
    are of one setting, choose a policy too, which says that it is not certified.

    Returns:
        The path of report.html.
    """
    try:
        models = setting_results(folder)
        if any(model.pooled for model in models):
            print(evaluated(folder))
            if len(models) == 1:
                triage(folder)
    except InputError as problem:  # of what is pooled; the report says what is wrong with runs
        log.warning("pooled folds are not evaluated: %s", problem)
    return write_report(folder)


def _ended_elsewhere(sweep: Sweep) -> list[Ended]:
    """What became of a sweep's runs whose launcher had them run by other processes, by their folders."""
    ended: list[Ended] = []
    for name in sweep.planned:
        run = Run(sweep.folder / name)
        status = read_status(run)
        kind, _, reason = str(status.get("error") or "").partition(": ")
        failure: Exception | None = None
        if status["status"] == "failed" and kind in ("InputError", "PlaceError", "DivergedError"):
            failure = (DivergedError if kind == "DivergedError" else InputError)(reason)
        elif status["status"] != "done":
            failure = RuntimeError(f"{status['status']}: {status.get('error') or 'see its job'}")
        ended.append((run.folder, failure))
    return ended


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, InputError) and not isinstance(error, DivergedError | OutOfMemoryError)


class SweepWatch(Callback):
    """What this process saw of a sweep, whose folder it keeps others out of; Hydra builds it and calls it."""

    folder: ClassVar[Path | None] = None
    ended: ClassVar[list[tuple[Path, Exception | None]]] = []  # run folder, and why it failed
    held: ClassVar[ExitStack] = ExitStack()  # what is given back when the program ends

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        try:
            SweepWatch.held.enter_context(exclusive_lock(folder))
        except InputError as error:  # of exceptions Hydra would only warn, and go on
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        remove_left_behind(folder)
        with suppress(HydraException, InputError):  # which the sweep itself meets, and tells
            if names := grid_names(config):
                Sweep(folder).plan(names, len(names))

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        job_return.cfg = job_return.hydra_cfg = None  # Hydra keeps what a job returns to the end of a sweep

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        SweepWatch.folder = Path(config.hydra.sweep.dir).absolute()
