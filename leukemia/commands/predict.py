"""`leukemia predict`: decisions on picture files, with a run or an exported model. No torch."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from leukemia.data.files import find_pictures, natural, spelled
from leukemia.data.pixels import read_in_batches
from leukemia.data.subjects import owners_of
from leukemia.errors import InputError, PlaceError, unusable_place
from leukemia.evaluation.policy import REVIEW
from leukemia.evaluation.predictions import sigmoid
from leukemia.evaluation.subjects import summary_by_subject
from leukemia.inference.predictor import NO_GATE, SCORES, Predictor, open_predictor
from leukemia.reporting.words import count
from leukemia.storage.atomic import write_text
from leukemia.storage.tables import spreadsheet_csv
from leukemia.terminal import show

CHALLENGE = "isbi_valid.predict"
OUTPUT = Path("predictions.csv")
MOST_TOLD = 10  # decisions on the screen


def predict(
    target: Path | Sequence[Path],
    paths: Sequence[str],
    output: Path | None = None,
    tta: str | None = None,
    device: str = "auto",
    subjects: str | None = None,
    challenge: bool = False,
    as_json: bool = False,
) -> int:
    """Score picture files, write the table and print the counts of decisions; of a few pictures each decision.

    Args:
        target: a run folder, or a file that `leukemia export` wrote; for an ensemble a sweep folder, or several run
            folders.
        paths: files, folders (everything in them) or globs; `-` for the lines of standard input.
        output: the csv. Until it is complete, its rows are in NAME.partial.csv beside it. A summary by
            subject goes beside it as NAME_subjects.csv, and the challenge's file under its own name. None for OUTPUT;
            but for one picture, and for JSON, then no file is written unless subjects or the challenge ask for theirs.
        tta: `none` or `d4`; None for that of the model's own predictions.
        device: `auto`, `cpu`, `cuda`, ...
        subjects: the source of each cell's subject, see `owners_of`.
        challenge: also write the file of the ISBI 2019 challenge: a label (1 ALL, 0 HEM) a line, in image order.
        as_json: print one JSON object in place of sentences: the model's facts and a list of `cells`.

    Returns:
        0, or 1 where files could not be read: each is a row with its `error`.

    Raises:
        InputError: if there is no picture, or the model, the output or the subjects cannot be used.
    """
    files = find_pictures([name for path in paths for name in (_named_on_stdin() if path == "-" else [path])])
    if output is None and (subjects or challenge or not (as_json or len(files) == 1)):
        output = OUTPUT
    if output is not None:
        _check_place(output)
    owners = owners_of(subjects, files) if subjects else None
    predictor = open_predictor(target, device, tta)
    if output is None:
        table = score(predictor, files)
    else:
        with _kept(output) as keep:
            table = score(predictor, files, keep)
    if owners is not None:
        for place, name in enumerate(owners.columns, start=1):
            table.insert(place, name, owners[name])
    written = []
    if output is not None:
        written = _written(output, table, files, predictor, owners is not None, challenge)
    if as_json:
        show(json.dumps(_as_json(table, predictor), indent=2), coloured=False)
    else:
        show("\n".join([*_summary(table, predictor), *written]))
    return int(table["error"].notna().any())


def _written(
    output: Path,
    table: pd.DataFrame,
    files: Sequence[str],
    predictor: Predictor,
    by_subject: bool,
    challenge: bool,
) -> list[str]:
    """Write the files, and tell them."""
    write_text(output, spreadsheet_csv(table))
    _partial(output).unlink(missing_ok=True)
    said = []
    if by_subject:
        beside = output.with_name(f"{output.stem}_subjects.csv")
        summary = summary_by_subject(table[table["error"].isna()], predictor.classes)
        write_text(beside, spreadsheet_csv(summary))
        said.append(f"{len(summary):,} subjects: {beside}")
    unread = int(table["error"].notna().sum())
    if challenge and unread:
        said.append(
            f"{CHALLENGE} is not written: its lines are the images in order, and {unread} could not be read"
        )
    elif challenge:
        in_order = table.iloc[sorted(range(len(table)), key=lambda row: natural(files[row]))]
        write_text(
            output.with_name(CHALLENGE), "".join(f"{int(logit >= 0)}\n" for logit in in_order["logit"])
        )
        said.append(str(output.with_name(CHALLENGE)))
    return [*said, str(output)]


def score(
    predictor: Predictor, files: Sequence[str], keep: Callable[[pd.DataFrame], None] = lambda table: None
) -> pd.DataFrame:
    """The table of `leukemia predict`, a row a file; `keep` gets its parts as they come.

    Its columns: `path, logit, probability, probability_sd` (of the members of an ensemble), `calibrated_probability`
    (missing where no calibration is known), `unlike` (the check of the gate that stops the cell, in words), `unlike_by`
    (see `Unlike.by`), `decision` (a class or `review`), `decided_by, tta, error` (missing where there is none).
    """
    scores = {name: np.full(len(files), np.nan) for name in SCORES}
    errors: list[str | None] = [None] * len(files)
    with tqdm(desc="predicting", total=len(files), unit="cell", disable=None) as bar:
        for start, items in read_in_batches(files, predictor.pixels, predictor.image_size):
            good, pixels = [], []
            for place, item in enumerate(items, start):
                if isinstance(item, InputError):
                    errors[place] = spelled(str(item))
                else:
                    good.append(place)
                    pixels.append(item)
            if good:
                for name, values in predictor.scores(np.stack(pixels)).items():
                    scores[name][good] = values
            part = slice(start, start + len(items))
            of_part = {name: values[part] for name, values in scores.items()}
            keep(_table(predictor, files[part], of_part, errors[part]))
            bar.update(len(items))
    return _table(predictor, files, scores, errors)


def _table(
    predictor: Predictor,
    files: Sequence[str],
    scores: Mapping[str, NDArray[np.float64]],
    errors: Sequence[str | None],
) -> pd.DataFrame:
    names, logit = [spelled(file) for file in files], scores["logit"]
    read = np.isfinite(logit)
    problems = [
        None if fine else error or f"{name}: its logit is not a finite number"
        for fine, error, name in zip(read, errors, names, strict=True)
    ]
    by = scores["unlike_by"] if predictor.has_gate else None
    unlike = pd.Series(predictor.unlike_words(scores), dtype=object).where(read)
    calibrated = None if predictor.policy is None else predictor.policy.calibrated(logit)
    return pd.DataFrame({
        "path": names,
        "logit": logit,
        "probability": sigmoid(logit),
        "probability_sd": scores["probability_sd"],
        "calibrated_probability": np.nan if calibrated is None else calibrated,
        "unlike": unlike,
        "unlike_by": scores["unlike_by"],
        "decision": pd.Series(predictor.decide(logit, by), dtype=object).where(read),
        "decided_by": pd.Series(predictor.decided_by, unlike.index).mask(unlike.notna(), "gate.json").where(read),
        "tta": predictor.tta,
        "error": problems,
    })  # fmt: skip


def _named_on_stdin() -> list[str]:
    """The lines of standard input, as names on disk."""
    names = [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line.strip()]
    if not names:
        raise InputError("-: there is no name on standard input: give a file, folder or glob a line")
    return names


def _as_json(table: pd.DataFrame, predictor: Predictor) -> dict[str, Any]:
    policy = predictor.policy
    return {
        "model": predictor.name,
        "classes": list(predictor.classes),
        "tta": predictor.tta,
        "decided_by": predictor.decided_by,
        "why_not_certified": policy.why_not if policy is not None else None,
        "cells": table.astype(object)
        .where(table.notna() & ~table.isin([np.inf, -np.inf]), None)
        .to_dict("records"),
    }


def _check_place(output: Path) -> None:
    """Refuse an output that would fail only at the end, or that lies in a run."""
    folder = output.absolute().parent
    inside = [place for place in (folder, *folder.parents) if (place / "status.json").is_file()]
    if inside:
        raise InputError(
            f"{output} lies in the run {inside[0]}, which keeps its own predictions: use -o FILE elsewhere"
        )
    if output.is_dir():
        raise InputError(f"{output} is a folder: name a file with -o FILE")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: make it, or choose another place with -o FILE")


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.stem}.partial.csv")


@contextmanager
def _kept(output: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that appends rows to a file beside the output: they stay there if the process dies."""
    partial, count = _partial(output), 0

    def keep(table: pd.DataFrame) -> None:
        nonlocal count
        with partial.open("a" if count else "w", encoding="utf-8", newline="") as file:
            file.write(spreadsheet_csv(table, header=count == 0))
        count += len(table)

    try:
        yield keep
    except BaseException as error:
        if count:
            show(f"{count:,} cells are kept in {partial}", sys.stderr)
        if reason := unusable_place(error):
            raise PlaceError(f"cannot write {partial}: {reason}") from None
        raise


def _told(row: Mapping[Any, Any], predictor: Predictor) -> str:
    """The decision on one cell in a line."""
    calibrated = row["calibrated_probability"]
    known = np.isfinite(calibrated)
    probability = calibrated if known else row["probability"]
    spread = f" (sd of the members {row['probability_sd']:.3f})" if np.isfinite(row["probability_sd"]) else ""
    kind = "calibrated probability" if known else "probability"
    unlike = "" if pd.isna(row["unlike"]) else f"; unlike the training cells: {row['unlike']}"
    return f"{row['path']}: {row['decision']}, {kind} of {predictor.classes[1]} {probability:.3f}{spread}{unlike}"


def _summary(table: pd.DataFrame, predictor: Predictor) -> list[str]:
    counts = table["decision"].value_counts()
    said = [f"{int(counts.get(name, 0)):,} {name}" for name in (*predictor.classes, REVIEW)]
    lines = [f"{count(len(table), 'cell')}, decided by {predictor.decided_by}: {', '.join(said)}"]
    if len(table) <= MOST_TOLD:
        lines = [_told(row, predictor) for row in table[table["error"].isna()].to_dict("records")] + lines
    if len(table) > MOST_TOLD and table["probability_sd"].notna().any():
        spread = (
            f"{table['probability_sd'].mean():.3f} on average, at most {table['probability_sd'].max():.3f}"
        )
        lines.append(f"Mean logit of an ensemble; standard deviation of its members' probabilities: {spread}")
    stopped = table["unlike"].value_counts()
    if stopped.sum():
        lines.append(f"{count(stopped.sum(), 'cell')} unlike the training cells, for review:")
        lines += [f"  {number:,} {words}" for words, number in stopped.items()]
    if not predictor.has_gate:
        lines.append(f"WARNING: {predictor.name} {NO_GATE}")
    if predictor.policy is None:
        lines.append(
            "No other cell is sent to review: there is no triage.json beside the model (`leukemia triage`)"
        )
    elif not predictor.policy.certified:
        lines.append(f"NOTE: the policy is not certified: {predictor.policy.why_not}")
    if predictor.policy is not None and predictor.policy.low is None and predictor.policy.high is None:
        lines.append("It releases nothing; without its triage.json each cell is decided at probability 0.5")
    failed = table[table["error"].notna()]
    lines += [f"not read: {error}" for error in failed["error"][:5]]
    if len(failed) > 5:
        lines.append(f"not read: {len(failed) - 5:,} more, see the column error")
    return lines
