"""Whether a run may have a folder: to start in it, to go on with the run in it, or not at all."""

import logging
import os
import time
from typing import Any

import pandas as pd

from leukemia.errors import InputError, PlaceError, check_one_of
from leukemia.identity import differences
from leukemia.runs import Run
from leukemia.storage.atomic import remove_left_behind
from leukemia.storage.plain_files import check_inside

log = logging.getLogger(__name__)
WRITTEN_FIRST = {"config.yaml", "cells.csv"}
# Of a finished run.
RESULTS = ("history.csv", "predictions.csv", "baseline.csv", "gate.json", "gate.npz", "metrics.json")
RESUMES = ("auto", "never", "restart", "extend")
REMEDY = "choose another folder (hydra.run.dir=DIR or name=NAME), or move it aside with resume=restart"


def stored_settings(run: Run, resume: str) -> dict[str, Any]:
    """The settings of the run that a command may go on with; empty where there is none.

    Raises:
        InputError: for an unknown `resume`.
    """
    check_one_of("resume", resume, RESUMES)
    if resume not in ("auto", "extend") or not (run.folder / "config.yaml").is_file():
        return {}
    return run.config


def claim(run: Run, settings: dict[str, Any], cells: pd.DataFrame, resume: str = "auto") -> str:
    """Decide what becomes of a run folder, and move an old run aside where that is asked for.

    Args:
        run: the folder.
        settings: of the run that wants it.
        cells: its cells.
        resume: `auto` continues an unfinished run of the same settings and cells, `never` takes no folder with
            a run in it, `restart` moves the run that is there aside, `extend` trains a run for more epochs.

    Returns:
        `start`, `continue` or `extend` (from a checkpoint), `repair` (a finished run that lacks one of RESULTS), or
        `done` (nothing is left to do).

    Raises:
        InputError: if the folder holds something else, or a link to a place elsewhere; the message says what and the
            remedy.
    """
    check_one_of("resume", resume, RESUMES)
    is_run = (run.folder / "status.json").is_file()  # another folder may be a home with all that is in it
    of_wandb = run.folder / "wandb"  # it links to the files that it saves
    for place in run.folder.rglob("*") if is_run else run.folder.glob("*"):
        if place.is_symlink() and of_wandb not in place.parents:
            check_inside(place, run.folder)
    remove_left_behind(run.folder)
    remove_left_behind(run.last_checkpoint.parent)
    if not is_run:
        found = sorted(path.name for path in run.folder.glob("*")) if run.folder.exists() else []
        if not set(found) <= WRITTEN_FIRST:  # else a run was killed before it wrote its status
            raise InputError(
                f"{run.folder} holds {', '.join(found[:3])} and no run: choose an empty output folder"
            )
        return "start"
    if resume == "restart":
        aside = run.folder.with_name(f".{run.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        run.folder.rename(aside)
        run.folder.mkdir()
        log.info("the run that was in %s lies in %s now", run.folder, aside)
        return "start"
    if resume == "never":
        raise InputError(f"{run.folder} holds a run already: {REMEDY}")
    done = run.status["status"] == "done"
    if not done and not run.last_checkpoint.is_file() and not run.best_checkpoint.is_file():
        return "start"  # it never finished an epoch: nothing can be lost
    for name in ("config.yaml", "cells.csv"):
        if not (run.folder / name).is_file():
            raise InputError(
                f"{run.folder} lacks {name}, so it may be another run: bring it back, or {REMEDY}"
            )
    stored, extended = dict(run.config), False
    if resume == "extend":
        extended = _more_epochs(run, stored, settings, done)
        stored = {**stored, "trainer": {**stored["trainer"], "max_epochs": settings["trainer"]["max_epochs"]}}
    if changed := differences(stored, settings):
        raise InputError(f"{run.folder} holds a run with other settings ({'; '.join(changed[:5])}): {REMEDY}")
    if moved := _changed_cells(run.cells, cells):
        raise PlaceError(
            f"the data of the run in {run.folder} have changed ({moved}): bring them back, or {REMEDY}"
        )
    if extended or not done:
        return "extend" if extended else "continue"
    return "repair" if lost_results(run) else "done"


def lost_results(run: Run) -> list[str]:
    """The files of RESULTS that a finished run lacks."""
    return [name for name in RESULTS if not (run.folder / name).is_file()]


def _more_epochs(run: Run, stored: dict[str, Any], settings: dict[str, Any], done: bool) -> bool:
    """Whether a run is asked to train for more epochs than it was.

    Raises:
        InputError: if it cannot be.
    """
    before, after = ((of.get("trainer") or {}).get("max_epochs") for of in (stored, settings))
    if before is None or after is None:
        raise InputError(f"resume=extend needs a trainer.max_epochs, here and in {run.folder}")
    if after < before or (after == before and done):
        raise InputError(
            f"{run.folder} has {before} epochs already: resume=extend needs a larger trainer.max_epochs than that"
        )
    if done and not run.last_checkpoint.is_file():
        raise InputError(f"{run.folder} has no checkpoints/last.ckpt, so it cannot be extended: {REMEDY}")
    return after > before


def _changed_cells(stored: pd.DataFrame, wanted: pd.DataFrame) -> str:
    columns = ["subject", "group", "label", "split", "pixel_hash"]
    before, after = (
        table.set_index("path").reindex(columns=columns).astype(object).fillna("").astype(str)
        for table in (stored, wanted)
    )
    gone, new = before.index.difference(after.index), after.index.difference(before.index)
    both = before.index.intersection(after.index)
    other = both[(before.loc[both] != after.loc[both]).any(axis=1)]
    named = [("gone", gone), ("new", new), ("changed", other)]
    return "; ".join(f"{len(paths)} {what}, as {', '.join(paths[:3])}" for what, paths in named if len(paths))
