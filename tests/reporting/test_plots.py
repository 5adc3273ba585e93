import base64
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from leukemia.reporting import drawing, plots
from leukemia.reporting.results import results_table
from leukemia.runs import Sweep

Maker = Callable[..., Any]


def texts(figure: plots.Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def predictions(sweep: Sweep) -> dict[str, pd.DataFrame]:
    return {run.name: run.predictions for run in sweep.with_status("done")}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, make_sweep: Maker) -> Sweep:
    return make_sweep(tmp_path_factory.mktemp("sweep"))


class TestHeatMap:
    def test_it_shows_every_mean_with_its_spread(self, sweep: Sweep) -> None:
        results = results_table(sweep)
        (figure,) = plots.heat_maps(results)
        for _, runs in results.groupby(["network", "trainable_from"]):
            assert f"{100 * runs['accuracy'].mean():.2f}" in texts(figure)
            assert f"± {100 * runs['accuracy'].std():.2f}, n 2" in texts(figure)
        assert "epoch chosen on these cells" in texts(figure)

    def test_one_setting_needs_none(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path)
        assert plots.heat_maps(results_table(Sweep(tmp_path))) == []

    def test_settings_of_a_search_of_which_each_is_alone_need_none(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        for place, stage in enumerate(("head", "layer4", "stem")):
            make_run(
                tmp_path, name=stage, settings={"model.optimizer.lr": 10.0**-place}, trainable_from=stage
            )
        assert plots.heat_maps(results_table(Sweep(tmp_path))) == []

    def test_a_figure_for_each_of_the_other_settings_and_a_gap_where_nothing_ran(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        make_run(tmp_path, name="a", settings={"model.optimizer.lr": 0.01}, depth=18, trainable_from="head")
        make_run(
            tmp_path,
            name="b",
            settings={"model.optimizer.lr": 0.01},
            depth=50,
            trainable_from="stem",
            skill=0.0,
        )
        make_run(tmp_path, name="c", settings={"model.optimizer.lr": 0.001}, depth=18)
        first, second = plots.heat_maps(results_table(Sweep(tmp_path)))
        assert "model.optimizer.lr 0.001" in texts(first)
        assert "model.optimizer.lr 0.01" in texts(second)
        assert "| – |" in texts(second)
        assert "* not shown to be better than the majority class" in texts(second)


class TestRoc:
    def test_the_lines_have_the_area_that_the_legend_states(self, sweep: Sweep) -> None:
        tables = predictions(sweep)
        figures = plots.roc_curves(results_table(sweep), tables)
        assert [figure.get_suptitle() for figure in figures] == ["ROC, ResNet18", "ROC, ResNet50"]
        runs = [run for run in sweep.runs if run.config["model"]["net"]["depth"] == 18]
        areas = []
        for line in figures[0].axes[0].get_lines()[1:]:
            x, y = (np.asarray(values, dtype=float) for values in line.get_data())
            areas.append(np.trapezoid(y, x))
        direct = [roc_auc_score(run.predictions["label"], run.predictions["logit"]) for run in runs]
        assert sorted(areas) == pytest.approx(sorted(direct))
        head = np.mean([a for a, run in zip(direct, runs, strict=True) if "head" in run.name])
        assert f"head: AUROC {head:.3f}, n 2" in texts(figures[0])

    def test_stages_differ_in_colour_and_in_dashes(self, sweep: Sweep) -> None:
        lines = plots.roc_curves(results_table(sweep), predictions(sweep))[0].axes[0].get_lines()[1:]
        assert len({line.get_color() for line in lines}) == 3
        assert len({line.get_linestyle() for line in lines}) >= 2

    def test_a_run_of_one_class_has_no_curve(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, positive_share=1.0)
        sweep = Sweep(tmp_path)
        assert plots.roc_curves(results_table(sweep), predictions(sweep)) == []


def test_confusion_matrices_sum_over_the_runs_of_a_setting(sweep: Sweep) -> None:
    tables = predictions(sweep)
    figures = plots.confusion_matrices(results_table(sweep), tables)
    assert len(figures) == 6
    both = pd.concat(table for name, table in tables.items() if name.startswith("depth-18_from-head"))
    for true in (0, 1):
        for called in (0, 1):
            count = ((both["label"] == true) & ((both["logit"] >= 0) == called)).sum()
            assert f" {count} " in f" {texts(figures[0])} "
    assert "(2 runs)" in texts(figures[0])
    assert "HEM" in texts(figures[0])


class TestLearningCurves:
    history = pd.DataFrame({
        "epoch": [1, 2, 3], "train/loss": [0.7, 0.5, 0.4], "val/loss": [0.7, 0.6, 0.65],
        "train/accuracy": [0.6, 0.7, 0.8], "val/accuracy": [0.6, 0.7, 0.69],
    })  # fmt: skip
    run = {"best_epoch": 2, "train_accuracy": 0.81, "train_val_gap": 0.1139}  # noqa: RUF012

    def test_the_best_epoch_and_the_gap_are_in_it(self) -> None:
        figure = plots.learning_curves(self.history, "ResNet50", self.run, ["epoch chosen on these cells"])
        assert "best epoch (2)" in texts(figure)
        assert "train–validation gap +11.39 points" in texts(figure)
        assert "epoch chosen on these cells" in texts(figure)
        loss, accuracy = figure.axes
        assert [list(line.get_ydata()) for line in loss.get_lines()[:2]] == [
            [0.7, 0.5, 0.4],
            [0.7, 0.6, 0.65],
        ]
        assert list(accuracy.get_lines()[1].get_ydata()) == pytest.approx([60, 70, 69])
        assert [2, 2] in [list(line.get_xdata()) for line in loss.get_lines()]

    def test_one_epoch_without_metrics_will_do(self) -> None:
        figure = plots.learning_curves(self.history[["epoch", "val/loss"]].head(1), "x", {}, [])
        assert drawing.data_uri(figure)


def test_a_figure_becomes_an_embedded_picture_the_same_each_time(sweep: Sweep) -> None:
    first, second = (drawing.data_uri(plots.heat_maps(results_table(sweep))[0]) for _ in range(2))
    assert first == second
    kind, _, data = first.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_names_with_dollars_and_foreign_letters_are_not_formulas() -> None:
    figure = plots.learning_curves(TestLearningCurves.history, r"$\frac$ 白血病 <b>", {}, ["$x_$"])
    assert drawing.described(figure) == r"$\frac$ 白血病 <b> – $x_$"
    assert drawing.data_uri(figure)


@pytest.mark.parametrize(("shade", "ink"), [(0.0, "black"), (1.0, "white")])
def test_ink_can_be_read_on_its_ground(shade: float, ink: str) -> None:
    assert drawing.ink("Blues", shade) == ink
