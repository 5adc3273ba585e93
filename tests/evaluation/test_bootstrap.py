import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from leukemia.errors import InputError
from leukemia.evaluation.bootstrap import compare, evaluate
from leukemia.evaluation.metrics import cell_metrics, subject_metrics


def cells(subjects=(13, 15), most=100, seed=0, effect=1.0, skill=1.0, sizes=None):
    """Cells of subjects that share an effect."""
    rng = np.random.default_rng(seed)
    tables = []
    for label, n in zip((1, 0), subjects, strict=True):
        for number in range(n):
            size = sizes or int(rng.integers(9, most))
            logit = skill * (2 * label - 1) + effect * rng.standard_normal() + rng.standard_normal(size)
            tables.append(pd.DataFrame({"subject": f"{label}-{number}", "label": label, "logit": logit}))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(path=[f"{row}.bmp" for row in range(len(table))])


def test_values_are_those_of_metrics():
    table = cells().round({"logit": 1})  # with ties
    found = evaluate([table], draws=20)
    plain, of_subjects = cell_metrics(table), subject_metrics(table)
    assert {name: metric["value"] for name, metric in found["cells"].items()} == pytest.approx(
        {name: plain[name] for name in found["cells"]}
    )
    metrics = {name: value for name, value in of_subjects.items() if name != "n"}
    assert {name: found["subjects"][name]["value"] for name in metrics} == pytest.approx(metrics)
    assert (found["unit"], found["n_images"], found["n_subjects"]) == ("subject", len(table), 28)


def test_intervals_are_those_of_a_loop_that_copies_whole_subjects():
    table = cells(subjects=(6, 7), most=30)
    draws = 60
    found = evaluate([table], draws=draws, seed=3)
    weights = np.random.default_rng(3)  # the classes as they come, negative subjects first in sorted order
    names = {label: sorted(set(table["subject"][table["label"] == label])) for label in (0, 1)}
    counts = {
        label: weights.multinomial(len(of), np.full(len(of), 1 / len(of)), draws)
        for label, of in names.items()
    }
    by_subject = dict(list(table.groupby("subject")))
    values = []
    for draw in range(draws):
        copies = [
            by_subject[name] for label, of in names.items() for name, n in zip(of, counts[label][draw], strict=True)
            for _ in range(n)
        ]  # fmt: skip
        drawn = pd.concat(copies)
        called = drawn["logit"] >= 0
        values.append({
            "accuracy": sk.accuracy_score(drawn["label"], called),
            "balanced_accuracy": sk.balanced_accuracy_score(drawn["label"], called),
            "f1_weighted": sk.f1_score(drawn["label"], called, average="weighted"),
            "auroc": sk.roc_auc_score(drawn["label"], drawn["logit"]),
            "loss": sk.log_loss(drawn["label"], 1 / (1 + np.exp(-drawn["logit"]))),
        })  # fmt: skip
    for name, column in pd.DataFrame(values).items():
        low, high = np.quantile(column, [0.025, 0.975])
        metric = found["cells"][name]
        assert metric["low"] == pytest.approx(min(low, metric["value"])), name
        assert metric["high"] == pytest.approx(max(high, metric["value"])), name


def test_cells_of_one_subject_widen_the_interval():
    table = cells(effect=1.5)

    def width(found):
        return found["cells"]["accuracy"]["high"] - found["cells"]["accuracy"]["low"]

    by_cell = evaluate([table.drop(columns="subject")])
    assert width(evaluate([table])) > 2 * width(by_cell)
    assert by_cell["too_narrow"]
    assert by_cell["unit"] == "cell"
    assert by_cell["subjects"] is by_cell["by_subject"] is None


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        table = cells(subjects=(30, 30), sizes=20, seed=int(rng.integers(1e9)), effect=1.0)
        truth = 0.7602  # P(1 + N(0, 2) >= 0) = Phi(1 / sqrt 2)
        metric = evaluate([table], draws=200, seed=trial)["cells"]["accuracy"]
        covered += metric["low"] <= truth <= metric["high"]
    assert 86 <= covered <= 100  # 95 expected; 86 is 4 standard errors below


def test_it_takes_under_five_seconds_for_prelim():
    table = cells(most=126)
    assert len(table) > 1500
    start = time.process_time()
    evaluate([table])
    assert time.process_time() - start < 5


def test_subjects_who_share_pictures_are_drawn_together():
    table = cells(subjects=(4, 4)).assign(group=lambda t: t["subject"].replace("1-0", "1-1"))
    assert evaluate([table], draws=20)["unit"] == "group"


def test_a_perfect_model_has_the_interval_of_so_many_subjects_without_an_error():
    found = evaluate([cells(subjects=(13, 15), skill=50)], draws=50)
    sensitivity = found["cells"]["sensitivity"]
    assert (sensitivity["value"], sensitivity["high"]) == (1, 1)
    assert sensitivity["low"] == pytest.approx(13 / (13 + 1.959964**2), abs=1e-6)  # Wilson's at 13 of 13
    assert found["cells"]["auroc"]["low"] < 0.9


def test_there_is_no_interval_where_a_class_has_a_single_subject():
    found = evaluate([cells(subjects=(5, 1))], draws=50)
    assert found["cells"]["accuracy"]["value"] is not None
    assert found["cells"]["accuracy"]["low"] is None


def test_there_is_no_interval_where_the_units_of_a_class_are_in_every_draw():
    table = cells(subjects=(2, 20))
    mixed = table["subject"] == "1-0"  # one subject of both classes, one of positive cells alone
    table.loc[mixed & (np.arange(len(table)) % 2 == 0), "label"] = 0
    found = evaluate([table], draws=50)
    assert "(0 positive, 20 negative; one that is alone" in found["no_intervals"]
    assert all(metric["low"] is metric["high"] is None for metric in found["cells"].values())
    assert found["cells"]["sensitivity"]["value"] is not None


def test_a_bootstrap_without_spread_gives_no_interval_of_width_zero():
    one = cells(subjects=(4, 4), sizes=10)
    table = one.assign(logit=2.0 * one["label"] - 1)  # every subject alike, nothing called wrongly
    found = evaluate([table], draws=50)
    assert found["no_intervals"] is None
    for name in ("ece", "loss"):
        assert (found["cells"][name]["low"], found["cells"][name]["high"]) == (None, None)
    for metric in [*found["cells"].values(), *list(found["subjects"].values())[1:]]:
        assert metric["low"] is None or metric["high"] - metric["low"] > 0.05


@pytest.mark.parametrize("of_what", ["cells", "subjects"])
def test_accuracies_are_no_more_certain_than_their_parts(of_what):
    """Everything is called positive: 40 subjects, 25 of them positive."""
    table = cells(subjects=(25, 15), most=20).assign(logit=lambda t: 1 + t["logit"].abs())
    found = evaluate([table], draws=200)[of_what]
    parts = [found["sensitivity"], found["specificity"]]
    assert [part["value"] for part in parts] == [1, 0]
    positive = table["label"].mean() if of_what == "cells" else 25 / 40
    for name, weights in (
        ("accuracy", (positive, 1 - positive)),
        ("balanced_accuracy", (0.5, 0.5)),
    ):
        below = sum((w * (p["value"] - p["low"])) ** 2 for w, p in zip(weights, parts, strict=True)) ** 0.5
        above = sum((w * (p["high"] - p["value"])) ** 2 for w, p in zip(weights, parts, strict=True)) ** 0.5
        metric = found[name]
        assert metric["low"] <= metric["value"] - below + 1e-9
        assert metric["high"] >= metric["value"] + above - 1e-9


def test_one_class_has_no_auroc_and_says_none():
    found = evaluate([cells(subjects=(5, 0))], draws=50)
    assert found["cells"]["auroc"] == {"value": None, "low": None, "high": None}


def test_a_class_that_is_not_there_has_no_weight_in_the_f1():
    table = cells(subjects=(5, 0), skill=50)
    assert (
        evaluate([table], draws=5)["cells"]["f1_weighted"]["value"]
        == 1.0
        == cell_metrics(table)["f1_weighted"]
    )


class TestFolds:
    def tables(self):
        """Two models whose logits are shifted against each other."""
        first = cells(subjects=(8, 8), seed=1)
        second = cells(subjects=(8, 8), seed=2)
        second = second.assign(
            path="b" + second["path"], subject="B" + second["subject"], logit=second["logit"] + 4
        )
        return first, second

    def test_auroc_is_the_mean_within_folds_and_thresholds_pool(self):
        first, second = self.tables()
        pooled = pd.concat([first.assign(fold=0), second.assign(fold=1)], ignore_index=True)
        found = evaluate([pooled], draws=50)["cells"]
        within = [sk.roc_auc_score(table["label"], table["logit"]) for table in (first, second)]
        assert found["auroc"]["value"] == pytest.approx(np.mean(within))
        assert found["auroc"]["value"] > sk.roc_auc_score(pooled["label"], pooled["logit"]) + 0.02
        assert found["accuracy"]["value"] == pytest.approx(((pooled["logit"] >= 0) == pooled["label"]).mean())


def test_seeds_give_mean_deviation_and_range():
    tables = [cells(seed=0)]
    noise = np.random.default_rng(5)
    tables += [tables[0].assign(logit=lambda t: t["logit"] + noise.normal(0, 1, len(t))) for _ in range(2)]
    own = [cell_metrics(table)["accuracy"] for table in tables]
    metric = evaluate(tables, draws=50)["cells"]["accuracy"]
    assert metric["value"] == pytest.approx(np.mean(own))
    assert metric["sd"] == pytest.approx(np.std(own, ddof=1))
    assert (metric["lowest"], metric["highest"]) == pytest.approx((min(own), max(own)))


class TestCompare:
    def test_what_is_hard_for_both_cancels(self):
        first = cells(effect=2.0)
        second = first.assign(logit=first["logit"] + 0.3 * (2 * first["label"] - 1))
        difference = compare([first], [second])["accuracy"]
        alone = evaluate([first])["cells"]["accuracy"]
        gain = cell_metrics(second)["accuracy"] - cell_metrics(first)["accuracy"]
        assert difference["difference"] == pytest.approx(gain)
        assert 0 < difference["low"] < gain < difference["high"]
        assert difference["high"] - difference["low"] < (alone["high"] - alone["low"]) / 3

    def test_a_model_does_not_differ_from_itself(self):
        table = cells()
        shuffled = table.sample(frac=1, random_state=0)
        for metric in compare([table], [shuffled], draws=50).values():
            assert metric["difference"] == pytest.approx(0, abs=1e-9)
            assert (metric["low"], metric["high"]) == (None, None)  # draws without spread bound nothing

    def test_other_cells_are_refused(self):
        table = cells()
        with pytest.raises(InputError, match=r"different cells \(2 are in one alone"):
            compare([table], [table.iloc[2:]])

    def test_other_labels_are_refused(self):
        table = cells()
        with pytest.raises(InputError, match="different labels for"):
            compare([table], [table.assign(label=1 - table["label"])])

    def test_other_cells_of_a_later_replicate_are_refused(self):
        table = cells()
        with pytest.raises(InputError, match=r"different cells \(2 are in one alone"):
            compare([table, table], [table, table.iloc[2:]], draws=5)
        with pytest.raises(InputError, match=r"different cells \(2 are in one alone"):
            compare([table], [table, table.iloc[2:]], draws=5)
