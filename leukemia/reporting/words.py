"""The report's wording: marks, names of settings and metrics, numbers, and the reference results."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leukemia.evaluation.intervals import wilson_interval
from leukemia.evaluation.metrics import Metric
from leukemia.evaluation.policy import Policy

# Accuracy on C-NMC's preliminary test set after training on the 73 training subjects, the epoch chosen on the
# same 1,867 cells. "Fine-tuned" there means that the deeper convolutional layers train.
SEED_STUDY = {("resnet18", "head"): 0.6577, ("resnet18", "layer4"): 0.7622, ("resnet50", "layer4"): 0.7841}
SEED_STUDY_GAP = {("resnet50", "layer4"): 0.1139}  # at its best epoch, the seventh
SEED_STUDY_MAJORITY = 0.6529
SEED_STUDY_CELLS = 1867
SEED_STUDY_CLASSES = "HEM/ALL"

CHOSEN_HERE = "epoch chosen on these cells"
NOT_BETTER = "not shown to be better than the majority class"
PRUNED = "stopped early by the search"
LEAKS = "LEAKS"
SEEN = f"{LEAKS}: the weights were pretrained on C-NMC"
TRAINED = f"{LEAKS}: these cells trained the model"
MOST_STOPPED = 10  # subjects in a line
UNITS = {
    "cell": "Wilson, cells taken as independent",
    "subject": "bootstrap of subjects",
    "group": "bootstrap of groups of subjects",
}


def marks(runs: pd.DataFrame) -> list[str]:
    """The caveats of these finished rows of a results table, a leak first, with the number of runs where one does not
    hold for all of them."""
    image = runs["protocol"] == "image"
    leaky = image | (runs["leaks"].fillna(0) > 0)
    origin = runs["pretrained_on"].astype("string")
    seen = origin.str.contains("c-?nmc", case=False).fillna(False).astype(bool)
    chosen = runs["epoch_chosen_here"].eq(True)
    not_better = runs["better_than_majority"].eq(False)
    pruned = runs["pruned_after"].notna()
    found = [(_leak(runs[leaky]), leaky), (SEEN, seen), (CHOSEN_HERE, chosen)]
    found += [(_not_better(runs[not_better]), not_better), (PRUNED, pruned)]
    return [text + _of(int(which.sum()), len(runs)) for text, which in found if which.any()]


def not_better(low: float | None, high: float | None, unit: str) -> str:
    """The mark of a run whose interval of accuracy [low, high] does not lie above the majority rate."""
    by = UNITS.get(unit, unit)
    if _missing(low) or _missing(high):
        return f"{NOT_BETTER} (accuracy has no interval: too few {unit}s)"
    return f"{NOT_BETTER} (95 % interval of accuracy {percent(low)} to {percent(high)} %, {by})"


def study_not_better(accuracy: float) -> list[str]:
    """The same mark for an accuracy of the seed study, whose subjects are unknown."""
    low, high = wilson_interval(round(accuracy * SEED_STUDY_CELLS), SEED_STUDY_CELLS)
    return [not_better(low, high, "cell")] if low <= SEED_STUDY_MAJORITY else []


def released(policy: Policy, classes: Sequence[str]) -> str:
    """The thresholds of a triage policy in words."""
    low = "nothing" if policy.low is None else f"logit at or below {policy.low:.4g}"
    high = "nothing" if policy.high is None else f"logit at or above {policy.high:.4g}"
    return f"Released as {classes[0]}: {low}; as {classes[1]}: {high}"


def unlike(found: Mapping[str, Any] | None) -> list[str]:
    """The cells that the gate stops, in lines; see `leukemia.evaluation.gate.stopped_cells`."""
    if found is None:
        return ["gate: none, so nothing tells whether these cells are like the training cells"]
    lines = [f"gate: {found['stopped']:,} of {count(found['n_cells'], 'cell')} are unlike the training cells"]
    lines += [f"  {number:,} {why}" for why, number in found["why"].items()]
    if found["subjects"]:
        lines.append(f"  of {', '.join(stopped_of(found['subjects']))}")
    return lines


def stopped_of(subjects: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many cells of each subject the gate stops."""
    said = [f"{of['subject']} ({of['stopped']} of {of['n']})" for of in subjects[:MOST_STOPPED]]
    return [*said, f"{len(subjects) - MOST_STOPPED} more"] if len(subjects) > MOST_STOPPED else said


def describe(settings: Mapping[str, Any]) -> str:
    """A combination in words: "ResNet18 from layer4, model.optimizer.lr 0.001"."""
    name = network(settings["network"])
    if not _missing(settings["trainable_from"]):
        name += f" from {settings['trainable_from']}"
    return ", ".join(filter(None, (name, others(settings))))


def others(settings: Mapping[str, Any]) -> str:
    """The settings of a combination beside its network and first stage, in words."""
    own = ("network", "trainable_from")
    return ", ".join(f"{setting(k)} {value(v, k)}" for k, v in settings.items() if k not in own)


def describe_run(settings: Mapping[str, Any], run: Any) -> str:
    """A run in words: its combination, its seed, and its fold where the protocol has folds."""
    parts = [describe(settings), f"seed {value(run['seed'])}"]
    folds = run["protocol"] != "official" and not _missing(run["fold"])
    return ", ".join(parts + [f"fold {run['fold']}"] * folds)


def network(name: Any) -> str:
    """ "ResNet18" for resnet18; any other network by its own name."""
    return "Network" if _missing(name) else re.sub(r"^resnet(?=\d+$)", "ResNet", str(name))


def setting(name: str) -> str:
    """The name of a setting as it is shown."""
    return name.removesuffix("._target_")


def value(of: Any, name: str = "") -> str:
    """A setting as it is shown: numbers short, an unset one as a dash, of a `_target_` the last part; of weights the
    file's stem, and of a run's checkpoint the run."""
    if _missing(of):
        return "–"
    if name == "model.net.weights":
        *_, run, folder, file = ("", "", *Path(str(of)).parts)
        return run if run and folder == "checkpoints" else Path(file).stem
    if name.endswith("_target_"):
        return str(of).rpartition(".")[2]
    return f"{of:g}" if isinstance(of, float) else str(of)


def between(
    found: Mapping[str, Any], key: str, form: Callable[[Any], str], unit: str = "", without: str = ""
) -> str:
    """A number, its unit and the ends of its interval; `without` where it has none."""
    ends = without if found["low"] is None else f" ({form(found['low'])} to {form(found['high'])})"
    return f"{form(found[key])}{unit}{ends}"


def heading(metric: Metric) -> str:
    """A metric as the head of a column: "Accuracy %", "AUROC"."""
    return metric.title + " %" * (metric.format == "percent")


def difference_heading(metric: Metric) -> str:
    """The difference of a metric as the head of a column: "Accuracy, points", "AUROC"."""
    return metric.title + ", points" * (metric.format == "percent")


def form(metric: Metric) -> Callable[..., str]:
    """How a value of a metric is shown, with its spread if there is one."""
    return percent if metric.format == "percent" else fraction


def difference_form(metric: Metric) -> Callable[[Any], str]:
    """How a difference of a metric is shown."""
    return points if metric.format == "percent" else signed


def percent(share: Any, sd: Any = None) -> str:
    """A fraction as a percentage with two decimals, without the percent sign; with its spread if there is one."""
    return _with_spread(share, sd, 100, ".2f")


def fraction(number: Any, sd: Any = None) -> str:
    return _with_spread(number, sd, 1, ".3f")


def points(difference: Any) -> str:
    """A difference of two fractions in percentage points, signed."""
    return "–" if _missing(difference) else f"{100 * difference:+.2f}".replace("-", "−")


def signed(difference: Any) -> str:
    return "–" if _missing(difference) else f"{difference:+.3f}".replace("-", "−")


def whole(number: Any) -> str:
    return "–" if _missing(number) else f"{number:,.0f}"


def duration(seconds: Any) -> str:
    """Seconds as "41 s", "3 min 05 s" or "2 h 07 min"."""
    if _missing(seconds):
        return "–"
    total = round(seconds)
    if total >= 3600:
        return f"{total // 3600} h {total // 60 % 60:02d} min"
    return f"{total // 60} min {total % 60:02d} s" if total >= 60 else f"{total} s"


def short(text: str, length: int = 18) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def count(number: int, noun: str) -> str:
    """ "1 run", "2 runs" """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def not_cross_fitted(unit: str) -> str:
    """The reason why predictions are not recalibrated."""
    return f"a class of a model has fewer than two {unit}s, so none can be held out"


def _not_better(runs: pd.DataFrame) -> str:
    """The mark with the interval that decides it; of several runs, the kind of interval."""
    if runs.empty:
        return NOT_BETTER
    row, units = runs.iloc[0], sorted(set(runs["accuracy_interval_unit"].dropna()))
    if len(runs) == 1 and units:
        return not_better(row["accuracy_low"], row["accuracy_high"], units[0])
    by = "; ".join(UNITS.get(unit, unit) for unit in units)
    return f"{NOT_BETTER} (95 % intervals of accuracy, {by})" if by else NOT_BETTER


def _leak(runs: pd.DataFrame) -> str:
    image = "split by image" if (runs["protocol"] == "image").any() else ""
    leaks = runs["leaks"].fillna(0)
    if not (leaks > 0).any():
        return f"{LEAKS}: {image}"
    worst = runs.iloc[int(leaks.argmax())]
    up_to = "" if leaks.min() == leaks.max() else "up to "
    cells = f"{up_to}{whole(worst['leaks'])} of {whole(worst['n_images'])} cells not independent of training"
    return f"{LEAKS}: {', '.join(filter(None, (image, cells)))}"


def _of(number: int, total: int) -> str:
    return "" if number == total else f" ({number} of {total} runs)"


def _with_spread(number: Any, sd: Any, scale: float, form: str) -> str:
    if _missing(number):
        return "–"
    mean = format(scale * number, form).replace("-", "−")
    return mean if _missing(sd) else f"{mean} ± {format(scale * sd, form)}"


def _missing(setting: Any) -> bool:
    return setting is None or bool(pd.isna(setting))
