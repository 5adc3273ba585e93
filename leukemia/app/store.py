"""Decisions of reviewers and added pictures, in an SQLite file. Decisions are never changed or removed."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leukemia.app.decisions import COLUMNS, AddedPicture, Decision, DecisionContext
from leukemia.errors import InputError

VERSION = 1

# The triggers refuse to change or remove a decision: undoing adds a row.
SCHEMA = """
CREATE TABLE decisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  reviewer TEXT NOT NULL,
  cell TEXT NOT NULL,
  path TEXT NOT NULL,
  subject TEXT,
  data_label TEXT,
  model TEXT NOT NULL,
  policy TEXT NOT NULL,
  logit REAL NOT NULL,
  probability REAL NOT NULL,
  triage TEXT NOT NULL,
  queue TEXT NOT NULL,
  blind INTEGER NOT NULL,
  seconds REAL,
  old_label TEXT,
  new_label TEXT,
  undoes INTEGER UNIQUE REFERENCES decisions (id),
  request TEXT NOT NULL UNIQUE
);
CREATE INDEX decisions_of_reviewer ON decisions (reviewer, cell, id);
CREATE TRIGGER decisions_are_kept BEFORE DELETE ON decisions
  BEGIN SELECT RAISE(ABORT, 'a decision is never removed'); END;
CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions
  BEGIN SELECT RAISE(ABORT, 'a decision is never changed'); END;
CREATE TABLE pictures (
  cell TEXT PRIMARY KEY,
  at TEXT NOT NULL,
  name TEXT NOT NULL,
  subject TEXT,
  model TEXT,
  logit REAL
);
"""


class Store:
    """The review file of a run. Safe to use from several threads, and from several processes on one machine.

    Every decision is on the disk when `decide` returns (write-ahead log, synchronous=FULL).

    Raises:
        InputError: if the file cannot be written, or is not a review file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"cannot write decisions into {path} ({error}): make the run folder writable, or move a damaged file "
                "aside"
            ) from None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def decide(self, reviewer: str, context: DecisionContext, label: str, request: str) -> None:
        """Store a decision.

        Args:
            reviewer: a name.
            context: the cell as the reviewer saw it.
            label: a class, or `unsure`.
            request: id of the request. A browser that missed the answer sends it again; nothing is added then.

        Raises:
            InputError: if this decision was taken back in the meantime.
        """
        with self._writing():
            if (known := self._id_of(request)) is not None:
                if self._rows("undoes = ?", known):
                    raise InputError("this decision was taken back in the meantime: decide again")
                return
            old = self._label(reviewer, context.cell)
            self._add(context, reviewer=reviewer, old_label=old, new_label=label, request=request)

    def undo(self, reviewer: str, request: str) -> Decision | None:
        """Take back the reviewer's last decision that still counts.

        Returns:
            The decision that was taken back; None if there was none.
        """
        with self._writing():
            if (known := self._id_of(request)) is not None:
                undone = self._rows("id = (SELECT undoes FROM decisions WHERE id = ?)", known)
                return undone[0] if undone else None
            found = self._rows(
                "reviewer = ? AND undoes IS NULL AND id NOT IN "
                "(SELECT undoes FROM decisions WHERE undoes IS NOT NULL) ORDER BY id DESC LIMIT 1",
                reviewer,
            )
            if not found:
                return None
            last = found[0]
            context = DecisionContext(**{
                field.name: getattr(last, field.name) for field in fields(DecisionContext)
            })  # fmt: skip
            self._add(
                context, reviewer=reviewer, old_label=last.new_label, new_label=last.old_label, undoes=last.id,
                request=request,
            )  # fmt: skip
            return last

    def labels(self, reviewer: str) -> dict[str, str]:
        """A reviewer's present label of each cell."""
        return {cell: decision.new_label for cell, decision in self.current(reviewer).items()
                if decision.new_label is not None}  # fmt: skip

    def current(self, reviewer: str) -> dict[str, Decision]:
        """A reviewer's last row of each cell; its `new_label` is None where the label was taken back."""
        rows = self._rows("id IN (SELECT MAX(id) FROM decisions WHERE reviewer = ? GROUP BY cell)", reviewer)
        return {row.cell: row for row in rows}

    def reviewers(self) -> list[str]:
        """Names of all reviewers, in the order of their first decision."""
        rows = self._read("SELECT reviewer FROM decisions GROUP BY reviewer ORDER BY MIN(id)")
        return [name for (name,) in rows]

    def labels_of(self, cell: str) -> dict[str, str]:
        """Each reviewer's present label of a cell."""
        rows = self._rows(
            "id IN (SELECT MAX(id) FROM decisions WHERE cell = ? GROUP BY reviewer) ORDER BY id", cell
        )
        return {row.reviewer: row.new_label for row in rows if row.new_label is not None}

    def history(self, since: int = 0) -> list[Decision]:
        """All decisions with a larger id, in their order."""
        return self._rows("id > ? ORDER BY id", since)

    def last_id(self) -> int:
        ((number,),) = self._read("SELECT COALESCE(MAX(id), 0) FROM decisions")
        return int(number)

    def add_picture(self, picture: AddedPicture) -> None:
        """Store a picture, or replace its row."""
        with self._writing():
            self._insert("INSERT OR REPLACE INTO pictures", asdict(picture) | {"at": _now()})

    def pictures(self) -> list[AddedPicture]:
        rows = self._read("SELECT cell, name, subject, model, logit FROM pictures ORDER BY at, cell")
        return [AddedPicture(*row) for row in rows]

    def _create(self) -> None:
        with self._writing():
            ((version,),) = self._db.execute("PRAGMA user_version").fetchall()
            if version == 0:
                for statement in _statements(SCHEMA):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
            elif version != VERSION:
                raise InputError(
                    f"{self.path} is from another version of leukemia (file {version}, here {VERSION}): use that "
                    "version, or move the file aside"
                )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _add(self, context: DecisionContext, **columns: str | int | None) -> None:
        self._insert("INSERT INTO decisions", asdict(context) | {"at": _now()} | columns)

    def _insert(self, into: str, row: dict[str, Any]) -> None:
        marks = ", ".join("?" * len(row))
        self._db.execute(f"{into} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))

    def _label(self, reviewer: str, cell: str) -> str | None:
        rows = self._rows("reviewer = ? AND cell = ? ORDER BY id DESC LIMIT 1", reviewer, cell)
        return rows[0].new_label if rows else None

    def _id_of(self, request: str) -> int | None:
        rows = self._read("SELECT id FROM decisions WHERE request = ?", request)
        return int(rows[0][0]) if rows else None

    def _rows(self, condition: str, *values: Any) -> list[Decision]:
        rows = self._read(f"SELECT {', '.join(COLUMNS)} FROM decisions WHERE {condition}", *values)
        found = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
        return [Decision(**row | {"blind": bool(row["blind"])}) for row in found]

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()


def _statements(script: str) -> Iterator[str]:
    """The statements of a script. sqlite3's `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
