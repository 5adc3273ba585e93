"""`make demo`: the finding that it shows, and the commands that its last lines name."""

import os
import re
import shlex
import subprocess
import sys
import urllib.request

import pandas as pd
import pytest

from leukemia.cli import main
from leukemia.runs import Sweep

FEW = ["trainer=cpu", "trainer.max_epochs=1", "trainer.precision=32-true"]


def demo(leukemia_train, *overrides):
    """The two commands of `make demo` in the current folder; gives what the second one printed."""
    code, _, problem = leukemia_train("experiment=pretrain", *overrides)
    assert code == 0, problem
    code, said, problem = leukemia_train("-m", "experiment=demo", *overrides)
    assert code == 0, problem
    return said.splitlines()


def named(lines):
    first = next(n for n, line in enumerate(lines) if line.startswith("Next: "))
    return [line.removeprefix("Next:").strip() for line in lines[first : first + 3]]


@pytest.mark.slow
def test_the_commands_that_the_demo_names_work_on_what_it_left(leukemia_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = demo(leukemia_train, *FEW, "data.demo_images=300")
    assert lines[-1].endswith("outputs/demo/report.html")
    assert [shlex.split(line)[1] for line in named(lines)] == ["evaluate", "triage", "app"]
    for line in named(lines)[:2]:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line)[1:])
        assert stop.value.code in (0, 1)  # so few cells may certify nothing
    command = [sys.executable, "-m", "leukemia.cli", *shlex.split(named(lines)[2])[1:], "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as page:
        try:
            address = next(found[0] for line in page.stdout if (found := re.search(r"http://[\w.:]+", line)))
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
        finally:
            page.terminate()


@pytest.mark.slow
def test_frozen_lies_below_fine_tuned_and_both_above_the_majority_class(
    leukemia_train, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lines = demo(leukemia_train)
    results = pd.read_csv("outputs/demo/results.csv").set_index("trainable_from")
    assert results.loc["head", "accuracy"] < results.loc["layer4", "accuracy"]
    assert (results["accuracy_low"] > results["majority_accuracy"]).all()
    assert not results["epoch_chosen_here"].any()
    assert any(line.startswith("It is shown to be better than the majority class") for line in lines)
    tuned = next(
        run for run in Sweep("outputs/demo").runs if run.config["model"]["trainable_from"] == "layer4"
    )
    with pytest.raises(SystemExit) as stop:
        main(["triage", str(tuned.folder)])
    assert stop.value.code == 0
    assert tuned.policy.certified
    assert 0.3 < tuned.policy.released < 0.9
