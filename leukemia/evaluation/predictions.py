"""The table that every metric is computed from: the predictions of any model, a row a cell.

Columns: `path`, `label` (1 positive, 0 negative), `logit` (of the positive class) and, where known, `subject`
and `split`. `h3` and `H3 ` are one subject (see `plain_subjects`).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.errors import InputError, in_a_line, quoted
from leukemia.storage.plain_files import read_text

MOST = 1e100  # the squares of logits up to this size still add up
REQUIRED = ("path", "label", "logit")
STRINGS = {"path": str, "subject": str, "group": str, "split": str, "pixel_hash": str}


def read_predictions(path: Path | str) -> pd.DataFrame:
    """The predictions table in a csv file, checked; names of subjects stay text, as `007`.

    Raises:
        InputError: if there is no such file, if it is not a csv, or as `validate_predictions`.
    """
    try:
        text = read_text(Path(path)).removeprefix("\ufeff")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a csv with the columns {', '.join(REQUIRED)}") from None
    return checked(parse_table(text, str(path)), path)


def checked(table: pd.DataFrame, name: Path | str) -> pd.DataFrame:
    """A table that has been checked.

    Raises:
        InputError: as `validate_predictions`; `name` says which table.
    """
    try:
        validate_predictions(table)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return table


def parse_table(text: str, name: str) -> pd.DataFrame:
    """A csv's text as a table whose names are text, subjects as `plain_subjects`; only an empty field is missing.

    Raises:
        InputError: if it is not a csv; `name` says which.
    """
    try:
        content = io.BytesIO(text.encode())  # a StringIO takes four bytes a letter
        table = pd.read_csv(content, dtype=STRINGS, keep_default_na=False, na_values=[""])
        refuse_longer_rows(table)
    except ValueError as error:  # pandas' own errors of an empty or broken csv are of this kind
        raise InputError(f"{name} is not a table: {quoted(error)}") from None
    if "subject" not in table:
        return table
    return table.assign(subject=plain_subjects(table).astype(table["subject"].dtype))


def refuse_longer_rows(table: pd.DataFrame) -> None:
    """Refuse a csv whose rows have more fields than its header: pandas takes the first ones as an index, which moves
    the others to the next column.

    Raises:
        ValueError: if so.
    """
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("its rows have more fields than its header, as with a comma at the end of each row")


def plain_subjects(table: pd.DataFrame) -> pd.Series:
    """The subject of each row `[n]` as the index of cells spells it: upper case without blanks at its ends, missing
    where nothing is left. A name that is not text stays as it is."""
    names = table["subject"].unique()  # a subject has many cells
    return table["subject"].map(
        {name: (name.strip().upper() or None) if isinstance(name, str) else name for name in names}
    )


def plain_splits(table: pd.DataFrame) -> pd.Series:
    """The split of each row `[n]` in lower case without blanks at its ends; empty where there is none."""
    return table["split"].fillna("").astype(str).str.strip().str.lower()


def has_subjects(table: pd.DataFrame) -> bool:
    """Whether every cell of the table has a subject."""
    return "subject" in table and bool(plain_subjects(table).notna().all())


def validate_predictions(table: pd.DataFrame) -> None:
    """Check that metrics can be computed from a table. Rows are counted from 1, without the header.

    Raises:
        InputError: if it is empty, lacks a column of `path, label, logit`, or has a label other than 0 and 1,
            a logit that is not a finite number or beyond 1e100, an empty path, or a path twice.
    """
    missing = [column for column in REQUIRED if column not in table]
    if missing:
        raise InputError(
            f"a predictions table needs the columns {', '.join(REQUIRED)}; {', '.join(missing)} "
            f"missing (it has: {in_a_line(', '.join(map(str, table.columns))) or 'none'}){_separated(table)}"
        )
    if table.empty:
        raise InputError("the predictions table has no rows: there is nothing to compute")
    label, logit = pd.to_numeric(table["label"], "coerce"), pd.to_numeric(table["logit"], "coerce")
    _refuse(table, ~label.isin([0, 1]), "label", "write 1 for the positive class and 0 for the negative one")
    logit = logit.astype(float)
    _refuse(table, ~np.isfinite(logit), "logit", "it has to be a finite number")
    _refuse(table, logit.abs() > MOST, "logit", f"it has to lie between -{MOST:g} and {MOST:g}")
    empty = table["path"].isna() | (table["path"].astype(str).str.strip() == "")
    _refuse(table, empty, "path", "it is empty, and every cell needs a name of its own")
    _refuse(table, table["path"].duplicated(), "path", "it is there twice, and a cell counts once")


def arrays(table: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Label `[n]` (True positive) and logit `[n]` of a table that has been checked."""
    validate_predictions(table)
    label = pd.to_numeric(table["label"]).to_numpy() == 1
    return label, pd.to_numeric(table["logit"]).to_numpy(dtype=np.float64)


def sigmoid(logit: ArrayLike) -> NDArray[np.float64]:
    """The probability that a logit stands for, of its shape."""
    logit = np.asarray(logit, dtype=float)
    small = np.exp(-np.abs(logit))  # at most 1; scipy's expit takes 0.2 s to load
    return np.asarray(np.where(logit < 0, small, 1) / (1 + small))


def clusters(table: pd.DataFrame) -> tuple[str, NDArray[np.object_]]:
    """The independent units of a checked table: their kind, and the unit of each row. They are its `group` where groups
    join several subjects (those who share pictures), else its `subject`, else the `cell` itself."""
    if not has_subjects(table):
        return "cell", table["path"].to_numpy(dtype=object)
    subjects = plain_subjects(table)
    if "group" in table and table["group"].notna().all():
        pairs = pd.DataFrame({"subject": subjects, "group": table["group"]}).drop_duplicates()
        if pairs["group"].nunique() < subjects.nunique() == len(pairs):
            return "group", table["group"].to_numpy(dtype=object)
    return "subject", subjects.to_numpy(dtype=object)


def _refuse(table: pd.DataFrame, bad: ArrayLike, column: str, remedy: str) -> None:
    rows = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(rows):
        first = table.iloc[rows[0]]
        where = "" if column == "path" else f" ({in_a_line(str(first['path']))})"
        more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        raise InputError(f"{column} {_shown(first[column])} in row {rows[0] + 1:,}{where}{more}: {remedy}")


def _shown(value: Any) -> str:
    """A field in plain text, whatever its type."""
    if isinstance(value, str):
        return quoted(value)
    return "(empty)" if pd.isna(value) else str(value)


def _separated(table: pd.DataFrame) -> str:
    """A remedy where the whole header is one column."""
    names = {";": "semicolons", "\t": "tabs", "|": "bars"}
    header = str(table.columns[0]) if len(table.columns) == 1 else ""
    found = [name for sign, name in names.items() if sign in header]
    return f": its fields are separated by {found[0]}, write commas" if found else ""
