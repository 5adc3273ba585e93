"""Run and sweep folders: the files of a run, read and written as plain data.

Nothing here composes a configuration or unpickles an object, so a folder that comes from a stranger is safe
to open, and a notebook can read a run without Hydra, Lightning or a GPU.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from leukemia.data.run_files import (
    RunData,
    check_cells,
    check_config,
    check_history,
    check_metrics,
    check_status,
    run_data,
    run_engine,
    run_precision,
)
from leukemia.errors import InputError, quoted
from leukemia.evaluation.ensemble import mean_predictions
from leukemia.evaluation.gate import Gate
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.predictions import checked, parse_table
from leukemia.storage.arrays import file_hash, read_arrays, write_arrays
from leukemia.storage.atomic import write_text
from leukemia.storage.plain_files import dump_yaml, parse_json, parse_yaml, read_text

PLAN = "sweep.json"
PRUNED = "pruned.json"  # where a search stopped a run early
STUDY = "study.db"  # the trials of a search


class OldRunError(InputError):
    """A run folder of release 0.1, whose settings have other names."""


@dataclass(frozen=True)
class Run:
    """One run folder. Every property reads its file when first asked for.

    Raises:
        InputError: where the file is missing or is not what it should be; the message names it.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def members(self) -> tuple["Run", ...]:
        """The run alone; see `Ensemble`."""
        return (self,)

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def lock_file(self) -> Path:
        """Who trains in this folder holds it."""
        return self.folder.with_name(f".{self.name}.lock")

    def is_held(self) -> bool:
        """Whether a process trains in this folder, as far as this file system knows of locks."""
        if not self.lock_file.exists():
            return False
        try:
            with FileLock(self.lock_file, timeout=0):
                return False
        except (Timeout, OSError):
            return True

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as nested dicts."""
        config = parse_yaml(self._text("config.yaml"), str(self.folder / "config.yaml"))
        model = config.get("model")
        self._refuse_old(isinstance(model, dict) and "depth" in model)
        check_config(config, str(self.folder / "config.yaml"))
        return config

    @cached_property
    def data(self) -> RunData:
        """The settings of the data in the configuration."""
        return run_data(self.config, str(self.folder / "config.yaml"))

    @property
    def precision(self) -> str:
        """`trainer.precision` of the configuration."""
        return run_precision(self.config, str(self.folder / "config.yaml"))

    @property
    def engine(self) -> str:
        """`model.engine` of the configuration."""
        return run_engine(self.config, str(self.folder / "config.yaml"))

    @property
    def status(self) -> dict[str, Any]:
        """`status` (`running`, `done`, `interrupted` or `failed`) and, where known, `error`, times, versions, machine.

        Read afresh each time, for it changes while the run goes on.
        """
        status = self._json("status.json")
        check_status(status, str(self.folder / "status.json"))
        return {"status": "failed", "error": "status.json names no status"} | status

    @cached_property
    def metrics(self) -> dict[str, Any]:
        metrics = self._json("metrics.json")
        self._refuse_old("side" in metrics)
        check_metrics(metrics, str(self.folder / "metrics.json"))
        return metrics

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row an epoch, `epoch` from 1."""
        table = self._table("history.csv")
        check_history(table, str(self.folder / "history.csv"))
        return table

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """`path, subject, split, label, logit, probability` of the best checkpoint."""
        return self._table("predictions.csv")

    @cached_property
    def baseline(self) -> pd.DataFrame | None:
        """The predictions of the handcrafted baseline, as `predictions`; None where the run has none."""
        return self._table("baseline.csv") if (self.folder / "baseline.csv").is_file() else None

    @cached_property
    def cells(self) -> pd.DataFrame:
        """`path, subject, group, label, split, pixel_hash` of every cell of the run."""
        table = self._table("cells.csv")
        check_cells(table, str(self.folder / "cells.csv"))
        return table

    @property
    def policy(self) -> Policy | None:
        """The triage policy beside the run; None if there is none. Read afresh each time."""
        if not (self.folder / "triage.json").is_file():
            return None
        try:
            return Policy.from_json(self._json("triage.json"))
        except InputError as error:
            raise InputError(
                f"{self.folder / 'triage.json'}: {error}; move it aside, or call `leukemia triage` again"
            ) from None

    @property
    def gate(self) -> Gate | None:
        """The gate of the best checkpoint; None if there is none. Read afresh each time."""
        file = self.folder / "gate.json"
        if not file.is_file():
            return None
        content = self._json("gate.json")
        remedy = "train to the end again (`leukemia-train`), or move it aside"
        if content.get("checkpoint") != file_hash(self.best_checkpoint):
            raise InputError(f"{file} is not the gate of checkpoints/best.ckpt beside it: {remedy}")
        try:
            return Gate.from_json(content, read_arrays(self.folder / "gate.npz", str(content.get("arrays"))))
        except InputError as error:
            raise InputError(f"{file}: {error}; {remedy}") from None

    @property
    def pruned(self) -> dict[str, Any] | None:
        """Where a search stopped the run early: `epoch`, `monitor`, `best`, `compared_with`; None where it did not."""
        return self._json_if_there(PRUNED)

    @property
    def gradcam(self) -> dict[str, Any] | None:
        """The summary that `leukemia explain` wrote of the run's own cells; None without one. Read afresh each time."""
        return self._json_if_there("gradcam.json")

    @property
    def embedding(self) -> dict[str, Any] | None:
        """The cost of the pass that computed cached activations, see `FeatureCache`; None where pixels were read."""
        return self._json_if_there("embedding.json")

    @property
    def stress(self) -> dict[str, Any] | None:
        """The results that `leukemia stress` wrote; None without them. Read afresh each time."""
        return self._json_if_there("stress.json")

    @cached_property
    def model(self) -> str:
        """The run's name and a hash of its settings and predictions: to know decisions and results of this model."""
        digest = hashlib.blake2b(digest_size=6)
        for name in ("config.yaml", "predictions.csv"):
            digest.update(self._text(name).encode())
        return f"{self.name}@{digest.hexdigest()}"

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(value, indent=2) + "\n")

    def write_gate(self, gate: Gate) -> None:
        """Write gate.npz and gate.json, which names it and the best checkpoint."""
        arrays: dict[str, Any] = {"centre": gate.centre, "whitening": gate.whitening, "cells": gate.cells}
        checksum = write_arrays(self.folder / "gate.npz", arrays)
        self.bind_gate({**gate.to_json(), "arrays": checksum})

    def bind_gate(self, content: dict[str, Any] | None = None) -> None:
        """Name the best checkpoint as it is now in gate.json, or in this new content of it."""
        content = self._json("gate.json") if content is None else content
        self.write_json("gate.json", {**content, "checkpoint": file_hash(self.best_checkpoint)})

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        write_text(self.folder / name, table.to_csv(index=False, quoting=csv.QUOTE_MINIMAL))

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.folder / "config.yaml", dump_yaml(config))

    def _refuse_old(self, is_old: bool) -> None:
        if is_old:
            raise OldRunError(
                f"{self.folder} is a run of release 0.1: train it again, this release cannot read it"
            )

    def _text(self, name: str) -> str:
        try:
            return read_text(self.folder / name)
        except FileNotFoundError:
            raise InputError(f"{self.folder} has no {name}: is it the folder of a finished run?") from None

    def _json(self, name: str) -> dict[str, Any]:
        return parse_json(self._text(name), str(self.folder / name))

    def _json_if_there(self, name: str) -> dict[str, Any] | None:
        return self._json(name) if (self.folder / name).is_file() else None

    def _table(self, name: str) -> pd.DataFrame:
        return parse_table(self._text(name), str(self.folder / name))


@dataclass(frozen=True)
class Sweep:
    """A folder of run folders, one level deep. A single run folder counts as a sweep of one."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @cached_property
    def runs(self) -> list[Run]:
        """The runs by name, those without a `status.json` left out.

        Raises:
            InputError: if there is none.
        """
        if not self.begun:
            raise InputError(
                f"{self.folder} holds no run (a folder with a status.json): give a run or a sweep"
            )
        return self.begun

    @property
    def pending(self) -> list[Run]:
        """Runs of the last command into this folder that have not begun."""
        begun = {run.name for run in self.begun}
        return [Run(self.folder / name) for name in self.planned if name not in begun]

    @property
    def planned(self) -> list[str]:
        """The names of all runs of the last command into this folder, as far as they are known; see `plan`."""
        return self._names("runs")

    @property
    def total(self) -> int:
        """How many runs the last command into this folder is to end with; 0 where that is not known."""
        total = self._plan.get("total")
        return total if isinstance(total, int) else 0

    @property
    def finished(self) -> list[str]:
        """The names of the runs whose results a search knew when it planned the present ones; else empty."""
        return self._names("finished")

    def plan(self, names: Sequence[str], total: int, finished: Sequence[str] = ()) -> None:
        """Record the runs that a command will make, so that those not begun are known, and those whose results a search
        knew."""
        plan = {"total": total, "runs": list(names), "finished": list(finished)}
        write_text(self.folder / PLAN, json.dumps(plan, indent=2) + "\n")

    def with_status(self, status: str) -> list[Run]:
        return [run for run in self.runs if run.status["status"] == status]

    @cached_property
    def begun(self) -> list[Run]:
        """As `runs`, and empty where there is none."""
        if self.folder.suffix == ".csv" and not self.folder.exists():
            raise InputError(f"{self.folder}: no such file")
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is not a folder: give the folder of a run or of a sweep")
        if (self.folder / "status.json").is_file():
            return [Run(self.folder)]
        found = sorted(path.parent for path in self.folder.glob("*/status.json"))
        return [Run(path) for path in found if not path.name.startswith(".")]  # dotted: moved aside

    def _names(self, key: str) -> list[str]:
        names = self._plan.get(key)
        kept = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return [name for name in kept if Path(name).name == name and not name.startswith(".")]

    @property
    def _plan(self) -> dict[str, Any]:
        try:
            return parse_json(read_text(self.folder / PLAN), PLAN)
        except (FileNotFoundError, InputError):
            return {}


@dataclass(frozen=True)
class Ensemble:
    """Finished runs as one model: the mean of their logits.

    Attributes:
        folder: holds the run folders, and what is written of the ensemble.
        members: two or more.
        named: whether the members were named one by one, and are not all finished runs of a sweep. They have no policy.
    """

    folder: Path
    members: tuple[Run, ...]
    named: bool = False

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    @property
    def runs(self) -> list[Run]:
        return list(self.members)

    @cached_property
    def data(self) -> RunData:
        """The settings of the data, in which all members agree, but for the root, which is that of the first.

        Raises:
            InputError: if they do not.
        """
        first, *others = self.members
        for other in others:
            for name in ("classes", "image_size", "resize", "native_size", "tta"):
                one, two = getattr(first.data, name), getattr(other.data, name)
                if one != two:
                    raise InputError(
                        f"{first.folder} has {name} {quoted(one)} and {other.folder} has {quoted(two)}: the members of "
                        "an ensemble agree in classes, picture settings and tta; name those that do"
                    )
        return first.data

    @cached_property
    def model(self) -> str:
        """As `Run.model`."""
        digest = hashlib.blake2b(" ".join(run.model for run in self.members).encode(), digest_size=6)
        return f"{self.name}@{digest.hexdigest()}"

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """See `leukemia.evaluation.ensemble.mean_predictions`."""
        tables = [checked(run.predictions, run.folder / "predictions.csv") for run in self.members]
        return mean_predictions(tables)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells of all members, as `Run.cells`. A cell is in train where any member trained on it, else in val
        where it chose the epoch of any.

        Raises:
            InputError: if a path means different pictures.
        """
        cells = pd.concat([run.cells for run in self.members], ignore_index=True)
        pictures = cells[["path", "pixel_hash"]].drop_duplicates()
        if (several := pictures["path"].duplicated()).any():
            raise InputError(
                f"{quoted(pictures['path'][several].iloc[0])} is not the same picture for all members of the "
                "ensemble: train them on the same data"
            )
        order = cells["split"].map({"train": 0, "val": 1}).fillna(2)
        cells = cells.loc[order.sort_values(kind="stable").index]
        return cells.drop_duplicates("path").reset_index(drop=True)

    @property
    def policy(self) -> Policy | None:
        """The policy that `leukemia triage SWEEP --ensemble` certified for these members; None if there is none.

        Raises:
            InputError: if the policy in the folder is not for these members.
        """
        policy = None if self.named else Run(self.folder).policy
        if policy is not None and policy.fitted_on.get("members") != self.member_names:
            raise InputError(
                f"{self.folder / 'triage.json'} is not the policy of the ensemble of {len(self.members)} runs: call "
                f"`leukemia triage {self.folder} --ensemble`, or move it aside"
            )
        return policy

    @property
    def member_names(self) -> list[str]:
        return [run.name for run in self.members]


def open_model(paths: Sequence[Path | str]) -> Run | Ensemble:
    """The run in a folder, or the ensemble of several run folders, or of the finished runs of a sweep folder.

    Raises:
        InputError: as `open_run`; if a run is named twice; or if a sweep has fewer than two finished runs.
    """
    first, *others = map(Path, paths)
    if others:
        runs = [open_run(path) for path in (first, *others)]
        if len({run.folder.resolve() for run in runs}) < len(runs):
            raise InputError("a run is named twice: each member of an ensemble counts once")
        return Ensemble(runs[0].folder.parent, tuple(runs), named=True)
    if (first / "status.json").is_file() or not first.is_dir() or not Sweep(first).begun:
        return open_run(first)
    finished = Sweep(first).with_status("done")
    return Ensemble(first, tuple(finished)) if len(finished) > 1 else open_run(first)


def open_run(folder: Path | str) -> Run:
    """The run in a folder.

    Raises:
        InputError: if this is not a run folder, with the folder to give; or if its configuration cannot be read.
    """
    folder = Path(folder)
    if (folder / "status.json").is_file():
        run = Run(folder)
        _ = run.config  # refuses a run of release 0.1
        return run
    around = [place for place in folder.absolute().parents if (place / "status.json").is_file()]
    inside = sorted(path.parent for path in folder.glob("*/status.json"))
    if around or folder.suffix == ".ckpt":
        remedy = ", ".join(["give the run folder that holds it", *map(str, around[:1])])
    elif inside:
        remedy = f"it holds {len(inside)} of them, give one, as {inside[0]}"
    else:
        remedy = "give the folder of a run" if folder.exists() else "there is no such folder"
    raise InputError(f"{folder} is not a run folder (a folder with a status.json): {remedy}")
