"""The ranking of networks: by accuracy, paired against the first, with cost and the curve by training subjects."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leukemia.evaluation.bootstrap import compare, evaluate
from leukemia.evaluation.metrics import cell_metrics
from leukemia.reporting.evidence import setting_results
from leukemia.reporting.evidence_tables import ranking_table
from leukemia.reporting.html import write_report
from leukemia.reporting.ranking import ranking, ranking_text, shown
from leukemia.reporting.results import results_table
from leukemia.runs import Run, Sweep

Maker = Callable[..., Run]
NOISE = {(18, 4): 6.0, (18, None): 3.0, (50, 4): 2.0, (50, None): 0.1}  # by depth and training subjects
COST = {18: (45.0, 0.004), 50: (94.0, 0.012)}  # megabytes, seconds a cell


@pytest.fixture
def sweep(tmp_path: Path, make_run: Maker) -> Sweep:
    """Two networks on the same cells, each trained on 4 and on all subjects, with a handcrafted baseline."""
    cells = None
    for place, ((depth, subjects), noise) in enumerate(NOISE.items()):
        run = make_run(
            tmp_path, depth=depth, trainable_from="head", protocol="holdout", skill=1.5, name=f"{depth}-{subjects}",
            settings={"data.train_subjects": subjects},
        )  # fmt: skip
        cells = run.predictions if cells is None else cells
        random = np.random.default_rng(place)
        table = cells.assign(logit=cells["logit"] + random.normal(0, noise, len(cells)))
        run.write_table("predictions.csv", table)
        run.write_table("baseline.csv", cells.assign(logit=cells["logit"] * np.where(cells.index % 5, 1, -1)))
        megabytes, seconds = COST[depth]
        run.write_json("metrics.json", run.metrics | cell_metrics(table) | {
            "train_subjects": subjects or 9,
            "network": {"parameters": 1, "megabytes": megabytes, "norm": "batch"},
        })  # fmt: skip
        run.write_json("embedding.json", {"stage": "head", "seconds_per_cell": seconds})
    return Sweep(tmp_path)


def ranked(sweep: Sweep) -> list[dict]:
    return ranking(setting_results(sweep.folder), results_table(sweep))


def test_networks_and_the_baseline_are_ranked_by_accuracy_at_most_subjects(sweep: Sweep) -> None:
    found = ranked(sweep)
    assert [of["name"] for of in found] == ["ResNet50 from head", "handcrafted", "ResNet18 from head"]
    values = [of["cells"]["accuracy"]["value"] for of in found]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(Run(sweep.folder / "50-None").metrics["accuracy"])


def test_differences_are_those_of_the_paired_bootstrap(sweep: Sweep) -> None:
    first, baseline, last = ranked(sweep)
    best, other = (Run(sweep.folder / name) for name in ("50-None", "18-None"))
    assert first["minus_best"] is None
    assert baseline["minus_handcrafted"] is None
    assert last["minus_best"] == compare([best.predictions], [other.predictions])
    assert first["minus_handcrafted"] == compare([best.baseline], [best.predictions])


def test_a_curve_has_the_metrics_of_each_number_of_subjects(sweep: Sweep) -> None:
    (four, few), (nine, many) = ranked(sweep)[0]["curve"]
    assert (four, nine) == (4, 9)
    assert few == evaluate([Run(sweep.folder / "50-4").predictions])["cells"]
    assert many["accuracy"]["value"] > few["accuracy"]["value"]


def test_the_table_has_the_cost_of_each_network_and_a_column_for_fewer_subjects(sweep: Sweep) -> None:
    table = ranking_table(ranked(sweep))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["Norm"], row["MB"], row["ms a cell"]) for row in rows] == [
        ("batch", "94", "12"),
        ("–", "–", "–"),
        ("batch", "45", "4"),
    ]
    assert rows[0]["Accuracy % of 4 subjects"].startswith(
        f"{100 * Run(sweep.folder / '50-4').metrics['accuracy']:.2f} ("
    )
    assert [row["Training subjects"] for row in rows] == ["9", "9", "9"]
    assert rows[2]["Its difference"] == "shown"


def test_the_report_and_the_terminal_show_it(sweep: Sweep) -> None:
    page = write_report(sweep.folder).read_text()
    assert page.count("By accuracy, with 95 % intervals and paired differences") == 1
    assert "Accuracy by training subjects, from head" in page
    assert "Minus the first, points" in (sweep.folder / "results.md").read_text()
    assert "  1. ResNet50 from head: " in ranking_text(ranked(sweep))


def test_one_network_without_a_curve_is_not_ranked(tmp_path: Path, make_run: Maker) -> None:
    for stage in ("head", "layer4"):
        make_run(tmp_path, trainable_from=stage)
    assert ranked(Sweep(tmp_path)) == []


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.2, "shown"), (-0.2, -0.1, "shown"), (-0.1, 0.1, "not shown"), (None, None, "–")],
)
def test_a_difference_is_shown_where_its_interval_leaves_out_zero(
    low: float | None, high: float | None, said: str
) -> None:
    assert shown({"difference": 0.0, "low": low, "high": high}) == said


def test_weights_are_named_by_their_file_and_not_by_its_path(tmp_path: Path, make_run: Maker) -> None:
    for place, weights in enumerate(
        (
            "/a/b/resnet18_pbc6.pth",
            "imagenet",
            "outputs/pretrain/checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
        )
    ):
        make_run(
            tmp_path, depth=18, trainable_from="head", protocol="holdout", name=str(place),
            settings={"model.net.weights": weights, "data.train_subjects": None},
        )  # fmt: skip
    names = {model.name for model in setting_results(tmp_path)}
    assert names == {
        f"ResNet18 from head, model.net.weights {name}"
        for name in ("resnet18_pbc6", "imagenet", "pretrain", "last")
    }
