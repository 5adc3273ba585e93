"""`leukemia stress`: the reported cells of a run under shifts of optics, camera, stain, geometry and segmentation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from leukemia import __version__
from leukemia.data import shifts
from leukemia.data.pixels import at_native_size, decode, fit, pixel_hash, read_in_batches
from leukemia.data.shifts import SHIFTS, Shift
from leukemia.errors import InputError, check_one_of
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.predictions import parse_table
from leukemia.evaluation.stress import all_hold, measured, not_shown_to_fall, safe_until
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.reporting.evidence import predictions_of
from leukemia.reporting.stress import sentence
from leukemia.runs import Run
from leukemia.storage.contents import file_hash
from leukemia.storage.plain_files import check_inside, read_text
from leukemia.terminal import show

SCORES = "stress.csv"  # a row a cell, a column a shift and strength, and with a gate a second one
UNLIKE = " unlike"  # the end of that column's name
Scores = dict[str, NDArray[np.float64]]
IN_MEMORY = 1e9  # bytes of pictures; the others are decoded again for each strength


def stress(run: Run, names: Sequence[str] = (), device: str = "auto") -> int:
    """Score a run's reported cells under each shift and strength, write stress.json, and say up to which strength the
    model is safe. Scores are kept in stress.csv as they come, and used again for the same model, version and cells.

    Args:
        run: finished, with its pictures.
        names: of SHIFTS; none for all of them.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        InputError: if the run or its pictures cannot be used, or a shift is unknown.
    """
    for name in names:
        check_one_of("--shifts", name, SHIFTS)
    chosen = [shift for shift in SHIFTS.values() if not names or shift.name in names]
    for file in (SCORES, "stress.json"):
        check_inside(run.folder / file, run.folder)
    table = predictions_of(run).reset_index(drop=True)
    pictures = _Pictures(run, table["path"].tolist())
    predictor = TorchPredictor(run, device)
    scores = _Scores(run, table["path"], predictor)
    wanted: list[tuple[Shift | None, float]] = [(None, 0.0)]
    wanted += [(shift, strength) for shift in chosen for strength in shift.strengths]
    todo = [each for each in wanted if _column(*each) not in scores.table]
    with tqdm(desc="stress", total=len(todo) * len(table), unit="cell", disable=None) as bar:
        for shift, strength in todo:
            scores.keep(shift, strength, _score(predictor, pictures, shift, strength, bar))
    policy = predictor.policy
    plain = scores.of(table, None, 0.0).assign(logit=table["logit"])
    none = _entry(plain, plain, policy, scores.has_gate)
    found = [
        _measured(shift, plain, none, scores, policy)
        for shift in tqdm(chosen, desc="intervals", disable=None)
    ]
    result = {
        "model": run.model,
        "version": __version__,
        "what": f"{len(table):,} cells of the {table['split'].iloc[0]} split",
        "certified": policy is not None and policy.certified,
        "policy": None if policy is None else policy.to_json(),
        "gate": scores.has_gate,
        "none": none,
        "rescored": float((scores.of(table, None, 0.0)["logit"] - table["logit"]).abs().max()),
        "shifts": found,
    }
    result["sentence"] = sentence(result)
    run.write_json("stress.json", result)
    show(result["sentence"])
    show(run.folder / "stress.json")
    return 0


def _score(
    predictor: TorchPredictor, pictures: "_Pictures", shift: Shift | None, strength: float, bar: Any
) -> Scores:
    """The logit of each cell under a shift, and with a gate how unlike the training cells it is."""

    def pixels(file: Path) -> NDArray[np.uint8]:
        picture = pictures.read(file)
        picture = picture if shift is None else shift(picture, strength)
        return fit(picture, predictor.image_size, predictor.resize)

    parts = []
    for _, items in read_in_batches(pictures.files, pixels, predictor.image_size):
        pixels_of = []
        for item in items:
            if isinstance(item, InputError):
                raise item
            pixels_of.append(item)
        parts.append(predictor.scores(np.stack(pixels_of)))
        bar.update(len(items))
    known = [name for name in ("logit", "unlike_by") if name in parts[0]]
    return {name: np.concatenate([part[name] for part in parts]) for name in known}


def _measured(
    shift: Shift, plain: pd.DataFrame, none: dict[str, Any], scores: "_Scores", policy: Policy | None
) -> dict[str, Any]:
    entries = [
        {"strength": strength, **_entry(plain, scores.of(plain, shift, strength), policy, scores.has_gate)}
        for strength in shift.strengths
    ]
    holds = all_hold if policy is not None and policy.certified else not_shown_to_fall
    safe = {entry["strength"]: holds(entry) for entry in entries}
    until = safe_until(shift.ways, safe.__getitem__) if holds(none) else [None] * len(shift.ways)
    named = {name: getattr(shift, name) for name in ("name", "title", "unit", "none")}
    return {**named, "strengths": entries, "until": until}


def _entry(
    plain: pd.DataFrame, shifted: pd.DataFrame, policy: Policy | None, has_gate: bool
) -> dict[str, Any]:
    found = measured(plain, shifted, policy)
    if has_gate and policy is not None:
        alone = measured(plain.assign(stopped=False), shifted.assign(stopped=False), policy)
        found["without_gate"] = {name: alone[name] for name in ("missed", "false_alarm", "released", "holds")}
    return found


class _Pictures:
    """The pictures of a run's reported cells at their native size, checked to be those that it scored."""

    def __init__(self, run: Run, paths: Sequence[str]) -> None:
        root = run.data.folder
        self.native_size = run.data.native_size
        self.files = [str(root / path) for path in paths]
        known = dict(zip(run.cells["path"], run.cells["pixel_hash"], strict=True))
        self._hashes = {Path(file): known.get(path) for file, path in zip(self.files, paths, strict=True)}
        self._kept: dict[Path, NDArray[np.uint8]] = {}
        self._bytes = 0

    def read(self, file: Path) -> NDArray[np.uint8]:
        if file in self._kept:
            return self._kept[file]
        picture = at_native_size(decode(file), self.native_size)
        if pixel_hash(picture) != self._hashes[file]:
            raise InputError(
                f"{file} has other pixels than the run scored: put its pictures back, or train again"
            )
        if self._bytes < IN_MEMORY:
            self._kept[file] = picture
            self._bytes += picture.nbytes
        return picture


class _Scores:
    """The logits of each shift and strength, kept in the run folder as they come."""

    def __init__(self, run: Run, paths: pd.Series, predictor: TorchPredictor) -> None:
        self._run = run
        self._key = _key(run, paths, predictor)
        self.table = self._read(paths)

    @property
    def has_gate(self) -> bool:
        return f"{_column(None, 0)}{UNLIKE}" in self.table

    def keep(self, shift: Shift | None, strength: float, scores: Scores) -> None:
        column = _column(shift, strength)
        found = {column: scores["logit"]}
        if "unlike_by" in scores:
            found[column + UNLIKE] = scores["unlike_by"]
        self.table = pd.concat([self.table, pd.DataFrame(found)], axis=1)
        self._run.write_table(SCORES, self.table)

    def of(self, table: pd.DataFrame, shift: Shift | None, strength: float) -> pd.DataFrame:
        """The table of cells with the logits under a shift, and whether the gate stops a cell."""
        column = _column(shift, strength)
        stopped = ~(self.table[column + UNLIKE] <= 1) if self.has_gate else False
        return table.assign(logit=self.table[column], stopped=stopped)

    def _read(self, paths: pd.Series) -> pd.DataFrame:
        place = self._run.folder / SCORES
        fresh = pd.DataFrame({"path": paths, "of": self._key})
        try:
            table = parse_table(read_text(place), str(place))
        except FileNotFoundError:
            return fresh
        if "of" not in table or not table["of"].eq(self._key).all():
            show(f"NOTE: {place} is of another model, version or data: scored again")
            return fresh
        numbers = table.drop(columns=["path", "of"], errors="ignore")
        names = set(map(str, numbers))
        gated = {name for name in names if name.endswith(UNLIKE)}
        numeric = all(map(pd.api.types.is_numeric_dtype, numbers.dtypes)) and numbers.notna().all(axis=None)
        whole = numeric and gated in (set(), {f"{name}{UNLIKE}" for name in names - gated})
        if not whole or not table.get("path", pd.Series()).equals(paths):
            raise InputError(f"{place} is damaged: remove it, and the cells are scored again")
        return table


def _column(shift: Shift | None, strength: float) -> str:
    return "none" if shift is None else f"{shift.name} {strength:g}"


def _key(run: Run, paths: pd.Series, predictor: TorchPredictor) -> str:
    """Names all that scores depend on: code, model, gate, cells, device, precision and engine."""
    files = [file for file in (run.best_checkpoint, run.folder / "gate.npz") if file.is_file()]
    parts = [__version__, str(shifts.VERSION), run.model, *map(file_hash, files), str(predictor.device)]
    parts += [*predictor.precisions, *predictor.engines, predictor.tta, *paths]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
