import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from leukemia.errors import InputError
from leukemia.evaluation.metrics import METRICS
from leukemia.reporting import text_tables, words
from leukemia.reporting.html import write_report
from leukemia.reporting.model_card import model_card
from leukemia.reporting.results import (
    combinations,
    read_settings,
    results_table,
    setting_columns,
    stage_order,
)
from leukemia.runs import Run, Sweep

Maker = Callable[..., Any]


def counts(results: pd.DataFrame) -> list[int]:
    """The number of runs of each setting."""
    return [len(runs) for _, runs in combinations(results)]


def test_a_row_a_run_with_the_metrics_of_its_metrics_json(tmp_path: Path, make_sweep: Maker) -> None:
    sweep = make_sweep(tmp_path)
    results = results_table(sweep)
    assert list(results.columns[:5]) == ["run", "status", "error", "network", "trainable_from"]
    assert len(results) == 12
    for run, row in zip(sweep.runs, results.to_dict("records"), strict=True):
        assert row["run"] == run.name
        assert row["network"] == f"resnet{run.config['model']['net']['depth']}"
        for name in [*METRICS, "majority_accuracy", "split", "better_than_majority", "best_epoch", "leaks"]:
            assert row[name] == run.metrics[name], name
        assert [row["accuracy_low"], row["accuracy_high"]] == run.metrics["accuracy_interval"]
        assert row["accuracy_interval_unit"] == "subject"
        assert row["classes"] == "HEM/ALL"
        assert row["subjects.accuracy"] == run.metrics["subjects"]["accuracy"]


def test_only_settings_that_differ_become_columns(tmp_path: Path, make_run: Maker) -> None:
    make_run(
        tmp_path,
        name="a",
        settings={"model.optimizer.lr": 0.001, "model.unfreeze": {3: "layer4", 6: "layer2"}},
    )
    make_run(tmp_path, name="b", settings={"model.optimizer.lr": 0.0001}, seed=1)
    results = results_table(Sweep(tmp_path))
    names = list(results.columns)
    varied = names[names.index("trainable_from") + 1 : names.index("seed")]
    assert sorted(varied) == ["model.optimizer.lr", "model.unfreeze"]
    assert results["model.unfreeze"].fillna("none").tolist() == ["3: layer4, 6: layer2", "none"]
    assert results["seed"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("second", "shown"), [("/w/b.pth", ["model.net.weights"]), ("/w/a.pth", ["files.model.net.weights"])]
)
def test_weights_files_of_one_path_are_told_apart_by_their_hash(
    tmp_path: Path, make_run: Maker, second: str, shown: list[str]
) -> None:
    for name, path, digest in (("a", "/w/a.pth", "0" * 32), ("b", second, "1" * 32)):
        settings = {"model.net.weights": path, "files": {"model.net.weights": digest}}
        make_run(tmp_path, name=name, settings=settings)
    results = results_table(Sweep(tmp_path))
    assert setting_columns(results)[2:] == shown
    card = model_card(results, [read_settings(run) for run in Sweep(tmp_path).runs], [])
    assert f"/w/a.pth (SHA-256 {'0' * 32}...), {second} (SHA-256 {'1' * 32}...)" in card["Model"]


def test_the_grid_is_mean_sample_deviation_and_n_over_seeds_and_folds(
    tmp_path: Path, make_run: Maker
) -> None:
    for seed in range(2):
        for fold in range(3):
            make_run(
                tmp_path, depth=18, trainable_from="head", seed=seed, fold=fold, protocol="subject_kfold"
            )
    make_run(tmp_path, depth=50, trainable_from="head")
    results = results_table(Sweep(tmp_path)).assign(protocol="subject_kfold")
    runs = [run for run in Sweep(tmp_path).runs if run.config["model"]["net"]["depth"] == 18]
    accuracy = [run.metrics["accuracy"] for run in runs]
    mean = sum(accuracy) / 6
    sd = math.sqrt(sum((a - mean) ** 2 for a in accuracy) / 5)
    several, alone = text_tables.grid_table(results).rows
    assert counts(results) == [6, 1]
    assert {"6", words.percent(mean, sd)} <= set(several)
    assert "1" in alone
    assert not any("±" in text for text in alone)
    auroc = np.mean([run.metrics["auroc"] for run in runs])
    assert any(words.fraction(auroc) in text for text in text_tables.grid_metrics_table(results).rows[0])


def test_the_grid_is_divided_by_what_a_run_is_and_not_by_where_it_ran(
    tmp_path: Path, make_run: Maker
) -> None:
    elsewhere = make_run(tmp_path, name="a", seed=1)
    config = elsewhere.config
    config["trainer"]["accelerator"] = "gpu"
    config["data"]["root"] = "/elsewhere"
    elsewhere.write_config(config)
    make_run(tmp_path, name="b", seed=0)
    make_run(tmp_path, name="c", seed=0, settings={"model.optimizer._target_": "torch.optim.AdamW"})
    results = results_table(Sweep(tmp_path))
    assert "trainer.accelerator" in results
    assert setting_columns(results) == ["network", "trainable_from", "model.optimizer._target_"]
    names = [words.describe(settings) for settings, _ in combinations(results)]
    assert names == [
        "ResNet18 from layer4, model.optimizer Adam",
        "ResNet18 from layer4, model.optimizer AdamW",
    ]
    assert counts(results) == [2, 1]


def test_combinations_come_shallow_first_and_frozen_first(tmp_path: Path, make_sweep: Maker) -> None:
    results = results_table(make_sweep(tmp_path, seeds=1)).sample(frac=1, random_state=0)
    order = [(settings["network"], settings["trainable_from"]) for settings, _ in combinations(results)]
    assert order == [(d, stage) for d in ("resnet18", "resnet50") for stage in ("head", "layer4", "stem")]


class TestNetworks:
    OWN = {"_target_": "mylab.Tiny", "width": 8}  # noqa: RUF012
    VIT = {"_target_": "leukemia.models.timm_nets.timm_net", "name": "vit_small_patch16_224"}  # noqa: RUF012

    def test_each_goes_by_its_own_name_resnets_first_by_depth(self, tmp_path: Path, make_run: Maker) -> None:
        for place, net in enumerate((self.VIT, self.OWN, None)):
            make_run(tmp_path, name=f"run-{place}", net=net, depth=152)
        make_run(tmp_path, name="run-3", depth=18)
        results = results_table(Sweep(tmp_path))
        names = [words.network(settings["network"]) for settings, _ in combinations(results)]
        assert names == ["ResNet18", "ResNet152", "Tiny", "vit_small_patch16_224"]
        assert "Tiny" in [row[0] for row in text_tables.grid_table(results).rows]

    def test_parts_that_follow_from_the_name_do_not_divide_the_grid_and_others_do(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        make_run(tmp_path, name="a")
        make_run(tmp_path, name="b", net=self.OWN)
        assert setting_columns(results_table(Sweep(tmp_path))) == [
            "network",
            "trainable_from",
            "model.net.weights",
        ]
        make_run(tmp_path, name="c", net={**self.OWN, "width": 16})
        results = results_table(Sweep(tmp_path))
        assert setting_columns(results)[2:] == ["model.net.weights", "model.net.width"]
        assert "Tiny from layer4, model.net.weights –, model.net.width 16" in [
            words.describe(settings) for settings, _ in combinations(results)
        ]

    def test_parts_by_target_are_shown_by_the_last_part_of_their_name(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        focal = {"_target_": "leukemia.models.optim.FocalLoss", "gamma": 2.0}
        make_run(tmp_path, name="a", settings={"model.criterion": focal})
        make_run(tmp_path, name="b")
        table = text_tables.grid_table(results_table(Sweep(tmp_path)))
        assert table.columns[:4] == ["Network", "Trains from", "model.criterion", "model.criterion.gamma"]
        assert sorted(row[2:4] for row in table.rows) == [["BCEWithLogitsLoss", "–"], ["FocalLoss", "2"]]


@pytest.mark.parametrize(
    "stages",
    [
        ["head", "layer4", "layer3", "layer2", "layer1", "stem"],
        ["head", "last", "block11", "block10", "block2", "stem"],
        ["head", "stage4", "stage1", "neck", "stem"],
    ],
)
def test_stages_of_any_network_are_ordered_by_how_few_of_them_train(stages: list[str]) -> None:
    shuffled = stages[::2] + stages[1::2]
    assert sorted(shuffled, key=stage_order) == stages


class TestRunsOfRelease01:
    def old(self, make_run: Maker, folder: Path, name: str = "old") -> Path:
        run = make_run(folder, name=name)
        config, metrics = run.config, run.metrics
        config["model"] = {"depth": 18, "trainable_from": "head"}
        run.write_config(config)
        run.write_json("metrics.json", {**metrics, "side": metrics.pop("split")})
        return run.folder

    def test_they_are_refused_in_one_line(self, tmp_path: Path, make_run: Maker) -> None:
        folder = self.old(make_run, tmp_path)
        said = f"{folder} is a run of release 0.1: train it again, this release cannot read it"
        for target in (folder, tmp_path):
            with pytest.raises(InputError) as refused:
                results_table(Sweep(target))
            assert str(refused.value) == said
        with pytest.raises(InputError, match=r"is a run of release 0\.1"):
            _ = Run(folder).config

    def test_beside_others_they_are_listed_with_that_reason(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, name="new")
        self.old(make_run, tmp_path)
        results = results_table(Sweep(tmp_path))
        assert results["accuracy"].notna().tolist() == [True, False]
        assert "release 0.1" in results["error"][1]


def test_the_grid_can_be_made_from_a_csv_of_the_results(tmp_path: Path, make_sweep: Maker) -> None:
    results = results_table(make_sweep(tmp_path))
    again = pd.read_csv(io.StringIO(results.to_csv(index=False)))
    assert text_tables.grid_table(again).rows == text_tables.grid_table(results).rows


class TestRunsWithoutMetrics:
    def test_their_state_and_error_are_kept(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, name="a")
        make_run(tmp_path, name="b", status="failed", error="the loss is NaN at step 3")
        make_run(tmp_path, name="c", status="interrupted")
        results = results_table(Sweep(tmp_path))
        assert results["status"].tolist() == ["done", "failed", "interrupted"]
        assert results["accuracy"].notna().tolist() == [True, False, False]
        rows = text_tables.failures_table(results).rows
        assert rows == [["b", "failed", "the loss is NaN at step 3"], ["c", "interrupted", "–"]]

    def test_a_finished_run_without_metrics_says_so(self, tmp_path: Path, make_run: Maker) -> None:
        (make_run(tmp_path, name="a").folder / "metrics.json").unlink()
        assert "has no metrics.json" in results_table(Sweep(tmp_path))["error"][0]

    def test_broken_files_do_not_hide_the_other_runs(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, name="a")
        (make_run(tmp_path, name="b").folder / "status.json").write_text("{")
        (make_run(tmp_path, name="c").folder / "status.json").write_text("[]")
        (make_run(tmp_path, name="d").folder / "config.yaml").unlink()
        results = results_table(Sweep(tmp_path))
        assert results["status"].tolist() == ["done", "unreadable", "unreadable", "done"]
        assert results["network"].isna().tolist() == [False, False, False, True]
        assert counts(results) == [1, 1]

    def test_metrics_that_are_not_numbers_are_missing(self, tmp_path: Path, make_run: Maker) -> None:
        run = make_run(tmp_path, name="a")
        run.write_json(
            "metrics.json", {**run.metrics, "auroc": float("nan"), "ece": "0.1", "best_epoch": 1.5}
        )
        results = results_table(Sweep(tmp_path))
        assert results[["auroc", "ece", "best_epoch"]].isna().all(axis=None)


class TestMarks:
    def test_a_run_on_the_split_that_chose_its_epoch_is_marked(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, protocol="official", name="a")
        make_run(tmp_path, protocol="holdout", name="b")
        results = results_table(Sweep(tmp_path))
        assert words.marks(results.iloc[[0]]) == ["epoch chosen on these cells"]
        assert words.marks(results.iloc[[1]]) == []
        assert words.marks(results) == ["epoch chosen on these cells (1 of 2 runs)"]

    def test_a_run_that_is_not_shown_to_be_better_than_the_majority_class_is_marked_with_the_interval(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        run = make_run(tmp_path, skill=0.0, protocol="holdout")
        results = results_table(Sweep(tmp_path))
        low, high = run.metrics["accuracy_interval"]
        assert low < run.metrics["majority_accuracy"]
        said = f"95 % interval of accuracy {100 * low:.2f} to {100 * high:.2f} %, bootstrap of subjects"
        assert words.marks(results) == [f"not shown to be better than the majority class ({said})"]
        assert text_tables.grid_table(results).marks == [words.marks(results)]

    def test_of_several_such_runs_the_mark_names_the_kind_of_interval(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        for seed in (0, 1):
            make_run(tmp_path, skill=0.0, protocol="holdout", seed=seed)
        make_run(tmp_path, skill=3.0, protocol="holdout", seed=2)
        assert words.marks(results_table(Sweep(tmp_path))) == [
            "not shown to be better than the majority class (95 % intervals of accuracy, bootstrap of subjects)"
            " (2 of 3 runs)"
        ]

    def test_without_subjects_the_mark_says_that_cells_are_taken_as_independent(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        make_run(tmp_path, skill=0.0, protocol="image", subjects=False)
        assert "Wilson, cells taken as independent)" in words.marks(results_table(Sweep(tmp_path)))[-1]

    @pytest.mark.parametrize(
        ("protocol", "leaks", "text"),
        [
            ("official", 7, "LEAKS: 7 of 240 cells not independent of training"),
            ("image", 240, "LEAKS: split by image, 240 of 240 cells not independent of training"),
            ("image", 0, "LEAKS: split by image"),
        ],
    )
    def test_a_leak_comes_first(
        self, tmp_path: Path, protocol: str, leaks: int, text: str, make_run: Maker
    ) -> None:
        make_run(tmp_path, protocol=protocol, leaks=leaks)
        assert words.marks(results_table(Sweep(tmp_path)))[0] == text

    def test_weights_that_have_seen_cnmc_are_a_leak(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, settings={"model.net.pretrained_on": "PBC, C-NMC 2019 and others"})
        make_run(tmp_path, seed=1, settings={"model.net.pretrained_on": "13 sets without it"})
        assert words.marks(results_table(Sweep(tmp_path)))[0] == (
            "LEAKS: the weights were pretrained on C-NMC (1 of 2 runs)"
        )

    def test_marks_of_all_rows_are_said_once_and_those_of_some_beside_them(self) -> None:
        table = text_tables.Printed(["a"], 1, [["x"], ["y"]], [["m", "n"], ["m"]])
        assert table.common_marks == ["m"]
        assert table.own_marks == [["n"], []]


class TestPrinted:
    def test_the_seed_study_stands_beside_cnmc_with_the_difference(
        self, tmp_path: Path, make_sweep: Maker
    ) -> None:
        results = results_table(make_sweep(tmp_path, seeds=1))
        table = text_tables.grid_table(results)
        row = dict(zip(table.columns, table.rows[1], strict=True))
        accuracy = results.query("network == 'resnet18' and trainable_from == 'layer4'")["accuracy"].item()
        assert row["Seed study %"] == "76.22"
        assert row["Difference to it, points"] == f"{100 * (accuracy - 0.7622):+.2f}".replace("-", "−")
        assert dict(zip(table.columns, table.rows[2], strict=True))["Seed study %"] == "–"

    def test_it_does_not_stand_beside_other_classes(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, classes=("lymphocyte", "ig"))
        assert "Seed study %" not in text_tables.grid_table(results_table(Sweep(tmp_path))).columns

    def test_the_seed_studys_own_table(self) -> None:
        table = text_tables.study_table()
        assert [row[2:] for row in table.rows] == [
            ["65.77", "+0.48", "–"],
            ["76.22", "+10.93", "–"],
            ["78.41", "+13.12", "+11.39"],
        ]
        assert table.common_marks == ["epoch chosen on these cells"]
        assert table.own_marks == [  # Wilson's interval of 1,228 of 1,867, beside 65.29 %
            [
                "not shown to be better than the majority class (95 % interval of accuracy 63.59 to 67.89 %, "
                "Wilson, cells taken as independent)"
            ],
            [],
            [],
        ]

    def test_a_metric_that_is_undefined_for_some_runs_says_for_how_many_it_stands(
        self, tmp_path: Path, make_run: Maker
    ) -> None:
        make_run(tmp_path, seed=0)
        make_run(tmp_path, seed=1, positive_share=1.0)
        table = text_tables.grid_metrics_table(results_table(Sweep(tmp_path)))
        auroc = dict(zip(table.columns, table.rows[0], strict=True))["AUROC"]
        assert auroc.endswith("(n 1)")

    @pytest.mark.parametrize(
        ("seconds", "text"), [(41.2, "41 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (None, "–")]
    )
    def test_durations(self, seconds: float | None, text: str) -> None:
        assert words.duration(seconds) == text


class TestMarkdown:
    def written(self, folder: Path) -> str:
        write_report(folder)
        return (folder / "results.md").read_text(encoding="utf-8")

    def test_it_has_the_grid_the_runs_and_their_marks(self, tmp_path: Path, make_sweep: Maker) -> None:
        results = results_table(make_sweep(tmp_path, seeds=2))
        text = self.written(tmp_path)
        for table in (text_tables.grid_table(results), text_tables.metrics_table(results)):
            for row in table.rows:
                assert " | ".join(row[2:]) in text
        assert "**All rows: epoch chosen on these cells**" in text

    def test_leaks_are_loud(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, protocol="image", leaks=240)
        first = self.written(tmp_path).split("\n- ")[1]
        assert first.startswith(
            "**Leaks? LEAKS. Split by image, 240 of 240 cells not independent of training"
        )

    def test_names_can_not_break_the_table(self, tmp_path: Path, make_run: Maker) -> None:
        make_run(tmp_path, name="a|b`<script>*c*")
        make_run(tmp_path, name="d", status="failed", error="one\ntwo | three")
        text = self.written(tmp_path)
        assert "<script>" not in text
        assert r"one two \| three" in text
        assert r"a\|b\`&lt;script>\*c\*" in text


def test_metrics_json_of_the_generator_is_valid_json(tmp_path: Path, make_run: Maker) -> None:
    text = (make_run(tmp_path, positive_share=1.0).folder / "metrics.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_run_that_repeats_a_seed_and_fold_counts_once(tmp_path: Path, make_run: Maker) -> None:
    make_run(tmp_path, name="one", seed=0, skill=0.5)
    make_run(tmp_path, name="the-same-again", seed=0, skill=0.5)
    make_run(tmp_path, name="official-has-no-folds", seed=0, fold=1, skill=0.5)
    make_run(tmp_path, name="two", seed=1, skill=0.5)
    assert counts(results_table(Sweep(tmp_path))) == [2]


def test_a_negative_mean_has_the_minus_of_the_differences_beside_it() -> None:
    assert words.percent(-0.1216, 0.01) == "−12.16 ± 1.00"
    assert words.points(-0.1216) == "−12.16"
