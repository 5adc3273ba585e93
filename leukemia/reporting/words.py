"""How the report says things: marks, names of settings, numbers, and what it is compared with."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

# Accuracy on C-NMC's preliminary test set after training on the 73 training subjects, the epoch chosen on the
# same 1,867 cells; "fine-tuned" there means that the deeper convolutional layers train.
SEED_STUDY = {(18, "head"): 0.6577, (18, "layer4"): 0.7622, (50, "layer4"): 0.7841}
SEED_STUDY_GAP = {(50, "layer4"): 0.1139}  # at its best epoch, the seventh
SEED_STUDY_MAJORITY = 0.6529
SEED_STUDY_CELLS = 1867
SEED_STUDY_CLASSES = "HEM/ALL"

CHOSEN_HERE = "epoch chosen on these cells"
NO_BETTER = "no better than the majority class"
PRUNED = "stopped early by the search"
LEAKS = "LEAKS"
TRAINED = f"{LEAKS}: these cells trained the model"


def marks(runs: pd.DataFrame) -> list[str]:
    """What has to be said beside the figures of these finished rows of a results table, a leak first, with
    the number of runs where it does not hold for all of them."""
    image = runs["protocol"] == "image"
    leaky = image | (runs["leaks"].fillna(0) > 0)
    chosen = runs["epoch_chosen_here"].map(_true)
    no_better = runs["better_than_majority"].map(_false)
    pruned = runs["pruned_after"].notna()
    found = [(_leak(runs[leaky]), leaky), (CHOSEN_HERE, chosen), (NO_BETTER, no_better), (PRUNED, pruned)]
    return [text + _of(int(which.sum()), len(runs)) for text, which in found if which.any()]


def describe(settings: Mapping[str, Any]) -> str:
    """A combination in words: "ResNet18 from layer4, model.optimizer.lr 0.001"."""
    name = network(settings["depth"])
    if not _missing(settings["trainable_from"]):
        name += f" from {settings['trainable_from']}"
    others = [f"{k} {value(v)}" for k, v in settings.items() if k not in ("depth", "trainable_from")]
    return ", ".join([name, *others])


def describe_run(settings: Mapping[str, Any], run: Any) -> str:
    """A run in words: its combination, its seed, and its fold where the split has folds."""
    parts = [describe(settings), f"seed {value(run['seed'])}"]
    folds = run["protocol"] != "official" and not _missing(run["fold"])
    return ", ".join(parts + [f"fold {run['fold']}"] * folds)


def network(depth: Any) -> str:
    return "Network" if _missing(depth) else f"ResNet{depth:g}"


def value(setting: Any) -> str:
    """A setting as it is shown: numbers short, what is not set as a dash."""
    if _missing(setting):
        return "–"
    return f"{setting:g}" if isinstance(setting, float) else str(setting)


def percent(figure: Any, sd: Any = None) -> str:
    """A fraction as a percentage with two decimals, without the percent sign; with its spread if there is one."""
    return _with_spread(figure, sd, 100, ".2f")


def fraction(figure: Any, sd: Any = None) -> str:
    return _with_spread(figure, sd, 1, ".3f")


def points(difference: Any) -> str:
    """A difference of two fractions in percentage points, signed."""
    return "–" if _missing(difference) else f"{100 * difference:+.2f}".replace("-", "−")


def whole(number: Any) -> str:
    return "–" if _missing(number) else f"{number:,.0f}"


def duration(seconds: Any) -> str:
    """Seconds as "41 s", "3 min 05 s" or "2 h 07 min"."""
    if _missing(seconds):
        return "–"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    return (
        f"{total // 60} min {total % 60:02d} s"
        if total < 3600
        else f"{total // 3600} h {total // 60 % 60:02d} min"
    )


def short(text: str, length: int = 18) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def count(number: int, noun: str) -> str:
    """ "1 run", "2 runs" """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def not_cross_fitted(unit: str) -> str:
    """Why nothing is recalibrated on other units than those reported."""
    return f"for a class of a model has fewer than two {unit}s, so that nothing can be held out"


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


def _with_spread(figure: Any, sd: Any, scale: float, form: str) -> str:
    if _missing(figure):
        return "–"
    mean = format(scale * figure, form).replace("-", "−")
    return mean if _missing(sd) else f"{mean} ± {format(scale * sd, form)}"


def _missing(setting: Any) -> bool:
    return setting is None or bool(pd.isna(setting))


def _true(flag: Any) -> bool:
    return not _missing(flag) and flag == True  # noqa: E712


def _false(flag: Any) -> bool:
    return not _missing(flag) and flag == False  # noqa: E712
