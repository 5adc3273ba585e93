"""Subjects (and labels) of picture files, from their names or from a csv."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from leukemia.data.cnmc_labels import CELL, CLASSES, COLUMNS
from leukemia.data.files import base_name, csv_header, refuse_doubled, stem
from leukemia.errors import InputError, in_a_line, quoted
from leukemia.evaluation.predictions import refuse_longer_rows


def owners_of(source: str, files: Sequence[str]) -> pd.DataFrame:
    """The `subject` of each file (missing where it is unknown), and its `label` where the source has it.

    Args:
        source: a csv with the columns `path, subject[, label]` (a file is named by its path, its name or its
            stem), or C-NMC's table of preliminary labels; else a regular expression whose first group in a file's path
            is the subject, as `UID_(H?[0-9]+)_`.
        files: paths.

    Raises:
        InputError: if the source cannot be used, or gives no subject for any file.
    """
    is_table = source.lower().endswith(".csv")
    owners = _of_table(Path(source), files) if is_table else _of_pattern(source, files)
    if owners["subject"].isna().all():
        raise InputError(
            f"--subjects {source} tells the subject of none of the {len(files):,} files, such as {files[0]}"
        )
    return owners


def _of_pattern(pattern: str, files: Sequence[str]) -> pd.DataFrame:
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(
            f"--subjects {pattern} is neither a .csv nor a regular expression: {error}"
        ) from None
    if compiled.groups < 1:
        raise InputError(
            f"--subjects {pattern} has no group: put brackets around the subject, as UID_(H?[0-9]+)_"
        )
    found = [compiled.search(file) for file in files]
    names = [match[1].upper() if match and match[1] else None for match in found]
    return pd.DataFrame({"subject": pd.Series(names, dtype=object)})


def _of_table(path: Path, files: Sequence[str]) -> pd.DataFrame:
    header, delimiter = csv_header(path)
    refuse_doubled(header, path)
    try:
        table = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        refuse_longer_rows(table)
        table.columns = pd.Index(header)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a csv: {quoted(error)}") from None
    if {name.lower() for name in COLUMNS} <= set(header):
        cells = [CELL.fullmatch(stem(patient)) for patient in table["patient_id"]]
        table = pd.DataFrame({
            "path": table["new_names"],
            "subject": [cell[1].upper() if cell else "" for cell in cells],
            "label": [str(CLASSES.index(cell[2].upper())) if cell else "" for cell in cells],
        })  # fmt: skip
    elif not {"path", "subject"} <= set(header):
        raise InputError(
            f"{path} has the columns {in_a_line(', '.join(header)) or 'none'}: path, subject and, if known, label are "
            "needed"
        )
    row_of = {
        name: row
        for row, given in enumerate(table["path"])
        for name in (stem(given), base_name(given), given)
    }
    rows = [row_of.get(file, row_of.get(base_name(file), row_of.get(stem(file)))) for file in files]
    columns = [name for name in ("subject", "label") if name in table]
    owners = pd.DataFrame({
        name: pd.Series([None if row is None else table[name][row].strip() or None for row in rows], dtype=object)
        for name in columns
    })  # fmt: skip
    return owners.assign(subject=owners["subject"].str.upper())
