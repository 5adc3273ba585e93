"""What `leukemia evaluate` prints: every figure with its interval."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from leukemia.errors import InputError
from leukemia.reporting import words
from leukemia.reporting.evidence import comparison, comparisons, metrics_of, setting_results
from leukemia.reporting.words import count

MOST_SUBJECTS = 40  # of more, the worst called ones


def evaluated(
    target: Path, against: Path | None = None, as_json: bool = False, problems: list[str] | None = None
) -> str:
    """The figures of a run, a sweep (each setting, and their differences) or a table, as text or JSON.

    Args:
        target, against: folders or tables; of two, their difference is told too.
        as_json: whether as JSON.
        problems: as `leukemia.reporting.evidence.setting_results` takes them; they are told at the end.

    Raises:
        InputError: if there are no predictions that can be used, or those of `against` are of other cells.
    """
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
    figures = [metrics_of(model) for model in models]
    if as_json:
        whole = len(figures) == 1
        content = figures[0] if whole else {"settings": figures}
        return json.dumps({**content, "comparisons": found, "problems": problems or []}, indent=2)
    told = [*map(_told, figures), *map(_compared, found)]
    return "\n\n".join([*told, *(f"not read: {problem}" for problem in problems or [])])


def _told(figures: dict[str, Any]) -> str:
    unit = figures["unit"]
    n = count(figures["n_images"], "cell")
    n += f" of {count(figures['n_subjects'], 'subject')}" if figures["n_subjects"] else ""
    lines = [f"{figures['name']}: {n}"]
    lines += [f"NOTE: {mark}" for mark in figures["marks"]]
    if figures["no_intervals"]:
        lines.append(f"no intervals: {figures['no_intervals']}")
    else:
        lines.append(f"95 % intervals: bootstrap of {unit}s within class, {figures['draws']:,} draws")
        if figures["cells"]["ece"]["low"] is None or figures["cells"]["loss"]["low"] is None:
            lines.append("no interval of ece or loss where all draws are the same")
    if figures["too_narrow"]:
        lines.append(
            "NOTE: subjects are unknown, so cells are taken as independent: intervals are too narrow"
        )
    over = figures["over"]
    lines += [_line(name, figure, over) for name, figure in figures["cells"].items()]
    lines.append("baselines that need no network")
    lines.append(f"  {'majority, accuracy':22} {figures['majority_accuracy']:.4f}")
    if figures["baseline"]:
        alone, above = figures["baseline"]["cells"], figures["baseline"]["model_minus_baseline"]
        for name in ("accuracy", "auroc"):
            lines.append(_line(f"shape, {name}", alone[name], over))
            lines.append(_line("  model minus shape", {**above[name], "value": above[name]["difference"]}))
    if figures["subjects"]:
        lines.append(f"by subject ({figures['subjects']['n']})")
        lines += [_line(name, figure, over) for name, figure in figures["subjects"].items() if name != "n"]
        lines += _by_subject(figures["by_subject"], figures["classes"])
    calibration, selective = figures["calibration"], figures["selective"]
    for when in ("before", "after"):
        if calibration[when]:
            said = ", ".join(f"{name} {value:.4f}" for name, value in calibration[when].items())
            lines.append(f"calibration {when}{' (cross-fitted)' * (when == 'after')}: {said}")
    if not calibration["after"]:
        lines.append(f"calibration after (cross-fitted): none, {words.not_cross_fitted(figures['unit'])}")
    reached = ", ".join(f"{risk}: {share:.3f}" for risk, share in selective["coverage_at_risk"].items())
    lines.append(
        f"selective: AURC {selective['aurc']:.4f}, AUGRC {selective['augrc']:.4f}; coverage at risk {reached}"
    )
    return "\n".join(lines)


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
        lines.append(f"  {len(rows) - len(worst):,} more subjects, called better: --json")
    return lines


def _compared(found: dict[str, Any]) -> str:
    lines = [f"{found['second']} minus {found['first']}, the same cells (paired)"]
    lines += [f"NOTE: {mark}" for mark in found["marks"]]
    differences = {name: value for name, value in found.items() if isinstance(value, dict)}
    lines += [_line(name, {**value, "value": value["difference"]}) for name, value in differences.items()]
    return "\n".join(lines)


def _line(name: str, figure: dict[str, Any], over: str = "seeds") -> str:
    def text(number: float | None) -> str:
        return "–" if number is None else f"{number:.4f}"

    line = f"  {name:22} {text(figure['value'])}  [{text(figure['low'])}, {text(figure['high'])}]"
    if figure.get("sd") is not None:
        line += (
            f"  over {over}: sd {text(figure['sd'])}, {text(figure['lowest'])} to {text(figure['highest'])}"
        )
    return line
