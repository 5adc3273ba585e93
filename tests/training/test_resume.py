"""Who may use a run folder, and what makes two runs the same."""

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leukemia.config import compose, resolve
from leukemia.errors import InputError
from leukemia.identity import differences
from leukemia.runs import Run, Sweep
from leukemia.training.resume import RESULTS, claim, stored_settings
from leukemia.training.status import _overwrite

CONFIG = {
    "seed": 0,
    "data": {"root": "/a", "fold": 0},
    "trainer": {"precision": "32-true", "accelerator": "cpu"},
}
CELLS = pd.DataFrame(
    {
        "path": ["a", "b"],
        "subject": ["7", None],
        "group": ["7", "b"],
        "label": [1, 0],
        "split": ["train", "val"],
        "pixel_hash": ["1", "2"],
    }
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture
def run(tmp_path):
    return interrupted(tmp_path / "run")


@pytest.fixture(scope="module")
def composed():
    return compose(["data.root=/a", "trainer.max_epochs=3"])


def interrupted(folder):
    """A run that was interrupted after an epoch."""
    run = Run(folder)
    run.write_config(CONFIG)
    run.write_table("cells.csv", CELLS)
    run.write_json("status.json", {"status": "interrupted"})
    run.last_checkpoint.parent.mkdir()
    run.last_checkpoint.write_bytes(b"")
    return run


def wanted(**changes):
    return {**CONFIG, **changes}


def test_an_empty_folder_starts(tmp_path):
    assert claim(Run(tmp_path / "new"), CONFIG, CELLS) == "start"


def test_an_unfinished_run_of_the_same_settings_continues_and_a_finished_one_is_done(run):
    assert claim(run, CONFIG, CELLS) == "continue"
    finish(run)
    assert claim(Run(run.folder), CONFIG, CELLS) == "done"


def test_a_run_that_never_finished_an_epoch_starts_again(run):
    run.last_checkpoint.unlink()
    assert claim(run, wanted(seed=1), CELLS) == "start"


def test_where_only_the_best_checkpoint_is_left_the_run_continues_or_is_refused_by_name(run):
    run.last_checkpoint.rename(run.best_checkpoint)
    assert claim(run, CONFIG, CELLS) == "continue"
    with pytest.raises(InputError, match=r"seed is 0 there and 1 here.*resume=restart"):
        claim(run, wanted(seed=1), CELLS)


@pytest.mark.parametrize("name", RESULTS)
def test_a_finished_run_that_lacks_a_result_is_repaired_unless_it_is_another_one(run, name):
    finish(run)
    (run.folder / name).unlink()
    assert claim(run, CONFIG, CELLS) == "repair"
    with pytest.raises(InputError, match="seed is 0 there"):
        claim(run, wanted(seed=1), CELLS)


@pytest.mark.parametrize("name", ["config.yaml", "cells.csv"])
@pytest.mark.parametrize("status", ["interrupted", "failed", "running", "done"])
def test_a_run_that_cannot_be_compared_is_refused_with_the_remedy(run, name, status):
    run.write_json("status.json", {"status": status})
    (run.folder / name).unlink()
    with pytest.raises(InputError, match=rf"lacks {name}.*bring it back, or .*resume=restart"):
        claim(Run(run.folder), CONFIG, CELLS)


def test_a_changed_global_batch_is_refused_and_other_hardware_is_not(run):
    two = wanted(trainer={**CONFIG["trainer"], "devices": 2})
    with pytest.raises(InputError, match=r"the global batch is 1 x .* there and 2 x .* here.*resume=restart"):
        claim(run, two, CELLS)
    assert claim(run, wanted(trainer={**CONFIG["trainer"], "accelerator": "cuda"}), CELLS) == "continue"


def finish(run):
    run.write_json("status.json", {"status": "done"})
    for name in RESULTS:
        (run.folder / name).write_text("")


def test_other_settings_are_refused_by_name_with_the_remedy(run):
    with pytest.raises(InputError, match=r"seed is 0 there and 1 here.*hydra\.run\.dir=DIR.*resume=restart"):
        claim(run, wanted(seed=1), CELLS)


def test_changed_data_are_refused_with_the_files(run):
    cells = CELLS.assign(pixel_hash=["1", "other"])
    with pytest.raises(InputError, match="1 changed, as b"):
        claim(run, CONFIG, cells)
    with pytest.raises(InputError, match="1 changed, as a"):
        claim(run, CONFIG, CELLS.assign(label=[0, 0]))  # a corrected label
    with pytest.raises(InputError, match="1 gone, as b"):
        claim(run, CONFIG, CELLS.head(1))


def test_never_refuses_any_run_and_restart_moves_it_aside_whole(run):
    with pytest.raises(InputError, match="holds a run already"):
        claim(run, CONFIG, CELLS, "never")
    assert claim(run, CONFIG, CELLS, "restart") == "start"
    assert list(run.folder.iterdir()) == []
    (aside,) = [path for path in run.folder.parent.iterdir() if path != run.folder]
    assert (aside / "checkpoints" / "last.ckpt").is_file()
    with pytest.raises(InputError, match="holds no run"):
        _ = Sweep(run.folder.parent).runs  # a run that was moved aside is not one of the sweep


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis\.tex and no run"):
        claim(Run(tmp_path), CONFIG, CELLS)


@pytest.mark.parametrize("resume", ["auto", "restart", "never"])
def test_a_link_to_a_folder_elsewhere_is_refused_before_anything_is_written_or_removed_there(
    run, tmp_path, resume
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".thesis.tmp").write_text("x")
    run.last_checkpoint.unlink()
    run.last_checkpoint.parent.rmdir()
    run.last_checkpoint.parent.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=r"checkpoints is a link that leads out of"):
        claim(run, CONFIG, CELLS, resume)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [".thesis.tmp"]


@pytest.mark.parametrize("place", ["hparams.yaml", "checkpoints/best.ckpt", "logs/version_0/metrics.csv"])
def test_a_link_at_any_depth_that_leaves_the_run_is_refused(run, tmp_path, place):
    link = run.folder / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "bashrc")  # TensorBoard's logger would write hparams.yaml through it
    with pytest.raises(InputError, match=rf"{place} is a link that leads out of"):
        claim(run, CONFIG, CELLS)


def test_a_folder_of_other_things_is_refused_for_that_and_not_for_links_deep_in_it(tmp_path):
    (tmp_path / "project" / ".venv").mkdir(parents=True)
    (tmp_path / "project" / ".venv" / "python").symlink_to(tmp_path)
    with pytest.raises(InputError, match="choose an empty output folder"):
        claim(Run(tmp_path / "project"), CONFIG, CELLS)


@pytest.mark.parametrize("target", ["run/status.json", "saved by a callback"])
def test_links_within_the_run_and_those_that_wandb_makes_are_allowed(run, tmp_path, target):
    inside = target.startswith("run/")
    link = run.folder / ("checkpoints" if inside else "wandb/latest") / "link"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / target)
    assert claim(run, CONFIG, CELLS) == "continue"


def test_a_status_that_is_a_link_is_not_written_through_on_a_full_disk(run, tmp_path):
    (tmp_path / "mine").write_text("thesis")
    (tmp_path / "link.json").symlink_to(tmp_path / "mine")
    for name in ("link.json", "mine"):
        _overwrite(tmp_path / name, {})
        assert (tmp_path / "mine").read_text() == ("thesis" if name == "link.json" else "{}")


@pytest.mark.parametrize("damage", [{"seconds": "3"}, {"seconds": -1}, {"sessions": 3}, {"sessions": [None]}])
def test_a_status_that_cannot_be_continued_is_refused_by_its_key(run, damage):
    run.write_json("status.json", {"status": "interrupted", **damage})
    with pytest.raises(InputError, match=rf"status\.json: {next(iter(damage))} is "):
        claim(run, CONFIG, CELLS)


@given(
    stored=st.dictionaries(st.sampled_from(["data", "trainer", "seed"]), ANY),
    trainer=st.dictionaries(st.sampled_from(["devices", "num_nodes", "max_epochs"]), ANY),
    resume=st.sampled_from(["auto", "extend"]),
)
@example(stored={"data": 3}, trainer={}, resume="auto")
@example(stored={"trainer": None}, trainer={}, resume="extend")
@example(stored={"seed": "x" * 5000}, trainer={}, resume="auto")
def test_a_folder_of_any_settings_is_continued_or_refused(
    tmp_path_factory, composed, stored, trainer, resume
):
    run = interrupted(tmp_path_factory.mktemp("any") / "run")
    run.write_config({**CONFIG, "trainer": CONFIG["trainer"] | trainer, **stored})
    said = ""
    try:
        claim(run, resolve(composed, stored_settings(run, resume)), CELLS, resume)
    except InputError as error:
        said = str(error)
    assert len(said) < 5 * 600 + 300
    assert "\n" not in said


def test_place_name_and_hardware_make_no_other_run_and_auto_fits_what_was_chosen():
    other = {
        "seed": 0,
        "name": "x",
        "data": {"root": "/b", "fold": 0},
        "trainer": {"precision": "auto", "accelerator": "cuda"},
    }
    assert differences(CONFIG, other) == []
    assert differences(CONFIG, wanted(data={"root": "/a", "fold": 1})) == ["data.fold is 0 there and 1 here"]
