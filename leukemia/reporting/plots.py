"""Figures of a sweep. Each is a matplotlib figure without global state."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leukemia.evaluation.metrics import METRICS, confusion
from leukemia.reporting import drawing, words
from leukemia.reporting.results import class_names, combinations, stage_order

Combination = tuple[dict[str, Any], pd.DataFrame]
CURVES = ("loss", "accuracy")
SPLITS = (
    ("train", "training, running average", drawing.BLUE, "o--"),
    ("val", "validation", drawing.VERMILLION, "s-"),
)


def heat_maps(results: pd.DataFrame) -> list[Figure]:
    """Mean accuracy in % by network and first stage that trains, with its spread and n: a figure for every
    combination of the other settings. Empty where each has one network and stage alone, as in a search."""
    found = combinations(results)
    means = [runs["accuracy"].mean() for _, runs in found]
    panels: dict[str, list[Combination]] = {}
    for settings, runs in found:
        panels.setdefault(words.others(settings), []).append((settings, runs))
    if all(len(cells) == 1 for cells in panels.values()):
        return []
    return [_heat_map(others, cells, min(means), max(means)) for others, cells in panels.items()]


def roc_curves(results: pd.DataFrame, predictions: Mapping[str, pd.DataFrame]) -> list[Figure]:
    """ROC curves: a figure for every network and combination of other settings, a line a run, a colour a stage.

    Args:
        predictions: tables by the name of their run. Runs without one, or with one class only, are left out.
    """
    panels: dict[str, list[Combination]] = {}
    found = combinations(results)
    stages = _stages(found)
    for settings, runs in found:
        drawn = runs[runs["run"].isin(list(predictions)) & runs["auroc"].notna()]
        if len(drawn):
            title = ", ".join(filter(None, (words.network(settings["network"]), words.others(settings))))
            panels.setdefault(title, []).append((settings, drawn))
    return [_roc(title, lines, predictions, stages) for title, lines in panels.items()]


def confusion_matrices(results: pd.DataFrame, predictions: Mapping[str, pd.DataFrame]) -> list[Figure]:
    """Cells by true and called class: a figure for every combination, summed over its seeds and folds.

    Args:
        predictions: tables by the name of their run. Runs without one are left out.
    """
    figures = []
    for settings, runs in combinations(results):
        drawn = runs[runs["run"].isin(list(predictions))]
        if len(drawn):
            counts = np.sum([confusion(predictions[name]) for name in drawn["run"]], axis=0)
            figures.append(_confusion(words.describe(settings), drawn, counts))
    return figures


def learning_curves(history: pd.DataFrame, title: str, run: Mapping[Any, Any], marks: list[str]) -> Figure:
    """Loss and accuracy by epoch, training against validation, with the best epoch and the gap there.

    Args:
        history: `epoch` from 1; `train/loss, val/loss, train/accuracy, val/accuracy`, each where it is known.
        run: `best_epoch`, `train_accuracy` and `train_val_gap` of the run, missing where unknown.
    """
    figure = drawing.new_figure(drawing.WIDTH, 3.9)
    axes = figure.subplots(2, 1, sharex=True)
    best, accuracy, gap = (run.get(name) for name in ("best_epoch", "train_accuracy", "train_val_gap"))
    for ax, name in zip(axes, CURVES, strict=True):
        scale, unit = (100, ", %") if METRICS[name].format == "percent" else (1, "")
        for split, label, colour, look in SPLITS:
            if f"{split}/{name}" in history:
                ax.plot(
                    history["epoch"], scale * history[f"{split}/{name}"], look, color=colour, label=label,
                    lw=1.3, ms=3.5, markevery=max(1, len(history) // 12),
                )  # fmt: skip
        if not pd.isna(best):
            ax.axvline(best, color=drawing.GREY, lw=1, ls=":", label=f"best epoch ({best:.0f})")
        drawing.style(ax, "", METRICS[name].title + unit)
    if not pd.isna(best) and not pd.isna(accuracy):
        marker = {"color": drawing.BLUE, "mfc": "white", "ms": 5, "label": "training, at that epoch"}
        axes[1].plot([best], [100 * accuracy], "D", **marker)
    if not pd.isna(gap):
        axes[1].set_title(f"train–validation gap {words.points(gap)} points", fontsize=drawing.SMALL)
    axes[1].set_xlabel("Epoch", fontsize=drawing.TEXT)
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    return drawing.with_legend(figure, title, marks)


def _heat_map(others: str, cells: list[Combination], low: float, high: float) -> Figure:
    networks = list(dict.fromkeys(settings["network"] for settings, _ in cells))
    stages = _stages(cells)
    height, width = len(networks), len(stages)
    figure, ax = drawing.new_plot(1 + 0.62 * height, max(drawing.WIDTH, 1 + 0.95 * width))
    shades = np.full((height, width), np.nan)
    for settings, runs in cells:
        row, column = networks.index(settings["network"]), stages.index(settings["trainable_from"])
        mean, sd = runs["accuracy"].mean(), runs["accuracy"].std(ddof=1)
        shades[row, column] = shade = 0.5 if low == high else (mean - low) / (high - low)
        star = "*" if any(mark.startswith(words.NOT_BETTER) for mark in words.marks(runs)) else ""
        spread = "n 1" if pd.isna(sd) else f"± {100 * sd:.2f}, n {len(runs)}"
        _two_lines(ax, column, row, words.percent(mean) + star, spread, drawing.ink("cividis", shade))
    for row, column in np.argwhere(np.isnan(shades)):
        ax.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color=drawing.GREY)
    ax.pcolormesh(np.ma.masked_invalid(shades), cmap="cividis", vmin=0, vmax=1, edgecolors="white", lw=2)
    _grid_of_cells(ax, list(map(words.value, stages)), list(map(words.network, networks)))
    ax.set_xlabel("Trains from", fontsize=drawing.TEXT)
    marks = words.marks(pd.concat([runs for _, runs in cells]))
    marks = [f"* {mark}" if mark.startswith(words.NOT_BETTER) else mark for mark in marks]
    title = f"{METRICS['accuracy'].title}, %"
    return drawing.titled(figure, ", ".join(filter(None, (title, others))), marks)


def _roc(
    title: str, lines: list[Combination], predictions: Mapping[str, pd.DataFrame], stages: list[Any]
) -> Figure:
    from sklearn.metrics import roc_curve

    figure, ax = drawing.new_plot(3.6)
    ax.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    for settings, runs in lines:
        stage = settings["trainable_from"]
        place_of = stages.index(stage)
        label = f"{words.value(stage)}: {METRICS['auroc'].title} {words.fraction(runs['auroc'].mean())}"
        label += f", n {len(runs)}" if len(runs) > 1 else ""
        for place, name in enumerate(runs["run"]):
            false_alarms, hits, _ = roc_curve(predictions[name]["label"], predictions[name]["logit"])
            ax.plot(
                false_alarms, hits, color=drawing.COLOURS[place_of % len(drawing.COLOURS)],
                ls=drawing.DASHES[place_of % len(drawing.DASHES)],
                lw=1.7 if len(runs) == 1 else 0.9, label=drawing.plain(label) if place == 0 else None,
            )  # fmt: skip
    drawing.style(ax, "False alarms (1 − specificity)", "Sensitivity")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return drawing.with_legend(figure, f"ROC, {title}", words.marks(pd.concat([runs for _, runs in lines])))


def _confusion(title: str, runs: pd.DataFrame, counts: np.ndarray) -> Figure:
    names = [words.short(name) for name in class_names(runs)]
    figure, ax = drawing.new_plot(2.9, 2.9)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", lw=2)
    for row, column in np.ndindex(2, 2):
        ink = drawing.ink("Blues", shares[row, column])
        _two_lines(ax, column, row, f"{counts[row, column]:,}", f"{100 * shares[row, column]:.1f} %", ink)
    _grid_of_cells(ax, names, names)
    ax.tick_params(axis="y", labelrotation=90)
    ax.set_xlabel("Called", fontsize=drawing.TEXT)
    ax.set_ylabel("True class", fontsize=drawing.TEXT)
    title += f" ({len(runs)} runs)" if len(runs) > 1 else ""
    return drawing.titled(figure, title, words.marks(runs))


def _grid_of_cells(ax: Any, columns: list[str], rows: list[str]) -> None:
    """The axes of a table of coloured cells, its first row on top."""
    ax.set_xticks(np.arange(len(columns)) + 0.5, map(drawing.plain, columns), fontsize=drawing.TEXT)
    ax.set_yticks(np.arange(len(rows)) + 0.5, map(drawing.plain, rows), fontsize=drawing.TEXT, va="center")
    ax.tick_params(length=0)
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)


def _two_lines(ax: Any, column: int, row: int, upper: str, lower: str, colour: str) -> None:
    middle = {"ha": "center", "color": colour}
    ax.text(column + 0.5, row + 0.5, upper, va="bottom", fontsize=drawing.LARGE, weight="bold", **middle)
    ax.text(column + 0.5, row + 0.55, lower, va="top", fontsize=drawing.SMALL, **middle)


def _stages(cells: list[Combination]) -> list[Any]:
    """The distinct first stages that train, frozen ones first."""
    return sorted({settings["trainable_from"] for settings, _ in cells}, key=stage_order)
