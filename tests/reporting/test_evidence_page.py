"""What the report prints as evidence, against scikit-learn, scipy and plain pandas."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn import metrics as sk
from sklearn.isotonic import IsotonicRegression

from leukemia.evaluation.policy import Policy
from leukemia.reporting.evidence_page import evidence
from leukemia.reporting.evidence_plots import operating_point
from leukemia.reporting.html import write_report
from leukemia.reporting.model_card import model_card
from leukemia.reporting.results import results_table
from leukemia.runs import Sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, make_run):
    """Two settings with two seeds each, one of them with a policy."""
    folder = tmp_path_factory.mktemp("evidence") / "sweep"
    cells = None
    for stage in ("head", "layer4"):
        for seed in (0, 1):
            run = make_run(folder, trainable_from=stage, seed=seed, protocol="holdout", cells=300)
            cells = run.predictions if cells is None else cells
            noise = np.random.default_rng([seed, len(stage)]).normal(size=(2, 300))
            for name, skill in (("predictions", {"head": 0.5, "layer4": 1.2}[stage]), ("baseline", 0.3)):
                logit = skill * (2 * cells["label"] - 1) + noise[int(name == "baseline")]
                run.write_table(f"{name}.csv", cells.assign(logit=logit))
    policy = Policy(-0.5, 0.8, 1.1, 0.1, 0.3, 0.3, 0.95, "subject", True, fitted_on={"what": "other cells"})
    run.write_json("triage.json", policy.to_json())
    return Sweep(folder)


@pytest.fixture(scope="module")
def proof(sweep):
    return evidence(sweep, results_table(sweep))


def rows_of(proof, name):
    table = proof.tables[name]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def tables_of(sweep, setting, name="predictions"):
    stage = setting.split(" from ")[1]
    return [getattr(run, name) for run in sweep.runs if run.config["model"]["trainable_from"] == stage]


def number(text):
    return float(text.split(" (")[0].replace("−", "-").replace("+", ""))


METRICS = {
    "Accuracy %": lambda y, z: 100 * sk.accuracy_score(y, z >= 0),
    "Balanced accuracy %": lambda y, z: 100 * sk.balanced_accuracy_score(y, z >= 0),
    "Weighted F1 %": lambda y, z: 100 * sk.f1_score(y, z >= 0, average="weighted"),
    "AUROC": sk.roc_auc_score,
    "Sensitivity %": lambda y, z: 100 * sk.recall_score(y, z >= 0),
    "Specificity %": lambda y, z: 100 * sk.recall_score(y, z >= 0, pos_label=0),
}


def of_scikit_learn(tables, name):
    return np.array([METRICS[name](table["label"], table["logit"].to_numpy()) for table in tables])


def test_metrics_over_cells_are_means_over_seeds_within_their_intervals(sweep, proof):
    assert len(rows_of(proof, "intervals")) == 2
    for row in rows_of(proof, "intervals"):
        tables = tables_of(sweep, row["Setting"])
        for name in METRICS:
            value = of_scikit_learn(tables, name).mean()
            assert number(row[name]) == pytest.approx(value, abs=0.006)
            low, high = map(float, re.findall(r"[\d.]+", row[name])[1:])
            assert low <= value <= high
        assert row["Cells"] == "300"
        binned = np.mean([ece_by_hand(table) for table in tables])
        assert number(row["ECE"]) == pytest.approx(binned, abs=6e-4)


def ece_by_hand(table):
    """Fifteen bins of twenty cells: no two confidences are equal here."""
    confidence = 1 / (1 + np.exp(-table["logit"].abs()))
    right = (table["logit"] >= 0) == table["label"]
    order = np.argsort(confidence.to_numpy())
    gaps = [
        abs(right.to_numpy()[part].mean() - confidence.to_numpy()[part].mean())
        for part in np.split(order, 15)
    ]
    return np.mean(gaps)


def test_metrics_over_subjects_are_those_of_their_votes(sweep, proof):
    for row in rows_of(proof, "subject-intervals"):
        found = []
        for table in tables_of(sweep, row["Setting"]):
            by = table.assign(called=table["logit"] >= 0).groupby("subject")
            label, share, logit = by["label"].first(), by["called"].mean(), by["logit"].mean()
            vote = (share > 0.5) | ((share == 0.5) & (logit >= 0))
            found.append([
                100 * sk.accuracy_score(label, vote), 100 * sk.balanced_accuracy_score(label, vote),
                100 * sk.recall_score(label, vote), 100 * sk.recall_score(label, vote, pos_label=0),
                sk.roc_auc_score(label, logit), 100 * np.where(label == 1, share, 1 - share).mean(),
            ])  # fmt: skip
        printed = [number(text) for text in list(row.values())[1:-1]]
        np.testing.assert_allclose(printed, np.mean(found, axis=0), atol=0.006)
        assert row["Subjects"] == "12"


def test_seeds_have_their_mean_deviation_and_range(sweep, proof):
    for row in rows_of(proof, "seeds"):
        for name in row.keys() & METRICS.keys():
            values = of_scikit_learn(tables_of(sweep, row["Setting"]), name)
            expected = [values.mean(), values.std(ddof=1), values.min(), values.max()]
            printed = [float(part) for part in re.findall(r"[\d.]+", row[name])]
            np.testing.assert_allclose(printed, expected, atol=0.006)


def test_baselines_are_the_majority_class_and_handcrafted_features(sweep, proof):
    for row in rows_of(proof, "baselines"):
        models, handcrafted = (tables_of(sweep, row["Setting"], name) for name in ("predictions", "baseline"))
        label = models[0]["label"]
        assert number(row["Majority, accuracy %"]) == pytest.approx(
            100 * max(label.mean(), 1 - label.mean()), abs=0.006
        )
        for metric, alone, difference in (
            ("Accuracy %", "Handcrafted, Accuracy %", "Network minus handcrafted, Accuracy, points"),
            ("AUROC", "Handcrafted, AUROC", "Network minus handcrafted, AUROC"),
        ):
            ours, theirs = (of_scikit_learn(tables, metric).mean() for tables in (models, handcrafted))
            assert number(row[alone]) == pytest.approx(theirs, abs=0.006)
            assert number(row[difference]) == pytest.approx(ours - theirs, abs=0.006)


def test_differences_are_second_minus_first(sweep, proof):
    (row,) = rows_of(proof, "differences")
    second, first = row["Difference"].split(" minus ")
    for printed, name in (("Accuracy, points", "Accuracy %"), ("AUROC", "AUROC")):
        means = [of_scikit_learn(tables_of(sweep, setting), name).mean() for setting in (second, first)]
        assert number(row[printed]) == pytest.approx(means[0] - means[1], abs=0.006)


def test_calibration_is_that_of_the_first_seed(sweep, proof):
    for row in rows_of(proof, "calibration"):
        table = tables_of(sweep, row["Setting"])[0]
        y, z = table["label"].to_numpy(), table["logit"].to_numpy()
        p = 1 / (1 + np.exp(-z))
        assert number(row["Brier score, before"]) == pytest.approx(sk.brier_score_loss(y, p), abs=6e-4)
        assert number(row["Log loss, before"]) == pytest.approx(sk.log_loss(y, p), abs=6e-4)
        assert number(row["ECE, before"]) == pytest.approx(ece_by_hand(table), abs=6e-4)
        best = IsotonicRegression().fit(p, y).predict(p)
        miscalibration = sk.brier_score_loss(y, p) - sk.brier_score_loss(y, best)
        assert number(row["Miscalibration, before"]) == pytest.approx(miscalibration, abs=6e-4)
        assert number(row["Uncertainty, before"]) == pytest.approx(y.mean() * (1 - y.mean()), abs=6e-4)
        target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))
        fitted = minimize(_log_loss, [1, 0], args=(z, target)).x
        assert [number(row["Slope"]), number(row["Intercept"])] == pytest.approx(list(fitted), abs=2e-3)


def _log_loss(weights, z, target):
    fitted = weights[0] * z + weights[1]
    return np.mean(np.logaddexp(0, fitted) - target * fitted)


def test_selective_metrics_by_direct_computation(sweep, proof):
    for row in rows_of(proof, "selective"):
        table = tables_of(sweep, row["Setting"])[0]
        order = np.argsort(-np.abs(table["logit"].to_numpy()))
        wrong = ((table["logit"] >= 0) != table["label"]).to_numpy()[order]
        risk = [wrong[: k + 1].mean() for k in range(len(wrong))]
        assert number(row["AURC"]) == pytest.approx(np.mean(risk), abs=6e-4)
        generalised = [wrong[: k + 1].sum() / len(wrong) for k in range(len(wrong))]
        assert number(row["AUGRC"]) == pytest.approx(np.mean(generalised), abs=6e-4)
        kept = max([k + 1 for k, r in enumerate(risk) if r <= 0.1], default=0)
        assert number(row["Coverage % at risk 0.1"]) == pytest.approx(100 * kept / len(wrong), abs=0.006)


def test_the_triage_table_counts_every_cell_of_the_run(sweep, proof):
    (triaged,) = proof.triaged
    (run,) = [run for run in sweep.runs if run.policy is not None]
    table = run.predictions
    assert run.name in triaged.name
    released = np.select([table["logit"] <= -0.5, table["logit"] >= 0.8], ["HEM", "ALL"], "review")
    for row, label, wrong in zip(triaged.table.rows, (1, 0), ("HEM", "ALL"), strict=False):
        of_class = released[table["label"] == label]
        counts = [len(of_class), *((of_class == name).sum() for name in ("HEM", "ALL", "review"))]
        assert row[1:5] == [str(count) for count in counts]
        assert number(row[5]) == pytest.approx(100 * (of_class == "review").mean(), abs=0.006)
        assert number(row[6]) == pytest.approx(100 * (of_class == wrong).mean(), abs=0.006)
        shares = (
            pd.Series(of_class == wrong).groupby(table["subject"][table["label"] == label].to_numpy()).mean()
        )
        assert number(row[7]) == pytest.approx(100 * shares.mean(), abs=0.006)
        assert row[8] == str((shares > 0).sum())
    assert triaged.table.rows[2][1:5] == [
        str((released != "").sum()),
        *(str((released == n).sum()) for n in ("HEM", "ALL", "review")),
    ]
    coverage, risk = operating_point(table, run.policy)
    wrong_cells = ((released == "HEM") & (table["label"] == 1)) | (
        (released == "ALL") & (table["label"] == 0)
    )
    assert coverage == pytest.approx((released != "review").mean())
    assert risk == pytest.approx(wrong_cells.sum() / (released != "review").sum())


def test_the_page_has_every_part_and_says_what_the_policy_is(sweep):
    page = write_report(sweep.folder).read_text(encoding="utf-8")
    for part in ("evidence", "subject-bars", "calibration", "triage", "card"):
        assert f'id="{part}-section"' in page
    assert "Certified: missed at most 0.3" in page
    assert "Not for" in page
    assert "Diagnosis" in page
    markdown = (sweep.folder / "results.md").read_text(encoding="utf-8")
    assert "## Intervals" in markdown
    assert "### Triage: " in markdown


def test_the_model_card_says_what_is_certified_in_which_unit(sweep, proof):
    (policy,) = [triaged.policy for triaged in proof.triaged]
    results = results_table(sweep)
    said = model_card(results, [], [("A", policy), ("B", replace(policy, unit="cell"))])["Review"]
    of_a, of_b = said.split("; ")
    bounds = "certified for missed at most 0.3 and false alarm at most 0.3, confidence 0.95"
    assert of_a == f"A: {bounds}, mean over subjects"
    assert of_b == f"B: {bounds}, share of cells, taken as independent"


def test_grad_cam_summaries_are_shown_and_broken_files_are_named(tmp_path, make_run):
    first, second = (make_run(tmp_path, protocol="holdout", seed=seed) for seed in (0, 1))
    shares = {
        "cells": 7,
        "empty": 0,
        "on_background": 0.25,
        "cell_alone": 0.1,
        "background": 0.8,
        "quartiles": None,
    }
    first.write_json(
        "gradcam.json",
        {"sample": "a random 14 of 240 test cells", "classes": {"HEM": shares, "ALL": shares}},
    )
    second.write_json("gradcam.json", {"classes": 3})
    proof = evidence(Sweep(tmp_path), results_table(Sweep(tmp_path)))
    assert [row[1:] for row in proof.tables["gradcam"].rows] == [
        ["HEM", "7", "25.00", "10.00", "80.00"],
        ["ALL", "7", "25.00", "10.00", "80.00"],
    ]
    assert f"{second.name}, gradcam.json" in proof.problems[0]
    assert "Grad-CAM</h2>" in write_report(tmp_path).read_text(encoding="utf-8")


def test_an_unreadable_policy_leaves_a_page_that_says_so(tmp_path, make_run):
    run = make_run(tmp_path, protocol="holdout")
    (run.folder / "triage.json").write_text('{"thresholds": {}}')
    assert "triage.json: this is not a triage policy" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_subject_with_a_name_like_markup_stays_a_name(tmp_path, make_run):
    run = make_run(tmp_path, protocol="holdout")
    run.write_table(
        "predictions.csv", run.predictions.assign(subject="<b>$x$</b>" + run.predictions["subject"])
    )
    assert "<b>" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_further_columns_of_the_cells_are_covariates_of_the_best_setting(tmp_path, make_run):
    run = make_run(tmp_path, protocol="holdout")
    cells = run.predictions[["path", "subject", "label", "split"]]
    site = cells["subject"].str[1:].astype(int) % 2
    run.write_table(
        "cells.csv",
        cells.assign(
            group=cells["subject"], pixel_hash="x", site=site.map({0: "A", 1: "B"}), number=range(len(cells))
        ),
    )
    proof = evidence(Sweep(tmp_path), results_table(Sweep(tmp_path)))
    rows = rows_of(proof, "covariates")
    assert [(row["Column"], row["Value"]) for row in rows] == [("site", "A"), ("site", "B")]
    for row, value in zip(rows, (0, 1), strict=True):
        of_site = run.predictions[site == value]
        assert number(row["Accuracy %"]) == pytest.approx(
            METRICS["Accuracy %"](of_site["label"], of_site["logit"]), abs=0.006
        )
        assert row["Subjects"] == str(of_site["subject"].nunique())
    assert 'id="covariates"' in write_report(tmp_path).read_text(encoding="utf-8")
