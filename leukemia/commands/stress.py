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
from leukemia.commands.predict import decoded
from leukemia.data import shifts
from leukemia.data.pixels import at_native_size, decode, fit, pixel_hash
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

SCORES = "stress.csv"  # a row a cell, two columns a shift and strength
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
    todo = [(shift, s) for shift in chosen for s in shift.strengths if _column(shift, s) not in scores.table]
    with tqdm(desc="stress", total=len(todo) * len(table), unit="cell", disable=None) as bar:
        for shift, strength in todo:
            scores.keep(shift, strength, _score(predictor, pictures, shift, strength, bar))
    policy = predictor.policy
    plain = table.assign(stopped=False)
    found = [
        _measured(shift, plain, scores, policy) for shift in tqdm(chosen, desc="intervals", disable=None)
    ]
    result = {
        "model": run.model,
        "version": __version__,
        "what": f"{len(table):,} cells of the {run.metrics.get('split')} split",
        "certified": policy is not None and policy.certified,
        "policy": None if policy is None else policy.to_json(),
        "none": measured(plain, plain, policy),
        "shifts": found,
    }
    result["sentence"] = sentence(result)
    run.write_json("stress.json", result)
    print(result["sentence"])
    print(run.folder / "stress.json")
    return 0


def _score(
    predictor: TorchPredictor, pictures: "_Pictures", shift: Shift, strength: float, bar: Any
) -> NDArray[np.float64]:
    """The logit of each cell under a shift."""

    def shifted(file: Path) -> NDArray[np.uint8]:
        picture = shift(pictures.read(file), strength)
        return fit(picture, predictor.image_size, predictor.resize)

    logits = []
    for _, items in decoded(shifted, pictures.files):
        if problem := next((item for item in items if isinstance(item, InputError)), None):
            raise problem
        logits.append(predictor.logits(np.stack(items)))
        bar.update(len(items))
    return np.concatenate(logits)


def _measured(shift: Shift, plain: pd.DataFrame, scores: "_Scores", policy: Policy | None) -> dict[str, Any]:
    entries = []
    for strength in shift.strengths:
        shifted = plain.assign(logit=scores.table[_column(shift, strength)])
        entries.append({"strength": strength, **measured(plain, shifted, policy)})
    found = {
        "name": shift.name,
        "title": shift.title,
        "unit": shift.unit,
        "none": shift.none,
        "strengths": entries,
    }
    holds = all_hold if policy is not None and policy.certified else not_shown_to_fall
    found["until"] = safe_until(
        shift.ways, {entry["strength"]: holds(entry) for entry in entries}.__getitem__
    )
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

    def keep(self, shift: Shift, strength: float, logits: NDArray[np.float64]) -> None:
        self.table = self.table.assign(**{_column(shift, strength): logits})
        self._run.write_table(SCORES, self.table)

    def _read(self, paths: pd.Series) -> pd.DataFrame:
        fresh = pd.DataFrame({"path": paths, "of": self._key})
        try:
            table = parse_table(read_text(self._run.folder / SCORES), str(self._run.folder / SCORES))
        except FileNotFoundError:
            return fresh
        if "of" not in table or not table["of"].eq(self._key).all():
            print(f"NOTE: {self._run.folder / SCORES} is of another model, version or data: scored again")
            return fresh
        logits = table.drop(columns=["path", "of"], errors="ignore")
        whole = all(pd.api.types.is_numeric_dtype(of) for of in logits.dtypes) and np.isfinite(logits).all(
            axis=None
        )
        if not whole or not table.get("path", pd.Series()).equals(paths):
            raise InputError(
                f"{self._run.folder / SCORES} is damaged: remove it, and the cells are scored again"
            )
        return table


def _column(shift: Shift, strength: float) -> str:
    return f"{shift.name} {strength:g}"


def _key(run: Run, paths: pd.Series, predictor: TorchPredictor) -> str:
    """Names what logits depend on: code, model, cells, device and precision."""
    parts = [
        __version__,
        str(shifts.VERSION),
        run.model,
        file_hash(run.best_checkpoint),
        str(predictor.device),
    ]
    parts += [predictor.precision, predictor.tta, *paths]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
