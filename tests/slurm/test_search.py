"""A search on a real SLURM: its trials are jobs, `at_once` at a time."""

import subprocess
import sys

import optuna
import pytest

from leukemia.runs import Sweep

pytestmark = pytest.mark.slurm


@pytest.mark.timeout(600)
def test_the_trials_of_a_search_are_jobs(slurm, small, tmp_path):
    command = [
        sys.executable, "-m", "leukemia.train", "-m", "experiment=search", *small, "trainer.max_epochs=1",
        "hydra.sweeper.trials=4", "hydra.sweeper.at_once=2", "hydra/launcher=slurm",
        "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1",
        f"hydra.sweep.dir={tmp_path}/search",
    ]  # fmt: skip
    done = subprocess.run(command, env=slurm.environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    runs = Sweep(tmp_path / "search").with_status("done")
    assert len(runs) == 4
    best = sorted(run.history["val/loss"].min() for run in runs)
    assert sorted(trial.value for trial in study.trials) == pytest.approx(best)
    assert len({run.status["sessions"][-1]["job"] for run in runs}) == 4
