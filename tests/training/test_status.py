"""What a run tells of its sessions, and the time that a sweep still takes."""

import time
from importlib.metadata import version

import pytest

from leukemia.runs import Run, Sweep
from leukemia.training.status import recorded, time_left


def test_the_time_left_is_that_of_the_runs_to_come_at_the_pace_of_those_done(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.plan(["a", "b", "c", "d", "e"], 5)
    assert time_left(sweep, 0) is None
    for name, status, seconds in (
        ("a", "done", 10.0),
        ("b", "failed", 500.0),
        ("d", "done", 30.0),
        ("x", "done", 900.0),
    ):
        Run(tmp_path / name).write_json("status.json", {"status": status, "seconds": seconds})
    Run(tmp_path / "e").folder.mkdir()
    (tmp_path / "e" / "status.json").write_text("{ damaged")
    # c and e are to come and d is done already; b failed before, and x is of another sweep.
    assert time_left(Sweep(tmp_path), 2) == pytest.approx(2 * 20)
    assert time_left(Sweep(tmp_path), 5) == 0


def test_each_session_is_told_with_its_hardware_and_versions(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(SystemExit), recorded(run, {"devices": 1, "threads": 4}):
        raise SystemExit(143)
    with recorded(run, {"devices": 1, "threads": 8}):
        first, second = run.status["sessions"]
        assert (first["threads"], second["threads"]) == (4, 8)
        assert first["ended"] is not None
        assert second["ended"] is second["seconds"] is None  # as of a session that was killed
        time.sleep(0.1)
    assert run.status["status"] == "done"
    assert [session["threads"] for session in run.status["sessions"]] == [4, 8]
    for session in run.status["sessions"]:
        assert {"started", "machine", "devices", "job", "visible_devices", "versions"} <= set(session)
        assert session["versions"]["torch"] == version("torch")
        assert session["ended"] >= session["started"]
        assert 0 <= session["seconds"] <= run.status["seconds"]
    assert run.status["seconds"] == pytest.approx(
        sum(each["seconds"] for each in run.status["sessions"]), abs=0.2
    )
    assert set(run.status) == {"status", "error", "finished", "seconds", "sessions"}
