import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukemia.app.decisions import AddedPicture, DecisionContext
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


def decide(store, reviewer, cell, label, request=None):
    decide.count = getattr(decide, "count", 0) + 1
    store.decide(reviewer, replace(CELL, cell=cell), label, request or f"request-{decide.count}")


def test_a_decision_holds_reviewer_time_cell_and_both_labels(store):
    decide(store, "Ann", "c0", "ALL")
    decide(store, "Ann", "c0", "HEM")
    first, second = store.history()
    assert (first.reviewer, first.cell, first.model, first.old_label, first.new_label) == (
        "Ann", "c0", "run@1", None, "ALL",
    )  # fmt: skip
    assert (second.old_label, second.new_label) == ("ALL", "HEM")
    assert first.at <= second.at
    assert first.at.endswith("+00:00")
    assert (first.blind, first.seconds, first.probability) == (False, 2.5, 0.6)


def test_decisions_survive_a_killed_process(tmp_path):
    code = f"""
import os, pathlib, signal
from leukemia.app.decisions import DecisionContext
from leukemia.app.store import Store
store = Store(pathlib.Path({str(tmp_path / "review.sqlite")!r}))
for number in range(5):
    store.decide("Ann", DecisionContext(**{vars(CELL)!r}), "ALL", f"request-{{number}}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    store = Store(tmp_path / "review.sqlite")
    assert len(store.history()) == 5
    store.close()


@pytest.mark.parametrize("change", ["DELETE FROM decisions", "UPDATE decisions SET new_label = 'HEM'"])
def test_the_history_cannot_be_changed(store, change):
    decide(store, "Ann", "c0", "ALL")
    other = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        other.execute(change)
    other.close()


MOVES = st.lists(
    st.tuples(st.sampled_from(["decide", "undo"]), st.sampled_from("ABC"), st.sampled_from(["ALL", "HEM", "unsure"])),
    max_size=15,
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(moves=MOVES)
def test_undo_walks_back_through_the_decisions(tmp_path_factory, moves):
    store = Store(tmp_path_factory.mktemp("undo") / "review.sqlite")
    states, writes = [{}], 0
    for number, (move, cell, label) in enumerate(moves):
        if move == "decide":
            store.decide("Ann", replace(CELL, cell=cell), label, f"request-{number}")
            states.append(states[-1] | {cell: label})
            writes += 1
        else:
            undone = store.undo("Ann", f"request-{number}")
            assert (undone is None) == (len(states) == 1)
            if undone is not None:
                states.pop()
                writes += 1
        assert store.labels("Ann") == states[-1]
    assert len(store.history()) == writes  # nothing was removed
    store.close()


def test_undo_takes_back_only_the_reviewers_own_decisions(store):
    decide(store, "Ann", "c0", "ALL")
    decide(store, "Bob", "c0", "HEM")
    assert store.undo("Ann", "undo-1").cell == "c0"
    assert store.labels("Ann") == {}
    assert store.labels("Bob") == {"c0": "HEM"}
    assert store.undo("Ann", "undo-2") is None


def test_undoing_brings_back_the_label_and_the_comment_before(store):
    store.decide("Ann", replace(CELL, comment="blurred"), "ALL", "request-0001")
    store.decide("Ann", replace(CELL, comment="two cells"), "artefact", "request-0002")
    assert store.undo("Ann", "undo-1").comment == "two cells"
    assert [(row.new_label, row.comment) for row in store.decisions_on("c0")] == [("ALL", "blurred")]
    store.undo("Ann", "undo-2")
    assert store.decisions_on("c0") == []
    assert [row.comment for row in store.history()] == ["blurred", "two cells", "blurred", ""]


def test_a_request_that_comes_twice_is_written_once(store):
    decide(store, "Ann", "c0", "ALL", request="the-same")
    decide(store, "Ann", "c0", "ALL", request="the-same")
    decide(store, "Ann", "c1", "ALL")
    assert store.undo("Ann", "undo-it").cell == "c1"
    assert store.undo("Ann", "undo-it").cell == "c1"
    assert store.labels("Ann") == {"c0": "ALL"}


def test_two_processes_write_and_see_each_other(store):
    other = Store(store.path)

    def write(place, name):
        for number in range(30):
            place.decide(name, replace(CELL, cell=f"c{number}"), "ALL", f"{name}-{number:08}")

    threads = [threading.Thread(target=write, args=pair) for pair in ((store, "Ann"), (other, "Bob"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.history()) == len(other.history()) == 60
    assert store.reviewers() == other.reviewers()
    assert {row.reviewer: row.new_label for row in store.decisions_on("c7")} == {"Ann": "ALL", "Bob": "ALL"}
    other.close()


def test_the_history_since_a_decision_holds_the_later_ones(store):
    for cell in ("c0", "c1", "c2"):
        decide(store, "Ann", cell, "ALL")
    first = store.history()[0]
    assert [row.cell for row in store.history(first.id)] == ["c1", "c2"]
    assert store.last_id() == store.history()[-1].id


def test_pictures_are_kept_with_their_newest_score(store):
    store.add_picture(AddedPicture("c0", "a.png", None))
    store.add_picture(AddedPicture("c0", "a.png", None, "run@1", 0.5))
    assert store.pictures() == [AddedPicture("c0", "a.png", None, "run@1", 0.5)]


def test_a_file_that_is_not_a_review_file_is_refused_and_left_alone(tmp_path):
    place = tmp_path / "review.sqlite"
    place.write_bytes(b"not a database " * 100)
    with pytest.raises(InputError, match=r"review\.sqlite"):
        Store(place)
    assert place.read_bytes().startswith(b"not a database")


def test_a_file_of_an_earlier_version_is_upgraded_and_keeps_every_decision(store):
    decide(store, "Ann", "c0", "ALL")
    decide(store, "Bob", "c0", "HEM")
    store.undo("Ann", "undo-it")
    before = store.history()
    store.close()
    other = sqlite3.connect(store.path)
    other.execute("ALTER TABLE decisions DROP COLUMN comment")
    other.execute("PRAGMA user_version=1")
    other.close()
    upgraded = Store(store.path)
    assert upgraded.history() == before
    decide(upgraded, "Ann", "c0", "artefact")
    upgraded.close()


def test_a_file_of_a_later_version_is_refused(tmp_path):
    Store(tmp_path / "review.sqlite").close()
    other = sqlite3.connect(tmp_path / "review.sqlite")
    other.execute("PRAGMA user_version=99")
    other.close()
    with pytest.raises(InputError, match="another version"):
        Store(tmp_path / "review.sqlite")
