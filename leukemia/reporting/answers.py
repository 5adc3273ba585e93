"""The first screen of a report: the questions of a reader, answered in words from intervals."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from math import isclose
from pathlib import Path
from typing import Any

import pandas as pd

from leukemia.errors import InputError
from leukemia.evaluation.metrics import METRICS
from leukemia.evaluation.thresholds import choose
from leukemia.reporting import summary, words
from leukemia.reporting.blocks import Answer
from leukemia.reporting.evidence import SettingResult, comparison
from leukemia.reporting.evidence_page import Evidence, readable_policy
from leukemia.reporting.results import combinations
from leukemia.runs import Sweep

FROZEN = "head"
TRAINING = (
    "model.optimizer",
    "model.scheduler",
    "model.stage_lr",
    "model.head_lr_factor",
    "model.unfreeze",
    "trainer",
    "callbacks",
)
SHOWN, NOT_SHOWN, WORSE = "Shown", "Not shown", "Shown to be worse"
ITSELF = "The best setting is the frozen baseline itself"
UNKNOWN, NOTHING = "Not known", "Nothing with a guarantee"
LEAKS = "Leaks?"
TRIAGE = "What would triage release?"
BETTER = "Better than "
SETTING = ("Setting", "Best setting")


def answers(sweep: Sweep, results: pd.DataFrame, proof: Evidence) -> list[Answer]:
    """The answers, in the order of the questions, a leak first; without a finished run there are none."""
    if not results["accuracy"].notna().any():
        return []
    given = [_leaks(results), _epoch(results)]
    if proof.settings:
        best, of = proof.settings[0], proof.metrics[0]
        given = [
            _best(of, proof, results),
            _majority(of),
            _handcrafted(of),
            *_frozen(best, results, proof.settings),
            *given,
            _triage(sweep, best, of),
            *_gate(of),
        ]
    return sorted(given, key=lambda answer: answer.question != LEAKS or answer.tone != "alarm")


def sentences(found: Sequence[Answer]) -> list[str]:
    """The answers as lines of plain text."""
    return [f"{answer.question} {answer.verdict}. {answer.text}".strip() for answer in found]


def in_short(found: Sequence[Answer]) -> list[str]:
    """The answers as the last lines of a command: the setting, the comparisons, and triage."""
    asked = {answer.question: answer for answer in found}
    lines = [
        f"{of.question}: {of.verdict}. {of.text.split('. ')[0].rstrip('.')}."
        for of in found
        if of.question in SETTING
    ]
    better = {name: of.verdict for name, of in asked.items() if name.startswith(BETTER)}
    parts = []
    for verdict, said, word in (
        (SHOWN, "shown to be better", "and"),
        (NOT_SHOWN, "not shown to be better", "or"),
        (WORSE, "shown to be worse", "and"),
    ):
        names = [name.removeprefix(BETTER).rstrip("?") for name, given in better.items() if given == verdict]
        if names:
            *others, last = names
            listed = f"{', '.join(others)} {word} {last}" if others else last
            parts.append(f"it is {said} than {listed}")
    if parts:
        lines.append(f"{parts[0].capitalize()}{''.join(f'; {part}' for part in parts[1:])}.")
    if TRIAGE in asked:
        released = asked[TRIAGE].verdict
        rest = asked[TRIAGE].text if released == NOTHING else "The rest goes to review."
        lines.append(f"Triage would release {released.lower()}. {rest}")
    leak = asked.get(LEAKS)
    return [f"{leak.verdict}: {leak.text}", *lines] if leak and leak.tone == "alarm" else lines


def next_commands(sweep: Sweep, proof: Evidence) -> list[str]:
    """Three commands that work on the folders as they are."""
    if not proof.settings:
        return []
    best = next(run.folder for run in sweep.begun if run.name == proof.settings[0].runs[0])
    shown = [shlex.quote(os.path.relpath(folder)) for folder in (sweep.folder, best)]
    command = "leukemia"
    if shutil.which(command) is None:  # its environment is not active, as after `make demo`
        command = shlex.quote(os.path.relpath(Path(sys.executable).with_name(command)))
    second = "triage" if proof.metrics[0]["n_subjects"] else "explain"  # the guarantee is for new subjects
    return [f"{command} evaluate {shown[0]}", f"{command} {second} {shown[1]}", f"{command} app {shown[1]}"]


def _best(of: dict[str, Any], proof: Evidence, results: pd.DataFrame) -> Answer:
    names = ("accuracy", "balanced_accuracy", "auroc")
    shown = [f"{METRICS[name].title} {_with_interval(of['cells'][name], name)}" for name in names]
    of_run = results.set_index("run")
    said = f"{', '.join(shown)}, on {_cells(of)} (split {of_run.loc[of['runs'][0], 'split']})."
    settings = len(proof.settings)
    if settings > 1:
        said += f" It is the highest accuracy of {settings} settings on these cells, so it is biased upwards."
        means = [float(of_run.loc[model.runs, "accuracy"].mean()) for model in proof.settings]
        if ties := sum(isclose(mean, means[0]) for mean in means) - 1:
            said += f" {words.count(ties, 'other setting')} reached the same."
    return Answer("Best setting" if settings > 1 else "Setting", of["name"], said)


def _cells(of: dict[str, Any]) -> str:
    n = words.count(of["n_images"], "cell")
    return f"{n} of {words.count(of['n_subjects'], 'subject')}" if of["n_subjects"] else n


def _majority(of: dict[str, Any]) -> Answer:
    accuracy, majority = of["cells"]["accuracy"], of["majority_accuracy"]
    gain = words.points(accuracy["value"] - majority)
    said = f"Accuracy {gain} points: {words.percent(accuracy['value'])} % against {words.percent(majority)} %"
    question = f"{BETTER}the majority class?"
    if accuracy["low"] is None:
        return Answer(
            question, NOT_SHOWN, f"{said}. Accuracy has no interval: {of['no_intervals']}.", "doubt"
        )
    shown = accuracy["low"] > majority
    said += f". The 95 % interval of accuracy {'lies' if shown else 'does not lie'} above the majority class."
    return Answer(question, SHOWN if shown else NOT_SHOWN, said, "fine" if shown else "doubt")


def _handcrafted(of: dict[str, Any]) -> Answer:
    question = f"{BETTER}handcrafted features?"
    if of["baseline"] is None:
        return Answer(question, UNKNOWN, "The run folders have no baseline.csv.", "doubt")
    alone = words.percent(of["baseline"]["cells"]["accuracy"]["value"])
    said = f"Size, colour and roundness alone: {alone} %."
    return _paired(question, of["baseline"]["model_minus_baseline"], said)


def _frozen(best: SettingResult, results: pd.DataFrame, models: Sequence[SettingResult]) -> list[Answer]:
    """The answer where a setting has a frozen baseline: equal but for `trainable_from` and the way of training; of
    several the best."""
    question = f"{BETTER}the frozen baseline?"
    settings = {name: of for of, rows in combinations(results) for name in rows["run"]}
    ours = settings[best.runs[0]]
    if ours["trainable_from"] == FROZEN:
        itself = Answer(question, ITSELF, "No other setting has a higher accuracy.", "doubt")
        return [itself] if len(models) > 1 else []
    for model in models:  # the best first
        theirs = settings[model.runs[0]]
        if theirs["trainable_from"] == FROZEN and _fixed(theirs) == _fixed(ours):
            try:
                found = comparison(model, best)
            except InputError:
                return [Answer(question, UNKNOWN, "The two report on different cells.", "doubt")]
            return [_paired(question, found, f"The baseline: {model.name}.")]
    return []


def _fixed(settings: dict[str, Any]) -> dict[str, str]:
    """The settings of a model that are not its way of training."""
    return {
        name: repr(value)
        for name, value in settings.items()
        if name != "trainable_from" and not name.startswith(TRAINING)
    }


def _paired(question: str, differences: dict[str, Any], said: str) -> Answer:
    """An answer from the paired differences of two models."""
    accuracy, names = differences["accuracy"], ("accuracy", "auroc")
    texts = [f"{METRICS[name].title} {_difference(differences[name], name)}" for name in names]
    said = f"{', '.join(texts)}, paired on the same cells. {said}"
    if accuracy["low"] is None:
        return Answer(question, NOT_SHOWN, f"{said} There is no interval.", "doubt")
    if accuracy["low"] > 0:
        return Answer(question, SHOWN, said, "fine")
    worse = accuracy["high"] < 0
    return Answer(question, WORSE if worse else NOT_SHOWN, said, "alarm" if worse else "doubt")


def _leaks(results: pd.DataFrame) -> Answer:
    leaks, statement = summary.leak_statement(results)
    verdict, _, rest = statement.partition(": ")
    unknown = leaks and not statement.startswith(words.LEAKS)
    if unknown:
        return Answer(LEAKS, UNKNOWN, statement, "alarm")
    return Answer(LEAKS, verdict, rest[0].upper() + rest[1:], "alarm" if leaks else "fine")


def _epoch(results: pd.DataFrame) -> Answer:
    question = "Which cells chose the epoch?"
    if statement := summary.chosen_statement(results):
        verdict, _, rest = statement.partition(": ")
        return Answer(question, verdict, rest[0].upper() + rest[1:], "doubt")
    return Answer(
        question, "Other cells", "The reported cells neither trained the model nor chose its epoch.", "fine"
    )


def _triage(sweep: Sweep, model: SettingResult, of: dict[str, Any]) -> Answer:
    """What a triage policy releases: the certified one beside the run, or one at the default bounds."""
    # The page lists those that cannot be read.
    found = (readable_policy(run, []) for run in sweep.begun if run.name in model.runs)
    table, policy = model.replicates[0], next(filter(None, found), None)
    reasons = [mark for mark in model.marks if mark.startswith((words.CHOSEN_HERE, words.LEAKS))]
    reasons += ["the pooled folds are of several models"] * model.pooled
    if policy is None and not reasons:
        try:
            policy = choose(table)
        except InputError as problem:
            reasons = [str(problem)]
    if policy is None or not policy.certified:
        why = "; ".join(reasons) or (policy.why_not if policy else None) or "no policy"
        return Answer(TRIAGE, NOTHING, f"{why[0].upper() + why[1:]}.", "doubt")
    bounds = (
        f"At most {100 * policy.max_missed:g} % of the {of['classes'][1]} cells are missed and at most "
        f"{100 * policy.max_false_alarm:g} % of the {of['classes'][0]} cells are false alarms, with "
        f"{100 * policy.confidence:g} % confidence (mean over {policy.unit}s), if the setting was not picked on these "
        "cells. The rest goes to review."
    )
    return Answer(TRIAGE, f"{100 * policy.released:.1f} % of the cells", bounds, "fine")


def _gate(of: dict[str, Any]) -> list[Answer]:
    """The reported cells that the gate stops; nothing where there is no gate."""
    if (unlike := of["unlike"]) is None:
        return []
    question = "Unlike the training cells?"
    if not unlike["stopped"]:
        return [Answer(question, "No cell", "The gate stops none of the reported cells.")]
    share, subjects = 100 * unlike["stopped"] / unlike["n_cells"], unlike["subjects"]
    said = "They go to review."
    if subjects:
        said = f"Of {words.count(len(subjects), 'subject')}: {', '.join(words.stopped_of(subjects))}. {said}"
    return [Answer(question, f"{share:.1f} % of the cells", said)]


def _with_interval(found: dict[str, Any], name: str) -> str:
    unit = " %" * (METRICS[name].format == "percent")
    return words.between(found, "value", words.form(METRICS[name]), unit, " (no interval)")


def _difference(found: dict[str, Any], name: str) -> str:
    unit = " points" * (METRICS[name].format == "percent")
    return words.between(found, "difference", words.difference_form(METRICS[name]), unit, " (no interval)")
