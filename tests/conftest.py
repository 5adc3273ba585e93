"""Shared by the tests: their own cache, a small synthetic set, and real samples where they exist."""

import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny networks; threads would wait for each other
settings.register_profile("ci", derandomize=True, deadline=None)  # the same examples in every run
settings.register_profile(
    "fuzz", max_examples=1000, deadline=None, print_blob=True
)  # make fuzz: fresh examples
settings.load_profile("ci")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The tests' own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LEUKEMIA_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")  # of the processes that tests start
        yield folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A synthetic C-NMC set of 120 images."""
    from leukemia.data.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("demo") / "C-NMC_Leukemia", images=120, seed=0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real cells and weights beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not there")
    return folder


SMALL = (  # a run of seconds
    "model.net.weights=none",
    "data.image_size=32",
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
)


@pytest.fixture
def small(demo_root) -> list[str]:
    """Overrides of a run of seconds on the synthetic set."""
    return [f"data.root={demo_root}", *SMALL]


@pytest.fixture
def leukemia_train(monkeypatch, capfd):
    """The command `leukemia-train`, in this process: call it with overrides, get (exit code, stdout, stderr)."""
    from leukemia.train import main

    def call(*overrides: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["leukemia-train", *map(str, overrides)])
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return (code, *capfd.readouterr())

    return call
