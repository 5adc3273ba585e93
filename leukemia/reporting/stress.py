"""The results of `leukemia stress` as a sentence, a table and a figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukemia.errors import InputError, quoted
from leukemia.evaluation.metrics import METRICS
from leukemia.evaluation.policy import Policy
from leukemia.reporting import drawing, words
from leukemia.reporting.text_tables import Printed
from leukemia.reporting.words import percent, points
from leukemia.runs import Run

Results = Mapping[str, Any]  # the content of stress.json
COLUMNS = 2
PANEL = 1.35  # inches, the height of a shift's plot
RATES = {
    "missed": "Missed",
    "false_alarm": "False alarm",
    "released": "Released",
    "stopped": "Stopped by the gate",
}


@dataclass
class StressPage:
    """The part of the report on one run."""

    sentence: str
    table: Printed
    figure: Figure


def stress_page(run: Run) -> StressPage | None:
    """The part of the report on a run; None where `leukemia stress` was not called.

    Raises:
        InputError: if stress.json is damaged, or of another run.
    """
    found = run.stress
    if found is None:
        return None
    where = f"{run.folder / 'stress.json'}"
    if found.get("model") != run.model:
        raise InputError(f"{where} is of another model than this run: call `leukemia stress` again")
    try:
        policy = None if found["policy"] is None else Policy.from_json(found["policy"])
        if (policy is None) != (run.policy is None) or policy != run.policy:
            raise InputError(f"{where} is of another triage policy: call `leukemia stress` again")
        return StressPage(sentence(found), stress_table(found), stress_figure(found, run.name))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is damaged ({quoted(error)}): call `leukemia stress` again") from None


def sentence(results: Results) -> str:
    """Up to which strength of each shift the model is safe."""
    reached, nowhere = [], []
    for shift in results["shifts"]:
        below, above = _ends(shift)
        if below is None and above is None:
            nowhere.append(_within(shift["title"]))
        else:
            ends = [shift["none"] if end is None else end for end in (below, above)]
            kept = ends if len(shift["until"]) > 1 else {below, above} - {None}
            said = " to ".join(f"{end:g}" for end in kept)
            reached.append(f"{_within(shift['title'])} {said} ({shift['unit']})")
    ranges = f"up to {', '.join(reached)}" if reached else "under no shift"
    rest = f"; at no tried strength of {', '.join(nowhere)}" if reached and nowhere else ""
    if results["certified"]:
        policy = results["policy"]
        with_gate = " and its gate" if results["gate"] else ""
        if False in results["none"]["holds"].values():
            return (
                f"The certified bounds are not shown on {results['what']}, even without a shift: they are too few, or "
                "unlike those that certified the policy."
            )
        return (
            f"With its triage policy{with_gate} this model is shown to keep its certified bounds (missed at most "
            f"{policy['max_missed']:g}, false alarm at most {policy['max_false_alarm']:g}) {ranges}{rest}, on "
            f"{results['what']}; each shift alone."
        )
    return (
        "Nothing is said on safety, because there is no certified triage policy (`leukemia triage`). Accuracy is not "
        f"shown to fall {ranges}{rest}, on {results['what']}; each shift alone."
    )


def stress_table(results: Results) -> Printed:
    """A row a shift and strength: the metrics, and the differences from the same cells without the shift."""
    rates = [name for name in RATES if name in results["none"] and (name != "stopped" or results["gate"])]
    gated = ("missed", "false_alarm") if "without_gate" in results["none"] else ()
    names = [words.heading(METRICS[name]) for name in ("accuracy", "auroc", "ece")]
    differences = [f"{METRICS['accuracy'].title}, points", *(f"{name}, difference" for name in names[1:])]
    columns = ["Shift", "Strength", names[0], *differences, *(f"{RATES[name]} %" for name in rates)]
    columns += [f"{RATES[name]} without the gate %" for name in gated]
    table = Printed([*columns, *(["Bounds"] if results["certified"] else [])], 2)
    none = {"strength": None, **results["none"]}
    rows = [(of, entry) for of in results["shifts"] for entry in of["strengths"]]
    for shift, entry in [(None, none), *rows]:
        row = ["none" if shift is None else shift["title"]]
        row += ["–" if shift is None else f"{entry['strength']:g} ({shift['unit']})"]
        row += [percent(entry["accuracy"]["value"]), _apart(entry["accuracy"], points)]
        row += [_apart(entry[name], words.signed) for name in ("auroc", "ece")]
        row += [f"{percent(entry[name]['value'])} ({_apart(entry[name], points)})" for name in rates]
        row += [percent(entry["without_gate"][name]["value"]) for name in gated]
        if results["certified"]:
            failed = [RATES[name].lower() for name, holds in entry["holds"].items() if holds is False]
            row.append(f"not shown: {', '.join(failed)}" if failed else "hold")
        table.add(row, [])
    return table


def stress_figure(results: Results, title: str) -> Figure:
    """A plot for each shift: accuracy and, with a policy, missed and false alarm against the strength, with paired
    intervals and the bounds. The range in which the model is safe is shaded."""
    shifts, policy = results["shifts"], results["policy"]
    rows = -(-len(shifts) // COLUMNS)
    figure = drawing.new_figure(2 * drawing.WIDTH, PANEL * rows + 0.6)
    axes = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    lines = {"accuracy": ("Accuracy", drawing.BLUE, "-", "o")}
    if policy is not None:
        lines["missed"] = ("Missed", drawing.VERMILLION, "--", "s")
        lines["false_alarm"] = ("False alarm", drawing.COLOURS[5], "-.", "^")
    if policy is not None and results["gate"]:
        lines["stopped"] = ("Stopped by the gate", drawing.GREY, ":", "")
    for ax, shift in zip(axes, shifts, strict=False):
        _panel(ax, shift, results, lines)
        if policy is not None:
            for name, bound in (("missed", "max_missed"), ("false_alarm", "max_false_alarm")):
                ax.axhline(100 * policy[bound], color=lines[name][1], lw=0.7, ls=":")
    for ax in axes[len(shifts) :]:
        ax.set_visible(False)
    axes[0].set_ylim(-3, 103)
    safe = "bounds hold" if results["certified"] else "accuracy not shown to fall"
    return drawing.with_legend(figure, f"Shifts, {title} (shaded: {safe}; dotted: bounds)", [])


def _panel(
    ax: Axes, shift: Mapping[str, Any], results: Results, lines: Mapping[str, tuple[Any, ...]]
) -> None:
    entries = [*shift["strengths"], {"strength": shift["none"], **results["none"]}]
    entries.sort(key=lambda entry: float(entry["strength"]))
    place = range(len(entries))
    strengths = [float(entry["strength"]) for entry in entries]
    middle = strengths.index(float(shift["none"]))
    safe = [strengths.index(end) for end in _ends(shift) if end is not None]
    if safe:
        ax.axvspan(min(middle, *safe) - 0.3, max(middle, *safe) + 0.3, color="#009E73", alpha=0.12, lw=0)
    for name, (label, colour, dash, marker) in lines.items():
        values = [100 * entry[name]["value"] for entry in entries]
        ax.plot(place, values, color=colour, ls=dash, marker=marker, ms=3, lw=1.1, label=label)
        ends = [_interval(entry[name], results["none"][name]["value"]) for entry in entries]
        low, high = zip(*ends, strict=True)
        ax.fill_between(place, low, high, color=colour, alpha=0.15, lw=0)
        if name in entries[0].get("without_gate", {}):
            values = [100 * entry["without_gate"][name]["value"] for entry in entries]
            ax.plot(place, values, color=colour, ls=":", lw=0.9, label=f"{label} without the gate")
    ticks = ["none" if at == middle else f"{value:g}" for at, value in enumerate(strengths)]
    ax.set_xticks(list(place), ticks)
    drawing.style(ax, "", "%")
    ax.set_xlabel(f"{shift['title']}: {shift['unit']}", fontsize=drawing.SMALL)


def _interval(found: Mapping[str, Any], before: float) -> tuple[float, float]:
    """The paired interval of a value, in %: the value without the shift and the ends of the difference."""
    if found["low"] is None:
        return 100 * found["value"], 100 * found["value"]
    return 100 * (before + found["low"]), 100 * (before + found["high"])


def _within(title: str) -> str:
    """A title within a sentence."""
    return title if title.isupper() else title.lower()


def _ends(shift: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The last safe strengths below and above that without a shift."""
    none = float(shift["none"])
    reached = [float(end) for end in shift["until"] if end is not None]
    return (
        next((end for end in reached if end < none), None),
        next((end for end in reached if end > none), None),
    )


def _apart(found: Mapping[str, Any], form: Any) -> str:
    low, high = found["low"], found["high"]
    between = "" if low is None else f" [{form(low)}, {form(high)}]"
    return f"{form(found['difference'])}{between}"
