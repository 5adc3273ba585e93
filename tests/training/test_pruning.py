"""Pruning: a run of a search is stopped when it is worse than the median of the finished ones, and only then."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.config import compose
from leukemia.training.pruning import MedianPruning, falls_behind

FIGURES = st.lists(st.floats(-2, 2) | st.just(math.nan), min_size=1, max_size=6)


@given(own=FIGURES, finished=st.lists(FIGURES, max_size=6), mode=st.sampled_from(["min", "max"]))
def test_a_run_falls_behind_if_its_best_so_far_is_worse_than_the_median_of_the_finished_at_this_epoch(
    own, finished, mode
):
    by_epoch = [dict(enumerate(figures, 1)) for figures in [own, *finished]]
    mine, *others = [{e: f for e, f in figures.items() if not math.isnan(f)} for figures in by_epoch]
    epoch = max(mine, default=0)
    at_this_epoch = [figures[epoch] for figures in others if epoch in figures]
    worse = False
    if at_this_epoch and sum(map(bool, others)) >= 2 and epoch > 1:
        median = statistics.median(at_this_epoch)
        worse = min(mine.values()) > median if mode == "min" else max(mine.values()) < median
    assert falls_behind(by_epoch[0], by_epoch[1:], mode, startup_runs=2, warmup_epochs=1) == worse


def test_the_monitored_figure_says_whether_small_is_good():
    pruning = compose(["experiment=search", "callbacks.pruning.monitor=val/auroc"]).callbacks.pruning
    assert pruning.mode == "max"
    assert compose(["experiment=search"]).callbacks.pruning.mode == "min"


@pytest.mark.parametrize(
    "wrong", [{"startup_runs": -1}, {"warmup_epochs": 1.5}, {"mode": "up"}, {"monitor": "val/foo"}]
)
def test_settings_that_mean_nothing_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MedianPruning(tmp_path, **wrong)
