"""A run folder that lacks a file: in each state each next command ends in a line, and overwrites nothing."""

import shutil
from pathlib import Path

import pytest

from leukemia.cli import main
from leukemia.config import compose
from leukemia.errors import InputError
from leukemia.runs import Run
from leukemia.training.run import train

STATES = ("running", "interrupted", "failed", "done")
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
FILES = (
    "config.yaml", "cells.csv", "status.json", "history.csv", "predictions.csv", "baseline.csv", "metrics.json",
    "gate.json", "gate.npz", BEST, LAST,
)  # fmt: skip
WRITES = {"results.csv", "results.md", "report.html", "triage.json", "gradcam.json"}  # of the commands, anew
RESULTS = ("history.csv", "predictions.csv", "baseline.csv", "metrics.json")
# What training says where a file is missing: of a finished run, and of another.
TRAINS = {
    "config.yaml": ("lacks config.yaml",) * 2,
    "cells.csv": ("lacks cells.csv",) * 2,
    "status.json": ("and no run",) * 2,
    BEST: (None, "best.ckpt cannot be read"),
    LAST: (None, None),
    **dict.fromkeys((*RESULTS, "gate.json", "gate.npz"), (None, None)),
}


def slow_unless_done(values, slow=()):
    """Each value with each state; the suite that is run first has finished runs only, and not the `slow` values."""
    return [
        pytest.param(value, state, marks=[] if state == "done" and value not in slow else pytest.mark.slow)
        for value in values
        for state in STATES
    ]


@pytest.fixture(scope="module")
def settings(demo_root) -> list[str]:
    return [
        f"data.root={demo_root}", "data.image_size=32", "data.batch_size=16", "data.protocol=holdout",
        "model.net.weights=none", "model.trainable_from=head", "logger=none", "trainer=cpu",
        "trainer.precision=32-true", "trainer.max_epochs=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Run:
    return train(compose(settings), tmp_path_factory.mktemp("whole") / "run")


def without(whole: Run, folder: Path, missing: str, state: str) -> Run:
    """A copy of a run in this state that lacks a file."""
    shutil.copytree(whole.folder, folder)
    run = Run(folder)
    run.write_json(
        "status.json", {**run.status, "status": state, "error": "x" if state == "failed" else None}
    )
    (folder / missing).unlink()
    return Run(folder)


def contents(run: Run, but: set[str] = frozenset()) -> dict[str, bytes]:
    files = {
        path.relative_to(run.folder).as_posix(): path for path in run.folder.rglob("*") if path.is_file()
    }
    return {name: path.read_bytes() for name, path in files.items() if name not in but}


@pytest.mark.parametrize(
    ("command", "state"),
    slow_unless_done(["evaluate", "triage", *(slow := ["report", "predict", "explain", "export"])], slow),
)
def test_a_command_ends_in_a_line_and_overwrites_nothing(
    whole, tmp_path, monkeypatch, capfd, demo_root, command, state
):
    monkeypatch.chdir(tmp_path)
    picture = str(next(demo_root.rglob("*.bmp")))
    for missing in FILES:
        run = without(whole, tmp_path / missing.replace("/", "-") / "run", missing, state)
        before = contents(run)
        folder = str(run.folder)
        arguments = {
            "predict": [folder, picture, "-o", "predicted.csv"],
            "explain": [folder, picture, "-o", "explained"],
            "export": [folder, "-o", "model.safetensors"],
        }.get(command, [folder])
        with pytest.raises(SystemExit) as ended:  # anything else is a traceback
            main([command, *arguments])
        said = capfd.readouterr()
        assert (ended.value.code or 0) in (0, 1, 2), missing
        assert (ended.value.code == 2) == said.err.startswith("error: "), missing
        assert "Traceback" not in said.err, missing
        assert {name: contents(run, WRITES).get(name) for name in before} == before, missing
        for written in ("predicted.csv", "explained", "model.safetensors"):
            place = tmp_path / written
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


@pytest.mark.parametrize(("missing", "state"), slow_unless_done(FILES))
def test_training_again_refuses_or_ends_with_the_same_results(whole, settings, tmp_path, missing, state):
    run = without(whole, tmp_path / "run", missing, state)
    before = contents(run)
    if (refusal := TRAINS[missing][state != "done"]) is not None:
        with pytest.raises(InputError, match=refusal):
            train(compose(settings), run.folder, skip_done=True)
        assert contents(run, {"status.json"}) == {
            name: content for name, content in before.items() if name != "status.json"
        }
        return
    run = train(compose(settings), run.folder, skip_done=True)
    assert run.status["status"] == "done"
    for name in (*RESULTS, "config.yaml", "cells.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    kept = {BEST, LAST} - {missing}
    assert run.gate is not None
    if (missing, state) == (BEST, "done"):  # the only epoch is the best one: last.ckpt holds it too
        assert run.best_checkpoint.read_bytes() == run.last_checkpoint.read_bytes()
    assert {name: contents(run)[name] for name in kept} == {name: before[name] for name in kept}
