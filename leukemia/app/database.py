"""The SQLite file of a review. It is opened for writing only if it is ours, and watched while the page runs."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from leukemia.app.decisions import LONGEST_COMMENT
from leukemia.errors import InputError, in_a_line, quoted

APPLICATION = int.from_bytes(b"leuk")
LARGEST = 1e8  # bytes; a decision takes about 500
LONGEST = 1_000_000  # bytes of a row
DAMAGED = (sqlite3.Error, UnicodeDecodeError)  # the second where SQLite quotes bytes of the file
BUSY = {"reading": 1.0, "writing": 5.0}  # seconds to wait for another program

# Step n makes version n of the file from version n - 1, so that an older file is upgraded and keeps every decision.
# The triggers refuse to change or remove a decision: undoing adds a row. The checks hold for a stranger's rows too,
# because opening runs SQLite's integrity check.
STEPS = (
    """
CREATE TABLE decisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL CHECK (typeof(at) = 'text'),
  reviewer TEXT NOT NULL CHECK (typeof(reviewer) = 'text' AND length(reviewer) BETWEEN 1 AND 60),
  cell TEXT NOT NULL CHECK (typeof(cell) = 'text'),
  path TEXT NOT NULL CHECK (typeof(path) = 'text'),
  subject TEXT CHECK (typeof(subject) IN ('text', 'null')),
  data_label TEXT CHECK (typeof(data_label) IN ('text', 'null')),
  model TEXT NOT NULL CHECK (typeof(model) = 'text'),
  policy TEXT NOT NULL CHECK (typeof(policy) = 'text'),
  logit REAL NOT NULL CHECK (typeof(logit) = 'real' AND abs(logit) < 1e100),
  probability REAL NOT NULL CHECK (typeof(probability) = 'real' AND probability BETWEEN 0 AND 1),
  triage TEXT NOT NULL CHECK (typeof(triage) = 'text'),
  queue TEXT NOT NULL CHECK (typeof(queue) = 'text'),
  blind INTEGER NOT NULL CHECK (blind IN (0, 1)),
  seconds REAL CHECK (seconds IS NULL OR (typeof(seconds) = 'real' AND seconds BETWEEN 0 AND 1e6)),
  old_label TEXT CHECK (typeof(old_label) IN ('text', 'null')),
  new_label TEXT CHECK (typeof(new_label) IN ('text', 'null')),
  undoes INTEGER UNIQUE REFERENCES decisions (id) CHECK (undoes IS NULL OR undoes < id),
  request TEXT NOT NULL UNIQUE CHECK (typeof(request) = 'text')
);
CREATE INDEX decisions_of_reviewer ON decisions (reviewer, cell, id);
CREATE TRIGGER decisions_are_kept BEFORE DELETE ON decisions
  BEGIN SELECT RAISE(ABORT, 'a decision is never removed'); END;
CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions
  BEGIN SELECT RAISE(ABORT, 'a decision is never changed'); END;
CREATE TABLE pictures (
  cell TEXT PRIMARY KEY CHECK (typeof(cell) = 'text' AND cell != '' AND cell NOT GLOB '*[^0-9a-z]*'),
  at TEXT NOT NULL CHECK (typeof(at) = 'text'),
  name TEXT NOT NULL CHECK (typeof(name) = 'text'),
  subject TEXT CHECK (typeof(subject) IN ('text', 'null')),
  model TEXT CHECK (typeof(model) IN ('text', 'null')),
  logit REAL CHECK (logit IS NULL OR (typeof(logit) = 'real' AND abs(logit) < 1e100))
);
""",
    f"""
ALTER TABLE decisions ADD COLUMN comment TEXT NOT NULL DEFAULT ''
  CHECK (typeof(comment) = 'text' AND length(comment) <= {LONGEST_COMMENT});
""",
)
VERSION = len(STEPS)


class Database:
    """A review file with one connection to write and one to read, so that no reader waits for a writer.

    Args:
        path: of the file; it is made where there is none.

    Raises:
        InputError: if the file cannot be written, or is not a review file of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = {"reading": threading.Lock(), "writing": threading.Lock()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = _is_new(path)
            self._connections = {"writing": _connect(path, "writing")}
            if is_new:  # before the write-ahead log, so that the file itself always names its owner
                self._connections["writing"].execute(f"PRAGMA application_id={APPLICATION}")
            self._connections["writing"].execute("PRAGMA journal_mode=WAL")
            self._connections["writing"].execute("PRAGMA synchronous=FULL")
            self._create()
            self._connections["reading"] = _connect(path, "reading")
            self._connections["reading"].execute("PRAGMA query_only=ON")
            self._check()
        except (OSError, *DAMAGED) as error:
            raise InputError(
                f"cannot write decisions into {path} ({quoted(error)}): make the run folder writable, or move a "
                "damaged file aside"
            ) from None

    def close(self) -> None:
        for name, connection in self._connections.items():
            with self._locks[name]:
                connection.close()

    @property
    def problem(self) -> str | None:
        """The reason why nothing can be saved any more; None while all is well."""
        try:
            same = self._places() == self._opened
        except OSError:
            same = False
        if same:
            return None
        return (
            f"Deciding has stopped: {self.path} was removed or replaced while the page ran. Put it back, or end the "
            "page and start it again."
        )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read from."""
        with self._locks["reading"], _in_words("read"):
            yield self._connections["reading"]

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction, which is on the disk at the end.

        Raises:
            InputError: if nothing was saved, with the reason.
        """
        connection = self._connections["writing"]
        with self._locks["writing"], _in_words("save"):
            self._refuse_replaced()
            connection.execute("BEGIN IMMEDIATE")
            try:
                _check_schema(connection, self.path)  # another program may have changed it
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk ends it by itself
                    connection.execute("ROLLBACK")
                raise
            self._refuse_replaced()

    def _refuse_replaced(self) -> None:
        if problem := self.problem:
            raise InputError(problem)

    def _places(self) -> list[tuple[int, int]]:
        found = [os.stat(f"{self.path}{suffix}") for suffix in ("", "-wal")]
        return [(status.st_dev, status.st_ino) for status in found]

    def _create(self) -> None:
        connection = self._connections["writing"]
        connection.execute("BEGIN IMMEDIATE")
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        if not 0 <= version <= VERSION:
            raise InputError(
                f"{self.path} is from another version of leukemia (file {version}, here {VERSION}): use that version, "
                "or move the file aside"
            )
        for step in STEPS[version:]:
            for statement in _statements(step):
                connection.execute(statement)
        _check_schema(connection, self.path)  # before an upgrade is kept
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")

    def _check(self) -> None:
        connection = self._connections["reading"]
        _check_schema(connection, self.path)
        ((found,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
        if found != "ok":
            raise InputError(f"{self.path} is damaged ({in_a_line(str(found))}): move it aside")
        self._opened = self._places()


def _is_new(path: Path) -> bool:
    """Whether there is no review file yet. The file is read without its logs: nothing is written."""
    if not path.exists():
        return True
    if not path.is_file():
        raise InputError(f"{path} is not a file: move it aside")
    if (size := path.stat().st_size) == 0:
        return True
    if size > LARGEST:
        raise InputError(f"{path} has {size / 1e6:,.0f} MB, too much for decisions: move it aside")
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    if application != APPLICATION:
        raise InputError(
            f"{path} is not a file of decisions that this release of leukemia made: move it aside"
        )
    return False


def _connect(path: Path, use: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY[use], check_same_thread=False, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse any table, view, trigger or index that is not ours: it could swallow decisions."""
    if _objects(connection) != _EXPECTED:
        raise InputError(
            f"{path} has other tables, views or triggers than a file of decisions: nothing is saved into it; move it "
            "aside"
        )


def _objects(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 50")
    return set(found.fetchall())


def _statements(script: str) -> Iterator[str]:
    """The statements of a script. sqlite3's `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _expected() -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in _statements("".join(STEPS)):
            connection.execute(statement)
        return _objects(connection)


_EXPECTED = _expected()


@contextmanager
def _in_words(purpose: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        code = getattr(error, "sqlite_errorname", None) or ""
        if code.startswith("SQLITE_FULL"):
            reason = "the disk is full: make room on it"
        elif code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            reason = "another program has locked the file of decisions: close that program"
        elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            reason = "the review folder cannot be written to: make it writable"
        else:
            reason = f"{quoted(error)}: check the disk"
        done = "Nothing was saved" if purpose == "save" else "The decisions cannot be read"
        raise InputError(f"{done}, because {reason}, and try again.") from None
