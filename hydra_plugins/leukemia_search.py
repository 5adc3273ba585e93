"""`hydra/sweeper=search`: Optuna chooses the settings of a sweep's runs. The same command continues its study.

hydra-optuna-sweeper 1.4.0rc3 works with Optuna 4 and 5. But it counts its trials afresh at each start, it does not
resume a trial whose state is RUNNING, and it has no pruner.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from leukemia.runs import Run

log = logging.getLogger(__name__)
CUT_OFF = 3  # a trial that was cut off this often has failed


class OptunaSweeper(Sweeper):
    """Searches with a tree-structured Parzen estimator. Its settings: conf/hydra/sweeper/search.yaml."""

    def __init__(
        self,
        trials: int = 50,
        at_once: int = 1,
        study: str = "search",
        storage: str | None = None,
        seed: int = 0,
        startup_trials: int = 10,
        direction: Any = "minimize",
        params: dict[str, Any] | None = None,
    ) -> None:
        self.trials, self.at_once, self.study, self.storage = trials, at_once, study, storage
        self.seed, self.startup_trials, self.direction, self.params = seed, startup_trials, direction, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from leukemia.errors import InputError

        for key in ("trials", "at_once"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"hydra.sweeper.{key}={value}: use a number from 1 up")
        self.settings, self.context = config, hydra_context
        self.runner = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        try:
            import optuna
        except ImportError:
            from leukemia.errors import InputError

            raise InputError("hydra/sweeper=search needs an extra: pip install 'leukemia[search]'") from None
        from leukemia.identity import slug
        from leukemia.runs import Run, Sweep

        configure_log(self.settings.hydra.hydra_logging, self.settings.hydra.verbose)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        fixed, space = self._space(arguments)
        sweep = Sweep(Path(self.settings.hydra.sweep.dir))
        sweep.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.settings, sweep.folder / "multirun.yaml")
        study = self._open_study(sweep.folder, space)
        cut_off = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
        waiting = [optuna.trial.Trial(study, trial._trial_id) for trial in cut_off]  # first resume these
        names = {
            trial.number: trial.user_attrs.get("run") or slug(_overrides(fixed, trial.params))
            for trial in study.trials
            if trial.params
        }
        first = True
        while waiting or len(study.trials) < self.trials:
            while len(waiting) < self.at_once and len(study.trials) < self.trials:
                waiting.append(study.ask(space))
            batch, waiting = waiting[: self.at_once], waiting[self.at_once :]
            overrides = [_overrides(fixed, _drawn(trial, space)) for trial in batch]
            for trial, of_run in zip(batch, overrides, strict=True):
                names[trial.number] = slug(of_run)
                trial.set_user_attr("run", names[trial.number])
            complete = [trial.number for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])]
            sweep.plan(_once(names, sorted(names)), self.trials, finished=_once(names, complete))
            values = self._run(overrides, batch[0].number)
            runs = [Run(sweep.folder / names[trial.number]) for trial in batch]
            ends = [
                "done" if value is not None else _end_of(run) for value, run in zip(values, runs, strict=True)
            ]
            for trial, value, run, end in zip(batch, values, runs, ends, strict=True):
                self._tell(study, trial, value, run, end)
            if set(ends) == {"no place"}:
                log.warning("the search stops here; the same command resumes its trials")
                break
            if first and set(ends) == {"refused"}:  # else it would spend all its trials
                log.warning("the first runs are refused: the search ends here")
                break
            first = False
        self._conclude(study)

    def _run(self, overrides: list[list[str]], number: int) -> list[Any]:
        """Run the settings and return their monitored values. Equal settings are run once."""
        unique = list(dict.fromkeys(map(tuple, overrides)))
        returns = self.runner.launch([list(of_run) for of_run in unique], initial_job_idx=number)
        values = dict(zip(unique, (returned.return_value for returned in returns), strict=True))
        return [values[tuple(of_run)] for of_run in overrides]

    def _open_study(self, folder: Path, space: dict[str, Any]) -> Any:
        import optuna

        from leukemia.errors import InputError
        from leukemia.runs import STUDY

        storage = self.storage or f"sqlite:///{folder.absolute() / STUDY}"
        try:
            study = optuna.create_study(
                study_name=self.study, storage=storage, direction=self.direction, load_if_exists=True
            )
            finished = len(study.trials)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"the study {self.study} in {storage} cannot be opened: {reason}") from error
        for key, before in {k: d for trial in study.trials for k, d in trial.distributions.items()}.items():
            try:
                optuna.distributions.check_distribution_compatibility(before, space.get(key, before))
            except ValueError:
                raise InputError(
                    f"the study {self.study} in {storage} began with {key} from {before}, and a study keeps them: "
                    "use the same range, or begin another study (name=NAME)"
                ) from None
        # With one seed for all starts a study would draw its first settings again.
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + finished, n_startup_trials=self.startup_trials, constant_liar=self.at_once > 1
        )
        log.info("study %s in %s: %d of %d trials started", self.study, storage, finished, self.trials)
        return study

    def _tell(self, study: Any, trial: Any, value: Any, run: "Run", end: str) -> None:
        """Record the result of a trial, unless the next start should resume its run.

        A trial has failed if its run failed, if its value is not finite, or if it was cut off too often.
        """
        from optuna.trial import TrialState

        if not (isinstance(value, int | float) and math.isfinite(value)):
            if end == "cut off":
                trial.set_user_attr("cut_off", trial.user_attrs.get("cut_off", 0) + 1)
            if end == "no place" or (end == "cut off" and trial.user_attrs["cut_off"] < CUT_OFF):
                log.warning("trial %d was cut off; the next start resumes it", trial.number)
                return
            study.tell(trial, state=TrialState.FAIL)
            log.warning("trial %d failed with %s; the study continues", trial.number, trial.params)
            return
        for epoch, at_epoch in zip(run.history["epoch"], run.history[run.config["monitor"]], strict=True):
            if math.isfinite(at_epoch):
                trial.report(float(at_epoch), int(epoch))
        how = ""
        if run.pruned is None:
            study.tell(trial, float(value))
        else:
            study.tell(trial, state=TrialState.PRUNED)
            how = f" (pruned after epoch {run.pruned['epoch']})"
        log.info("trial %d: %.4f%s with %s", trial.number, value, how, trial.params)

    def _conclude(self, study: Any) -> None:
        from optuna.trial import TrialState

        named = {
            "complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL,
            "to be resumed": TrialState.RUNNING,
        }  # fmt: skip
        numbers = {word: len(study.get_trials(states=[state])) for word, state in named.items()}
        said = ", ".join(f"{number} {word}" for word, number in numbers.items() if number)
        log.info("%d trials: %s", len(study.trials), said or "none")
        if numbers["complete"]:
            best = study.best_trial
            log.info(
                "best: trial %d, %.4f: %s", best.number, best.value, " ".join(_overrides([], best.params))
            )

    def _space(self, arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
        """The overrides that all runs share, and the distribution of each setting that is searched."""
        params = [f"{key}={value}" for key, value in (self.params or {}).items()]
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        fixed: dict[str, str] = {}
        space: dict[str, Any] = {}
        for override in parser.parse_overrides([*params, *arguments]):
            key = override.get_key_element()
            fixed.pop(key, None)
            space.pop(key, None)
            if override.is_sweep_override():
                space[key] = _distribution(override)
            else:
                fixed[key] = f"{key}={override.get_value_element_as_str()}"
        return list(fixed.values()), space


def _once(names: dict[int, str], numbers: Sequence[int]) -> list[str]:
    """The names of the trials' runs, without repeats."""
    return list(dict.fromkeys(names[number] for number in numbers))


def _overrides(fixed: Sequence[str], params: dict[str, Any]) -> list[str]:
    return [*fixed, *(f"{key}={value}" for key, value in params.items())]


def _drawn(trial: Any, space: dict[str, Any]) -> dict[str, Any]:
    """The settings of a trial. A trial that was cut off early draws the settings that it lacks."""
    for key, distribution in space.items():
        if key not in trial.params:
            trial._suggest(key, distribution)
    return trial.params


def _end_of(run: "Run") -> str:
    """How a run without a value ended.

    `no place`: its data or output folder cannot be used. `refused`: its settings are wrong. `cut off`: its process
    ended. Else `failed`.
    """
    from leukemia.reporting.results import read_status

    status = read_status(run)
    kind = str(status.get("error") or "").partition(":")[0]
    if kind == "PlaceError" or status["status"] == "pending":
        return "no place"
    if kind == "InputError":
        return "refused"
    return "cut off" if status["status"] in ("interrupted", "running") else "failed"


def _distribution(override: Override) -> Any:
    """The distribution for `choice(...)`, `a,b`, `range(...)`, `interval(...)` or `tag(log, interval(...))`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if override.is_interval_sweep():
        interval: Any = override.value()
        return FloatDistribution(float(interval.start), float(interval.end), log="log" in interval.tags)
    return CategoricalDistribution(list(override.sweep_string_iterator()))
