"""A sweep as a table: a row a run; and its rows by setting, seeds and folds together."""

import math
import re
from typing import Any

import pandas as pd

from leukemia.errors import InputError, is_number
from leukemia.evaluation.metrics import METRICS, SUBJECT_METRICS
from leukemia.identity import flatten, is_identity, network_name
from leukemia.runs import Ensemble, OldRunError, Run, Sweep

WORDS = (
    "split",
    "epoch_chosen_here",
    "better_than_majority",
    "accuracy_interval_unit",
    "classes",
    "synthetic",
)
COUNTS = ("best_epoch", "n_images", "n_subjects", "leaks", "train_subjects")
COSTS = ("norm", "megabytes", "embed_seconds")  # of the network
REPORTED = (  # keys of metrics.json
    *METRICS, "majority_accuracy", "accuracy_low", "accuracy_high", "train_accuracy", "train_val_gap", *COUNTS, *WORDS
)  # fmt: skip
BY_SUBJECT = ("n", *SUBJECT_METRICS)  # keys of its `subjects`
INTEGERS = ("seed", "fold", "pruned_after", *COUNTS, "subjects.n")
OWN_COLUMNS = (
    "model.net.depth",
    "model.net.name",
    "model.net.pretrained_on",
    "model.trainable_from",
    "seed",
    "data.protocol",
    "data.fold",
)
NET = "model.net."
TABLE_CLASSES = ("negative", "positive")  # where the names are not known
GONE = "its process is gone; it goes on when its job or the same command is started again"
VALUES_THAT_ARE_DICTS = ("model.unfreeze", "model.stage_lr")


def results_table(sweep: Sweep | Ensemble) -> pd.DataFrame:
    """A row a run, those that have not begun last: `run, status, error, network, trainable_from`, then every other
    setting that differs between the runs by its dotted name, then `seed, protocol, fold`, `pretrained_on`,
    `pruned_after` (the epoch after which a search stopped the run early), the keys of metrics.json, those of its
    `subjects` as `subjects.NAME`, `norm` and `megabytes` of the network, `embed_seconds` a cell (of runs that cached
    its features), and `seconds`. Only finished runs have metrics; an unknown value is missing.

    A run that cannot be read stays in the table, with the reason as its `error`.

    Raises:
        InputError: if the folder holds no run, or runs of release 0.1 alone.
    """
    runs = ([*sweep.begun, *sweep.pending] if isinstance(sweep, Sweep) else []) or sweep.runs
    statuses = [read_status(run) for run in runs]
    settings = [read_settings(run) for run in runs]
    varied = [name for name in differing(settings) if name not in OWN_COLUMNS]
    rows, old = [], []
    for run, status, of_run in zip(runs, statuses, settings, strict=True):
        error, metrics, pruned = status.get("error"), {}, None
        embedding: dict[str, Any] = {}
        if status["status"] == "done":
            try:
                metrics, pruned, embedding = run.metrics, run.pruned, run.embedding or {}
            except InputError as problem:
                error = error or str(problem)
                old += [problem] * isinstance(problem, OldRunError)
        rows.append({
            "run": run.name,
            "status": str(status["status"]),
            "error": None if error is None else str(error),
            "network": _network(of_run),
            "trainable_from": of_run.get("model.trainable_from"),
            **{name: of_run.get(name) for name in varied},
            "seed": of_run.get("seed"),
            "protocol": of_run.get("data.protocol"),
            "fold": of_run.get("data.fold"),
            "pretrained_on": of_run.get("model.net.pretrained_on"),
            "pruned_after": None if pruned is None else pruned.get("epoch"),
            **_reported(metrics, embedding),
            "seconds": status.get("seconds"),
        })  # fmt: skip
    if len(old) == len(runs):
        raise old[0]
    return _typed(pd.DataFrame(rows))


def combinations(results: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The finished runs of a results table by their settings, seeds and folds of one combination together:
    pairs of the settings and the rows, by network (ResNets by depth, then others by name), then by other settings,
    frozen ones first. A run that repeats the seed and fold of another is left out, because it would make the spread
    too small."""
    finished = results[results["accuracy"].notna()]
    columns = setting_columns(results)
    places: dict[tuple[Any, ...], list[Any]] = {}
    for index, row in finished[columns].iterrows():
        key = tuple(None if pd.isna(row[column]) else row[column] for column in columns)
        places.setdefault(key, []).append(index)
    found = [
        (dict(zip(columns, key, strict=True)), _once(finished.loc[rows])) for key, rows in places.items()
    ]
    return sorted(found, key=lambda pair: _order(pair[0]))


def setting_columns(results: pd.DataFrame) -> list[str]:
    """The columns that tell the combinations apart: `network`, `trainable_from` and the other settings, `protocol`
    among them, that differ between finished runs. Neither seed nor fold, nor the place of a run, nor the parts of
    `model.net` that follow from the network's name."""
    finished = results[results["accuracy"].notna()]
    names = list(results.columns)
    others = [*names[names.index("trainable_from") + 1 : names.index("seed")], "protocol"]
    differ = [n for n in others if is_identity(n) and len(set(map(repr, finished[n]))) > 1]
    return ["network", "trainable_from", *(name for name in differ if not _follows(finished, name))]


def class_names(rows: pd.DataFrame) -> tuple[str, str]:
    """The names of class 0 and class 1 in rows of one setting."""
    names = str(rows["classes"].iloc[0]).split("/")
    return (names[0], names[1]) if len(names) == 2 else TABLE_CLASSES


def stage_order(stage: Any) -> tuple[int, int, str]:
    """Sorts values of `trainable_from`, those with the fewest trainable stages first: head, last, then stages with a
    number in descending order (layer4, layer3), others by name, and stem, which trains all."""
    number = re.search(r"\d+$", str(stage))
    place = {"head": 0, "last": 1, "stem": 4}.get(str(stage), 2 if number else 3)
    return place, -int(number[0]) if number else 0, str(stage)


def read_status(run: Run) -> dict[str, Any]:
    """The status of a run: "pending" where it has not begun, "unreadable" with the `error` where that is so, and
    "interrupted" where it says that it is running and no process does."""
    if not (run.folder / "status.json").exists():
        return {"status": "pending"}
    try:
        status = run.status
    except InputError as problem:
        return {"status": "unreadable", "error": str(problem)}
    if status["status"] == "running" and not run.is_held():
        return {**status, "status": "interrupted", "error": GONE}
    return status


def read_settings(run: Run) -> dict[str, Any]:
    """The configuration of a run by dotted names, values being scalars or text; empty if there is none."""
    try:
        flat = flatten(run.config, whole=VALUES_THAT_ARE_DICTS)
    except InputError:
        return {}
    return {name: _shown(value) for name, value in flat.items() if value != {}}


def differing(settings: list[dict[str, Any]]) -> list[str]:
    """The dotted names whose values are not the same in all runs (those without a configuration left out)."""
    known = [of_run for of_run in settings if of_run]
    names = dict.fromkeys(name for of_run in known for name in of_run)
    return [name for name in names if len({repr(of_run.get(name)) for of_run in known}) > 1]


def _network(settings: dict[str, Any]) -> str | None:
    node = {name.removeprefix(NET): value for name, value in settings.items() if name.startswith(NET)}
    return network_name(node) if "_target_" in node else None


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    fold = runs["fold"].where(runs["protocol"] != "official", 0)  # which has no folds
    return runs[~runs.assign(fold=fold).duplicated(["seed", "protocol", "fold"])]


def _follows(finished: pd.DataFrame, name: str) -> bool:
    """Whether the network's name tells this part of it, or a path its file; weights are always shown."""
    if name.startswith("files."):
        told_by = name.removeprefix("files.")
    elif name.startswith(NET) and name != "model.net.weights":
        told_by = "network"
    else:
        return False
    return told_by in finished and bool(
        finished[name].map(repr).groupby(finished[told_by]).nunique().max() == 1
    )


def _order(settings: dict[str, Any]) -> tuple[Any, ...]:
    others = [_sortable(v) for name, v in settings.items() if name not in ("network", "trainable_from")]
    return _network_order(settings["network"]), others, stage_order(settings["trainable_from"])


def _network_order(network: Any) -> tuple[int, int, str]:
    resnet = re.fullmatch(r"resnet(\d+)", str(network))
    return (0, int(resnet[1]), "") if resnet else (1, 0, str(network))


def _sortable(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _reported(metrics: dict[str, Any], embedding: dict[str, Any]) -> dict[str, Any]:
    subjects, ends = metrics.get("subjects") or {}, metrics.get("accuracy_interval")
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    classes = metrics.get("classes")
    found = {name: metrics.get(name) for name in REPORTED} | {"accuracy_low": low, "accuracy_high": high}
    found["classes"] = "/".join(map(str, classes)) if isinstance(classes, list) else classes
    network = metrics.get("network") or {}
    seconds = embedding.get("seconds_per_cell") if embedding.get("stage") == "head" else None
    found |= dict(zip(COSTS, (network.get("norm"), network.get("megabytes"), seconds), strict=True))
    return found | {f"subjects.{name}": subjects.get(name) for name in BY_SUBJECT}


def _typed(results: pd.DataFrame) -> pd.DataFrame:
    numbers = [n for n in (*REPORTED, *COSTS[1:]) if n not in WORDS] + [f"subjects.{n}" for n in BY_SUBJECT]
    for name in ("seed", "fold", "pruned_after", *numbers, "seconds"):
        whole = name in INTEGERS
        values = [_number(value, whole) for value in results[name]]
        results[name] = pd.Series(values, index=results.index, dtype="Int64" if whole else float)
    return results


def _number(value: Any, whole: bool) -> float | None:
    number = is_number(value) and math.isfinite(value)
    return value if number and not (whole and value != int(value)) else None
