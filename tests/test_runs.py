"""Run folders: read and written as plain data, whole or not at all."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from leukemia.errors import InputError
from leukemia.evaluation.gate import HANDCRAFTED, fit_gate
from leukemia.runs import Run, Sweep
from leukemia.storage.arrays import file_hash
from leukemia.storage.atomic import write_text
from leukemia.storage.plain_files import parse_json


def test_a_table_keeps_subjects_as_written(tmp_path):
    run = Run(tmp_path)
    table = pd.DataFrame({"path": ["1", "2", "3"], "subject": ["007", "NA", None], "label": [1, 0, 1]})
    run.write_table("predictions.csv", table)
    assert run.predictions["subject"].tolist()[:2] == ["007", "NA"]
    assert run.predictions["subject"].isna().tolist() == [False, False, True]


def test_a_folder_may_be_given_as_text(tmp_path):
    Run(tmp_path / "run").write_json("status.json", {"status": "done"})
    assert Run(f"{tmp_path}/run").status["status"] == "done"
    assert len(Sweep(str(tmp_path)).runs) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("status.json", ""),
        ("config.yaml", "a: ["),
        ("config.yaml", "- a"),
        ("history.csv", ""),
        ("predictions.csv", 'a,b\n1,2,3\n"'),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name):
        getattr(Run(tmp_path), name.partition(".")[0])


def test_a_config_that_carries_code_is_refused_as_data(tmp_path):
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.system ['touch executed']")
    with pytest.raises(InputError, match="not YAML"):
        _ = Run(tmp_path).config


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_text(tmp_path / "a.json", json.dumps({"old": 1}))
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(InputError, match=r"No space left on device; make room there"):
        write_text(tmp_path / "a.json", "new")
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_single_run_is_a_sweep_of_one_and_a_folder_without_runs_is_refused(tmp_path):
    Run(tmp_path / "run").write_json("status.json", {"status": "done"})
    Run(tmp_path / ".aside").write_json("status.json", {"status": "done"})
    assert [found.name for found in Sweep(tmp_path / "run").runs] == ["run"]
    assert [found.name for found in Sweep(tmp_path).runs] == ["run"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        _ = Sweep(tmp_path / "empty").runs


def test_a_sweep_knows_its_runs_before_they_begin_and_a_strange_plan_leads_nowhere(tmp_path):
    sweep = Sweep(tmp_path)
    assert (sweep.planned, sweep.total, sweep.pending) == ([], 0, [])
    sweep.plan(["a", "b"], total=2)
    Run(tmp_path / "a").write_json("status.json", {"status": "done"})
    assert [run.name for run in Sweep(tmp_path).pending] == ["b"]
    assert [run.name for run in Sweep(tmp_path).runs] == ["a"]
    write_text(
        tmp_path / "sweep.json", json.dumps({"runs": ["../up", "/etc", ".hidden", 3, "b"], "total": "x"})
    )
    assert (Sweep(tmp_path).planned, Sweep(tmp_path).total) == (["b"], 0)
    write_text(tmp_path / "sweep.json", "[")
    assert Sweep(tmp_path).planned == []


def test_a_run_is_held_for_as_long_as_a_process_has_its_lock(tmp_path):
    run = Run(tmp_path / "run")
    assert not run.is_held()
    with FileLock(run.lock_file):
        assert run.is_held()
    assert not run.is_held()  # although the file of a killed process stays


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"),  # each line doubles it
        ("config.yaml", "a: " + "[" * 5000),
        ("config.yaml", "x: '" + "y" * 1_000_001 + "'"),
        ("config.yaml", "date: !!timestamp 2026-99-99"),
        ("config.yaml", "a: \x00"),
        ("status.json", "[" * 100_000),
        ("status.json", '{"status": ' + "9" * 5000 + "}"),
        ("history.csv", b"\xff\xfe\x00"),
        ("metrics.json", b"\xff"),
    ],
    ids=range(9),
)
def test_a_file_that_would_swallow_memory_or_stack_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=name):
        getattr(Run(tmp_path), name.partition(".")[0])


@pytest.mark.timeout(10)
def test_a_pipe_in_a_run_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(InputError, match=r"config\.yaml is not a file"):
        _ = Run(tmp_path).config


def test_a_planned_run_lies_in_its_sweep(tmp_path):
    names = ["../../etc", "/etc", "a/b", "..", ".", ".hidden", 7, "kept"]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": names, "total": "many"}))
    assert Sweep(tmp_path).planned == ["kept"]
    assert Sweep(tmp_path).total == 0


def a_gate(folder):
    """A run folder with a gate, and the gate."""
    run, rng = Run(folder), np.random.default_rng(0)
    run.best_checkpoint.parent.mkdir(parents=True)
    run.best_checkpoint.write_bytes(b"weights")
    shape, features = rng.random((60, len(HANDCRAFTED))), rng.random((60, 4))
    gate = fit_gate(shape, features, np.arange(60) % 6, np.arange(60))
    run.write_gate(gate)
    return run, gate


def test_a_gate_comes_back_as_it_was_written(tmp_path):
    run, gate = a_gate(tmp_path)
    again = run.gate
    assert again.to_json() == gate.to_json()
    np.testing.assert_array_equal(again.whitening, gate.whitening)
    assert Run(tmp_path / "none").gate is None


def test_the_gate_of_another_run_is_refused(tmp_path):
    run, _ = a_gate(tmp_path)
    run.best_checkpoint.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"not the gate of checkpoints/best.ckpt"):
        _ = run.gate


class Touch:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", ["nothing", "cut", "missing", "pickle", "packed", "other"])
def test_a_damaged_or_strange_gate_is_refused_in_a_line_and_nothing_in_it_runs(
    tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    run, gate = a_gate(tmp_path / "run")
    file = run.folder / "gate.npz"
    whole, arrays = file.read_bytes(), {"centre": gate.centre, "whitening": gate.whitening}
    if content in ("nothing", "cut"):
        file.write_bytes(b"" if content == "nothing" else whole[: len(whole) // 2])
    elif content == "missing":
        file.unlink()
    elif content == "pickle":
        np.savez(file, **arrays, cells=np.array([Touch()], dtype=object))
    elif content == "packed":
        np.savez_compressed(file, **arrays, cells=np.zeros(10**6, np.uint64))
    else:
        np.savez(file, **arrays, cells=np.zeros(3))
    if content in ("pickle", "packed", "other"):  # a stranger makes the checksum fit
        run.write_json(
            "gate.json", parse_json((run.folder / "gate.json").read_text(), "") | {"arrays": file_hash(file)}
        )
    with pytest.raises(InputError, match=r"gate.json: .*train") as refused:
        _ = run.gate
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"checkpoint": 3, "checks": []}'])
def test_a_gate_that_is_not_json_is_refused(tmp_path, text):
    run, _ = a_gate(tmp_path)
    (run.folder / "gate.json").write_text(text)
    with pytest.raises(InputError, match=r"gate.json"):
        _ = run.gate
