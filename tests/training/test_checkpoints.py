"""Checkpoints are written whole."""

import ast
from pathlib import Path

import pytest
import torch

from leukemia.errors import InputError
from leukemia.models.checkpoint import read_checkpoint
from leukemia.runs import Run
from leukemia.training.checkpoints import (
    MovableCheckpoint,
    WholeCheckpointIO,
    bring_back_best,
    checkpoint_to_continue,
    read_best,
    restore_history,
)


def test_a_killed_writer_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    writer = WholeCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(InputError, match=r"No space left on device; make room there"):
        writer.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("best_epoch", "comes_back"), [(3, True), (2, False)])
def test_a_lost_best_checkpoint_comes_back_from_the_last_one_of_the_same_epoch_only(
    tmp_path, caplog, best_epoch, comes_back
):
    run = Run(tmp_path)
    run.write_json("metrics.json", {"best_epoch": best_epoch})
    content = {"history": [{"epoch": n} for n in (1, 2, 3)], "callbacks": {}}
    WholeCheckpointIO().save_checkpoint(content, run.last_checkpoint)
    bring_back_best(run)
    assert run.best_checkpoint.is_file() == comes_back
    assert ("train again with resume=restart" in caplog.text) != comes_back
    if comes_back:
        assert read_checkpoint(run.best_checkpoint) == read_checkpoint(run.last_checkpoint)


def test_a_checkpoint_of_weights_alone_is_scored_and_not_continued(tmp_path):
    run = Run(tmp_path)
    WholeCheckpointIO().save_checkpoint({"history": []}, run.best_checkpoint)
    assert read_best(run) == {"history": []}
    with pytest.raises(InputError, match=r"best\.ckpt has no callbacks and no loops"):
        checkpoint_to_continue(run)


@pytest.mark.parametrize("content", [{}, {"history": 3, "callbacks": {}}])
def test_another_file_of_tensors_is_no_checkpoint_to_continue_from(tmp_path, content):
    run = Run(tmp_path)
    for file in (run.best_checkpoint, run.last_checkpoint):
        WholeCheckpointIO().save_checkpoint(content, file)
    for use in (checkpoint_to_continue, restore_history):
        with pytest.raises(
            InputError, match=r"best\.ckpt cannot be read .*not a checkpoint of a training run"
        ):
            use(run)


@pytest.mark.parametrize("path", ["/", "..", "../../elsewhere/best.ckpt", "/etc/passwd", "checkpoints/."])
def test_paths_in_a_checkpoint_never_lead_elsewhere(tmp_path, path):
    """Lightning removes the file that a checkpoint calls the best so far when a better one comes."""
    callback = MovableCheckpoint(dirpath=str(tmp_path), filename="best", monitor="val/loss")
    state = callback.state_dict() | dict.fromkeys(
        ("best_model_path", "kth_best_model_path", "last_model_path"), path
    )
    callback.load_state_dict({**state, "best_k_models": {path: torch.tensor(1.0)}})
    held = {
        callback.best_model_path,
        callback.kth_best_model_path,
        callback.last_model_path,
        *callback.best_k_models,
    }
    assert held == {str(tmp_path / "best.ckpt")}


def test_nothing_in_the_tree_unpickles():
    """Every torch.load says weights_only=True, and nothing else that opens pickles is there."""
    for file in sorted((Path(__file__).parents[2]).glob("[lb]e*/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                if called == "torch.load" or called.endswith(".get_state_dict"):
                    assert options.get("weights_only") == "True", f"{file}:{node.lineno}"
                assert called not in ("pickle.load", "pickle.loads", "pd.read_pickle", "joblib.load"), file
                assert not called.endswith("load_from_checkpoint"), f"{file}:{node.lineno}"
                assert options.get("allow_pickle") != "True", f"{file}:{node.lineno}"
