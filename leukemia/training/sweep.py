"""A sweep of runs: what keeps its folder, how each job ends, and its report at the end."""

import logging
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from leukemia.config import as_composed, as_written
from leukemia.errors import DivergedError, InputError, OutOfMemoryError, exit_readably
from leukemia.identity import slug
from leukemia.runs import PLAN, STUDY, Run, Sweep
from leukemia.storage.atomic import remove_if_empty, remove_left_behind
from leukemia.storage.locks import exclusive_lock
from leukemia.terminal import show
from leukemia.training import signals
from leukemia.training.status import record_refusal

log = logging.getLogger(__name__)
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SUBDIR = "${leukemia.slug:${hydra.overrides.task}}"


class SweepCallback(Callback):
    """Hydra's callback around the jobs of a command: a sweep goes on after a failing run, and ends in a report.

    Hydra only warns of exceptions in callbacks, so the program is ended by SystemExit here.
    """

    def __init__(self) -> None:
        self.failures: dict[Path, Exception] = {}  # of the runs of this process
        self.held = ExitStack()  # the lock of the sweep folder

    def __getstate__(self) -> dict[str, Any]:
        return SweepCallback().__dict__  # a launcher's other processes hold no lock

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        with exit_readably():
            self.held.enter_context(exclusive_lock(folder))
        remove_left_behind(folder)
        with suppress(HydraException, InputError):  # the sweep itself meets it, and says so
            if names := grid_names(config):
                Sweep(folder).plan(names, len(names))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        folder = Path(config.hydra.runtime.output_dir)
        value = job_return._return_value
        error = value if isinstance(value, Exception) else None  # Hydra 1.4 calls this at SystemExit too
        job_return.cfg = job_return.hydra_cfg = None  # Hydra keeps each JobReturn to the end of a sweep
        if config.hydra.mode != RunMode.MULTIRUN:
            remove_if_empty(folder)  # of a refused run, or of fast_dev_run
            if error is not None:
                with _ends():
                    raise error
        if error is not None:
            self._note(error, folder, config)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        signals.leave_if_asked()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if sys.exc_info()[0] is not None:
            return  # Hydra 1.4 calls this after an error too
        with _ends():
            sys.exit(end_sweep(Path(config.hydra.sweep.dir).absolute(), self.failures, self.held))

    def _note(self, error: Exception, folder: Path, config: DictConfig) -> None:
        with suppress(InputError):  # of a full disk
            record_refusal(Run(folder), as_composed(config), error)
        log.error("%s failed: %s", folder.name, error)
        if not isinstance(error, InputError):
            traceback.print_exception(error)
        error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold what the run held
        self.failures[folder] = error


@contextmanager
def _ends() -> Iterator[None]:
    """End the program also after a bug: Hydra makes a warning of a callback's exception, and goes on to exit code 0."""
    try:
        with exit_readably():
            yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def end_sweep(folder: Path, failures: Mapping[Path, Exception], held: ExitStack) -> int:
    """Write the report of a sweep and list what failed.

    Args:
        folder: of the sweep.
        failures: of runs in this process; those of other processes are read from their folders.
        held: keeps others out of the folder.

    Returns:
        The exit code: 0, or 1 where runs failed.
    Raises:
        InputError: if every run was refused; what they left is removed.
    """
    sweep = Sweep(folder)
    ended = {run.folder: _failure(run) for run in [*sweep.begun, *sweep.pending] if run.name in sweep.planned}
    ended |= failures
    errors = [error for error in ended.values() if error is not None]
    if errors and len(errors) == len(ended) and all(_is_refusal(error) for error in errors):
        for run_folder in ended:
            names = {path.name for path in run_folder.glob("*")}
            if names == {"config.yaml", "status.json"}:
                shutil.rmtree(run_folder)
        if not any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()):
            for about_nothing in ("multirun.yaml", PLAN, STUDY):
                (folder / about_nothing).unlink(missing_ok=True)
            held.close()
            remove_if_empty(folder)
        raise InputError("; ".join(dict.fromkeys(map(str, errors))))
    show(finish_sweep(folder))
    for run_folder, error in ended.items():
        if error is not None:
            show(f"failed: {run_folder.name}: {error}", sys.stderr)
    return 1 if errors else 0


def finish_sweep(folder: Path) -> Path:
    """Write the report of a sweep, and print what it says first. Where folds are pooled, before that print their
    metrics with intervals, or of several networks the ranking. Where they are of one setting, choose a policy too,
    which says that it is not certified.

    Returns:
        The path of report.html.
    """
    from leukemia.commands.evaluate import evaluated
    from leukemia.commands.triage import triage
    from leukemia.reporting.evidence import setting_results
    from leukemia.reporting.html import written_report
    from leukemia.reporting.ranking import ranking, ranking_text
    from leukemia.reporting.results import results_table

    try:
        results = setting_results(folder)
        if any(result.pooled for result in results):
            ranked = ranking(results, results_table(Sweep(folder)))
            show(ranking_text(ranked) if ranked else evaluated(folder))
            if len(results) == 1:
                triage(folder)
    except InputError as problem:  # of pooled folds; the report says what is wrong with runs
        log.warning("pooled folds are not evaluated: %s", problem)
    report = written_report(folder)
    show("\n".join(report.said))
    return report.page


def grid_names(config: DictConfig) -> list[str]:
    """The names of the run folders of a multirun's grid; none where it is not a grid, or names them in another way."""
    hydra_config = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(hydra_config, dict)
    if hydra_config["sweeper"]["_target_"] != GRID or hydra_config["sweep"]["subdir"] != SUBDIR:
        return []
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *as_written(config.hydra.overrides.task)])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return list(dict.fromkeys(slug(job) for job in jobs))


def _failure(run: Run) -> Exception | None:
    """Why a run has no result, by its folder; None where it is done."""
    from leukemia.reporting.results import read_status

    status = read_status(run)
    kind, _, reason = str(status.get("error") or "").partition(": ")
    if status["status"] == "failed" and kind in ("InputError", "PlaceError", "DivergedError"):
        return (DivergedError if kind == "DivergedError" else InputError)(reason)
    if status["status"] != "done":
        return RuntimeError(f"{status['status']}: {status.get('error') or 'see its job'}")
    return None


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, InputError) and not isinstance(error, DivergedError | OutOfMemoryError)
