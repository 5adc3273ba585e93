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
@pytest.mark.timeout(900)
def test_a_sweep_that_is_killed_at_random_ends_with_the_results_of_an_undisturbed_one(tmp_path):
    soak = module(ROOT / "benchmarks" / "soak.py")
    found = soak.soak(tmp_path, 2, minutes=0, seed=1)
    assert found["kills"]
    assert found["passed"], found
    assert found["runs_compared"] == 2
    assert not list(tmp_path.glob("*/"))
    assert soak.table(found["kills"]).count("\n") == 7


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
