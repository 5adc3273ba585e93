"""The processes of one run, started by torchrun: one decides, all follow, and they compute what one process does."""

import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from leukemia.config import compose
from leukemia.errors import InputError
from leukemia.runs import Run
from leukemia.training.distributed import INHERITED, cluster_plugins, is_rank_zero
from leukemia.training.run import train

ENVIRONMENT = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "SLURM_NTASKS", "SLURM_PROCID",
)  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """An environment that says nothing of other processes, and is the same afterwards."""
    for name in (*ENVIRONMENT, INHERITED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def torchrun(*overrides: str, program: tuple[str, ...] = ("-m", "leukemia.train")):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program]
    several = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    return subprocess.run([*command, *overrides, *several], capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, "running"), (signal.SIGTERM, "interrupted")])
def test_two_processes_of_torchrun_train_a_head_as_one_does_and_go_on_together(
    small, tmp_path, number, status
):
    settings = [*small, "model.trainable_from=head", "data.protocol=subject_kfold", "trainer.max_epochs=3"]
    one = train(compose([*settings, "data.batch_size=16"]), tmp_path / "one")

    two = [*settings, "data.batch_size=8", f"hydra.run.dir={tmp_path}/two"]
    (tmp_path / "dies.py").write_text(
        "import os; from leukemia import CellClassifier; from leukemia.train import main\n"
        "step = CellClassifier.training_step\n"
        "def dying(self, batch, number):\n"
        f"    if self.current_epoch == 2: os.kill(os.getpid(), {number:d})\n"
        "    return step(self, batch, number)\n"
        "CellClassifier.training_step = dying; main()\n"
    )
    cut = torchrun(*two, program=(str(tmp_path / "dies.py"),))
    assert cut.returncode != 0
    assert Run(tmp_path / "two").history["epoch"].tolist() == [1, 2], cut.stderr
    assert Run(tmp_path / "two").status["status"] == status

    whole = torchrun(*two)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("two goes on") == 1
    second = Run(tmp_path / "two")
    assert second.status["status"] == "done"
    assert (one.cells["split"] == "train").sum() % 2 == 0  # so that no cell fills up a batch
    pd.testing.assert_frame_equal(one.history, second.history, atol=1e-4)
    assert second.predictions["path"].tolist() == one.predictions["path"].tolist()
    np.testing.assert_allclose(one.predictions["logit"], second.predictions["logit"], atol=1e-4)
    for name in ("accuracy", "auroc", "loss", "train_accuracy", "n_images", "best_epoch"):
        assert second.metrics[name] == pytest.approx(one.metrics[name], abs=1e-4), name

    again = torchrun(*two)  # refused by one, and none waits for another
    assert again.returncode != 0
    assert again.stderr.count("error: ") == again.stderr.count("holds this run, finished") == 1
    assert "leukemia/train.py" not in again.stderr  # torchrun adds a traceback of its own, we add none
    assert Run(tmp_path / "two").metrics == second.metrics


@pytest.mark.slow
def test_two_agents_of_torchrun_train_as_two_nodes(small, tmp_path):
    settings = [*small, "model.trainable_from=head", "data.protocol=subject_kfold"]
    one = train(compose([*settings, "data.batch_size=16"]), tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=nodes", "-m", "leukemia.train", *settings,
        "data.batch_size=8", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2",
        f"hydra.run.dir={tmp_path}/two",
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(agent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "12"
    ]
    said = [node.communicate(timeout=280)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "".join(said).count("two starts") == 1
    two = Run(tmp_path / "two")
    pd.testing.assert_frame_equal(one.history, two.history, atol=1e-4)
    np.testing.assert_allclose(one.predictions["logit"], two.predictions["logit"], atol=1e-4)


@pytest.mark.slow
def test_an_odd_number_of_cells_is_filled_up_in_training_and_counted_once_in_every_figure(small, tmp_path):
    """What two processes log of a split with an odd number of cells is what one process finds there."""
    done = torchrun(*small, "data.protocol=image", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    splits = run.cells["split"].value_counts()
    assert any(splits[split] % 2 for split in ("val", "test")), splits
    assert len(run.predictions) == run.predictions["path"].nunique() == splits["test"]
    logged = run.history["val/accuracy"].iloc[-1]
    alone = run.metrics["train_accuracy"] - run.metrics["train_val_gap"]
    assert logged == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),  # torchrun, on the second node
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_of_a_run_is_rank_zero(monkeypatch, environment, first):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() == first


def test_several_nodes_without_torchrun_or_srun_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"trainer.num_nodes=2: .* torchrun or srun"):
        cluster_plugins(2)
    assert cluster_plugins(1) == []
