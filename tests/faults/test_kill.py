"""kill -9 at any point: the same command again ends as an undisturbed run, and no file is left over."""

import signal
from pathlib import Path

import pandas as pd
import pytest

from leukemia.runs import Run, Sweep

IN_THE_CACHE = (
    "at leukemia.data.pixels.fit:50",
    "at leukemia.storage.cache.write_checksums:1",
    "at leukemia.data.feature_cache.FeatureCache._activations:10",
)
IN_AN_EPOCH = "at leukemia.models.classifier.CellClassifier.training_step:9"  # the second
IN_THE_RUN = (  # in their order
    "before config.yaml",
    "before cells.csv",
    "before status.json",
    "before history.csv",
    "before best.ckpt",
    "before last.ckpt",
    IN_AN_EPOCH.replace(":9", ":3"),  # it goes on from best.ckpt, so this is the second epoch too
    "half best.ckpt",
    "half last.ckpt",
    "before predictions.csv",
    "before metrics.json",
)


@pytest.mark.parametrize(
    "faults",
    [
        (IN_AN_EPOCH, "half last.ckpt", "before metrics.json"),
        pytest.param(IN_THE_CACHE, marks=pytest.mark.slow),
        pytest.param(IN_THE_RUN, marks=pytest.mark.slow),
    ],
    ids=["some", "cache", "run"],
)
def test_killed_at_every_point_in_turn_a_run_ends_as_an_undisturbed_one(
    run_with, command, assert_same, monkeypatch, tmp_path, undisturbed, faults
):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))
    overrides = command(f"hydra.run.dir={tmp_path}/run")
    for fault in faults:
        code, said = run_with(fault, *overrides)
        assert code == -signal.SIGKILL, f"{fault}: {said}"
    code, said = run_with("none", *overrides)
    assert code == 0, said
    assert_same(Run(tmp_path / "run"), undisturbed)
    assert not left_over(tmp_path)


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_as_an_undisturbed_one(run_with, command, assert_same, tmp_path):
    def sweep(name):
        return ["-m", *command("seed=0,1", "trainer.max_epochs=2", f"hydra.sweep.dir={tmp_path}/{name}")]

    assert run_with("none", *sweep("whole"))[0] == 0
    for fault in ("half best.ckpt", "before predictions.csv", "before report.html"):
        code, said = run_with(fault, *sweep("cut"))
        assert code == -signal.SIGKILL, said
    code, said = run_with("none", *sweep("cut"))
    assert code == 0, said
    assert said.count("is done already") == 2
    whole, cut = Sweep(tmp_path / "whole").runs, Sweep(tmp_path / "cut").runs
    assert [run.name for run in whole] == [run.name for run in cut]
    for one, other in zip(whole, cut, strict=True):
        assert_same(one, other)
    one, other = (pd.read_csv(tmp_path / name / "results.csv") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(
        one.drop(columns=["seconds", "embed_seconds"]), other.drop(columns=["seconds", "embed_seconds"])
    )
    assert not left_over(tmp_path)


def left_over(folder: Path) -> list[Path]:
    """Incomplete files and locks in a folder. The cache keeps the empty locks of its entries."""
    return [
        path for path in folder.rglob(".*") if not (path.parent.name == "cache" and path.suffix == ".lock")
    ]
