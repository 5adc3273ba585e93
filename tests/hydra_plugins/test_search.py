"""A search: settings come from their ranges, a failed trial counts as one, and a killed study continues."""

import os
import signal
import statistics
import subprocess
import sys
import time

import optuna
import psutil
import pytest

from leukemia.errors import PlaceError
from leukemia.reporting.results import results_table
from leukemia.runs import Run, Sweep
from leukemia.training.run import train

STATE = optuna.trial.TrialState


@pytest.fixture
def search(small, tmp_path) -> list[str]:
    """A search over the learning rate, with one epoch per run."""
    return [
        "-m", "experiment=search", *small, "trainer.max_epochs=1", "model.trainable_from=head", "data.augment=none",
        "model.optimizer.weight_decay=0.0", "hydra.sweeper.startup_trials=3", f"hydra.sweep.dir={tmp_path}/search",
    ]  # fmt: skip


def ends_with(code: int, program: str, settings: list[str]) -> None:
    """Run a program in another process, and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", program, *settings], env=dict(os.environ), capture_output=True
    )
    assert done.returncode == code, done.stderr.decode()


def study_in(tmp_path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")


@pytest.mark.slow
def test_trials_are_drawn_from_their_ranges_and_a_study_continues_to_a_larger_number(
    leukemia_train, search, tmp_path
):
    ranges = ["model.optimizer.lr=choice(1e-3,3e-3)", "model.trainable_from=choice(head,layer4)"]
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

    leukemia_train(*search, *ranges, "hydra.sweeper.trials=5", "callbacks.pruning=null")
    sweep = Sweep(tmp_path / "search")
    assert sweep.pending == []
    assert set(sweep.finished) == {trial.user_attrs["run"] for trial in study_in(tmp_path).trials[:4]}


def test_a_loss_that_is_not_a_number_is_a_failed_trial_and_the_study_continues(
    leukemia_train, search, tmp_path
):
    code, _, err = leukemia_train(
        *search, "model.optimizer.lr=choice(1e30)", "model.trainable_from=stem", "hydra.sweeper.trials=2"
    )
    assert code == 1
    assert "not finite" in err
    assert [trial.state for trial in study_in(tmp_path).trials] == [STATE.FAIL, STATE.FAIL]


@pytest.mark.slow
def test_a_killed_study_resumes_the_run_that_was_cut_off(leukemia_train, search, tmp_path):
    settings = [
        *search,
        "model.optimizer.lr=tag(log, interval(1e-4, 1e-2))",
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
    ends_with(-signal.SIGKILL, dies, settings)
    (before,) = study_in(tmp_path).trials
    assert before.state == STATE.RUNNING
    code, out, err = leukemia_train(*settings)
    assert code == 0, err
    assert out.count(" goes on") == 1
    trials = study_in(tmp_path).trials
    assert [trial.state for trial in trials] == [STATE.COMPLETE, STATE.COMPLETE]
    assert trials[0].params == before.params
    assert len(Sweep(tmp_path / "search").runs) == 2


@pytest.mark.slow
def test_a_run_that_falls_behind_the_finished_ones_is_pruned_and_the_study_continues(
    leukemia_train, search, tmp_path
):
    settings = [
        *search, "model.optimizer.lr=tag(log, interval(1e-7, 1e-2))", "hydra.sweeper.trials=6", "trainer.max_epochs=4",
        "callbacks.pruning.startup_runs=2", "callbacks.pruning.warmup_epochs=1", "hydra.sweeper.startup_trials=100",
    ]  # fmt: skip
    code, out, err = leukemia_train(*settings)
    assert code == 0, err
    trials = study_in(tmp_path).trials
    complete: list[dict[int, float]] = []
    for trial in trials:
        run = Run(tmp_path / "search" / trial.user_attrs["run"])
        losses = dict(zip(run.history["epoch"], run.history["val/loss"], strict=True))
        assert run.status["status"] == "done"
        assert run.metrics["best_epoch"] == min(losses, key=lambda epoch: losses[epoch])
        assert trial.intermediate_values == pytest.approx(losses)
        behind = [
            epoch for epoch in range(2, 4) if len(complete) >= 2 and epoch in losses
            and min(losses[e] for e in range(1, epoch + 1)) > statistics.median(of[epoch] for of in complete)
        ]  # fmt: skip
        if behind:
            assert (trial.state, len(losses)) == (STATE.PRUNED, behind[0])
            assert (run.pruned or {}).get("epoch") == behind[0]
        else:
            assert (trial.state, len(losses), run.pruned) == (STATE.COMPLETE, 4, None)
            complete.append(losses)
    pruned = len(trials) - len(complete)
    assert pruned > 0
    assert out.count("pruned after epoch") >= pruned
    results = results_table(Sweep(tmp_path / "search"))
    assert results["pruned_after"].notna().sum() == pruned
    assert "stopped early by the search" in (tmp_path / "search" / "results.md").read_text()

    # A run in the folder that is not a trial trains to its end.
    behind = next(trial for trial in trials if trial.state == STATE.PRUNED)
    alone = [
        *settings[1:],
        f"model.optimizer.lr={behind.params['model.optimizer.lr']}",
        f"hydra.run.dir={tmp_path}/search/alone",
    ]
    assert leukemia_train(*[o for o in alone if "sweep" not in o and "interval" not in o])[0] == 0
    assert len(Run(tmp_path / "search" / "alone").history) == 4


@pytest.mark.slow
def test_a_pruned_run_that_is_killed_before_its_metrics_is_not_trained_further(
    leukemia_train, search, tmp_path, monkeypatch
):
    settings = [
        *search, "model.optimizer.lr=tag(log, interval(1e-7, 1e-2))", "hydra.sweeper.trials=3", "trainer.max_epochs=4",
        "callbacks.pruning.startup_runs=0", "callbacks.pruning.warmup_epochs=0",
    ]  # fmt: skip
    dies = (
        "import os, leukemia.training.pruning, leukemia.training.run, leukemia.train as train\n"
        "leukemia.training.pruning.falls_behind = lambda own, *_: len(own) == 2\n"
        "leukemia.training.run.write_final_metrics = lambda *_: os._exit(9)\n"
        "train.main()\n"
    )
    ends_with(9, dies, settings)
    monkeypatch.setattr("leukemia.training.pruning.falls_behind", lambda own, *_: len(own) == 2)
    code, _, err = leukemia_train(*settings)
    assert code == 0, err
    assert [len(run.history) for run in Sweep(tmp_path / "search").runs] == [2, 2, 2]
    assert [trial.state for trial in study_in(tmp_path).trials] == [STATE.PRUNED] * 3


@pytest.mark.slow
def test_a_run_that_is_not_pruned_after_all_does_not_say_so(leukemia_train, search, tmp_path):
    settings = [*search, "model.optimizer.lr=choice(1e-3)", "hydra.sweeper.trials=1", "trainer.max_epochs=3"]
    dies = (
        "import os, leukemia.training.pruning\n"
        "from leukemia.runs import Run\n"
        "from leukemia.train import main\n"
        "leukemia.training.pruning.falls_behind = lambda own, *_: len(own) == 2\n"
        "write = Run.write_json\n"
        "def dying(run, name, value):\n"
        "    write(run, name, value)\n"
        "    if name == 'pruned.json': os._exit(9)\n"
        "Run.write_json = dying; main()\n"
    )
    ends_with(9, dies, settings)
    (run,) = Sweep(tmp_path / "search").begun
    assert run.pruned is not None
    code, _, err = leukemia_train(*settings)
    assert code == 0, err
    assert (len(run.history), run.pruned) == (3, None)
    assert [trial.state for trial in study_in(tmp_path).trials] == [STATE.COMPLETE]


@pytest.mark.slow
def test_trials_without_a_usable_folder_wait_for_the_same_command(
    leukemia_train, search, tmp_path, monkeypatch
):
    settings = [*search, "model.optimizer.lr=tag(log, interval(1e-4, 1e-2))", "hydra.sweeper.trials=3"]
    with monkeypatch.context() as patch:

        def second_fails(config, folder, **more):
            if len(study_in(tmp_path).trials) > 1:
                raise PlaceError("cannot write: No space left on device; make room there and start again")
            return train(config, folder, **more)

        patch.setattr("leukemia.training.run.train", second_fails)
        code, _, err = leukemia_train(*settings)
    assert code == 1
    assert "No space left" in err
    before = study_in(tmp_path).trials
    assert [trial.state for trial in before] == [STATE.COMPLETE, STATE.RUNNING]

    code, _, err = leukemia_train(*settings)
    assert code == 0, err
    trials = study_in(tmp_path).trials
    assert [trial.state for trial in trials] == [STATE.COMPLETE] * 3
    assert trials[1].params == before[1].params


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_whose_process_was_killed_continues_with_the_same_command(search, tmp_path):
    settings = [
        *search, "model.optimizer.lr=tag(log, interval(1e-4, 1e-2))", "hydra.sweeper.trials=2",
        "hydra.sweeper.at_once=2", "hydra/launcher=devices", "hydra.launcher.devices=2", "callbacks.pruning=null",
        "data.augment=full", "trainer.max_epochs=20", "callbacks.early_stopping.patience=100",
    ]  # fmt: skip
    command = [sys.executable, "-m", "leukemia.train", *settings]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "search").glob("*/history.csv")):
            assert process.poll() is None
            time.sleep(0.05)
        trains = next(path.parent for path in (tmp_path / "search").glob("*/history.csv"))
        of_run = [
            child for child in psutil.Process(process.pid).children()
            if any(trains.name in file.path for file in child.open_files())
        ]  # fmt: skip
        of_run[0].kill()
        assert process.wait(300) == 1, process.communicate()[1]
    assert sorted(trial.state.name for trial in study_in(tmp_path).trials) == ["COMPLETE", "RUNNING"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [trial.state for trial in study_in(tmp_path).trials] == [STATE.COMPLETE] * 2
    assert [run.history["epoch"].tolist() for run in Sweep(tmp_path / "search").runs] == [
        list(range(1, 21))
    ] * 2


def test_a_trial_that_was_cut_off_three_times_has_failed(leukemia_train, search, tmp_path, monkeypatch):
    def cut_off(config, folder, **_):
        Run(folder).write_json("status.json", {"status": "running"})
        raise RuntimeError("its process dies")

    monkeypatch.setattr("leukemia.training.run.train", cut_off)
    states = []
    for _ in range(3):
        leukemia_train(*search, "model.optimizer.lr=choice(1e-3)", "hydra.sweeper.trials=1")
        states += [trial.state for trial in study_in(tmp_path).trials]
    assert states == [STATE.RUNNING, STATE.RUNNING, STATE.FAIL]


def test_a_command_that_is_refused_spends_no_trials(leukemia_train, search, tmp_path):
    code, _, err = leukemia_train(*search, "data.root=nowhere", "hydra.sweeper.trials=5")
    assert code == 2
    assert "no such folder" in err
    assert not (tmp_path / "search").exists()


@pytest.mark.slow
def test_settings_that_are_drawn_twice_at_once_are_run_once(leukemia_train, search, tmp_path):
    code, _, err = leukemia_train(
        *search, "model.optimizer.lr=choice(1e-3)", "hydra.sweeper.trials=2", "hydra.sweeper.at_once=2",
        "hydra/launcher=devices", "hydra.launcher.devices=2",
    )  # fmt: skip
    assert code == 0, err
    (run,) = Sweep(tmp_path / "search").runs
    assert [trial.value for trial in study_in(tmp_path).trials] == [run.history["val/loss"].min()] * 2


def test_a_study_does_not_continue_with_other_choices(leukemia_train, search, tmp_path):
    (tmp_path / "search").mkdir()
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    study.ask({"model.trainable_from": optuna.distributions.CategoricalDistribution(["head", "stem"])})
    code, _, err = leukemia_train(*search, "model.trainable_from=choice(head,layer4)")
    assert code == 2
    assert "began with model.trainable_from" in err
    assert len(study.trials) == 1
