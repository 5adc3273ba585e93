"""A short soak, and the messages of the audit."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_loses_nothing_and_leaves_nothing(tmp_path):
    found = module(ROOT / "benchmarks" / "soak.py").soak(tmp_path, 4, 2, 0.0, 1.0, seed=1)
    assert sum(found["killed"].values()) >= 1
    assert found["done"] == 4
    assert found["exit_code"] == 0
    assert found["left_over_files"] == []
    assert found["left_running_processes"] == 0
    assert found["differing"] == []
    assert found["passed"]


def test_an_audit_that_audited_nothing_says_so_and_one_that_found_something_fails(capsys):
    told = module(ROOT / ".ci" / "audit.py").told
    unknown = {"name": "torch", "version": "2", "skip_reason": "not found"}
    assert told([unknown]) == 0
    assert "skipped" in capsys.readouterr().out
    sound = {"name": "numpy", "version": "2", "vulns": []}
    assert told([sound, unknown]) == 0
    assert "0 known vulnerabilities in 1 pins; not audited: torch" in capsys.readouterr().out
    bad = {"name": "pillow", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    assert told([sound, bad]) == 1
    assert "pillow 1: CVE-1, fixed in 2" in capsys.readouterr().out
