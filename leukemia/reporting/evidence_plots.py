"""The report's plots of evidence: subjects, reliability, risk against coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from leukemia.evaluation.calibration import cross_fitted, reliability
from leukemia.evaluation.decision import decision_curve
from leukemia.evaluation.metrics import decision_confidence
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.predictions import arrays
from leukemia.evaluation.selective import curve_of
from leukemia.evaluation.thresholds import outcome
from leukemia.reporting import drawing

ROW = 0.125  # inches of a subject's bar
MOST_BARS = 24  # of a class
MOST_STEPS = 300  # of a curve; more cannot be told apart


def subject_bars(
    rows: Sequence[dict[str, Any]], classes: Sequence[str], title: str, marks: list[str]
) -> Figure:
    """A bar for each subject: the share of its cells that are called correctly, with its 95 % interval (Wilson's),
    sorted, the positive class apart from the negative one; of many subjects the worst called ones.

    Args:
        rows: as `leukemia.evaluation.subjects.by_subject` gives them.
        classes: the names of class 0 and class 1.
    """
    names = {1: classes[1], 0: classes[0], None: "both classes"}
    groups = [(name, [row for row in rows if row["label"] == label]) for label, name in names.items()]
    groups = [(name, sorted(of, key=lambda row: row["accuracy"])[:MOST_BARS]) for name, of in groups if of]
    left_out = len(rows) - sum(len(of) for _, of in groups)
    heights = [len(of) for _, of in groups]
    figure = drawing.new_figure(drawing.WIDTH, ROW * sum(heights) + 0.55 * len(groups) + 0.5)
    axes = figure.subplots(len(groups), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    colours = {classes[1]: drawing.VERMILLION, classes[0]: drawing.BLUE}
    for ax, (name, of) in zip(axes, groups, strict=True):
        value = 100 * np.array([row["accuracy"] for row in of])
        ends = 100 * np.array([[row["accuracy_low"], row["accuracy_high"]] for row in of]).T
        place = np.arange(len(of))
        colour = colours.get(name, drawing.GREY)
        ax.barh(place, value, color=colour, alpha=0.45, height=0.75)
        ax.errorbar(value, place, xerr=np.abs(ends - value), fmt="o", color=colour, ms=2.5, lw=1, capsize=1.5)
        ax.axvline(50, color=drawing.GREY, lw=0.8, ls=":")
        ax.set_yticks(place, [f"{drawing.plain(row['subject'])} ({row['n']:,})" for row in of])
        ax.set_ylim(-0.7, len(of) - 0.3)
        drawing.style(ax, "", f"{drawing.plain(name)} subjects")
        ax.tick_params(axis="y", labelsize=5.5)
        ax.grid(axis="y", visible=False)
    axes[-1].set_xlim(0, 100)
    axes[-1].set_xlabel("Cells called correctly, % (95 % interval)", fontsize=drawing.TEXT)
    what = f"The {len(rows) - left_out} worst called of {len(rows)} subjects" if left_out else "Subjects"
    return drawing.titled(figure, f"{what} (cells), {title}", marks)


def curves_by_train_subjects(ranked: Sequence[dict[str, Any]]) -> list[Figure]:
    """Accuracy by the number of training subjects: a figure for each first stage that trains, a line a network, beside
    the handcrafted baseline. Empty where one number was tried.

    Args:
        ranked: as `leukemia.reporting.ranking.ranking` gives it.
    """
    lines = [of for of in ranked if len(of["curve"]) > 1]
    stages = dict.fromkeys(s for of in lines if (s := of["settings"].get("trainable_from")) is not None)
    figures = []
    for stage in stages:
        figure, ax = drawing.new_plot(3.0)
        drawn = [of for of in lines if of["settings"].get("trainable_from", stage) == stage]
        for place, of in enumerate(drawn):
            metrics = [cells["accuracy"] for _, cells in of["curve"]]
            value = 100 * np.array([each["value"] for each in metrics])
            low, high = (
                100 * np.array([np.nan if each[end] is None else each[end] for each in metrics])
                for end in ("low", "high")
            )
            handcrafted = "trainable_from" not in of["settings"]
            ax.errorbar(
                [n * (1 + 0.015 * place) for n, _ in of["curve"]], value, yerr=[value - low, high - value],
                ms=3, lw=1.2, elinewidth=0.7, capsize=1.5, marker="o", label=drawing.plain(of["name"]),
                ls=":" if handcrafted else "-",
                color=drawing.GREY if handcrafted else drawing.COLOURS[place % len(drawing.COLOURS)],
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        drawing.style(ax, "Training subjects", "Accuracy, % (95 % interval)")
        marks = list(dict.fromkeys(mark for of in drawn for mark in of["marks"]))
        figures.append(drawing.with_legend(figure, f"Accuracy by training subjects, from {stage}", marks))
    return figures


def reliability_diagram(table: pd.DataFrame, title: str, marks: list[str]) -> Figure:
    """Accuracy against the decision's confidence in bins of equal mass, with counts, as predicted and as recalibrated
    on other subjects (where that can be)."""
    label, logit = arrays(table)
    figure = drawing.new_figure(drawing.WIDTH, 3.9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([50, 100], [50, 100], color="#999999", lw=0.8)
    lines = [
        ("as predicted", logit, drawing.VERMILLION, "o--", "stepfilled"),
        ("recalibrated", cross_fitted(table), drawing.BLUE, "s-", "step"),
    ]
    for name, logits, colour, look, kind in lines:
        if logits is None:
            continue
        bins = reliability(label, logits)
        value = 100 * bins["accuracy"]
        below, above = value - 100 * bins["low"], 100 * bins["high"] - value
        upper.errorbar(
            100 * bins["confidence"], value, yerr=[below, above], fmt=look, color=colour, ms=3.5, lw=1.2,
            elinewidth=0.7, capsize=1.5, label=name,
        )  # fmt: skip
        lower.hist(
            100 * decision_confidence(logits), bins=np.linspace(50, 100, 26), color=colour, histtype=kind, lw=1.2,
            alpha=0.45 if kind == "stepfilled" else 1,
        )  # fmt: skip
    drawing.style(upper, "", "Accuracy, %")
    drawing.style(lower, "Confidence of the decision, %", "Cells")
    upper.set(xlim=(49, 101), ylim=(min(45.0, upper.get_ylim()[0]), 101))
    return drawing.with_legend(figure, f"Reliability, {title}", marks)


def risk_coverage_plot(table: pd.DataFrame, policy: Policy | None, title: str, marks: list[str]) -> Figure:
    """The share of wrong decisions among the most certain cells, against the share that is decided, and the operating
    point of the triage policy."""
    curve = curve_of(table)
    kept = curve[curve["whole"]]
    kept = kept.iloc[np.unique(np.linspace(0, len(kept) - 1, MOST_STEPS).round().astype(int))]
    figure, ax = drawing.new_plot(3.0)
    ax.plot(
        100 * kept["coverage"], 100 * kept["risk"], drawstyle="steps-post", color=drawing.BLUE, lw=1.4,
        label="most certain first",
    )  # fmt: skip
    if policy is not None:
        coverage, risk = operating_point(table, policy)
        if coverage:
            sure = "certified" if policy.certified else "not certified"
            ax.plot(
                [100 * coverage], [100 * risk], "D", color=drawing.VERMILLION, mfc="white", ms=6,
                label=f"triage, {sure}: {100 * coverage:.1f} % released",
            )  # fmt: skip
    drawing.style(ax, "Coverage: cells decided without review, %", "Risk: wrong among them, %")
    ax.set(xlim=(0, 101), ylim=(0, None))
    return drawing.with_legend(figure, f"Risk and coverage, {title}", marks)


def decision_curves(tables: Sequence[tuple[str, pd.DataFrame]], marks: list[str]) -> Figure:
    """Net benefit against the threshold probability: a line a setting, beside calling all cells positive, and none.

    Args:
        tables: name and predictions of each setting, of the same cells.
    """
    figure, ax = drawing.new_plot(3.0)
    ax.axhline(0, color=drawing.GREY, lw=0.9, label="none called positive")
    for place, (name, table) in enumerate(tables):
        curve = decision_curve(table)
        at = 100 * curve["threshold"]
        if place == 0:
            ax.plot(at, curve["all"], color=drawing.GREY, lw=0.9, ls=":", label="all called positive")
        look = {"color": drawing.COLOURS[place], "ls": drawing.DASHES[place]}
        ax.plot(at, curve["model"], lw=1.5, label=drawing.plain(name), **look)
    top = float(tables[0][1]["label"].mean())
    drawing.style(ax, "Threshold probability of the positive class, %", "Net benefit")
    ax.set(xlim=(0, 100), ylim=(-0.1 * top, 1.05 * top))
    return drawing.with_legend(figure, "Decision curves", marks)


def operating_point(table: pd.DataFrame, policy: Policy) -> tuple[float, float]:
    """Coverage of a policy on a table, and the share of the released cells that are released wrongly."""
    rows = outcome(table, policy, ("0", "1"))
    released = int((rows["cells"] - rows["review"]).sum())
    wrong = int(rows["as_negative"][0] + rows["as_positive"][1])  # positive cells come first
    return released / len(table), wrong / released if released else 0.0
