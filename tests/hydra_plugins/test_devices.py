"""A sweep on the devices of one machine: one run per device, and a killed run does not stop the others.

No GPU is needed: the number of devices is made up, and the tests read the environment of each run's process.
"""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from hydra_plugins.leukemia_devices import places_for
from leukemia.errors import InputError
from leukemia.reporting.results import read_status
from leukemia.runs import Run, Sweep

SWEEP = "import torch; torch.cuda.device_count = lambda: 2\nfrom leukemia.train import main; main()"


def visible(monkeypatch, count: int, names: str | None) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names or "")


@pytest.mark.parametrize(
    ("count", "names", "devices", "shown"),
    [
        (4, None, "auto", ["0", "1", "2", "3"]),
        (4, None, 2, ["0", "1"]),
        (2, "5,7", "auto", ["5", "7"]),
        (1, "5,5", "auto", ["5"]),
        (1, "MIG-3-a", "auto", ["MIG-3-a"]),
    ],
)
def test_each_visible_gpu_takes_one_run(monkeypatch, tmp_path, count, names, devices, shown):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    visible(monkeypatch, count, names)
    places = places_for(devices)
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places] == shown
    assert all(place.take() for place in places)
    assert not any(place.take() for place in places)
    assert not any(place.take() for place in places_for(devices)), (
        "another sweep took a device that is in use"
    )
    for place in places:
        place.free()
    assert all(place.take() for place in places_for(devices))


@pytest.mark.parametrize(("count", "devices"), [(2, 3), (2, 0), (0, "all")])
def test_more_gpus_than_exist_and_words_are_refused(monkeypatch, count, devices):
    visible(monkeypatch, count, None)
    with pytest.raises(InputError, match=r"hydra\.launcher\.devices="):
        places_for(devices)


def test_without_a_gpu_the_processor_is_shared(monkeypatch):
    visible(monkeypatch, 0, None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert [place.environment for place in places_for(2)] == [{"OMP_NUM_THREADS": "4"}] * 2
    assert len(places_for("auto")) == 1


@pytest.mark.slow
def test_runs_side_by_side_share_the_processor_and_end_in_one_report(
    leukemia_train, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    code, out, err = leukemia_train(
        "-m", *small, "seed=0,1", "model.trainable_from=head", "hydra/launcher=devices",
        "hydra.launcher.devices=2", "hydra.sweep.dir=sweep",
        "trainer.max_epochs=40", "callbacks.early_stopping=null",  # longer than one start takes more than the other
    )  # fmt: skip
    assert code == 0, err
    assert "2 runs on processor share 1 of 2, processor share 2 of 2" in out
    first, second = (run.status for run in Sweep(tmp_path / "sweep").with_status("done"))
    started = [status["sessions"][-1]["started"] for status in (first, second)]
    assert max(started) < min(first["finished"], second["finished"])
    assert (tmp_path / "sweep" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_survives_a_killed_run_and_being_killed_itself(small, tmp_path):
    sweep = [
        "-m", *small, "model.trainable_from=layer4", "seed=0,1,2", "trainer.max_epochs=12", "data.augment=full",
        "hydra/launcher=devices", "callbacks.early_stopping.patience=100", f"hydra.sweep.dir={tmp_path}/sweep",
    ]  # fmt: skip
    temporary = tmp_path / "tmp"  # for the locks of the devices
    temporary.mkdir()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "5,7", "TMPDIR": str(temporary)}

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SWEEP, *sweep], env=environment, stderr=subprocess.PIPE, text=True
        )

    with start() as process:
        first, *others = wait_for(lambda: Sweep(tmp_path / "sweep").planned)
        wait_for(lambda: (tmp_path / "sweep" / first / "history.csv").is_file())
        by_device(process, "5").kill()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"failed: {first}: interrupted: its process is gone" in err
    assert [read_status(Run(tmp_path / "sweep" / name))["status"] for name in others] == ["done"] * 2
    assert_alone_on_its_device(Sweep(tmp_path / "sweep").with_status("done"))

    with start() as process:
        wait_for(lambda: Run(tmp_path / "sweep" / first).is_held())
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "runs outlive their sweep"

    with start() as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert pd.read_csv(tmp_path / "sweep" / "results.csv")["status"].tolist() == ["done"] * 3
    assert Run(tmp_path / "sweep" / first).history["epoch"].tolist() == list(range(1, 13))


def by_device(sweep: subprocess.Popen, device: str) -> psutil.Process:
    """The process of a sweep that sees this device."""
    for child in psutil.Process(sweep.pid).children():
        if child.environ().get("CUDA_VISIBLE_DEVICES") == device and "spawn_main" in " ".join(
            child.cmdline()
        ):
            return child
    raise AssertionError(f"no process sees device {device}")


def assert_alone_on_its_device(runs: list[Run]) -> None:
    used = pd.DataFrame([{**run.status["sessions"][-1], **run.status} for run in runs]).sort_values("started")
    assert set(used["visible_devices"]) <= {"5", "7"}
    for _, of_device in used.groupby("visible_devices"):
        started, finished = (pd.to_datetime(of_device[name]) for name in ("started", "finished"))
        assert (finished.to_numpy()[:-1] <= started.to_numpy()[1:]).all()


def wait_for(found, seconds: float = 200):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value
