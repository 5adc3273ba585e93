"""The ranking of networks: each against the best one and the handcrafted baseline on the same cells, with its cost and
its curve by number of training subjects."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.bootstrap import compare, evaluate
from leukemia.evaluation.metrics import METRICS
from leukemia.reporting import words
from leukemia.reporting.evidence import SettingResult
from leukemia.reporting.results import COSTS

TRAIN_SUBJECTS = "data.train_subjects"
BY = METRICS["accuracy"]
HANDCRAFTED = "handcrafted"


def ranking(models: Sequence[SettingResult], results: pd.DataFrame) -> list[dict[str, Any]]:
    """The settings of a sweep by accuracy, the best first, with the handcrafted baseline in its place.

    Args:
        models: the settings; those that differ in `data.train_subjects` alone are one entry, which is ranked by the
            one with most subjects.
        results: the results table of their runs.

    Returns:
        Empty for one network without a curve, else for each entry: `name`, `settings` (without the number of subjects),
        `cells` as `evaluate` gives them; `minus_best` and `minus_handcrafted` as `compare` gives them, None of an
        entry itself, of other cells, and without a baseline; `curve`: a pair of the number of training subjects (mean
        of the folds) and `cells` for each number, the least first; `norm`, `megabytes` and `embed_seconds` of its
        network (None where unknown); `marks`.
    """
    entries: dict[str, list[SettingResult]] = {}
    for model in models:
        entries.setdefault(repr(_without_count(model.settings)), []).append(model)
    if len({model.settings.get("network") for model in models}) < 2 and len(entries) == len(models):
        return []
    found = [_entry(of, results) for of in entries.values()]
    first = max(found, key=lambda entry: _value(entry["cells"]))
    if first["baselines"]:
        curve = [(n, evaluate(tables)["cells"]) for n, tables in first["baselines"]]
        found.append({
            "name": HANDCRAFTED, "settings": {"network": HANDCRAFTED}, "cells": curve[-1][1], "curve": curve,
            "tables": first["baselines"][-1][1], "marks": [], **dict.fromkeys(COSTS),
        })  # fmt: skip
    found.sort(key=lambda entry: -_value(entry["cells"]))
    handcrafted = next((entry for entry in found if entry["name"] == HANDCRAFTED), None)
    for entry in found:
        entry["minus_best"] = _minus(entry, found[0])
        entry["minus_handcrafted"] = _minus(entry, handcrafted)
    return [
        {key: value for key, value in entry.items() if key not in ("tables", "baselines")} for entry in found
    ]


def shown(difference: dict[str, float | None] | None) -> str:
    """Whether the interval of a difference leaves out zero, in words."""
    if difference is None or difference["low"] is None or difference["high"] is None:
        return "–"
    return "shown" if difference["low"] > 0 or difference["high"] < 0 else "not shown"


def ranking_text(ranked: Sequence[dict[str, Any]]) -> str:
    """The ranking as lines for a terminal."""
    lines = [f"ranked by {BY.title.lower()} (95 % intervals; paired difference to the first)"]
    lines += [f"NOTE: {mark}" for mark in dict.fromkeys(mark for entry in ranked for mark in entry["marks"])]
    for place, entry in enumerate(ranked, start=1):
        value = words.between(entry["cells"][BY.name], "value", words.percent)
        line = f"{place:3}. {entry['name']}: {value} %"
        if entry["minus_best"]:
            apart = entry["minus_best"][BY.name]
            line += f", {words.between(apart, 'difference', words.points)} points, {shown(apart)}"
        if entry["embed_seconds"] is not None:
            line += (
                f"; {milliseconds(entry['embed_seconds'])} ms a cell, {words.whole(entry['megabytes'])} MB"
            )
        lines.append(line)
    return "\n".join(lines)


def milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.3g}"


def _entry(models: list[SettingResult], results: pd.DataFrame) -> dict[str, Any]:
    """The models of one setting, which differ in the number of training subjects."""
    models = sorted(models, key=lambda model: _count(model.settings))
    most, settings = models[-1], _without_count(models[-1].settings)
    counted = results.set_index("run")["train_subjects"].astype(float)
    numbers = [
        float(model.settings.get(TRAIN_SUBJECTS) or counted.loc[model.runs].mean()) for model in models
    ]
    of_network = results[results["network"] == settings.get("network")]
    norm, *costs = (of_network[name].dropna() for name in COSTS)
    curve = [(n, evaluate(model.replicates)["cells"]) for n, model in zip(numbers, models, strict=True)]
    baselines = [(n, model.baselines) for n, model in zip(numbers, models, strict=True)]
    return {
        "name": words.describe(settings),
        "settings": settings,
        "cells": curve[-1][1],
        "curve": curve,
        "tables": most.replicates,
        "baselines": baselines if all(tables for _, tables in baselines) else None,
        "norm": norm.iloc[0] if len(norm) else None,
        **{name: float(of.median()) if len(of) else None for name, of in zip(COSTS[1:], costs, strict=True)},
        "marks": most.marks,
    }


def _minus(entry: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any] | None:
    if other is None or entry is other:
        return None
    try:
        return compare(other["tables"], entry["tables"])
    except InputError:  # other cells
        return None


def _without_count(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != TRAIN_SUBJECTS}


def _count(settings: dict[str, Any]) -> float:
    """The number of training subjects; all of them where none is set."""
    return float(settings.get(TRAIN_SUBJECTS) or "inf")


def _value(cells: dict[str, Any]) -> float:
    return float(cells[BY.name]["value"])
