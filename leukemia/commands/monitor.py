"""`leukemia monitor`: is a certified policy still as certified on the cells that came in since?"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from leukemia.data.files import base_name
from leukemia.errors import InputError, quoted
from leukemia.evaluation.monitor import BROKEN, DRIFTING, Monitoring, Test, spot_check_weights, watch
from leukemia.evaluation.policy import REVIEW, Policy
from leukemia.evaluation.predictions import has_subjects, parse_table, plain_subjects, read_predictions
from leukemia.reporting.evidence import predictions_of
from leukemia.reporting.words import count, percent
from leukemia.runs import Run
from leukemia.storage.plain_files import read_text
from leukemia.terminal import show

# Columns of a table of `leukemia predict`, and of decisions of the page.
PREDICTED = ("path", "logit", "decision", "tta")
REVIEWED = ("id", "reviewer", "path", "new_label", "undoes", "model", "triage", "queue", "blind")
CHECK = "check"  # the page's queue of released cells in random order
TITLES = {"missed": "missed", "false_alarm": "false alarm", "released": "share released",
          "stopped": "share stopped by the gate", "score": "mean logit"}  # fmt: skip


def monitor(run: Run, files: Sequence[Path], on: Path | None = None, as_json: bool = False) -> int:
    """Compare the cells in some tables with those that certified a run's policy, and print the verdict.

    Args:
        run: with a certified policy of unit=subject.
        files: tables of `leukemia predict` with subjects, and `decisions.csv` of the review page, in the order of time.
        on: the table that the policy was certified on, where it is not the run's reported cells.
        as_json: print JSON.

    Returns:
        0 where all is as certified, else 1.

    Raises:
        InputError: if nothing is certified, or a table cannot be used or is of another model.
    """
    policy = _certified_policy(run)
    certified = _certified_cells(run, policy, on)
    tables = [(_read(file), file) for file in files]
    batches = [_batch(table, file, run, policy) for table, file in tables if "queue" not in table]
    if not batches:
        raise InputError(
            "decisions of the review page alone do not say which cells came in: add the predictions"
        )
    cells = pd.concat(batches, ignore_index=True)
    if "stopped" in cells and cells["stopped"].isna().any():
        cells = cells.drop(columns="stopped")  # a table of a time before the gate
    again = cells.groupby("subject")["batch"].transform("first") != cells["batch"]
    cells, notes = cells[~again].reset_index(drop=True), []
    if again.any():
        notes.append(f"{again.sum():,} cells are left out: their subjects came in an earlier table")
    reviews = [_labels(table, file, run) for table, file in tables if "queue" in table]
    if reviews:
        lost = _add_labels(cells, pd.concat(reviews, ignore_index=True))
        notes += [f"{lost:,} decisions are of cells that are in no predictions table"] * (lost > 0)
    cells["weight"] = _weights(cells)
    cells["checked"] = cells["label"].notna().groupby(cells["batch"]).transform("any")
    found = watch(certified, cells, policy)
    if as_json:
        show(json.dumps({**found.to_json(), "notes": notes}, indent=2), coloured=False)
    else:
        show("\n".join([*_told(found, run), *(f"NOTE: {note}" for note in notes)]))
    return int(found.verdict in (BROKEN, DRIFTING))


def _certified_policy(run: Run) -> Policy:
    policy = run.policy
    if policy is None or not policy.certified:
        raise InputError(
            f"{run.folder} has no certified triage policy, so nothing can be watched: `leukemia triage`"
        )
    if policy.unit != "subject":
        raise InputError(
            f"the triage policy of {run.name} takes cells as independent: certify it with --unit subject to watch it"
        )
    return policy


def _certified_cells(run: Run, policy: Policy, on: Path | None) -> pd.DataFrame:
    table = predictions_of(run) if on is None else read_predictions(on)
    if not has_subjects(table) or len(table) != policy.fitted_on.get("cells", len(table)):
        raise InputError(
            f"the triage policy was certified on {policy.fitted_on.get('what', 'other cells')}: give that table with "
            "its subjects by --on TABLE.csv"
        )
    return table.assign(stopped=_stopped(table)) if "unlike_by" in table else table


def _read(file: Path) -> pd.DataFrame:
    try:
        return parse_table(read_text(Path(file)), str(file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None


def _batch(table: pd.DataFrame, file: Path, run: Run, policy: Policy) -> pd.DataFrame:
    """The cells of a table of `leukemia predict`, as `watch` takes them, without those that were not read."""
    _check_columns(table, PREDICTED, file, "a table of `leukemia predict`, nor decisions of the review page")
    table = table[table["logit"].notna()].reset_index(drop=True)
    logit, classes = pd.to_numeric(table["logit"], "coerce"), run.data.classes
    if not np.isfinite(logit).all():
        raise InputError(f"{file}: the column logit has to hold numbers")
    if not has_subjects(table):
        raise InputError(
            f"{file}: a cell has no subject, and cells of a subject are alike: call `leukemia predict` with --subjects"
        )
    near = [policy.decide(logit + rounding, classes) for rounding in (-1e-9, 0, 1e-9)]
    ours = (table["decision"] == REVIEW) | np.any([table["decision"] == of for of in near], axis=0)
    if not ours.all() or not table["tta"].eq(run.data.tta).all():
        raise InputError(
            f"{file} was not decided by the triage policy of {run.name}: predict these cells again"
        )
    names = {classes[0]: "0", classes[1]: "1"}
    given = table["label"] if "label" in table else pd.Series(np.nan, table.index)
    label = given.map({0: 0.0, 1: 1.0, "0": 0.0, "1": 1.0, classes[0]: 0.0, classes[1]: 1.0})
    if len(strange := given[given.notna() & label.isna()]):
        raise InputError(
            f"{file}: label {quoted(strange.iloc[0])} is unknown: use {', '.join(classes)}, 0 or 1"
        )
    cells = pd.DataFrame({
        "path": table["path"].astype(str), "subject": plain_subjects(table), "logit": logit,
        "decision": table["decision"].map(names).fillna(REVIEW), "label": label, "given": label.notna(),
        "batch": str(file), "sampled": False, "probability": table.get("sampling_probability", np.nan),
    })  # fmt: skip
    probability = pd.to_numeric(cells["probability"], "coerce")
    if (cells["probability"].notna() & ~((probability > 0) & (probability <= 1))).any():
        raise InputError(f"{file}: sampling_probability has to lie above 0, and at 1 at most")
    cells = cells.assign(probability=probability)
    return cells.assign(stopped=_stopped(table)) if "unlike_by" in table else cells


def _stopped(table: pd.DataFrame) -> pd.Series:
    """Whether the gate stops each cell."""
    return ~(pd.to_numeric(table["unlike_by"], "coerce") <= 1)


def _labels(table: pd.DataFrame, file: Path, run: Run) -> pd.DataFrame:
    """`path, label, sampled` of the cells in decisions of the page: the first label of each reviewer that was not taken
    back, missing where reviewers differ; `sampled` where a released cell came up at random, with the opinion hidden."""
    _check_columns(table, REVIEWED, file, "decisions of the review page")
    models = set(table["model"].dropna().astype(str))
    if models - {run.model}:
        raise InputError(
            f"{file} holds decisions on {quoted(min(models - {run.model}))}, and not on {run.model}"
        )
    rows = table[table["undoes"].isna() & ~table["id"].isin(table["undoes"].dropna())]
    rows = rows.sort_values("id").drop_duplicates(["reviewer", "path"])
    known = rows["new_label"].map({name: float(number) for number, name in enumerate(run.data.classes)})
    sampled = (rows["queue"] == CHECK) & rows["blind"].eq(1)
    usable = sampled | (rows["triage"] == REVIEW)  # a released cell that was picked by hand is not a sample
    by_path = pd.DataFrame({"path": rows["path"], "label": known, "sampled": sampled})[usable].groupby("path")
    label = by_path["label"].mean()
    return pd.DataFrame(
        {"label": label.where(label.isin([0, 1])), "sampled": by_path["sampled"].any()}
    ).reset_index()


def _add_labels(cells: pd.DataFrame, labels: pd.DataFrame) -> int:
    """Fill in labels by the ends of paths; gives the number of those that have no cell."""
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(cells["path"]):
        rows.setdefault(base_name(path), []).append(row)
    lost, known, checked = 0, cells["label"].tolist(), [False] * len(cells)
    for path, label, sampled in labels[["path", "label", "sampled"]].itertuples(index=False):
        path = str(path)
        same = [row for row in rows.get(base_name(path), []) if _is_end(path, cells["path"][row])]
        if len(same) > 1:
            raise InputError(
                f"{quoted(path)} is {count(len(same), 'cell')} of the predictions: give each file a name"
            )
        lost += not same
        for row in same:
            checked[row] = bool(sampled)
            known[row] = label if np.isnan(known[row]) else known[row]
    cells["label"], cells["sampled"] = known, checked
    return lost


def _is_end(path: str, of: str) -> bool:
    long, short = sorted((path.replace("\\", "/"), of.replace("\\", "/")), key=len, reverse=True)
    return f"/{long}".endswith(f"/{short}")


def _weights(cells: pd.DataFrame) -> pd.Series:
    """1 / the probability with which the label of each cell became known: 1 but for spot-checks."""
    weight = pd.Series(1.0, cells.index)
    for _, batch in cells.groupby("batch"):
        of_sample = spot_check_weights(batch["subject"], batch["decision"] != REVIEW, batch["sampled"])
        weight[batch.index] = np.where(batch["sampled"] & ~batch["given"], of_sample, 1.0)
    return weight.where(cells["probability"].isna(), 1 / cells["probability"])


def _check_columns(table: pd.DataFrame, needed: Sequence[str], file: Path, what: str) -> None:
    if missing := [name for name in needed if name not in table]:
        raise InputError(f"{file} is not {what}: it has no column {', '.join(missing)}")


def _told(found: Monitoring, run: Run) -> list[str]:
    lines = [f"{run.name}: {found.verdict.upper()}"]
    if not any(test.is_of_a_bound for test in found.tests):
        lines.append(
            "NOTE: no cell has a known label, so the bounds are not watched: spot-check released cells"
        )
    return [*lines, *map(_line, found.tests), _what_to_do(found)]


def _line(test: Test) -> str:
    form = "{:.3g}".format if test.name == "score" else lambda value: f"{percent(value)} %"
    value = "–" if test.value is None else form(test.value)
    said = f"  {TITLES[test.name]}: {value} ({count(test.subjects, 'subject')}"
    if test.is_of_a_bound:
        said += f"; shown to be above {form(test.at_least)}), certified: at most {form(test.certified)}"
    else:
        said += f"), certified subjects: {form(test.certified)}"
    evidence = f"evidence {test.wealth:.3g} of {test.needed:.0f}"
    found = "" if test.found_at is None else f", FOUND at subject {test.found_at}"
    return f"{said}; {evidence}{found}"


def _what_to_do(found: Monitoring) -> str:
    if found.verdict == BROKEN:
        return "A certified bound does not hold any more: review all cells, and certify again on new labelled cells."
    if found.verdict == DRIFTING:
        return (
            "New subjects are unlike those that certified the policy. This breaks no bound (another share of subjects "
            "of a class does it too), but look for the reason: stain, camera, age group, referral."
        )
    return (
        "Nothing speaks against the certified bounds, with 5 % error over all tests and all times together."
    )
