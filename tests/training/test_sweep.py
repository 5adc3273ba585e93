"""The end of a sweep: its exit code, its report, and what is left of refused runs."""

import logging
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from leukemia.errors import DivergedError, InputError
from leukemia.runs import Run, Sweep
from leukemia.training import sweep as module
from leukemia.training.sweep import SweepCallback, end_sweep


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(module, "finish_sweep", lambda folder: folder / "report.html")


def ended(folder, **statuses):
    """A sweep folder whose planned runs have these statuses."""
    Sweep(folder).plan(list(statuses), len(statuses))
    for name, (status, error) in statuses.items():
        run = Run(folder / name)
        run.write_config({"seed": 0})
        run.write_json("status.json", {"status": status, "error": error})
    return folder


def test_a_sweep_of_finished_runs_exits_with_0(tmp_path, capsys):
    assert end_sweep(ended(tmp_path, a=("done", None)), {}, ExitStack()) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")


def test_failures_of_this_process_and_of_others_are_listed_with_exit_1(tmp_path, capsys):
    folder = ended(
        tmp_path, a=("done", None), b=("failed", "DivergedError: the loss"), c=("interrupted", None)
    )
    assert end_sweep(folder, {folder / "d": RuntimeError("a bug")}, ExitStack()) == 1
    said = capsys.readouterr().err
    assert "failed: b: the loss" in said
    assert "failed: c: interrupted" in said
    assert "failed: d: a bug" in said


def test_a_sweep_of_refused_runs_is_refused_whole_and_leaves_nothing(tmp_path):
    folder = ended(
        tmp_path / "sweep",
        a=("failed", "InputError: no such folder"),
        b=("failed", "InputError: no such folder"),
    )
    with pytest.raises(InputError, match=r"^no such folder$"):
        end_sweep(folder, {}, ExitStack())
    assert not folder.exists()


def test_a_run_that_diverged_was_not_refused(tmp_path):
    folder = ended(tmp_path, a=("failed", "DivergedError: the loss"))
    assert end_sweep(folder, {folder / "a": DivergedError("the loss")}, ExitStack()) == 1
    assert (folder / "a").is_dir()


def job(folder, mode):
    return OmegaConf.create(
        {
            "seed": 0,
            "hydra": {
                "mode": mode,
                "runtime": {"output_dir": str(folder)},
                "sweep": {"dir": str(folder.parent)},
            },
        }
    )


def test_a_failed_job_of_a_sweep_is_kept_and_the_sweep_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "log", logging.Logger("silent", logging.CRITICAL))
    monkeypatch.setattr(
        module.traceback, "print_exception", lambda error: pytest.fail("a refusal is not a bug")
    )
    callback, result = SweepCallback(), JobReturn()
    result.status, result._return_value = JobStatus.FAILED, InputError("data.root=x: no such folder")
    callback.on_job_end(job(tmp_path / "run", RunMode.MULTIRUN), result)
    assert result.status == JobStatus.COMPLETED
    assert result.return_value is None
    assert str(callback.failures[tmp_path / "run"]) == "data.root=x: no such folder"
    assert Run(tmp_path / "run").status["error"] == "InputError: data.root=x: no such folder"


@pytest.mark.parametrize(("error", "code"), [(InputError("no"), 2), (RuntimeError("a bug"), 1)])
def test_a_single_run_ends_with_the_code_of_its_failure(tmp_path, capsys, error, code):
    result = JobReturn()
    result.status, result._return_value = JobStatus.FAILED, error
    (tmp_path / "run").mkdir()
    with pytest.raises(SystemExit) as stop:
        SweepCallback().on_job_end(job(tmp_path / "run", RunMode.RUN), result)
    assert stop.value.code == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("unknown to us")])
def test_a_sweep_whose_report_fails_does_not_end_with_0(tmp_path, monkeypatch, capsys, error):
    def fails(folder):
        raise error

    monkeypatch.setattr(module, "finish_sweep", fails)
    config = SimpleNamespace(
        hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(ended(tmp_path, a=("done", None)))))
    )
    with pytest.raises(SystemExit) as stop:  # Hydra would make a warning of any other exception
        SweepCallback().on_multirun_end(config)
    assert stop.value.code == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_single_job_that_wrote_nothing_leaves_no_folder(tmp_path):
    (tmp_path / "run").mkdir()  # by Hydra, as under debug=fast
    result = JobReturn()
    result.status, result._return_value = JobStatus.COMPLETED, None
    SweepCallback().on_job_end(job(tmp_path / "run", RunMode.RUN), result)
    assert not (tmp_path / "run").exists()


def test_two_sweeps_never_share_a_folder(tmp_path, capsys):
    config = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path / "sweep"))))
    with module.exclusive_lock(tmp_path / "sweep"), pytest.raises(SystemExit) as stop:
        SweepCallback().on_multirun_start(config)
    assert stop.value.code == 2
    assert "in the hands of another process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_plans_the_names_that_its_runs_get_also_where_an_override_refers_to_another(
    leukemia_train, demo_root, tmp_path
):
    code, _, err = leukemia_train(
        "-m", f"data.root={demo_root}", "model/net=resnet18,resnet50", "model.net.weights=none", "trainer=cpu",
        "data.image_size=32", "trainer.max_epochs=1", "model.trainable_from=head", "data.split_seed=${model.net.depth}",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )  # fmt: skip
    assert code == 0, err
    sweep = Sweep(tmp_path / "sweep")
    assert sorted(sweep.planned) == [run.name for run in sweep.runs]
