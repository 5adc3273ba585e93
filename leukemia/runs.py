"""Run and sweep folders: what a run leaves behind, read and written as plain data.

Nothing here composes a configuration or unpickles an object, so a folder that comes from a stranger is safe
to open, and a notebook can read a run without Hydra, Lightning or a GPU.
"""

import csv
import io
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from leukemia.errors import InputError

log = logging.getLogger(__name__)
STATES = ("running", "done", "interrupted", "failed")
RESUMES = ("auto", "never", "restart")
NOT_IDENTITY = (  # settings that do not make another run: where things lie, names, hardware
    "data.root",
    "data.max_gb",
    "name",
    "resume",
    "compile",
    "cache",
    "logger",
    "trainer",  # the choice of a hardware file
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "hydra",
)


@dataclass(frozen=True)
class Run:
    """One run folder. Every property reads its file when first asked for.

    Raises:
        InputError: where the file is missing or is not what it should be; the message names it.
    """

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as nested dicts."""
        try:
            config = yaml.safe_load(self._text("config.yaml"))
        except yaml.YAMLError as error:
            raise InputError(f"{self.folder / 'config.yaml'} is not YAML: {error}") from None
        if not isinstance(config, dict):
            raise InputError(f"{self.folder / 'config.yaml'} holds no configuration")
        return config

    @property
    def status(self) -> dict[str, Any]:
        """`status` (one of STATES), and what is known beside it: `error`, times, versions, machine.

        Read afresh each time, for it changes while the run goes on.
        """
        return {"status": "failed", "error": "status.json names no status"} | self._json("status.json")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self._json("metrics.json")

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row an epoch, `epoch` from 1."""
        return self._table("history.csv")

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """`path, subject, side, label, logit, probability` of the best checkpoint."""
        return self._table("predictions.csv")

    @cached_property
    def cells(self) -> pd.DataFrame:
        """`path, subject, group, label, side, pixel_hash` of every cell of the run."""
        return self._table("cells.csv")

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(value, indent=2) + "\n")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        write_text(self.folder / name, table.to_csv(index=False, quoting=csv.QUOTE_MINIMAL))

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{self.folder} has no {name}: is it the folder of a finished run?") from None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._text(name))
        except json.JSONDecodeError as error:
            raise InputError(f"{self.folder / name} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"{self.folder / name} holds no JSON object")
        return value

    def _table(self, name: str) -> pd.DataFrame:
        strings = {"path": str, "subject": str, "group": str, "side": str, "pixel_hash": str}
        try:
            return pd.read_csv(io.StringIO(self._text(name)), dtype=strings)
        except ValueError as error:  # pandas' own errors of an empty or broken csv are of this kind
            raise InputError(f"{self.folder / name} is no table: {error}") from None


@dataclass(frozen=True)
class Sweep:
    """A folder of run folders, one level deep. A single run folder counts as a sweep of one."""

    folder: Path

    @cached_property
    def runs(self) -> list[Run]:
        """The runs by name, those without a `status.json` left out.

        Raises:
            InputError: if there is none.
        """
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is not a folder: give the folder of a run or of a sweep")
        if (self.folder / "status.json").is_file():
            return [Run(self.folder)]
        found = sorted(path.parent for path in self.folder.glob("*/status.json"))
        runs = [Run(path) for path in found if not path.name.startswith(".")]  # dotted: moved aside
        if not runs:
            raise InputError(
                f"{self.folder} holds no run (a folder with a status.json): give a run or a sweep"
            )
        return runs

    def with_status(self, status: str) -> list[Run]:
        return [run for run in self.runs if run.status["status"] == status]


def claim(run: Run, config: dict[str, Any], cells: pd.DataFrame, resume: str = "auto") -> str:
    """Decide what becomes of a run folder, and move an old run aside where that is asked for.

    Args:
        run: the folder.
        config: the settings of the run that wants it; `auto` fits whatever the stored run chose.
        cells: its cells.
        resume: `auto` continues an unfinished run of the same settings and cells, `never` takes no folder with
            a run in it, `restart` moves the run that is there aside.

    Returns:
        `start`, `continue` (from last.ckpt) or `done` (nothing is left to do).

    Raises:
        InputError: if the folder holds something else; the message says what and the remedy.
    """
    if resume not in RESUMES:
        raise InputError(f"resume={resume} is unknown: use one of {', '.join(RESUMES)}")
    if not (run.folder / "status.json").is_file():
        found = sorted(path.name for path in run.folder.glob("*")) if run.folder.exists() else []
        if found:
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
    remedy = "choose another folder (hydra.run.dir=DIR or name=NAME), or move it aside with resume=restart"
    if resume == "never":
        raise InputError(f"{run.folder} holds a run already: {remedy}")
    if not run.last_checkpoint.is_file() and run.status["status"] != "done":
        return "start"  # it never finished an epoch: nothing can be lost
    if changed := differences(run.config, config):
        raise InputError(f"{run.folder} holds a run with other settings ({'; '.join(changed[:5])}): {remedy}")
    if moved := _changed_cells(run.cells, cells):
        raise InputError(
            f"the data of the run in {run.folder} have changed ({moved}): bring them back, or {remedy}"
        )
    return "done" if run.status["status"] == "done" else "continue"


def is_identity(key: str) -> bool:
    """Whether a setting, by its dotted name, makes a run another one."""
    return key not in NOT_IDENTITY and not key.startswith(("hydra/", "hydra.", "logger.", "cache."))


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The settings in which two configurations describe different runs, as readable lines."""
    before, after = flatten(stored), flatten(wanted)
    keys = [key for key in {**before, **after} if is_identity(key)]
    changed = [key for key in keys if before.get(key) != after.get(key) and after.get(key) != "auto"]
    return [f"{key} is {before.get(key)} there and {after.get(key)} here" for key in changed]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration's leaves by dotted name."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        leaves |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return leaves


def _changed_cells(stored: pd.DataFrame, wanted: pd.DataFrame) -> str:
    before, after = (table.set_index("path")[["side", "pixel_hash"]] for table in (stored, wanted))
    gone, new = before.index.difference(after.index), after.index.difference(before.index)
    both = before.index.intersection(after.index)
    other = both[(before.loc[both] != after.loc[both]).any(axis=1)]
    named = [("gone", gone), ("new", new), ("changed", other)]
    return "; ".join(f"{len(paths)} {what}, as {', '.join(paths[:3])}" for what, paths in named if len(paths))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a killed writer leaves the old one.

    Raises:
        InputError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another output folder") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
