"""The output of `leukemia evaluate`: every metric with its interval."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.predictions import arrays
from leukemia.reporting import words
from leukemia.reporting.evidence import (
    SettingResult,
    comparison,
    comparisons,
    ensemble_result,
    metrics_of,
    setting_results,
)
from leukemia.reporting.words import count
from leukemia.runs import Run, open_model

MOST_SUBJECTS = 10  # of more, the worst called ones


def evaluated(
    targets: Path | Sequence[Path],
    against: Path | None = None,
    as_json: bool = False,
    problems: list[str] | None = None,
    ensemble: bool = False,
) -> str:
    """The metrics of a run, a sweep (each setting, and their differences) or a table, as text or JSON.

    Args:
        targets: a folder or table; of an ensemble a sweep folder, or several run folders.
        against: another one, to compare with.
        as_json: JSON instead of text.
        problems: as `leukemia.reporting.evidence.setting_results` takes them; they stand at the end.
        ensemble: the metrics of the mean logit, and its difference to the best member.

    Raises:
        InputError: if there are no usable predictions, or those of `against` are of other cells.
    """
    targets = [targets] if isinstance(targets, Path) else targets
    target, about, of_members = targets[0], {}, []
    if ensemble:
        model = open_model(targets)
        if isinstance(model, Run):
            raise InputError(f"--ensemble needs several finished runs, and {target} is one")
        _ = model.data  # refuses members that do not fit together
        whole, members = ensemble_result(setting_results(model))
        models, about = [whole], _about(whole, members)
        best = max(members, key=lambda member: _accuracy(member.replicates[0]))
        of_members = [comparison(best, whole)]
    elif len(targets) > 1:
        raise InputError(
            "several runs are evaluated as one model with --ensemble; to compare two, use --against"
        )
    else:
        models = setting_results(target, problems)
    if against is not None:
        others = setting_results(against)
        if len(models) > 1 or len(others) > 1:
            raise InputError("--against compares two models: name runs, tables or sweeps of one setting")
        if (models[0].name, models[0].runs) == (others[0].name, others[0].runs):  # of two sweeps
            models, others = (
                [replace(of[0], name=str(path))] for of, path in ((models, target), (others, against))
            )
        found = [comparison(models[0], others[0])]
    else:
        found = comparisons(models)
    found = [*of_members, *found]
    metrics = [metrics_of(model) for model in models]
    if as_json:
        content = {**metrics[0], **about} if len(metrics) == 1 else {"settings": metrics}
        return json.dumps({**content, "comparisons": found, "problems": problems or []}, indent=2)
    texts = [*map(_text, metrics), *([_members(about)] if ensemble else []), *map(_compared, found)]
    return "\n\n".join([*texts, *(f"not read: {problem}" for problem in problems or [])])


def _about(whole: SettingResult, members: Sequence[SettingResult]) -> dict[str, Any]:
    """The members of an ensemble, and how far they disagree."""
    table = whole.replicates[0]
    positive = [member.replicates[0].set_index("path")["logit"].loc[table["path"]] >= 0 for member in members]
    votes = np.mean(positive, axis=0)
    return {
        "members": [{"name": member.name, "accuracy": _accuracy(member.replicates[0])} for member in members],
        "disagreement": {
            "probability_sd": float(table["probability_sd"].mean()),
            "classes_differ": float(np.mean((votes > 0) & (votes < 1))),
        },
    }


def _accuracy(table: pd.DataFrame) -> float:
    label, logit = arrays(table)
    return float(np.mean((logit >= 0) == label))


def _members(about: dict[str, Any]) -> str:
    lines = ["accuracy of the members"]
    lines += [f"  {member['name']:40} {member['accuracy']:.4f}" for member in about["members"]]
    apart = about["disagreement"]
    lines.append(
        f"they differ in the class of {apart['classes_differ']:.1%} of the cells; standard deviation of their "
        f"probabilities {apart['probability_sd']:.4f} on average"
    )
    lines.append(
        "NOTE: the best of them was picked on these cells, so the ensemble's gain over it is shown too small"
    )
    return "\n".join(lines)


def _text(metrics: dict[str, Any]) -> str:
    unit = metrics["unit"]
    n = count(metrics["n_images"], "cell")
    n += f" of {count(metrics['n_subjects'], 'subject')}" if metrics["n_subjects"] else ""
    lines = [f"{metrics['name']}: {n}"]
    lines += [f"NOTE: {mark}" for mark in metrics["marks"]]
    if metrics["no_intervals"]:
        lines.append(f"no intervals: {metrics['no_intervals']}")
    else:
        lines.append(f"95 % intervals: bootstrap of {unit}s within class, {metrics['draws']:,} draws")
        if metrics["cells"]["ece"]["low"] is None or metrics["cells"]["loss"]["low"] is None:
            lines.append("no interval of ece or loss where all draws are equal")
    if metrics["too_narrow"]:
        lines.append(
            "NOTE: subjects are unknown, so cells are taken as independent: intervals are too narrow"
        )
    over = metrics["over"]
    lines += [_line(name, found, over) for name, found in metrics["cells"].items()]
    lines.append("baselines without a network")
    lines.append(f"  {'majority, accuracy':25} {metrics['majority_accuracy']:.4f}")
    if metrics["baseline"]:
        alone, above = metrics["baseline"]["cells"], metrics["baseline"]["model_minus_baseline"]
        for name in ("accuracy", "auroc"):
            lines.append(_line(f"handcrafted, {name}", alone[name], over))
            lines.append(
                _line("  model minus handcrafted", {**above[name], "value": above[name]["difference"]})
            )
    if metrics["subjects"]:
        lines.append(f"by subject ({metrics['subjects']['n']})")
        lines += [_line(name, found, over) for name, found in metrics["subjects"].items() if name != "n"]
        lines += _by_subject(metrics["by_subject"], metrics["classes"])
    calibration, selective = metrics["calibration"], metrics["selective"]
    for when in ("before", "after"):
        if calibration[when]:
            text = ", ".join(f"{name} {value:.4f}" for name, value in calibration[when].items())
            lines.append(f"calibration {when}{' (cross-fitted)' * (when == 'after')}: {text}")
    if not calibration["after"]:
        lines.append(f"calibration after (cross-fitted): none: {words.not_cross_fitted(metrics['unit'])}")
    reached = ", ".join(f"{risk}: {share:.3f}" for risk, share in selective["coverage_at_risk"].items())
    lines.append(
        f"selective: AURC {selective['aurc']:.4f}, AUGRC {selective['augrc']:.4f}; coverage at risk {reached}"
    )
    return "\n".join([*lines, *words.unlike(metrics["unlike"])])


def _by_subject(rows: list[dict[str, Any]], classes: list[str]) -> list[str]:
    """Each subject, the worst called first."""
    worst = sorted(rows, key=lambda row: row["accuracy"])[:MOST_SUBJECTS]
    lines = [
        f"  {'subject':12} {'class':>10} {'cells':>6} {'accuracy':>26} {'called ' + classes[1]:>14} {'mean logit':>11}"
    ]
    for row in worst:
        label = "both" if row["label"] is None else classes[row["label"]]
        interval = f"{row['accuracy']:.4f}  [{row['accuracy_low']:.4f}, {row['accuracy_high']:.4f}]"
        lines.append(
            f"  {row['subject']:12} {label:>10} {row['n']:>6,} {interval:>26} {row['share_positive']:>14.4f} "
            f"{row['mean_logit']:>11.3f}"
        )
    if len(rows) > len(worst):
        lines.append(f"  {len(rows) - len(worst):,} more subjects, called better: see --json")
    return lines


def _compared(found: dict[str, Any]) -> str:
    lines = [f"{found['second']} minus {found['first']}, the same cells (paired)"]
    lines += [f"NOTE: {mark}" for mark in found["marks"]]
    differences = {name: value for name, value in found.items() if isinstance(value, dict)}
    lines += [_line(name, {**value, "value": value["difference"]}) for name, value in differences.items()]
    return "\n".join(lines)


def _line(name: str, found: dict[str, Any], over: str = "seeds") -> str:
    def text(number: float | None) -> str:
        return "–" if number is None else f"{number:.4f}"

    line = f"  {name:25} {text(found['value'])}  [{text(found['low'])}, {text(found['high'])}]"
    if found.get("sd") is not None:
        line += f"  over {over}: sd {text(found['sd'])}, {text(found['lowest'])} to {text(found['highest'])}"
    return line
