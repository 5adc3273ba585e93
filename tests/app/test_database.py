"""A review file that is not ours, or changes under the page, never takes a decision without keeping it."""

import os
import shutil
import sqlite3
import threading
from dataclasses import replace

import pytest

from leukemia.app.database import APPLICATION
from leukemia.app.decisions import AddedPicture, DecisionContext
from leukemia.app.review import Review
from leukemia.app.store import Store
from leukemia.errors import InputError

CELL = DecisionContext(
    cell="c0", path="a/1.bmp", subject="57", data_label="ALL", model="run@1", policy="", logit=0.5, probability=0.6,
    triage="review", queue="review", blind=False, seconds=2.5,
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "review" / "review.sqlite")
    yield store
    store.close()


def change(path, *statements):
    other = sqlite3.connect(path)
    for statement in statements:
        other.execute(statement)
    other.commit()
    other.close()


def removed(path):
    shutil.rmtree(path.parent)


def replaced(path):
    path.rename(path.with_suffix(".old"))
    shutil.copy(path.with_suffix(".old"), path)


def without_log(path):
    os.unlink(f"{path}-wal")


@pytest.mark.parametrize("harm", [removed, replaced, without_log])
def test_no_decision_is_acknowledged_after_the_file_went_away(store, harm):
    store.decide("Ann", CELL, "ALL", "request-1")
    assert store.problem is None
    harm(store.path)
    assert "Deciding has stopped" in store.problem
    with pytest.raises(InputError, match="Deciding has stopped"):
        store.decide("Ann", CELL, "HEM", "request-2")
    with pytest.raises(InputError, match="Deciding has stopped"):
        store.undo("Ann", "request-3")
    with pytest.raises(InputError, match="Deciding has stopped"):
        store.add_picture(AddedPicture("c0", "a.png", None))


def test_a_file_that_is_put_back_takes_decisions_again(store):
    store.path.rename(store.path.with_suffix(".old"))
    assert store.problem is not None
    store.path.with_suffix(".old").rename(store.path)
    store.decide("Ann", CELL, "ALL", "request-1")
    assert store.labels("Ann") == {"c0": "ALL"}


SWALLOWING = [
    "CREATE TRIGGER swallow BEFORE INSERT ON decisions BEGIN SELECT RAISE(IGNORE); END",
    "CREATE VIEW other AS SELECT * FROM decisions",
    "CREATE VIEW endless AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n",
    "CREATE TABLE more (x)",
    "DROP TRIGGER decisions_stay",
    "CREATE INDEX foreign_index ON decisions (at)",
]


@pytest.mark.parametrize("statement", SWALLOWING)
def test_a_foreign_schema_is_refused_when_opening_and_while_open(store, statement):
    change(store.path, statement)
    with pytest.raises(InputError, match="tables, views or triggers"):
        store.decide("Ann", CELL, "ALL", "request-1")
    assert store.history() == []
    with pytest.raises(InputError, match="tables, views or triggers"):
        Store(store.path)


def test_a_row_that_is_not_kept_is_not_acknowledged(store, monkeypatch):
    monkeypatch.setattr("leukemia.app.database._check_schema", lambda *_: None)
    change(store.path, SWALLOWING[0])
    with pytest.raises(InputError, match="does not keep what is written"):
        store.decide("Ann", CELL, "ALL", "request-1")


def test_a_database_of_another_program_is_left_alone(tmp_path):
    place = tmp_path / "review.sqlite"
    change(place, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")
    before = place.read_bytes()
    with pytest.raises(InputError, match="move it aside"):
        Store(place)
    assert place.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["review.sqlite"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET logit = 'high'",
        "UPDATE decisions SET logit = 9e999",
        "UPDATE decisions SET reviewer = ''",
        "UPDATE decisions SET reviewer = x'00'",
        "UPDATE decisions SET seconds = -1",
        "UPDATE decisions SET undoes = id",
        "UPDATE decisions SET blind = 7",
        "INSERT INTO pictures VALUES ('../../elsewhere', '', '', NULL, NULL, NULL)",
    ],
)
def test_rows_that_the_page_never_writes_are_refused(store, statement):
    store.decide("Ann", CELL, "ALL", "request-1")
    store.close()
    trigger = sqlite3.connect(store.path).execute(
        "SELECT sql FROM sqlite_master WHERE name = 'decisions_stay'"
    )
    ((text,),) = trigger.fetchall()
    change(store.path, "PRAGMA ignore_check_constraints=ON", "DROP TRIGGER decisions_stay", statement, text)
    with pytest.raises(InputError, match="damaged"):
        Store(store.path)


def test_a_file_whose_writer_died_names_its_owner_already(store):
    """Nothing was moved from the log into the file yet."""
    copy = store.path.parent / "copy.sqlite"
    shutil.copy(store.path, copy)
    assert int.from_bytes(copy.read_bytes()[68:72]) == APPLICATION


def test_a_locked_file_delays_no_reader_and_is_told(store, monkeypatch):
    store.decide("Ann", CELL, "ALL", "request-1")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._database._connections["writing"].execute("PRAGMA busy_timeout=1500")
    said = []

    def write():
        try:
            store.decide("Ann", replace(CELL, cell="c1"), "ALL", "request-2")
        except InputError as error:
            said.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    assert store.labels("Ann") == {"c0": "ALL"}
    assert writer.is_alive()  # the reader did not wait for it
    writer.join()
    assert "another program has locked" in said[0]
    other.execute("ROLLBACK")
    other.close()
    store.decide("Ann", CELL, "HEM", "request-3")


def test_a_full_disk_is_told_in_words_and_later_decisions_are_kept(store):
    writing = store._database._connections["writing"]
    ((pages,),) = writing.execute("PRAGMA page_count").fetchall()
    writing.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(InputError, match="the disk is full"):
        store.decide("Ann", replace(CELL, path="x" * 100_000), "ALL", "request-1")
    writing.execute("PRAGMA max_page_count=1000")
    store.decide("Ann", CELL, "ALL", "request-2")
    assert [row.cell for row in store.history()] == ["c0"]


def test_several_processes_make_one_file(tmp_path):
    opened, problems = [], []

    def start():
        try:
            opened.append(Store(tmp_path / "review.sqlite"))
        except InputError as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for number, store in enumerate(opened):
        store.decide("Ann", CELL, "ALL", f"request-{number}")
    assert len(opened[0].history()) == 8
    for store in opened:
        store.close()


@pytest.mark.parametrize(
    "name", ["review", "review/pictures", "review/review.sqlite", "review/review.sqlite-wal"]
)
def test_a_link_out_of_the_run_folder_is_refused(run, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    place = run.folder / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(outside if "." not in name else outside / "review.sqlite")
    with pytest.raises(InputError, match="leads out of"):
        Review(run)
    assert list(outside.iterdir()) == []


def test_a_link_within_the_run_folder_is_followed(run):
    (run.folder / "elsewhere").mkdir()
    (run.folder / "review").symlink_to(run.folder / "elsewhere")
    Review(run).store.close()
    assert (run.folder / "elsewhere" / "review.sqlite").is_file()


def test_labels_that_are_not_the_runs_classes_are_refused(run):
    store = Store(run.folder / "review" / "review.sqlite")
    store.decide("Ann", CELL, "basophil", "request-1")
    store.close()
    with pytest.raises(InputError, match="'basophil'"):
        Review(run)


def test_the_page_says_that_deciding_has_stopped(serve, run):
    page = serve(run)
    assert page.ask("GET", "/api/changes")[1]["stopped"] is None
    shutil.rmtree(run.folder / "review")
    assert "Deciding has stopped" in page.ask("GET", "/api/changes")[1]["stopped"]
    cell = next(iter(page.review.cells))
    asked = {"cell": cell, "label": "ALL", "queue": "review", "request": "0123456789"}
    status, said, _ = page.ask("POST", "/api/decisions", asked)
    assert status == 422
    assert "Deciding has stopped" in said["error"]
