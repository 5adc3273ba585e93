"""The label table of the preliminary set: find its csv, and read the label and subject of each image."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from leukemia.data.files import csv_header, natural, stem
from leukemia.data.problems import Kind, Problems

CLASSES = ("HEM", "ALL")  # a label is a position here
CELL = re.compile(r"uid_(h?[0-9]+)_[0-9]+_[0-9]+_(all|hem)", re.IGNORECASE)  # subject, image, cell, class
COLUMNS = ("Patient_ID", "new_names", "labels")

NO_TABLE = Kind("no table of the preliminary labels", f"add the csv with the columns {', '.join(COLUMNS)}")
TWO_TABLES = Kind("tables of the preliminary labels that differ", "keep the right one")
NOT_UTF8 = Kind("label table is not a csv in UTF-8", "download it again")
WRONG_COLUMNS = Kind("label table with the wrong columns", f"the columns are {', '.join(COLUMNS)}")
WRONG_LABEL = Kind("labels other than 0 (HEM) and 1 (ALL)", "correct these rows")
WRONG_PATIENT = Kind(
    "Patient_ID not like UID_57_29_1_all.bmp", "the subject is read from it: correct these rows"
)
CONTRADICTION = Kind("Patient_ID that contradicts the label", "1 is ALL, 0 is HEM: correct these rows")
DOUBLED_ROW = Kind("rows for an image that has one already", "keep one row for each image")
NO_FILE = Kind("rows whose image is missing", "add the images, or remove the rows")
NO_ROW = Kind("preliminary images without a row in the label table", "add the rows, or remove the images")


def read_labels(
    folder: Path, tables: Sequence[str], paths: Sequence[str], problems: Problems
) -> dict[str, tuple[int, str | None]]:
    """Label (-1 where it is unknown) and subject of preliminary images.

    Args:
        folder: the data set.
        tables: every csv in it, as paths below it; the label table is recognised by its columns.
        paths: the preliminary images; a row belongs to the image of the same number, whatever the suffix.
        problems: to which problems are added.
    """
    headers = {table: csv_header(folder / table) for table in sorted(tables, key=natural)}
    wanted = [column.lower() for column in COLUMNS]
    fitting = [table for table, (names, _) in headers.items() if set(wanted) <= set(names)]
    if not fitting:
        _explain(headers, len(paths), problems)
        return {}
    if len({(folder / table).read_bytes() for table in fitting}) > 1:
        problems.add(TWO_TABLES, *fitting)

    table = fitting[0]
    names, delimiter = headers[table]
    try:
        lines = (folder / table).read_text(encoding="utf-8-sig").splitlines()
        rows = list(csv.reader(lines, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error):
        problems.add(NOT_UTF8, table)
        return {}
    path_of_stem = {stem(path): path for path in paths}
    columns = [names.index(column) for column in wanted]
    labels: dict[str, tuple[int, str | None]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(field.strip() for field in row):
            continue
        row += [""] * len(names)
        patient, name, label = (row[column].strip() for column in columns)
        where = f"{table} row {number}"
        path = path_of_stem.get(stem(name), name)
        if path in labels:
            problems.add(DOUBLED_ROW, f"{where}: {name}")
            continue
        if stem(name) not in path_of_stem:
            problems.add(NO_FILE, f"{where}: {name or 'no name'}")
        labels[path] = _row(patient, label, where, problems)
    problems.add(NO_ROW, *(path for path in paths if path not in labels))
    return labels


def _row(patient: str, label: str, where: str, problems: Problems) -> tuple[int, str | None]:
    cell = CELL.fullmatch(patient.rpartition(".")[0] or patient)
    if cell is None:
        problems.add(WRONG_PATIENT, f"{where}: {patient!r}")
    if label not in ("0", "1"):
        problems.add(WRONG_LABEL, f"{where}: {label!r}")
    elif cell and CLASSES.index(cell[2].upper()) != int(label):
        problems.add(CONTRADICTION, f"{where}: {patient} with label {label}")
    return int(label) if label in ("0", "1") else -1, cell[1].upper() if cell else None


def _explain(headers: dict[str, tuple[list[str], str]], images: int, problems: Problems) -> None:
    """Add the reason why no csv fits: wrong columns, or no csv."""
    meant = [table for table in headers if re.search("prelim|label", table.rpartition("/")[2], re.IGNORECASE)]
    if meant:
        problems.add(
            WRONG_COLUMNS, *(f"{table}: {', '.join(headers[table][0]) or 'none'}" for table in meant)
        )
    else:
        others = f"; found only {', '.join(headers)}" if headers else ""
        problems.add(NO_TABLE, f"{images:,} preliminary images need one{others}")
