"""The first screen of the report: each verdict against the interval that decides it."""

from dataclasses import replace

import numpy as np
import pytest

from leukemia.evaluation.bootstrap import compare, evaluate
from leukemia.evaluation.thresholds import choose
from leukemia.reporting.answers import Answer, answers, in_short, next_commands
from leukemia.reporting.evidence_page import evidence
from leukemia.reporting.results import results_table
from leukemia.runs import Sweep

SUBJECTS = np.arange(900) % 90  # sixty of ALL, thirty of HEM
LABEL = (SUBJECTS % 3 > 0).astype(int)


def write(make_run, folder, stage, skill, handcrafted=0.6, **settings):
    """A run on 900 cells; the logits of the classes lie 2 x skill apart, in standard deviations."""
    run = make_run(folder, trainable_from=stage, cells=900, **{"protocol": "holdout", **settings})
    noise = np.random.default_rng([len(stage), 1]).normal(size=(2, 900))
    cells = run.predictions.assign(subject=[f"S{number}" for number in SUBJECTS], label=LABEL)
    run.write_table("predictions.csv", cells.assign(logit=skill * (2 * LABEL - 1) + noise[0]))
    run.write_table("baseline.csv", cells.assign(logit=handcrafted * (2 * LABEL - 1) + noise[1]))
    metrics = run.metrics | {"accuracy": float(((skill * (2 * LABEL - 1) + noise[0] >= 0) == LABEL).mean())}
    run.write_json("metrics.json", metrics)
    return type(run)(run.folder)


def asked(folder):
    sweep = Sweep(folder)
    results = results_table(sweep)
    return {answer.question: answer for answer in answers(sweep, results, evidence(sweep, results))}


@pytest.mark.parametrize(
    ("head", "layer4", "handcrafted", "verdicts"),
    [
        (0.8, 1.6, 0.6, ("Shown", "Shown", "Shown")),
        (1.6, 1.62, 1.7, ("Shown", None, "Not shown")),
        (0.0, 0.1, 1.6, ("Not shown", "Shown to be worse", None)),
    ],
)
def test_a_difference_is_shown_where_its_interval_lies_above_zero(
    make_run, tmp_path, head, layer4, handcrafted, verdicts
):
    frozen = write(make_run, tmp_path, "head", head, handcrafted)
    tuned = write(make_run, tmp_path, "layer4", layer4, handcrafted)
    found = asked(tmp_path)
    assert found["Best setting"].verdict == "ResNet18 from layer4"
    majority, by_hand, against_frozen = (
        found[f"Better than {what}?"]
        for what in ("the majority class", "handcrafted features", "the frozen baseline")
    )
    for answer, verdict in zip((majority, by_hand, against_frozen), verdicts, strict=True):
        assert verdict in (None, answer.verdict)
    interval = evaluate([tuned.predictions])["cells"]["accuracy"]
    assert (majority.verdict == "Shown") == (interval["low"] > LABEL.mean())
    assert f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f}" in found["Best setting"].text
    for answer, other in (
        (by_hand, tuned.baseline),
        (against_frozen, frozen.predictions),
    ):
        difference = compare([other], [tuned.predictions])["accuracy"]
        assert (answer.verdict == "Shown") == (difference["low"] > 0)
        assert f"{100 * difference['low']:+.2f}".replace("-", "−") in answer.text


def test_triage_would_release_what_the_default_bounds_allow_and_the_policy_beside_the_run_goes_first(
    make_run, tmp_path
):
    run = write(make_run, tmp_path, "layer4", 1.6)
    policy = choose(run.predictions)
    assert policy.certified
    assert (
        asked(tmp_path)["What would triage release?"].verdict == f"{100 * policy.released:.1f} % of the cells"
    )
    run.write_json("triage.json", replace(policy, max_missed=0.3, released=0.77).to_json())
    answer = asked(tmp_path)["What would triage release?"]
    assert answer.verdict == "77.0 % of the cells"
    assert "At most 30 % of the ALL cells are missed" in answer.text


def test_nothing_is_released_on_cells_that_chose_the_epoch_and_the_answer_says_so(make_run, tmp_path):
    write(make_run, tmp_path, "layer4", 1.6, protocol="official")
    found = asked(tmp_path)
    assert found["What would triage release?"].verdict == "Nothing with a guarantee"
    assert "poch chosen on these cells" in found["What would triage release?"].text
    assert found["Which cells chose the epoch?"].verdict == "Epoch chosen on these cells"


def test_cells_that_the_gate_stops_are_counted_where_a_gate_is_known(make_run, tmp_path):
    run = write(make_run, tmp_path, "layer4", 1.6)
    assert "Unlike the training cells?" not in asked(tmp_path)
    unlike = np.where(np.arange(900) < 9, 1.2, 0.5)
    run.write_table("predictions.csv", run.predictions.assign(unlike_by=unlike))
    assert asked(tmp_path)["Unlike the training cells?"].verdict == "1.0 % of the cells"


def test_a_leak_is_the_first_answer(make_run, tmp_path):
    write(make_run, tmp_path, "layer4", 1.6, leaks=7)
    first = next(iter(asked(tmp_path).values()))
    assert (first.question, first.verdict, first.tone) == ("Leaks?", "LEAKS", "alarm")


def test_a_single_run_is_not_asked_for_a_frozen_baseline(make_run, tmp_path):
    write(make_run, tmp_path, "head", 1.6)
    found = asked(tmp_path)
    assert "Setting" in found
    assert "Better than the frozen baseline?" not in found


def test_a_best_setting_that_is_the_frozen_baseline_is_not_compared_with_itself(make_run, tmp_path):
    write(make_run, tmp_path, "head", 0.1)
    write(make_run, tmp_path, "layer4", 0.0)
    assert asked(tmp_path)["Better than the frozen baseline?"].verdict.endswith(
        "is the frozen baseline itself"
    )
    said = in_short(list(asked(tmp_path).values()))
    assert (
        "It is not shown to be better than the majority class; it is shown to be worse than handcrafted features."
        in said
    )


def test_what_is_not_shown_is_listed_with_or():
    questions = ("the majority class", "handcrafted features", "the frozen baseline")
    found = [Answer(f"Better than {name}?", "Not shown", "", "doubt") for name in questions]
    assert in_short(found) == [
        "It is not shown to be better than the majority class, handcrafted features or the frozen baseline."
    ]
    assert in_short(found[:1]) == ["It is not shown to be better than the majority class."]


def test_the_best_setting_says_how_many_share_its_accuracy(make_run, tmp_path):
    for seed, lr in enumerate((1e-2, 1e-3)):
        write(make_run, tmp_path, "layer4", 1.6, seed=seed, settings={"model.optimizer.lr": lr})
    assert "1 other setting reached the same." in asked(tmp_path)["Best setting"].text


def test_cells_that_the_gate_stops_are_counted_with_their_subjects(make_run, tmp_path):
    run = write(make_run, tmp_path, "head", 1.6)
    assert "Unlike the training cells?" not in asked(tmp_path)
    by = np.where(SUBJECTS == 3, 2.0, 0.5)
    why = np.where(by > 1, "larger than 99 % of the training cells", None)
    run.write_table("predictions.csv", run.predictions.assign(unlike=why, unlike_by=by))
    answer = asked(tmp_path)["Unlike the training cells?"]
    assert answer.verdict == "1.1 % of the cells"
    assert "S3 (10 of 10)" in answer.text


@pytest.mark.parametrize(("subjects", "second"), [(True, "triage"), (False, "explain")])
def test_the_next_commands_work_with_and_without_subjects(make_run, tmp_path, subjects, second):
    make_run(tmp_path, protocol="holdout", subjects=subjects)
    sweep = Sweep(tmp_path)
    named = next_commands(sweep, evidence(sweep, results_table(sweep)))
    assert [line.split()[1] for line in named] == ["evaluate", second, "app"]
