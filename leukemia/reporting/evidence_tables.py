"""The report's tables of evidence: figures with intervals, baselines, differences, calibration, triage."""

from typing import Any

import pandas as pd

from leukemia.evaluation.policy import Policy
from leukemia.evaluation.thresholds import outcome
from leukemia.reporting.text_tables import Printed
from leukemia.reporting.words import fraction, percent, points, whole

Found = list[dict[str, Any]]  # what `leukemia.reporting.evidence.metrics_of` says of each setting

CELLS = {
    "accuracy": "Accuracy %",
    "balanced_accuracy": "Balanced accuracy %",
    "f1_weighted": "Weighted F1 %",
    "auroc": "AUROC",
    "sensitivity": "Sensitivity %",
    "specificity": "Specificity %",
    "ece": "ECE",
}
SUBJECTS = {
    "accuracy": "Vote accuracy %",
    "balanced_accuracy": "Vote balanced accuracy %",
    "sensitivity": "Vote sensitivity %",
    "specificity": "Vote specificity %",
    "auroc": "AUROC of the mean logit",
    "mean_cell_accuracy": "Mean share of correct cells %",
}
COMPARED = ("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity")


def intervals_table(found: Found) -> Printed:
    """A row a setting: figures over its cells with their intervals."""
    return _with_intervals(found, "cells", CELLS)


def subject_intervals_table(found: Found) -> Printed:
    """A row a setting whose cells have subjects: figures over subjects with their intervals."""
    return _with_intervals([of for of in found if of["subjects"]], "subjects", SUBJECTS)


def seeds_table(found: Found) -> Printed:
    """A row a setting with several seeds (or folds of the same cells): mean, standard deviation and range over them."""
    table = Printed(["Setting", "Over", *(CELLS[name] for name in COMPARED)], 2)
    for of in found:
        if "sd" not in of["cells"]["accuracy"]:
            continue
        row = [of["name"], of["over"]]
        for name in COMPARED:
            figure, form = of["cells"][name], _form(name)
            spread = f"{form(figure['lowest'])} to {form(figure['highest'])}"
            row.append(f"{form(figure['value'], figure['sd'])} ({spread})")
        table.rows.append(row)
        table.marks.append(of["marks"])
    return table


def baselines_table(found: Found) -> Printed:
    """A row a setting: what the majority class and a cell's shape alone reach on its cells, and the difference."""
    columns = ["Majority, accuracy %", "Shape, accuracy %", "Network minus shape, points"]
    table = Printed(["Setting", *columns, "Shape, AUROC", "Network minus shape, AUROC"], 1)
    for of in found:
        row = [of["name"], percent(of["majority_accuracy"])]
        if of["baseline"]:
            alone, above = of["baseline"]["cells"], of["baseline"]["model_minus_baseline"]
            row += [_interval(alone["accuracy"], percent), _difference(above["accuracy"], points)]
            row += [_interval(alone["auroc"], fraction), _difference(above["auroc"], _signed)]
        else:
            row += ["–"] * 4
        table.rows.append(row)
        table.marks.append(of["marks"])
    return table


def differences_table(comparisons: Found) -> Printed:
    """A row a pair of settings that report on the same cells: their paired differences with intervals."""
    table = Printed(["Difference", *(_points_name(name) for name in COMPARED)], 1)
    for pair in comparisons:
        figures = [_difference(pair[name], _signed if name == "auroc" else points) for name in COMPARED]
        table.rows.append([f"{pair['second']} minus {pair['first']}", *figures])
        table.marks.append(pair["marks"])
    return table


def calibration_table(found: Found) -> Printed:
    """A row a setting: calibration as predicted and as recalibrated on other subjects."""
    names = {"ece": "ECE", "brier": "Brier score", "loss": "Log loss"}
    parts = {
        "miscalibration": "Miscalibration",
        "discrimination": "Discrimination",
        "uncertainty": "Uncertainty",
    }
    columns = [f"{name}, {when}" for name in names.values() for when in ("before", "after")]
    table = Printed(
        ["Setting", *columns, *(f"{name}, before" for name in parts.values()), "Slope", "Intercept"], 1
    )
    for of in found:
        calibration = of["calibration"]
        before, after = calibration["before"], calibration["after"] or {}
        row = [of["name"]]
        for name in names:
            row += [fraction(before[name]), fraction(after.get(name))]
        row += [fraction(before[name]) for name in parts]
        table.rows.append([*row, fraction(calibration["slope"]), fraction(calibration["intercept"])])
        table.marks.append(of["marks"])
    return table


def selective_table(found: Found) -> Printed:
    """A row a setting: areas under its risk-coverage curves, and the coverage that keeps a risk."""
    risks = list(found[0]["selective"]["coverage_at_risk"]) if found else []
    table = Printed(["Setting", "AURC", "AUGRC", *(f"Coverage % at risk {risk}" for risk in risks)], 1)
    for of in found:
        selective = of["selective"]
        shares = [percent(selective["coverage_at_risk"][risk]) for risk in risks]
        table.rows.append([of["name"], fraction(selective["aurc"]), fraction(selective["augrc"]), *shares])
        table.marks.append(of["marks"])
    return table


def triage_table(name: str, table: pd.DataFrame, policy: Policy, classes: tuple[str, str]) -> Printed:
    """What a policy does to the reported cells: a row a true class, and one for all."""
    negative, positive = classes
    columns = [f"Released as {negative}", f"Released as {positive}", "Reviewed", "Reviewed %"]
    columns += ["Released wrongly %", "Mean over subjects %", "Subjects with such a cell"]
    printed = Printed(["True class", "Cells", *columns], 1)
    rows = outcome(table, policy, classes)
    for row in rows.to_dict("records"):
        printed.rows.append([
            f"{row['class']} ({'missed' if row['class'] == positive else 'false alarm'} where wrong)",
            *(whole(row[key]) for key in ("cells", "as_negative", "as_positive", "review")),
            percent(row["review"] / row["cells"] if row["cells"] else None),
            percent(row["wrong"]), percent(row["wrong_by_subject"]), whole(row["subjects"]),
        ])  # fmt: skip
    sums = rows[["cells", "as_negative", "as_positive", "review"]].sum()
    share = percent(sums["review"] / sums["cells"])
    printed.rows.append(["all", *(whole(number) for number in sums), share, "–", "–", "–"])
    printed.marks = [[] for _ in printed.rows]
    return printed


def attention_table(found: list[tuple[str, dict[str, Any]]]) -> Printed:
    """Two rows a run that `leukemia explain` has looked at: how much of its heat maps falls on black background, by the
    class that it decides on, beside what a map of the cell alone and an even map would have.

    Args:
        found: the name of each run and its `gradcam.json`.
    """
    columns = ["Cells", "On background %", "A map of the cell alone %", "An even map %"]
    table = Printed(["Run", "Decided", *columns], 2)
    for name, attention in found:
        for decided, of in attention["classes"].items():
            shares = [percent(of[key]) for key in ("on_background", "cell_alone", "background")]
            table.rows.append([name, str(decided), whole(of["cells"]), *shares])
            table.marks.append([f"of {attention['sample']}"])
    return table


def _with_intervals(found: Found, of_what: str, names: dict[str, str]) -> Printed:
    table = Printed(["Setting", *names.values(), "Cells" if of_what == "cells" else "Subjects"], 1)
    for of in found:
        n = of["n_images"] if of_what == "cells" else of["subjects"]["n"]
        figures = [_interval(of[of_what][name], _form(name)) for name in names]
        table.rows.append([of["name"], *figures, whole(n)])
        table.marks.append(of["marks"])
    return table


def _interval(figure: dict[str, Any], form: Any) -> str:
    return _between(form(figure["value"]), figure, form)


def _difference(figure: dict[str, Any], form: Any) -> str:
    return _between(form(figure["difference"]), figure, form)


def _between(value: str, figure: dict[str, Any], form: Any) -> str:
    return value if figure["low"] is None else f"{value} ({form(figure['low'])} to {form(figure['high'])})"


def _form(name: str) -> Any:
    return fraction if name in ("auroc", "ece") else percent


def _points_name(name: str) -> str:
    return "AUROC" if name == "auroc" else CELLS[name].removesuffix(" %") + ", points"


def _signed(difference: float | None) -> str:
    return "–" if difference is None else f"{difference:+.3f}".replace("-", "−")
