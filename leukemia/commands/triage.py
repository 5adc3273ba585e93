"""`leukemia triage`: certify a policy on cells that the model has not seen, and write triage.json beside it."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.policy import TTA, Policy
from leukemia.evaluation.predictions import has_subjects, plain_splits, plain_subjects, read_predictions
from leukemia.evaluation.thresholds import choose, floor_lines, outcome, predictive_values
from leukemia.reporting import words
from leukemia.reporting.evidence import predictions_of, setting_results
from leukemia.reporting.words import percent
from leukemia.runs import Ensemble, Run, Sweep, open_model
from leukemia.terminal import show

POOLED = "the pooled folds of a sweep are predictions of several models, and a policy belongs to one: certify a run"
SEVERAL = (
    "these are the first of several models, and a policy belongs to one: certify a run, or add --ensemble"
)
CHOSEN = (
    "the epoch was chosen on these cells: certify on a test split (data.protocol=holdout) or with --on TABLE"
)


def triage(
    target: Path,
    on: Path | None = None,
    max_missed: float = 0.10,
    max_false_alarm: float = 0.20,
    confidence: float = 0.95,
    unit: str = "subject",
    prevalence: float | None = None,
    ensemble: bool = False,
) -> int:
    """Choose a policy for a run or an ensemble (on its test split, or on the user's own table) or a sweep, print its
    outcome, and write triage.json. A certified policy is not replaced by one that is not certified.

    Args:
        ensemble: take the finished runs of a sweep as one model. It is certified on cells that no member has seen.

    Returns:
        0 where a policy was written that releases cells, 1 where the bounds cannot be met.
    Raises:
        InputError: for an unusable table, or one with cells or subjects that the model has seen.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise InputError(f"--prevalence {prevalence:g} is out of range: use a share between 0 and 1, as 0.1")
    sweep, place = Sweep(target), Run(Path(target))
    model: Run | Ensemble | None = None
    if ensemble or (len(sweep.runs) == 1 and sweep.runs[0].folder == Path(target)):
        model = open_model([target])
    if ensemble and not isinstance(model, Ensemble):
        raise InputError(f"--ensemble needs a sweep of several finished runs, and {target} is one run")
    before = _policy_there(place if model is None else model)
    bounds = {"max_missed": max_missed, "max_false_alarm": max_false_alarm}
    if model is not None:
        table, classes, why_not, said = _of_model(model, on)
    else:
        if on is not None:
            raise InputError(
                f"--on needs one model, and {target} is a sweep of several: name one run, or add --ensemble"
            )
        table, classes, why_not, said = _of_sweep(Path(target))
    floors = floor_lines(table, **bounds, confidence=confidence, unit=unit, classes=classes)
    policy = choose(table, **bounds, confidence=confidence, unit=unit)
    met = policy.certified
    reasons = [reason for reason in (why_not, policy.why_not) if reason]
    fitted_on = {"what": said, "subjects": _subjects(table), **policy.fitted_on}
    if model is not None:
        fitted_on["views"] = _views(table, on) if on is not None and "tta" in table else TTA[model.data.tta]
    if isinstance(model, Ensemble):
        fitted_on["members"] = model.member_names
    clustered = unit == "cell" and has_subjects(table) and table["subject"].nunique() < len(table)
    if clustered:
        fitted_on["assumed"] = f"independent cells, although they are of {_subjects(table)} subjects"
    policy = replace(policy, certified=not reasons, why_not="; ".join(reasons) or None, fitted_on=fitted_on)
    told = [*(f"Floor, {line}." for line in floors), f"Certifying on {said}."]
    told += _told(table, policy, classes, prevalence)
    unit_before = before.unit if before is not None and before.certified else None
    kept = unit_before and (not policy.certified or (clustered and unit_before == "subject"))
    if not kept:
        place.write_json("triage.json", policy.to_json())  # first: whoever reads the lines may leave
    show("\n".join(told))
    if clustered:
        show(
            f"WARNING: unit=cell takes cells as independent, and these {len(table):,} are of {_subjects(table)} "
            "subjects. Cells of a subject are alike, and then these bounds are broken in half of all studies or more "
            "(docs/triage.md): use unit=subject."
        )
    if kept:
        show(f"Nothing is written: the certified policy in {place.folder / 'triage.json'} stays.")
        return 1
    show(place.folder / "triage.json")
    return 0 if met and (policy.certified or model is None) else 1


def _of_model(
    model: Run | Ensemble, on: Path | None
) -> tuple[pd.DataFrame, tuple[str, str], str | None, str]:
    members = model.members
    negative, positive = members[0].metrics.get("classes", ("HEM", "ALL"))
    classes = (str(negative), str(positive))
    if on is not None:
        table = read_predictions(on)
        if "probability_sd" in table and table["probability_sd"].notna().all() != (len(members) > 1):
            raise InputError(
                f"{on} has logits of {'one network' if len(members) > 1 else 'an ensemble'} (its column "
                f"`probability_sd`): call `leukemia predict` with {model.folder}"
            )
        for run in members:
            _refuse_seen(table, run, on)
        why_not = None
        if "subject" not in table and any(run.cells["subject"].notna().any() for run in members):
            why_not = (
                f"{on} has no column `subject`, so its cells may be of the subjects that trained the model"
            )
        return table, classes, why_not, f"{len(table):,} cells of {on}"
    table = predictions_of(model)
    splits = {str(run.metrics.get("split")) for run in members}
    leaks = max(run.metrics.get("leaks") or 0 for run in members)
    why_not = None
    if splits != {"test"} or any(run.metrics.get("epoch_chosen_here") for run in members):
        why_not = CHOSEN
    elif leaks:
        why_not = f"{leaks} of these cells are not independent of training"
    what = f"the mean logit of the {len(members)} runs of {model.name}" if len(members) > 1 else model.name
    said = f"the {' and '.join(sorted(splits))} split of {what} ({len(table):,} cells)"
    return table, classes, why_not, said


def _of_sweep(folder: Path) -> tuple[pd.DataFrame, tuple[str, str], str, str]:
    found = setting_results(folder)
    if len(found) > 1:
        raise InputError(
            f"{folder} holds {len(found)} settings ({'; '.join(model.name for model in found)}): a policy belongs to "
            "one model, so name a run, or a sweep over folds of one setting"
        )
    (model,) = found
    if len(model.runs) == 1:
        raise InputError(f"{folder} holds one finished run: name it, {folder / model.runs[0]}")
    table = model.replicates[0]
    why_not = [POOLED if model.pooled else SEVERAL]
    why_not += [mark for mark in model.marks if mark.startswith((words.CHOSEN_HERE, words.LEAKS))]
    folds = table["fold"].nunique() if model.pooled else 1
    said = f"the first of {len(model.replicates)} models of {folder.name}" if not model.pooled else (
        f"the first seed of {folder.name}, {folds} folds"
    )  # fmt: skip
    return table, model.classes, "; ".join(why_not), f"{said} ({len(table):,} cells)"


def _policy_there(place: Run | Ensemble) -> Policy | None:
    """The policy that would be replaced; an unreadable one, or one of other models, certifies nothing."""
    try:
        return place.policy
    except InputError as problem:
        show(f"NOTE: {problem}")
        return None


def _views(table: pd.DataFrame, on: Path) -> int:
    """The number of D4 transforms of a cell that the logits of a table are means over."""
    found = set(table["tta"].fillna("none"))
    if len(found) != 1 or not found <= TTA.keys():
        values = ", ".join(sorted(map(str, found))[:5])
        raise InputError(f"{on}: the column `tta` has {values}; all its rows have to be `none`, or all `d4`")
    return TTA[found.pop()]


def _refuse_seen(table: pd.DataFrame, run: Run, on: Path) -> None:
    """Refuse a table with cells or subjects that trained the model or chose its epoch."""
    if "split" in table and (used := plain_splits(table).isin(["train", "val"])).any():
        raise InputError(
            f"{on} has {used.sum():,} rows of split train or val, which train a model or choose its epoch: "
            "remove them"
        )
    seen = run.cells[run.cells["split"].isin(["train", "val"])]
    known = seen["path"].astype(str).tolist()
    # Not the bare name, which cells of other folders may have too.
    known_paths = {*known, *(end for path in known for end in _ends(path) if "/" in end)}
    paths = table["path"][[not known_paths.isdisjoint(_ends(path)) for path in table["path"].astype(str)]]
    if len(paths):
        raise InputError(
            f"{on} holds {len(paths):,} cells that trained {run.name} or chose its epoch, as {paths.iloc[0]}: "
            "remove them"
        )
    if "subject" not in table:
        return
    both = sorted(_names(seen) & _names(table))
    if both:
        raise InputError(
            f"{on} holds cells of {len(both)} subjects that trained {run.name} or chose its epoch "
            f"({', '.join(both[:5])}{', ...' if len(both) > 5 else ''}): remove their rows"
        )


def _ends(path: str) -> list[str]:
    """A path, and the ends of it down to the bare name."""
    parts = path.replace("\\", "/").split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _names(table: pd.DataFrame) -> set[str]:
    """The subjects of a table as the index names them, without the UID_ of C-NMC's files."""
    return set(plain_subjects(table).dropna().astype(str).str.removeprefix("UID_"))


def _subjects(table: pd.DataFrame) -> int | None:
    return int(table["subject"].nunique()) if has_subjects(table) else None


def _told(
    table: pd.DataFrame, policy: Policy, classes: tuple[str, str], prevalence: float | None
) -> list[str]:
    negative, positive = classes
    rows = outcome(table, policy, classes)
    rows[["wrong", "wrong_by_subject"]] = rows[["wrong", "wrong_by_subject"]].map(percent)
    rows = rows.rename(columns={
        "as_negative": f"as {negative}", "as_positive": f"as {positive}", "wrong": "wrong %",
        "wrong_by_subject": "mean over subjects %", "subjects": "subjects with one",
    })  # fmt: skip
    lines = [
        f"{words.released(policy, classes)}; {percent(policy.released)} % of the cells in all.",
        rows.to_string(index=False),
    ]
    share = float(pd.to_numeric(table["label"]).mean())
    for name, at in (("of these cells", share), ("as stated", prevalence)):
        if at is not None and 0 < at < 1 and policy.released:
            of_positive, of_negative = (
                "–" if value is None else f"{percent(value)} %"
                for value in predictive_values(table, policy, at)
            )
            lines.append(
                f"At a prevalence of {percent(at)} % {positive} ({name}), {of_positive} of the cells released as "
                f"{positive} are so, and {of_negative} of those released as {negative} (estimates, not guaranteed)."
            )
    if policy.certified:
        lines.append(
            f"Certified: with {percent(policy.confidence)} % confidence missed is at most {policy.max_missed:g} and "
            f"false alarm at most {policy.max_false_alarm:g} (unit: {policy.unit}), for new {policy.unit}s like "
            "these, if the model was not picked by its metrics on these cells."
        )
    else:
        lines.append(f"Not certified: {policy.why_not}.")
    return lines
