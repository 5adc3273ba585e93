"""Ctrl-C and SIGTERM within an epoch: a checkpoint is written, and the resumed run ends as an undisturbed one."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from leukemia.config import compose
from leukemia.models.checkpoint import read_checkpoint
from leukemia.models.classifier import CellClassifier
from leukemia.runs import Run, Sweep
from leukemia.training import signals
from leukemia.training.run import train


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals.State.waits, signals.State.received = False, 0


@pytest.fixture(scope="module")
def settings(demo_root):
    """Everything that could differ on resume: order, augmentation, a schedule by steps, weights in the loss."""
    return [
        f"data.root={demo_root}",
        "data.augment=full",
        "data.image_size=32",
        "data.batch_size=16",
        "model.net.weights=none",
        "model.trainable_from=layer4",
        "model.unfreeze={2: layer3}",
        "model/scheduler=cosine",
        "model.scheduler.warmup_epochs=1",
        "model.class_weights=balanced",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=3",
    ]


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    return train(compose(settings), tmp_path_factory.mktemp("undisturbed") / "run")


def interrupt(monkeypatch, folder, settings, number, epoch, batch, hook="training_step", times=1):
    """Start a run that gets a signal in this batch of this epoch. Return its exit code."""
    real = getattr(CellClassifier, hook)

    def signalled(self, values, at):
        if (self.current_epoch + 1, at) == (epoch, batch):
            for _ in range(times):
                os.kill(os.getpid(), number)
        return real(self, values, at)

    with monkeypatch.context() as patch:
        patch.setattr(CellClassifier, hook, signalled)
        with pytest.raises(SystemExit) as left:
            train(compose(settings), folder)
    signals.install()
    return left.value.code


@pytest.mark.parametrize(
    ("number", "code", "epoch", "batch"),
    [
        (signal.SIGINT, 130, 2, 2),
        pytest.param(signal.SIGTERM, 143, 1, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 3, 1, marks=pytest.mark.slow),
    ],
)
def test_within_an_epoch_a_checkpoint_is_written_and_nothing_is_computed_twice(
    monkeypatch, tmp_path, settings, assert_same, undisturbed, number, code, epoch, batch
):
    folder = tmp_path / "run"
    assert interrupt(monkeypatch, folder, settings, number, epoch, batch) == code
    assert Run(folder).status["status"] == "interrupted"
    content = read_checkpoint(Run(folder).last_checkpoint)
    assert len(content["history"]) == epoch - 1
    steps = undisturbed_steps = read_checkpoint(undisturbed.last_checkpoint)["global_step"]
    assert content["global_step"] == undisturbed_steps // 3 * (epoch - 1) + batch + 1

    seen = []
    real = CellClassifier.training_step
    monkeypatch.setattr(
        CellClassifier,
        "training_step",
        lambda self, values, at: seen.append((self.current_epoch + 1, at)) or real(self, values, at),
    )
    assert_same(train(compose(settings), folder), undisturbed)
    assert seen[0] == (epoch, batch + 1)
    assert len(seen) == steps - content["global_step"]


@pytest.mark.slow
def test_twice_interrupted_in_one_epoch_ends_alike(monkeypatch, tmp_path, settings, assert_same, undisturbed):
    folder = tmp_path / "run"
    assert interrupt(monkeypatch, folder, settings, signal.SIGTERM, 2, 1) == 143
    assert interrupt(monkeypatch, folder, settings, signal.SIGTERM, 2, 3) == 143
    assert_same(train(compose(settings), folder), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "batch"),
    [("validation_step", 0), ("training_step", -1)],
)
def test_at_the_end_of_an_epoch_its_own_checkpoint_serves(
    monkeypatch, tmp_path, settings, assert_same, undisturbed, hook, batch
):
    last = read_checkpoint(undisturbed.last_checkpoint)["global_step"] // 3 - 1
    folder = tmp_path / "run"
    assert interrupt(monkeypatch, folder, settings, signal.SIGTERM, 2, last if batch else 0, hook) == 143
    assert len(read_checkpoint(Run(folder).last_checkpoint)["history"]) == 2
    assert_same(train(compose(settings), folder), undisturbed)


@pytest.mark.slow
def test_a_second_signal_does_not_wait(monkeypatch, tmp_path, settings, assert_same, undisturbed):
    folder = tmp_path / "run"
    assert interrupt(monkeypatch, folder, settings, signal.SIGINT, 2, 1, times=2) == 130
    assert Run(folder).status["status"] == "interrupted"
    assert len(read_checkpoint(Run(folder).last_checkpoint)["history"]) == 1
    assert_same(train(compose(settings), folder), undisturbed)


@pytest.mark.slow
def test_with_a_feature_cache_too(monkeypatch, tmp_path, settings, assert_same):
    frozen = [*settings, "model.unfreeze=null", "data.augment=d4", "model.trainable_from=head"]
    whole = train(compose(frozen), tmp_path / "whole")
    assert interrupt(monkeypatch, tmp_path / "run", frozen, signal.SIGTERM, 2, 1) == 143
    assert_same(train(compose(frozen), tmp_path / "run"), whole)


def test_outside_of_training_a_signal_ends_the_run_at_once(monkeypatch, tmp_path, settings):
    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    monkeypatch.setattr("leukemia.training.run.write_final_metrics", signalled)
    with pytest.raises(SystemExit) as left:
        train(compose([*settings, "trainer.max_epochs=1"]), tmp_path / "run")
    assert left.value.code == 143
    assert Run(tmp_path / "run").status["status"] == "interrupted"


@pytest.mark.parametrize(
    "program",
    ["from leukemia.train import main; main()", "import runpy; runpy.run_module('leukemia.train', run_name='__main__')",
     "from leukemia.cli import main; main(['predict', 'run', 'cell.png'])"],
    ids=["leukemia-train", "python -m leukemia.train", "leukemia"],
)  # fmt: skip
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_within_an_import_ends_a_command_in_one_line(tmp_path, program, number, code):
    (tmp_path / "run").mkdir()
    signalled = (
        "import os, sys\n"
        "class Meets:\n"
        "    def find_spec(self, name, *others):\n"
        f"        if name == 'pandas' or name == 'torch': os.kill(os.getpid(), {int(number)})\n"
        f"sys.meta_path.insert(0, Meets())\n{program}"
    )
    done = subprocess.run(
        [sys.executable, "-c", signalled], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "interrupted\n")


@pytest.mark.slow
def test_between_two_runs_a_signal_ends_the_sweep_in_one_line_also_while_objects_are_cleared_away(
    monkeypatch, tmp_path, settings, leukemia_train
):
    from leukemia.training.sweep import SweepCallback

    class Signals:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    end = SweepCallback.on_job_end

    def ends(self, *arguments, **others):
        end(self, *arguments, **others)
        Signals()

    sweep = ["-m", *settings, "trainer.max_epochs=1", "model.unfreeze=null", "seed=0,1"]
    sweep.append(f"hydra.sweep.dir={tmp_path}/s")
    with monkeypatch.context() as patch:
        patch.setattr(SweepCallback, "on_job_end", ends)
        code, _, said = leukemia_train(*sweep)
    assert code == 143
    assert "interrupted\n" in said
    assert "Traceback" not in said
    assert len(Sweep(tmp_path / "s").with_status("done")) == 1
    assert len(Sweep(tmp_path / "s").begun) == 1
    code, said, _ = leukemia_train(*sweep)
    assert code == 0
    assert said.count("is done already") == 1
    assert len(Sweep(tmp_path / "s").with_status("done")) == 2


def test_a_signal_that_python_swallows_ends_the_sweep_before_its_next_run(
    monkeypatch, tmp_path, settings, leukemia_train
):
    """A signal during an object's clean-up, where SystemExit is lost."""
    from leukemia.training import run as module

    write = module.write_final_metrics

    def swallowed(*arguments):
        write(*arguments)
        with contextlib.suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("leukemia.training.run.write_final_metrics", swallowed)
    sweep = [
        *settings,
        "trainer.max_epochs=1",
        "model.unfreeze=null",
        "seed=0,1",
        f"hydra.sweep.dir={tmp_path}/s",
    ]
    assert leukemia_train("-m", *sweep)[0] == 143
    assert [run.config["seed"] for run in Sweep(tmp_path / "s").with_status("done")] == [0]
    assert len(Sweep(tmp_path / "s").runs) == 1
