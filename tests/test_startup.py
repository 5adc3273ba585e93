"""How much of the machine a command takes before it works: processor time, and the libraries that it loads."""

import os

import pytest

from tests.processor import started

TRAIN = "from leukemia.train import main; main()"
REFUSED = (
    ["data.root=nowhere", "trainer.max_epoch=3"],
    ["+data.foo=1"],
    ["trainer.max_epochs=0"],
    ["model.lr=1"],
)


def loaded_by(code: str) -> set[str]:
    done, _ = started(f"{code}\nimport sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return {name for name in done.stdout.split() if "." not in name}


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_refused_setting_is_answered_in_two_seconds_of_processor_time(tmp_path, overrides):
    done, seconds = started(TRAIN, *overrides, f"hydra.run.dir={tmp_path}/run")
    assert (done.returncode, done.stderr.startswith("error: ")) == (2, True), done.stderr
    assert seconds < 2


@pytest.mark.slow
def test_a_run_says_nothing_in_the_name_of_its_libraries(small, tmp_path):
    run = [*small, "model/scheduler=cosine", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"]
    done, _ = started(TRAIN, *run)
    assert done.returncode == 0, done.stderr
    for foreign in ("Tip:", "GPU available", "train_dataloader", "font", "nanobind"):
        assert foreign not in done.stdout + done.stderr


def test_names_and_numbers_are_checked_without_pytorch():
    loaded = loaded_by("from leukemia.config import checked, compose; checked(compose(['data.root=x']))")
    assert not {"torch", "pytorch_lightning", "sklearn", "matplotlib"} & loaded


@pytest.mark.parametrize("main", ["leukemia.cli", "leukemia.train"])
def test_a_command_seldom_looks_for_circular_garbage_and_not_when_it_ends(main):
    code = "; ".join([
        "import atexit, gc, sys", f"from {main} import main", "before = gc.get_threshold()",
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000, gc.get_threshold() == before))",
        "sys.argv = ['command', '--help']", "main()",
    ])  # fmt: skip
    done, _ = started(code)
    assert done.stdout.splitlines()[-1] == "True True", done.stderr


@pytest.mark.slow
def test_one_picture_is_predicted_in_a_few_seconds_of_processor_time(untrained_run, demo_root, tmp_path):
    """A ResNet18 and a whole command: 2.6 s on quiet cores, of which PyTorch's import takes 1.6."""
    run, picture = untrained_run(tmp_path / "run"), next(demo_root.rglob("*.bmp"))
    tries = [
        started("from leukemia.cli import main; main()", "predict", run.folder, picture) for _ in range(3)
    ]
    assert [done.returncode for done, _ in tries] == [0] * 3, tries[0][0].stderr
    assert min(seconds for _, seconds in tries) < 4  # others use the cores and their caches


def test_a_sweep_starts_without_pytorch():
    assert "torch" not in loaded_by("import leukemia.training.sweep")


def test_inference_needs_no_lightning():
    loaded = loaded_by("import leukemia.commands.predict, leukemia.inference.torch_predictor")
    assert not {"pytorch_lightning", "torchmetrics", "hydra", "matplotlib"} & loaded


def test_a_network_is_built_without_the_compiler_which_comes_where_torchvision_asks_for_it():
    """torch's compiler takes 2 s of processor time to load."""
    code = "; ".join([
        "import sys", "from leukemia.models.resnet import resnet", "resnet(18, weights='none')",
        "assert 'torch._dynamo' not in sys.modules", "import torch, torchvision",
        "box = torch.tensor([[0., 0, 0, 4, 4]])",
        "assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), box, 2).eq(1).all()",
        "assert torchvision.ops.roi_align.__globals__['is_compile_supported']('cpu')",
        "assert 'torch._dynamo' in sys.modules",
    ])  # fmt: skip
    done, _ = started(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["evaluate", "triage", "predict"])
def test_a_command_loads_no_pytorch_before_it_needs_it(command):
    assert not {"torch", "hydra", "matplotlib"} & loaded_by(
        f"import leukemia.commands.{command}, leukemia.cli"
    )


WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize("code", ["import leukemia.train", "import leukemia.cli", "import leukemia"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["passive", "2000"]),
        ({"OMP_WAIT_POLICY": "active"}, ["active", "None"]),
        ({"GOMP_SPINCOUNT": "7"}, ["passive", "7"]),
    ],
)
def test_waiting_threads_leave_the_processor_to_others_unless_the_user_says_so(
    monkeypatch, code, given, expected
):
    for name in WAIT:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    shown = f"{code}; import os; print(*map(os.environ.get, {WAIT}))"
    assert started(shown)[0].stdout.split() == expected
    assert {name: os.environ[name] for name in WAIT if name in os.environ} == given
