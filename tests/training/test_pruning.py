"""Pruning: a run of a search is stopped when it is worse than the median of the finished ones, and only then."""

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia.config import compose
from leukemia.training.pruning import MedianPruning, falls_behind

optuna.logging.set_verbosity(optuna.logging.WARNING)

VALUES = st.lists(st.floats(-2, 2) | st.just(math.nan), min_size=1, max_size=6)


@given(own=VALUES, finished=st.lists(VALUES, max_size=6), mode=st.sampled_from(["min", "max"]))
@settings(max_examples=60)
def test_a_run_falls_behind_where_optunas_median_pruner_prunes_it(own, finished, mode):
    by_epoch = [dict(enumerate(values, 1)) for values in [own, *finished]]
    mine, *others = [{e: v for e, v in values.items() if not math.isnan(v)} for values in by_epoch]
    others = [values for values in others if values]
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2)
    study = optuna.create_study(direction=f"{mode}imize", pruner=pruner)
    for values in others:
        study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=values))
    trial = study.ask()
    for epoch, value in mine.items():
        trial.report(value, epoch)
    expected = trial.should_prune() if mine else False
    assert falls_behind(by_epoch[0], by_epoch[1:], mode, startup_runs=2, warmup_epochs=1) == expected


def test_the_monitored_metric_says_whether_small_is_good():
    pruning = compose(["experiment=search", "monitor=val/auroc"]).callbacks.pruning
    assert pruning.mode == "max"
    assert compose(["experiment=search"]).callbacks.pruning.mode == "min"


@pytest.mark.parametrize(
    "wrong", [{"startup_runs": -1}, {"warmup_epochs": 1.5}, {"mode": "up"}, {"monitor": "val/foo"}]
)
def test_settings_that_mean_nothing_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MedianPruning(tmp_path, **wrong)
