"""A sweep in sentences, and the settings that its runs share."""

from collections import Counter
from typing import Any

import pandas as pd

from leukemia.reporting import words
from leukemia.reporting.results import differing
from leukemia.reporting.text_tables import is_cnmc, is_synthetic

HARDWARE = ("machine", "device", "devices", "nodes", "threads")  # of a session


def states(results: pd.DataFrame) -> str:
    """The number of runs, and of those in each state; and whether the cells are real."""
    counts = Counter(results["status"])
    said = f"{words.count(len(results), 'run')}: " + ", ".join(f"{n:,} {s}" for s, n in counts.items())
    return f"{said}. Synthetic cells: not evidence about leukemia" if is_synthetic(results) else said


def leak_statement(results: pd.DataFrame) -> tuple[bool, str]:
    """Whether any finished run leaks, and the statement at the top of the page."""
    runs = results[results["accuracy"].notna()]
    loud = next((mark for mark in words.marks(runs) if mark.startswith(words.LEAKS)), None)
    if loud:
        return True, f"{loud}. These metrics are too good for new patients: do not report them as held out."
    unknown = int(runs["leaks"].isna().sum())
    if unknown:
        return True, f"Whether reported cells are independent of training is not known for {unknown} runs."
    return False, "No leak: no reported cell shares its subject or its picture with the training cells."


def chosen_statement(results: pd.DataFrame) -> str | None:
    """The statement that the epoch was chosen on the reported cells, if that is so for any finished run."""
    runs = results[results["accuracy"].notna()]
    mark = next((mark for mark in words.marks(runs) if mark.startswith(words.CHOSEN_HERE)), None)
    if mark is None:
        return None
    return (
        f"{mark.capitalize()}: the metrics are of the cells that chose the epoch, so they are not held out."
    )


def study_statement(results: pd.DataFrame) -> str:
    """The meaning of the seed study's numbers, and whether the runs here can be compared with them."""
    note = "The seed study's numbers are for C-NMC prelim (1,867 cells), and its epoch was chosen on those cells."
    runs = results[results["accuracy"].notna()]
    if not len(runs):
        return note
    if is_synthetic(runs):
        return f"{note} The runs here are on synthetic cells, so no difference is shown."
    if not is_cnmc(results):
        classes = ", ".join(map(words.value, runs["classes"].drop_duplicates()))
        return (
            f"{note} The runs here have the classes {classes}: another data set, so no difference is shown."
        )
    cells = sorted(set(runs["n_images"].dropna()))
    if cells == [words.SEED_STUDY_CELLS] and set(runs["protocol"]) == {"official"}:
        return f"{note} The runs here report on as many cells by the same protocol."
    here = f"{words.whole(cells[0])} to {words.whole(cells[-1])}" if len(cells) > 1 else words.whole(cells[0])
    protocols = ", ".join(map(words.value, runs["protocol"].drop_duplicates()))
    return f"{note} The runs here report on {here} cells (protocol {protocols}): the cells differ."


def settings_shared(settings: list[dict[str, Any]]) -> dict[str, str]:
    """Settings that are the same in all runs, by dotted name."""
    known = [of_run for of_run in settings if of_run]
    varied = set(differing(settings))
    return {n: words.value(v) for n, v in known[0].items() if n not in varied} if known else {}


def settings_varied(settings: list[dict[str, Any]]) -> dict[str, str]:
    """Settings that differ between the runs, each with its values in the order in which they occur."""
    known = [of_run for of_run in settings if of_run]
    return {
        name: ", ".join(dict.fromkeys(words.value(of_run.get(name)) for of_run in known))
        for name in differing(settings)
    }


def computed_with(statuses: list[dict[str, Any]]) -> dict[str, str]:
    """Machines, devices, threads and library versions. Where runs differ, each value stands with its number of runs; a
    run of several sessions has their values in turn."""
    seen: dict[str, Counter[str]] = {}
    for status in statuses:
        told: dict[str, dict[str, None]] = {}
        sessions = status.get("sessions")
        for session in sessions if isinstance(sessions, list) else [status]:
            session = session if isinstance(session, dict) else {}
            versions = session.get("versions")
            found = versions if isinstance(versions, dict) else {}
            for name, value in {**{key: session.get(key) for key in HARDWARE}, **found}.items():
                if value is not None:
                    told.setdefault(str(name), {})[str(value)] = None
        for name, values in told.items():
            seen.setdefault(name, Counter())[", then ".join(values)] += 1
    return {name: _values(values) for name, values in seen.items()}


def _values(values: Counter[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({words.count(n, 'run')})" for value, n in values.items())
