"""The report's tables of evidence: metrics with intervals, baselines, differences, calibration, triage."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from leukemia.evaluation.metrics import METRICS, SUBJECT_METRICS, Metric
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.thresholds import outcome
from leukemia.reporting import words
from leukemia.reporting.ranking import milliseconds, shown
from leukemia.reporting.text_tables import Printed
from leukemia.reporting.words import fraction, percent, whole

Found = list[dict[str, Any]]  # of each setting, from `leukemia.reporting.evidence.metrics_of`
COMPARED = [metric for name, metric in METRICS.items() if name in SUBJECT_METRICS]
BASELINE = [METRICS[name] for name in ("accuracy", "auroc")]  # of the handcrafted baseline


def intervals_table(found: Found, over: str) -> Printed:
    """A row a setting: metrics over its `cells`, or over its `subjects` where they are known, with their intervals."""
    metrics = METRICS if over == "cells" else SUBJECT_METRICS
    table = Printed(["Setting", *map(words.heading, metrics.values()), over.capitalize()], 1)
    for of in found:
        if of[over]:
            n = of["n_images"] if over == "cells" else of["subjects"]["n"]
            values = [_interval(of[over][name], metric) for name, metric in metrics.items()]
            table.add([of["name"], *values, whole(n)], of["marks"])
    return table


def seeds_table(found: Found) -> Printed:
    """A row a setting with several seeds (or folds of the same cells): mean, standard deviation and range over them."""
    table = Printed(["Setting", "Over", *map(words.heading, COMPARED)], 2)
    for of in found:
        if "sd" not in of["cells"]["accuracy"]:
            continue
        row = [of["name"], of["over"]]
        for metric in COMPARED:
            values, form = of["cells"][metric.name], words.form(metric)
            spread = f"{form(values['lowest'])} to {form(values['highest'])}"
            row.append(f"{form(values['value'], values['sd'])} ({spread})")
        table.add(row, of["marks"])
    return table


def baselines_table(found: Found) -> Printed:
    """A row a setting: the majority class and the handcrafted baseline on its cells, and the difference to the
    latter."""
    alone = [f"Handcrafted, {words.heading(metric)}" for metric in BASELINE]
    gain = [f"Network minus handcrafted, {words.difference_heading(metric)}" for metric in BASELINE]
    table = Printed(["Setting", "Majority, accuracy %", *alone, *gain], 1)
    for of in found:
        row, baseline = [of["name"], percent(of["majority_accuracy"])], of["baseline"]
        if baseline:
            row += [_interval(baseline["cells"][metric.name], metric) for metric in BASELINE]
            row += [_difference(baseline["model_minus_baseline"][metric.name], metric) for metric in BASELINE]
        else:
            row += ["–"] * 2 * len(BASELINE)
        table.add(row, of["marks"])
    return table


def differences_table(comparisons: Found) -> Printed:
    """A row a pair of settings that report on the same cells: their paired differences with intervals."""
    table = Printed(["Difference", *map(words.difference_heading, COMPARED)], 1)
    for pair in comparisons:
        differences = [_difference(pair[metric.name], metric) for metric in COMPARED]
        table.add([f"{pair['second']} minus {pair['first']}", *differences], pair["marks"])
    return table


def ranking_table(ranked: Found) -> Printed:
    """A row an entry of `leukemia.reporting.ranking.ranking`: its place, the difference to the first, its cost, and its
    accuracy with fewer training subjects."""
    others = [name for of in ranked for name in of["settings"] if name not in ("network", "trainable_from")]
    others = list(dict.fromkeys(others))
    accuracy = METRICS["accuracy"]
    fewer = sorted({n for of in ranked for n, _ in of["curve"][:-1]})
    columns = ["Network", "Trains from", *map(words.setting, others), "Norm"]
    numbers = [*map(words.heading, BASELINE), "Minus the first, points", "Its difference"]
    numbers += ["Minus handcrafted, points", "Training subjects", "ms a cell", "MB"]
    numbers += [f"{words.heading(accuracy)} of {n:g} subjects" for n in fewer]
    table = Printed([*columns, *numbers], len(columns))
    for of in ranked:
        named = [words.value(of["settings"].get(name), name) for name in ("trainable_from", *others)]
        row = [words.network(of["settings"]["network"]), *named, words.value(of["norm"])]
        row += [_interval(of["cells"][metric.name], metric) for metric in BASELINE]
        apart, gain = (of[key] and of[key]["accuracy"] for key in ("minus_best", "minus_handcrafted"))
        row += [_difference(apart, accuracy) if apart else "–", shown(apart)]
        row += [_difference(gain, accuracy) if gain else "–"]
        row += [whole(of["curve"][-1][0]), milliseconds(of["embed_seconds"]), whole(of["megabytes"])]
        by_count = dict(of["curve"])
        row += [_interval(by_count[n]["accuracy"], accuracy) if n in by_count else "–" for n in fewer]
        table.add(row, of["marks"])
    return table


def calibration_table(found: Found) -> Printed:
    """A row a setting: calibration as predicted and as recalibrated on other subjects."""
    names = {"ece": METRICS["ece"].title, "brier": "Brier score", "loss": "Log loss"}
    parts = ("miscalibration", "discrimination", "uncertainty")
    columns = [f"{name}, {when}" for name in names.values() for when in ("before", "after")]
    columns += [f"{name.capitalize()}, before" for name in parts]
    table = Printed(["Setting", *columns, "Slope", "Intercept"], 1)
    for of in found:
        calibration = of["calibration"]
        before, after = calibration["before"], calibration["after"] or {}
        row = [of["name"]]
        for name in names:
            row += [fraction(before[name]), fraction(after.get(name))]
        row += [fraction(before[name]) for name in parts]
        row += [fraction(calibration[name]) for name in ("slope", "intercept")]
        table.add(row, of["marks"])
    return table


def selective_table(found: Found) -> Printed:
    """A row a setting: areas under its risk-coverage curves, and the coverage that keeps a risk."""
    risks = list(found[0]["selective"]["coverage_at_risk"]) if found else []
    table = Printed(["Setting", "AURC", "AUGRC", *(f"Coverage % at risk {risk}" for risk in risks)], 1)
    for of in found:
        selective = of["selective"]
        areas = [fraction(selective[name]) for name in ("aurc", "augrc")]
        shares = [percent(selective["coverage_at_risk"][risk]) for risk in risks]
        table.add([of["name"], *areas, *shares], of["marks"])
    return table


def triage_table(table: pd.DataFrame, policy: Policy, classes: tuple[str, str]) -> Printed:
    """The outcome of a policy on the reported cells: a row a true class, and one for all."""
    negative, positive = classes
    columns = [f"Released as {negative}", f"Released as {positive}", "Reviewed", "Reviewed %"]
    columns += ["Released wrongly %", "Mean over subjects %", "Subjects with such a cell"]
    printed = Printed(["True class", "Cells", *columns], 1)
    rows = outcome(table, policy, classes)
    for row in rows.to_dict("records"):
        printed.add([
            f"{row['class']} ({'missed' if row['class'] == positive else 'false alarm'} where wrong)",
            *(whole(row[key]) for key in ("cells", "as_negative", "as_positive", "review")),
            percent(row["review"] / row["cells"] if row["cells"] else None),
            percent(row["wrong"]), percent(row["wrong_by_subject"]), whole(row["subjects"]),
        ], [])  # fmt: skip
    sums = rows[["cells", "as_negative", "as_positive", "review"]].sum()
    share = percent(sums["review"] / sums["cells"])
    printed.add(["all", *(whole(number) for number in sums), share, "–", "–", "–"], [])
    return printed


def gate_table(found: Found) -> Printed:
    """A row a setting: the reported cells that the gate stops, and their subjects."""
    table = Printed(["Setting", "Cells", "Stopped", "Stopped %", "Reasons", "Subjects"], 1)
    for of in found:
        if (unlike := of["unlike"]) is not None:
            why = "; ".join(f"{number:,} {reason}" for reason, number in unlike["why"].items())
            subjects = ", ".join(words.stopped_of(unlike["subjects"] or []))
            share = percent(unlike["stopped"] / unlike["n_cells"])
            row = [whole(unlike["n_cells"]), whole(unlike["stopped"]), share, why or "–", subjects or "–"]
            table.add([of["name"], *row], of["marks"])
    return table


def covariates_table(found: Mapping[str, Mapping[str, dict[str, Any]]], marks: list[str]) -> Printed:
    """A row a value of each covariate: metrics over its cells with their intervals.

    Args:
        found: for each column, what `leukemia.evaluation.covariates.by_covariate` gives.
    """
    names = ("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity")
    metrics = [METRICS[name] for name in names]
    table = Printed(["Column", "Value", *map(words.heading, metrics), "Cells", "Subjects"], 2)
    for column, values in found.items():
        for value, of in values.items():
            shown = [_interval(of["cells"][metric.name], metric) for metric in metrics]
            table.add([column, value, *shown, whole(of["n_images"]), whole(of["n_subjects"])], marks)
    return table


def gradcam_table(found: list[tuple[str, dict[str, Any]]]) -> Printed:
    """Two rows a run with a Grad-CAM summary: the share of its heat maps on the black background, by the decided class,
    beside that of a map of the cell alone and of an even map.

    Args:
        found: the name of each run and its `gradcam.json`.
    """
    columns = ["Cells", "On background %", "A map of the cell alone %", "An even map %"]
    table = Printed(["Run", "Decided", *columns], 2)
    for name, summary in found:
        for decided, of in summary["classes"].items():
            shares = [percent(of[key]) for key in ("on_background", "cell_alone", "background")]
            table.add([name, str(decided), whole(of["cells"]), *shares], [f"of {summary['sample']}"])
    return table


def _interval(found: dict[str, Any], metric: Metric) -> str:
    return words.between(found, "value", words.form(metric))


def _difference(found: dict[str, Any], metric: Metric) -> str:
    return words.between(found, "difference", words.difference_form(metric))
