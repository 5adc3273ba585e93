"""A search: settings are drawn where they may be, a trial that fails is one, and a killed study goes on in itself."""

import os
import signal
import statistics
import subprocess
import sys

import optuna
import pytest

from leukemia.reporting.tables import results_table
from leukemia.runs import Run, Sweep

STATE = optuna.trial.TrialState


@pytest.fixture
def search(small, tmp_path) -> list[str]:
    """A search over learning rates, whose upper end no training survives."""
    return [
        "-m", "experiment=search", *small, "trainer.max_epochs=1", "model.trainable_from=head", "data.augment=none",
        "model.weight_decay=0.0", "hydra.sweeper.startup_trials=3", f"hydra.sweep.dir={tmp_path}/search",
    ]  # fmt: skip


def study_in(tmp_path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")


def test_trials_are_drawn_from_what_is_allowed_and_a_study_goes_on_to_a_larger_number(
    leukemia_train, search, tmp_path
):
    ranges = ["model.lr=choice(1e-3,3e-3)", "model.trainable_from=choice(head,layer4)"]
    code, _, err = leukemia_train(*search, *ranges, "hydra.sweeper.trials=3")
    assert code == 0, err
    trials = study_in(tmp_path).trials
    assert [trial.state for trial in trials] == [STATE.COMPLETE] * 3
    assert {trial.params["model.trainable_from"] for trial in trials} <= {"head", "layer4"}
    minima = [run.history["val/loss"].min() for run in Sweep(tmp_path / "search").runs]
    assert study_in(tmp_path).best_value == pytest.approx(min(minima))

    leukemia_train(*search, *ranges, "hydra.sweeper.trials=4")
    assert [trial.number for trial in study_in(tmp_path).trials] == list(range(4))
    assert study_in(tmp_path).trials[:3] == trials
    assert Sweep(tmp_path / "search").total == 4


def test_a_loss_that_is_no_number_is_a_failed_trial_and_the_study_goes_on(leukemia_train, search, tmp_path):
    code, _, err = leukemia_train(
        *search, "model.lr=choice(1e30)", "model.trainable_from=stem", "hydra.sweeper.trials=2"
    )
    assert code == 1
    assert "not finite" in err
    assert [trial.state for trial in study_in(tmp_path).trials] == [STATE.FAIL, STATE.FAIL]


def test_a_killed_study_takes_the_run_that_was_cut_off_up_again(leukemia_train, search, tmp_path):
    settings = [
        *search,
        "model.lr=tag(log, interval(1e-4, 1e-2))",
        "trainer.max_epochs=3",
        "hydra.sweeper.trials=2",
    ]
    dies = (
        "import os; from leukemia import CellClassifier; from leukemia.train import main\n"
        "step = CellClassifier.training_step\n"
        "def dying(self, batch, number):\n"
        "    if self.current_epoch == 2: os.kill(os.getpid(), 9)\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = dying; main()\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", dies, *settings], env=dict(os.environ), capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (before,) = study_in(tmp_path).trials
    assert before.state == STATE.RUNNING
    code, out, err = leukemia_train(*settings)
    assert code == 0, err
    assert out.count(" goes on") == 1
    trials = study_in(tmp_path).trials
    assert [trial.state for trial in trials] == [STATE.COMPLETE, STATE.COMPLETE]
    assert trials[0].params == before.params
    assert len(Sweep(tmp_path / "search").runs) == 2


def test_a_run_that_falls_behind_the_finished_ones_is_pruned_and_the_study_goes_on(
    leukemia_train, search, tmp_path
):
    settings = [
        *search, "model.lr=tag(log, interval(1e-7, 1e-2))", "hydra.sweeper.trials=6", "trainer.max_epochs=4",
        "callbacks.pruning.startup_runs=2", "callbacks.pruning.warmup_epochs=1", "hydra.sweeper.startup_trials=100",
    ]  # fmt: skip
    code, out, err = leukemia_train(*settings)
    assert code == 0, err
    trials = study_in(tmp_path).trials
    complete: list[dict[int, float]] = []
    for trial in trials:
        run = Run(tmp_path / "search" / trial.user_attrs["run"])
        figures = dict(zip(run.history["epoch"], run.history["val/loss"], strict=True))
        assert run.status["status"] == "done"
        assert run.metrics["best_epoch"] == min(figures, key=lambda epoch: figures[epoch])
        assert trial.intermediate_values == pytest.approx(figures)
        behind = [
            epoch for epoch in range(2, 5) if len(complete) >= 2 and epoch in figures
            and min(figures[e] for e in range(1, epoch + 1)) > statistics.median(of[epoch] for of in complete)
        ]  # fmt: skip
        if behind:
            assert (trial.state, len(figures)) == (STATE.PRUNED, behind[0])
            assert (run.pruned or {}).get("epoch") == behind[0]
        else:
            assert (trial.state, len(figures), run.pruned) == (STATE.COMPLETE, 4, None)
            complete.append(figures)
    pruned = len(trials) - len(complete)
    assert pruned > 0
    assert out.count("pruned after epoch") >= pruned
    results = results_table(Sweep(tmp_path / "search"))
    assert results["pruned_after"].notna().sum() == pruned
    assert "stopped early by the search" in (tmp_path / "search" / "results.md").read_text()


def test_a_pruned_run_that_is_killed_before_it_has_figures_is_not_trained_further(
    leukemia_train, search, tmp_path, monkeypatch
):
    settings = [
        *search, "model.lr=tag(log, interval(1e-7, 1e-2))", "hydra.sweeper.trials=3", "trainer.max_epochs=4",
        "callbacks.pruning.startup_runs=0", "callbacks.pruning.warmup_epochs=0",
    ]  # fmt: skip
    dies = (
        "import os, leukemia.pruning, leukemia.train as train\n"
        "leukemia.pruning.falls_behind = lambda own, *_: len(own) == 2\n"
        "train.write_figures = lambda *_: os._exit(9)\n"
        "train.main()\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", dies, *settings], env=dict(os.environ), capture_output=True
    )
    assert killed.returncode == 9, killed.stderr.decode()
    monkeypatch.setattr("leukemia.pruning.falls_behind", lambda own, *_: len(own) == 2)
    code, _, err = leukemia_train(*settings)
    assert code == 0, err
    assert [len(run.history) for run in Sweep(tmp_path / "search").runs] == [2, 2, 2]
    assert [trial.state for trial in study_in(tmp_path).trials] == [STATE.PRUNED] * 3


def test_a_command_that_is_refused_spends_no_trials(leukemia_train, search, tmp_path):
    code, _, err = leukemia_train(*search, "data.root=nowhere", "hydra.sweeper.trials=5")
    assert code == 2
    assert "no such folder" in err
    assert not (tmp_path / "search").exists()


def test_of_settings_that_are_drawn_twice_at_once_there_is_one_run(leukemia_train, search, tmp_path):
    code, _, err = leukemia_train(
        *search, "model.lr=choice(1e-3)", "hydra.sweeper.trials=2", "hydra.sweeper.at_once=2",
        "hydra/launcher=devices", "hydra.launcher.devices=2",
    )  # fmt: skip
    assert code == 0, err
    (run,) = Sweep(tmp_path / "search").runs
    assert [trial.value for trial in study_in(tmp_path).trials] == [run.history["val/loss"].min()] * 2


def test_a_study_is_not_gone_on_with_among_other_choices(leukemia_train, search, tmp_path):
    (tmp_path / "search").mkdir()
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    study.ask({"model.trainable_from": optuna.distributions.CategoricalDistribution(["head", "stem"])})
    code, _, err = leukemia_train(*search, "model.trainable_from=choice(head,layer4)")
    assert code == 2
    assert "was begun with model.trainable_from" in err
    assert len(study.trials) == 1
