"""Several runs at once, and several runs in turn: none disturbs another."""

import time

import pandas as pd
import pytest

from leukemia.config import compose
from leukemia.errors import OutOfMemoryError
from leukemia.models.classifier import CellClassifier
from leukemia.runs import Run, Sweep
from leukemia.training.run import train


@pytest.mark.slow
def test_a_second_sweep_into_the_same_folder_is_refused_and_the_first_one_never_notices(
    start, run_with, command, tmp_path
):
    sweep = ["-m", *command("trainer.max_epochs=1", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")]
    first, said = start(f"waiting {tmp_path}/go", *sweep)
    while not (tmp_path / "go.trains").exists():
        assert first.is_alive(), said.read_text()
        time.sleep(0.05)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")}
    code, second = run_with("none", *sweep)
    assert code == 2
    assert second.count("\n") == 1
    assert f"error: {tmp_path}/sweep is in the hands of another process: wait for it" in second
    # A run of its own in that folder is refused as well.
    folder = next(path.parent for path in before if path.name == "status.json")
    assert run_with("none", *command("trainer.max_epochs=1", f"hydra.run.dir={folder}"))[0] == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")} == before
    (tmp_path / "go").touch()
    first.join(60)
    assert first.exitcode == 0, said.read_text()
    assert pd.read_csv(tmp_path / "sweep" / "results.csv")["status"].tolist() == ["done", "done"]
    assert not list(tmp_path.rglob(".*.lock"))


def test_a_run_out_of_memory_fails_with_the_remedy(command, tmp_path, monkeypatch):
    def out_of_memory(*arguments):
        raise MemoryError("42 GB")

    monkeypatch.setattr(CellClassifier, "training_step", out_of_memory)
    with pytest.raises(
        OutOfMemoryError, match=r"out of memory .*take a smaller data\.batch_size \(it is 16\)"
    ):
        train(compose(command()), tmp_path / "run")
    assert Run(tmp_path / "run").status["status"] == "failed"


@pytest.mark.slow
def test_a_run_without_memory_fails_with_the_remedy_and_the_others_go_on(run_with, command, tmp_path):
    """The large images need more address space than the process may have."""
    sweep = [
        *command("trainer.max_epochs=1", "data.cache_features=off", "model.trainable_from=stem"),
        "data.image_size=32,512,33",
        "data.batch_size=64",
        f"hydra.sweep.dir={tmp_path}/sweep",
    ]
    assert (
        run_with("none", "-m", *sweep, "data.image_size=32")[0] == 0
    )  # fills the cache and starts the thread pools
    code, said = run_with("memory 1500", "-m", *sweep)
    assert code == 1, said
    by_size = {run.config["data"]["image_size"]: run.status for run in Sweep(tmp_path / "sweep").runs}
    assert {size: status["status"] for size, status in by_size.items()} == {
        32: "done",
        33: "done",
        512: "failed",
    }
    error = by_size[512]["error"]
    assert "out of memory" in error
    assert "take a smaller data.batch_size (it is 64) or data.image_size (it is 512)" in error
    assert "Traceback" not in said
    assert f"failed: {next(run.name for run in Sweep(tmp_path / 'sweep').with_status('failed'))}" in said
