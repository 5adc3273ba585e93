"""Decisions of reviewers and added pictures, in an SQLite file. Decisions are never changed or removed."""

import sqlite3
import threading
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leukemia.app.database import Database
from leukemia.app.decisions import COLUMNS, AddedPicture, Decision, DecisionContext
from leukemia.errors import InputError


class Store:
    """The review file of a run. Safe to use from several threads, and from several processes on one machine.

    Every decision is on the disk when `decide` returns (write-ahead log, synchronous=FULL).

    Raises:
        InputError: if the file cannot be written, or is not a review file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path)
        self._lock = threading.Lock()
        self._last = 0  # id of the newest row in `_current`
        self._current: dict[str, dict[str, Decision]] = {}  # by reviewer and cell

    @property
    def problem(self) -> str | None:
        """The reason why nothing can be saved any more; None while all is well."""
        return self._database.problem

    def close(self) -> None:
        self._database.close()

    def decide(self, reviewer: str, context: DecisionContext, label: str, request: str) -> None:
        """Store a decision.

        Args:
            reviewer: a name.
            context: the cell as the reviewer saw it.
            label: a class, or one of CHOICES.
            request: id of the request. A browser that missed the answer sends it again; nothing is added then.

        Raises:
            InputError: if this decision was taken back in the meantime.
        """
        with self._database.writing() as db:
            if (known := _id_of(db, request)) is not None:
                if _rows(db, "undoes = ?", known):
                    raise InputError("this decision was taken back in the meantime: decide again")
                return
            old = _label(db, reviewer, context.cell)
            _add(db, context, reviewer=reviewer, old_label=old, new_label=label, request=request)

    def undo(self, reviewer: str, request: str) -> Decision | None:
        """Take back the reviewer's last decision that still counts.

        Returns:
            The decision that was taken back; None if there was none.
        """
        with self._database.writing() as db:
            if (known := _id_of(db, request)) is not None:
                undone = _rows(db, "id = (SELECT undoes FROM decisions WHERE id = ?)", known)
                return undone[0] if undone else None
            found = _rows(
                db,
                "reviewer = ? AND undoes IS NULL AND id NOT IN "
                "(SELECT undoes FROM decisions WHERE undoes IS NOT NULL) ORDER BY id DESC LIMIT 1",
                reviewer,
            )
            if not found:
                return None
            last = found[0]
            before = _rows(
                db,
                "reviewer = ? AND cell = ? AND id < ? ORDER BY id DESC LIMIT 1",
                reviewer,
                last.cell,
                last.id,
            )
            context = DecisionContext(**{
                field.name: getattr(last, field.name) for field in fields(DecisionContext)
            })  # fmt: skip
            context = replace(context, comment=before[0].comment if before else "")
            _add(
                db, context, reviewer=reviewer, old_label=last.new_label, new_label=last.old_label, undoes=last.id,
                request=request,
            )  # fmt: skip
            return last

    def labels(self, reviewer: str) -> dict[str, str]:
        """A reviewer's present label of each cell."""
        return {cell: decision.new_label for cell, decision in self.current(reviewer).items()
                if decision.new_label is not None}  # fmt: skip

    def current(self, reviewer: str) -> dict[str, Decision]:
        """A reviewer's last row of each cell; its `new_label` is None where the label was taken back."""
        with self._lock:
            return dict(self._known().get(reviewer, {}))

    def reviewers(self) -> list[str]:
        """Names of all reviewers, in the order of their first decision."""
        with self._lock:
            return list(self._known())

    def decisions_on(self, cell: str) -> list[Decision]:
        """Each reviewer's last row of a cell, where its label was not taken back."""
        with self._lock:
            found = [rows[cell] for rows in self._known().values() if cell in rows]
        return [row for row in found if row.new_label is not None]

    def history(self, since: int = 0) -> list[Decision]:
        """All decisions with a larger id, in their order."""
        return self._rows("id > ? ORDER BY id", since)

    def last_id(self) -> int:
        ((number,),) = self._read("SELECT COALESCE(MAX(id), 0) FROM decisions")
        return int(number)

    def add_picture(self, picture: AddedPicture) -> None:
        """Store a picture, or replace its row."""
        with self._database.writing() as db:
            _insert(db, "INSERT OR REPLACE INTO pictures", asdict(picture) | {"at": _now()})

    def pictures(self) -> list[AddedPicture]:
        rows = self._read("SELECT cell, name, subject, model, logit FROM pictures ORDER BY at, cell")
        return [AddedPicture(*row) for row in rows]

    def _known(self) -> dict[str, dict[str, Decision]]:
        """The last row of each cell, by reviewer. Rows are only ever added, so only the newer ones are read."""
        for row in self.history(self._last):
            self._current.setdefault(row.reviewer, {})[row.cell] = row
            self._last = row.id
        return self._current

    def _rows(self, condition: str, *values: Any) -> list[Decision]:
        with self._database.reading() as db:
            return _rows(db, condition, *values)

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._database.reading() as db:
            return db.execute(query, values).fetchall()


def _add(db: sqlite3.Connection, context: DecisionContext, **columns: str | int | None) -> None:
    """Insert a decision, and read it back before anybody is told that it is saved."""
    row = asdict(context) | {"at": _now()} | columns
    _insert(db, "INSERT INTO decisions", row)
    kept = db.execute(
        f"SELECT {', '.join(row)} FROM decisions WHERE request = ?", (row["request"],)
    ).fetchall()
    if kept != [tuple(row.values())]:
        raise InputError(
            "Nothing was saved: the file of decisions does not keep what is written. Move it aside."
        )


def _insert(db: sqlite3.Connection, into: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    db.execute(f"{into} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def _label(db: sqlite3.Connection, reviewer: str, cell: str) -> str | None:
    rows = _rows(db, "reviewer = ? AND cell = ? ORDER BY id DESC LIMIT 1", reviewer, cell)
    return rows[0].new_label if rows else None


def _id_of(db: sqlite3.Connection, request: str) -> int | None:
    rows = db.execute("SELECT id FROM decisions WHERE request = ?", (request,)).fetchall()
    return int(rows[0][0]) if rows else None


def _rows(db: sqlite3.Connection, condition: str, *values: Any) -> list[Decision]:
    rows = db.execute(f"SELECT {', '.join(COLUMNS)} FROM decisions WHERE {condition}", values).fetchall()
    found = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    return [Decision(**row | {"blind": bool(row["blind"])}) for row in found]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
