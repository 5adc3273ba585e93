"""One run by two processes of srun, on one node and on two."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from leukemia.config import compose
from leukemia.runs import Run
from leukemia.training.run import train

pytestmark = pytest.mark.slurm


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("nodes", "devices"), [(1, 2), (2, 1)])
def test_two_tasks_of_srun_train_a_head_as_one_process_does(slurm, small, tmp_path, nodes, devices):
    settings = [*small, "model.trainable_from=head", "data.protocol=subject_kfold"]
    srun = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks-per-node={devices}",
        "--kill-on-bad-exit=1",
        sys.executable,
        "-m",
        "leukemia.train",
    ]
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=8"]
    ddp += [f"trainer.devices={devices}", f"trainer.num_nodes={nodes}"]
    command = [*srun, *settings, *ddp, f"hydra.run.dir={tmp_path}/two"]
    environment = {**slurm.environment, "MASTER_ADDR": "127.0.0.1"}  # the nodes' names are made up
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr + slurm.logs()
    assert done.stdout.count("two starts") == 1
    one = train(compose([*settings, "data.batch_size=16"]), tmp_path / "one")
    two = Run(tmp_path / "two")
    assert two.status["status"] == "done"
    assert not list(two.folder.glob("hpc_ckpt*"))
    pd.testing.assert_frame_equal(one.history, two.history, atol=1e-4)
    assert two.predictions["path"].tolist() == one.predictions["path"].tolist()
    np.testing.assert_allclose(one.predictions["logit"], two.predictions["logit"], atol=1e-4)
    for name in ("accuracy", "auroc", "loss", "train_accuracy", "n_images"):
        assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-4), name

    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert again.returncode == 2  # refused, and no task waits for another
    assert again.stderr.count("holds this run, finished") == 1
