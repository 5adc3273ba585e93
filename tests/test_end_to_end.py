"""The command as a user gives it: a sweep to its report, bad input to one message, two processes to one result."""

import gc
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from leukemia.runs import Run, Sweep


def test_a_sweep_skips_what_is_done_survives_a_failure_and_ends_in_a_report(leukemia_train, small, tmp_path):
    sweep = [*small, "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}/sweep", "model.trainable_from=head"]
    code, out, err = leukemia_train("-m", *sweep, "model.net.depth=18,20", "seed=0,1")
    assert code == 1
    assert err.count("failed:") == 2
    assert "model.net.depth=20 is unknown" in err
    assert "Traceback" not in err
    states = {run.name: run.status["status"] for run in Sweep(tmp_path / "sweep").runs}
    assert sorted(states.values()) == ["done", "done", "failed", "failed"]
    assert all("=" not in name for name in states)
    for name in ("results.csv", "results.md", "report.html"):
        assert (tmp_path / "sweep" / name).is_file()
    assert str(tmp_path / "sweep" / "report.html") in out.splitlines()[-1]
    assert {run.name for run in Sweep(tmp_path / "sweep").runs} == set(Sweep(tmp_path / "sweep").planned)
    assert re.search(r"run 1 of 4$", out, re.MULTILINE)  # nothing is done yet, so nothing is known
    assert re.search(r"run 3 of 4, about \d+ s left$", out, re.MULTILINE)

    done = Sweep(tmp_path / "sweep").with_status("done")
    before = [run.last_checkpoint.stat().st_mtime_ns for run in done]
    code, out, _ = leukemia_train("-m", *sweep, "model.net.depth=18", "seed=0,1,2")
    assert code == 0  # the runs that failed are of another sweep in this folder
    assert out.count("is done already") == 2
    assert [run.last_checkpoint.stat().st_mtime_ns for run in done] == before
    assert len(pd.read_csv(tmp_path / "sweep" / "results.csv")) == 5


@pytest.mark.slow
def test_a_killed_sweep_started_again_goes_on_where_it_was_cut(leukemia_train, small, tmp_path):
    sweep = [
        *small,
        "model.trainable_from=layer4",
        "seed=0,1",
        "trainer.max_epochs=3",
        f"hydra.sweep.dir={tmp_path}/s",
    ]
    dying = (
        "import os; from leukemia import CellClassifier; from leukemia.train import main\n"
        "step = CellClassifier.training_step\n"
        "def dies(self, batch, number):\n"
        "    if 'seed-1' in self.trainer.default_root_dir and self.current_epoch == 2: os.kill(os.getpid(), 9)\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = dies; main()\n"
    )
    assert subprocess.run([sys.executable, "-c", dying, "-m", *sweep], capture_output=True).returncode == -9
    first, second = Sweep(tmp_path / "s").runs
    assert [run.status["status"] for run in (first, second)] == ["done", "running"]
    before = first.last_checkpoint.stat().st_mtime_ns
    code, out, err = leukemia_train("-m", *sweep)
    assert code == 0, err
    assert f"{first.name} is done already" in out
    assert f"{second.name} goes on" in out
    assert first.last_checkpoint.stat().st_mtime_ns == before
    assert Run(second.folder).status["status"] == "done"
    assert Run(second.folder).history["epoch"].tolist() == [1, 2, 3]


@pytest.mark.slow
def test_the_paper_experiment_runs_the_grid(leukemia_train, small, tmp_path):
    code, _, err = leukemia_train(
        "-m", "experiment=paper", *small, "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}/p"
    )
    assert code == 0, err
    results = pd.read_csv(tmp_path / "p" / "results.csv")
    grid = set(zip(results["network"], results["trainable_from"], strict=True))
    assert grid == {(f"resnet{depth}", stage) for depth in (18, 50) for stage in ("head", "layer4", "stem")}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["data.root=no/such/folder"], "no such folder"),
        (["model.net.depth=20"], "18, 34, 50, 101, 152"),
        (["model.trainable_from=layer5"], "layer5 is not a stage"),
        (["data.protocol=subject_kfold", "data.fold=7"], "use 0 to 4"),
        (["model.net.dpeth=18"], "model.net.depth"),
        (["monitor=val/acc"], "val/accuracy"),
        (["model.net.weights=README.md"], "README.md"),
        (["trainer=gpu"], "trainer=cpu"),
        (["trainer.max_epochs=many"], "max_epochs"),
        (["hydra.run.dir=/dev/null/run"], "/dev/null"),
        (["resume=maybe"], "auto, never, restart"),
        (["data=null"], "~GROUP"),
        (["model.optimizer.lr=[1"], "model.optimizer.lr"),
        (["data.augment=some"], "none, d4, full"),
        (["data.root=null"], "data.root=DIR"),
        (["data=demo", "data.root=null", "data.demo_images=3"], "images"),
    ],
)
def test_bad_input_ends_in_one_message_and_exit_2_with_nothing_left_behind(
    leukemia_train, small, tmp_path, monkeypatch, overrides, named
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = leukemia_train(*small, *overrides)
    assert code == 2
    assert named in err
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
def test_a_sweep_keeps_no_configuration_of_the_runs_that_are_over(
    leukemia_train, small, tmp_path, monkeypatch
):
    kept = []

    def counts(*_, **__):
        gc.collect()
        kept.append(sum(type(thing) is DictConfig for thing in gc.get_objects()))

    monkeypatch.setattr("leukemia.training.run.train", counts)
    leukemia_train("-m", *small, "seed=range(5)", f"hydra.sweep.dir={tmp_path}/sweep")
    assert len(kept) == 5
    assert len(set(kept[1:])) == 1


def test_a_sweep_of_nothing_but_bad_input_is_refused_whole(leukemia_train, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = leukemia_train("-m", *small, "data.root=nowhere", "model.net.depth=18,50")
    assert code == 2
    assert err.strip().splitlines()[-1].count("nowhere: no such folder") == 1
    assert not list(tmp_path.rglob("*.*"))


def test_a_truncated_picture_is_named(leukemia_train, small, demo_root, tmp_path):
    import shutil

    shutil.copytree(demo_root, tmp_path / "set")
    file = next((tmp_path / "set").rglob("UID_*_all.bmp"))
    file.write_bytes(file.read_bytes()[:1000])
    code, _, err = leukemia_train(*small, f"data.root={tmp_path}/set", f"hydra.run.dir={tmp_path}/run")
    assert code == 2
    assert file.name in err
    assert not (tmp_path / "run").exists()


def test_a_sweep_that_asks_for_several_devices_is_refused_with_the_remedy(leukemia_train, small, tmp_path):
    sweep = [
        *small,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "seed=0,1",
        f"hydra.sweep.dir={tmp_path}/sweep",
    ]
    code, _, err = leukemia_train("-m", *sweep)
    assert code == 2
    assert "a launcher that gives each job a device" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_an_interrupted_run_that_goes_on(leukemia_train, small, tmp_path, number, code):
    overrides = [*small, "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}/run"]
    slow = (
        "import time; from leukemia import CellClassifier; from leukemia.train import main\n"
        "step = CellClassifier.training_step\n"
        "def slow(self, batch, number):\n"
        "    if self.current_epoch == 1: print('now', flush=True); time.sleep(3)\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = slow; main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, *overrides], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("now"):
            break
    process.send_signal(number)
    assert process.wait(30) == code
    process.stdout.close()
    run = Run(tmp_path / "run")
    assert run.status["status"] == "interrupted"
    assert leukemia_train(*overrides)[0] == 0
    assert Run(tmp_path / "run").history["epoch"].tolist() == [1, 2, 3]


@pytest.mark.slow
def test_two_processes_train_a_head_as_one_does_and_score_every_cell_once(small, tmp_path):
    common = [*small, "model.trainable_from=head", "data.protocol=subject_kfold"]
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, extra in (
        (one, ["data.batch_size=16"]),
        (two, ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8"]),
    ):
        command = [sys.executable, "-m", "leukemia.train", *common, *extra, f"hydra.run.dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=250)
        assert done.returncode == 0, done.stderr
    first, second = Run(one), Run(two)
    assert second.config["trainer"]["devices"] == 2
    assert sorted(second.predictions["path"]) == sorted(first.predictions["path"])
    assert not second.predictions["path"].duplicated().any()
    assert (first.cells["split"] == "train").sum() % 2 == 0  # so that no cell fills up a batch
    head = "net.stages.head.weight"
    weights = [
        torch.load(run.last_checkpoint, weights_only=True)["state_dict"][head] for run in (first, second)
    ]
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)
    pd.testing.assert_frame_equal(first.history, second.history, atol=1e-4)
    np.testing.assert_allclose(first.predictions["logit"], second.predictions["logit"], atol=1e-4)
    for name in ("accuracy", "auroc", "loss", "train_accuracy", "n_images"):
        assert first.metrics[name] == pytest.approx(second.metrics[name], abs=1e-4), name
    # What two processes logged of the best checkpoint is what one process finds when it evaluates it.
    logged = second.history.set_index("epoch").loc[second.metrics["best_epoch"], "val/accuracy"]
    alone = second.metrics["train_accuracy"] - second.metrics["train_val_gap"]
    assert logged == pytest.approx(alone, abs=1e-6)
    assert json.loads((two / "status.json").read_text())["status"] == "done"
