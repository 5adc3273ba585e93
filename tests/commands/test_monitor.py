import json
import shutil

import numpy as np
import pandas as pd
import pytest

from leukemia.app.decisions import DecisionContext
from leukemia.app.export import decisions_csv
from leukemia.app.store import Store
from leukemia.cli import main
from leukemia.evaluation.policy import REVIEW
from leukemia.evaluation.thresholds import choose
from leukemia.runs import Run

CLASSES = ("HEM", "ALL")


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def cells(subjects, prefix, seed=0, shift=0.0, each=12, positive=0.5):
    rng = np.random.default_rng(seed)
    label = np.repeat((np.arange(subjects) < positive * subjects)[rng.permutation(subjects)], each).astype(
        int
    )
    owner = np.repeat([f"{prefix}{number}" for number in range(subjects)], each)
    logit = 1.5 * (2 * label - 1) + shift * label + rng.standard_normal(len(label))
    names = [f"{subject}/{row}.bmp" for row, subject in enumerate(owner)]
    return pd.DataFrame({"path": names, "subject": owner, "label": label, "logit": logit})


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    run, table = Run(tmp_path_factory.mktemp("monitor") / "run"), cells(160, "C").assign(split="test")
    data = {
        "root": "nowhere",
        "classes": list(CLASSES),
        "image_size": 64,
        "resize": "squash",
        "native_size": None,
    }
    data["tta"] = "none"
    run.write_config(
        {"seed": 0, "data": data, "model": {"net": {"_target_": "mylab.Net"}, "trainable_from": "head"}}
    )
    run.write_json("status.json", {"status": "done"})
    run.write_table("predictions.csv", table)
    run.write_table(
        "cells.csv", table.assign(group=table["subject"], pixel_hash=table["path"]).drop(columns="logit")
    )
    run.write_json("triage.json", choose(table, 0.1, 0.1).to_json())
    return run


@pytest.fixture
def run(certified, tmp_path):
    return Run(shutil.copytree(certified.folder, tmp_path / "run"))


def predicted(run, table, place, **columns):
    """A table as `leukemia predict` writes it."""
    decision = run.policy.decide(table["logit"], CLASSES)
    table = table.drop(columns="label").assign(
        path="pictures/" + table["path"], decision=decision, tta="none"
    )
    table.assign(**columns).to_csv(place, index=False)
    return place


def reviewed(run, table, place, share=0.3, seed=0):
    """Decisions of the page: all cells under review, and a random sample of the released ones."""
    rng, decision = np.random.default_rng(seed), run.policy.decide(table["logit"], CLASSES)
    released = rng.permutation(np.flatnonzero(decision != REVIEW))
    rows_of = {"review": np.flatnonzero(decision == REVIEW), "check": released[: int(share * len(released))]}
    store = Store(place.with_suffix(".sqlite"))
    for queue, rows in rows_of.items():
        for row in rows:
            context = DecisionContext(
                cell=f"hash{row}", path=table["path"][row], subject=table["subject"][row], data_label=None,
                model=run.model, policy="", logit=float(table["logit"][row]), probability=0.5,
                triage=decision[row], queue=queue, blind=queue == "check",
            )  # fmt: skip
            store.decide("Ada", context, CLASSES[table["label"][row]], request=f"{queue}{row}")
    place.write_text(decisions_csv(store), newline="")
    store.close()
    return place


def test_cells_like_the_certified_ones_are_as_certified(run, tmp_path, capsys):
    new = cells(40, "N", seed=1)
    files = [predicted(run, new, tmp_path / "new.csv"), reviewed(run, new, tmp_path / "decisions.csv")]
    assert leukemia("monitor", run.folder, *files) == 0
    said = capsys.readouterr().out
    assert said.startswith("run: AS CERTIFIED")
    assert "missed: " in said
    assert "of 80" in said  # four tests share 5 %


def test_the_pages_spot_checks_break_a_bound_that_does_not_hold_any_more(run, tmp_path, capsys):
    new = cells(60, "N", seed=1, shift=-2)
    files = [predicted(run, new, tmp_path / "new.csv"), reviewed(run, new, tmp_path / "decisions.csv")]
    assert leukemia("monitor", run.folder, *files) == 1
    said = capsys.readouterr().out
    assert "BOUND BROKEN" in said
    assert "FOUND at subject" in said
    assert leukemia("monitor", run.folder, *files, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    missed = next(test for test in found["tests"] if test["name"] == "missed")
    decision = run.policy.decide(new["logit"], CLASSES)
    truth = (decision == "HEM")[new["label"] == 1].mean()
    assert missed["value"] == pytest.approx(truth, abs=0.1)
    assert 0.1 < missed["at_least"] < truth


def test_labels_in_the_predictions_are_taken_as_known(run, tmp_path, capsys):
    new = cells(40, "N", seed=1)
    decision = run.policy.decide(new["logit"], CLASSES)
    truth = pd.Series(decision == "HEM")[new["label"] == 1].groupby(new["subject"]).mean().mean()
    for label in (new["label"], new["label"].map(dict(enumerate(CLASSES)))):
        assert (
            leukemia("monitor", run.folder, predicted(run, new, tmp_path / "new.csv", label=label), "--json")
            == 0
        )
        missed = json.loads(capsys.readouterr().out)["tests"][0]
        assert missed["value"] == pytest.approx(truth)


def test_another_share_of_all_subjects_is_drifting_and_not_a_broken_bound(run, tmp_path, capsys):
    new = cells(80, "N", seed=1, positive=0.97)
    files = [predicted(run, new, tmp_path / "new.csv"), reviewed(run, new, tmp_path / "decisions.csv")]
    assert leukemia("monitor", run.folder, *files) == 1
    assert "DRIFTING" in capsys.readouterr().out


def test_more_stopped_cells_are_a_drift_where_the_gate_is_known_of_both(run, tmp_path, capsys):
    run.write_table("predictions.csv", run.predictions.assign(unlike_by=0.5))
    new = cells(40, "N", seed=1)
    by = np.where(np.random.default_rng(0).random(len(new)) < 0.3, 1.5, 0.5)
    files = [
        predicted(run, new, tmp_path / "new.csv", unlike_by=by),
        predicted(run, cells(2, "O"), tmp_path / "old.csv"),
    ]
    assert leukemia("monitor", run.folder, files[0], "--json") == 1
    stopped = json.loads(capsys.readouterr().out)["tests"][-1]
    assert (stopped["name"], stopped["certified"]) == ("stopped", 0)
    assert stopped["value"] == pytest.approx(0.3, abs=0.05)
    assert leukemia("monitor", run.folder, *files) == 0  # of the second table nothing is known


def test_a_subject_counts_once_and_the_order_of_tables_is_that_of_time(run, tmp_path, capsys):
    first, second = cells(10, "N", seed=1), cells(14, "N", seed=2)
    files = [predicted(run, first, tmp_path / "a.csv"), predicted(run, second, tmp_path / "b.csv")]
    assert leukemia("monitor", run.folder, *files, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {test["subjects"] for test in found["tests"]} == {14}
    assert "120 cells are left out" in found["notes"][0]


def test_a_decision_that_was_taken_back_or_picked_by_hand_or_differs_between_reviewers_is_no_label(
    run, tmp_path
):
    from leukemia.commands.monitor import _labels

    same = {
        "subject": "N1",
        "data_label": None,
        "model": run.model,
        "policy": "",
        "logit": 9.0,
        "probability": 1.0,
    }
    store = Store(tmp_path / "review.sqlite")

    def decide(name, label, triage="ALL", queue="check", blind=True, reviewer="Ada"):
        context = DecisionContext(cell=name, path=name, triage=triage, queue=queue, blind=blind, **same)
        store.decide(reviewer, context, label, request=f"{reviewer}{name}{label}")

    decide("undone.bmp", "HEM")
    store.undo("Ada", "undo")
    decide("undone.bmp", "ALL")
    decide("picked.bmp", "HEM", queue="picked")
    decide("seen.bmp", "HEM", blind=False)
    decide("review.bmp", "HEM", triage=REVIEW, queue="picked", blind=False)
    decide("differ.bmp", "HEM")
    decide("differ.bmp", "ALL", reviewer="Ben")
    decide("unsure.bmp", "unsure")
    (tmp_path / "decisions.csv").write_text(decisions_csv(store), newline="")
    store.close()
    found = _labels(pd.read_csv(tmp_path / "decisions.csv"), tmp_path / "decisions.csv", run).set_index(
        "path"
    )
    assert found["label"].dropna().to_dict() == {"undone.bmp": 1.0, "review.bmp": 0.0}
    assert found.index[found["sampled"]].tolist() == ["differ.bmp", "undone.bmp", "unsure.bmp"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda table: table.drop(columns="subject"), "a cell has no subject"),
        (
            lambda table: table.assign(subject=table["subject"].where(table.index > 0)),
            "a cell has no subject",
        ),
        (lambda table: table.assign(decision="ALL"), "was not decided by the triage policy"),
        (lambda table: table.assign(tta="d4"), "was not decided by the triage policy"),
        (lambda table: table.assign(logit="=cmd()"), "has to hold numbers"),
        (lambda table: table.assign(label="blast"), "label 'blast' is unknown"),
        (lambda table: table.assign(sampling_probability=0), "has to lie above 0"),
        (lambda table: table[["path", "subject"]], "is not a table of `leukemia predict`"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused(run, tmp_path, capsys, damage, said):
    place = predicted(run, cells(4, "N"), tmp_path / "new.csv")
    damage(pd.read_csv(place)).to_csv(place, index=False)
    assert leukemia("monitor", run.folder, place) == 2
    problem = capsys.readouterr().err
    assert said in problem
    assert len(problem.strip().splitlines()) == 1


def test_decisions_of_another_run_or_alone_are_refused(run, tmp_path, capsys):
    new = cells(4, "N")
    table, decisions = (
        predicted(run, new, tmp_path / "new.csv"),
        reviewed(run, new, tmp_path / "decisions.csv"),
    )
    assert leukemia("monitor", run.folder, decisions) == 2
    assert "add the predictions" in capsys.readouterr().err
    text = decisions.read_text().replace(run.model, "other@000000000000")
    decisions.write_text(text)
    assert leukemia("monitor", run.folder, table, decisions) == 2
    assert "holds decisions on 'other@000000000000'" in capsys.readouterr().err
    decisions.write_text("queue\ncheck\n")
    assert leukemia("monitor", run.folder, table, decisions) == 2
    assert "is not decisions of the review page" in capsys.readouterr().err
    assert leukemia("monitor", run.folder, tmp_path / "nothing.csv") == 2
    assert "no such file" in capsys.readouterr().err


def test_without_a_certified_policy_by_subject_there_is_nothing_to_watch(run, tmp_path, capsys):
    place, policy = predicted(run, cells(4, "N"), tmp_path / "new.csv"), run.policy.to_json()
    for changes, said in (
        ({"certified": False}, "has no certified triage policy"),
        ({"unit": "cell"}, "takes cells as independent"),
        ({"fitted_on": {"cells": 7, "what": "7 cells of own.csv"}}, "certified on 7 cells of own.csv"),
    ):
        run.write_json("triage.json", policy | changes)
        assert leukemia("monitor", run.folder, place) == 2
        assert said in capsys.readouterr().err
