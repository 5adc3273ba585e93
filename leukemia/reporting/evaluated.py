"""What `leukemia evaluate` prints: every figure with its interval."""

import json
from pathlib import Path
from typing import Any

from leukemia.errors import InputError
from leukemia.evidence import comparison, figures_of, models_of
from leukemia.reporting.words import count

MOST_PAIRED = 6  # settings; of more, each is compared with the first alone


def evaluated(target: Path, against: Path | None = None, as_json: bool = False) -> str:
    """The figures of a run, a sweep (each setting, and their differences) or a table, as text or JSON.

    Raises:
        InputError: if there are no predictions that can be used, or those of `against` are of other cells.
    """
    models = models_of(target)
    if against is not None:
        others = models_of(against)
        if len(models) > 1 or len(others) > 1:
            raise InputError("--against compares two models: name runs, tables or sweeps of one setting")
        comparisons = [comparison(models[0], others[0])]
    else:
        comparisons = _comparisons(models)
    figures = [figures_of(model) for model in models]
    if as_json:
        whole = len(figures) == 1
        content = figures[0] if whole else {"settings": figures}
        return json.dumps({**content, "comparisons": comparisons}, indent=2)
    return "\n\n".join([*map(_told, figures), *map(_compared, comparisons)])


def _comparisons(models: list[Any]) -> list[dict[str, Any]]:
    """Differences of the settings that report on the same cells."""
    firsts = models if len(models) <= MOST_PAIRED else models[:1]
    found = []
    for place, first in enumerate(firsts):
        for second in models[place + 1 :]:
            try:
                found.append(comparison(first, second))
            except InputError:  # other cells, as of another split
                continue
    return found


def _told(figures: dict[str, Any]) -> str:
    unit = figures["unit"]
    n = count(figures["n_images"], "cell")
    n += f" of {count(figures['n_subjects'], 'subject')}" if figures["n_subjects"] else ""
    lines = [f"{figures['name']}: {n}"]
    lines += [f"NOTE: {mark}" for mark in figures["marks"]]
    lines.append(f"95 % intervals: bootstrap of {unit}s within class, {figures['draws']:,} draws")
    if figures["too_narrow"]:
        lines.append(
            "NOTE: subjects are unknown, so cells are taken as independent: intervals are too narrow"
        )
    lines.append(f"  {'majority class':22} {figures['majority_accuracy']:.4f}")
    lines += [_line(name, figure) for name, figure in figures["cells"].items()]
    if figures["subjects"]:
        lines.append(f"by subject ({figures['subjects']['n']})")
        lines += [_line(name, figure) for name, figure in figures["subjects"].items() if name != "n"]
    calibration, selective = figures["calibration"], figures["selective"]
    for when in ("before", "after"):
        if calibration[when]:
            said = ", ".join(f"{name} {value:.4f}" for name, value in calibration[when].items())
            lines.append(f"calibration {when}{' (cross-fitted)' * (when == 'after')}: {said}")
    reached = ", ".join(f"{risk}: {share:.3f}" for risk, share in selective["coverage_at_risk"].items())
    lines.append(
        f"selective: AURC {selective['aurc']:.4f}, AUGRC {selective['augrc']:.4f}; coverage at risk {reached}"
    )
    return "\n".join(lines)


def _compared(found: dict[str, Any]) -> str:
    lines = [f"{found['second']} minus {found['first']}, the same cells (paired)"]
    differences = {name: value for name, value in found.items() if isinstance(value, dict)}
    lines += [_line(name, {**value, "value": value["difference"]}) for name, value in differences.items()]
    return "\n".join(lines)


def _line(name: str, figure: dict[str, Any]) -> str:
    def text(number: float | None) -> str:
        return "–" if number is None else f"{number:.4f}"

    line = f"  {name:22} {text(figure['value'])}  [{text(figure['low'])}, {text(figure['high'])}]"
    if figure.get("sd") is not None:
        line += (
            f"  over seeds: sd {text(figure['sd'])}, {text(figure['lowest'])} to {text(figure['highest'])}"
        )
    return line
