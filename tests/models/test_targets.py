"""Parts by `_target_`: the user's own are found, others' are not, and a stranger's file builds a network at most."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leukemia.errors import InputError
from leukemia.models.network import check_network
from leukemia.models.targets import (
    FAMILIES,
    check_settings,
    did_you_mean,
    locate,
    network_from_file,
    plain_settings,
)

OWN = """
from collections import OrderedDict
from functools import partial
from pathlib import Path

from torch import nn
from torch.nn import Linear
from torchvision.models import resnet18

import {helper}

Path({executed!r}).touch()


class Tiny(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.stages = nn.Sequential(OrderedDict(stem=nn.Flatten(), head=nn.Linear(3 * width * width, 1)))
        self.normalisation = ((0, 0, 0), (1, 1, 1))


def function(width=2):
    return Tiny(width)


class Loss:
    def __call__(self, logits, labels):
        return logits.mean()


bound = partial(function, width=3)
loss = Loss()
number = 3
"""


@pytest.fixture
def clean_imports(monkeypatch):
    """Forget the modules that a test imports, and where it found them."""
    modules, finders = set(sys.modules), list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.startswith(("mylab", "helping", "timm", "torch_extra")):
            del sys.modules[name]


@pytest.fixture
def here(tmp_path, monkeypatch, clean_imports) -> Path:
    """A current folder with a package of the user's own, which leaves the file `executed` when it is imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_package(folder)
    monkeypatch.chdir(folder)
    return folder


def write_package(folder: Path) -> None:
    (folder / "mylab").mkdir()
    (folder / "mylab" / "__init__.py").write_text("")
    (folder / "mylab" / "nets.py").write_text(OWN.format(helper="helping", executed=str(folder / "executed")))
    (folder / "helping.py").write_text(
        "def late():\n    import helping_late\n    return helping_late.value\n"
    )
    (folder / "helping_late.py").write_text("value = 7\n")


# Finding


@pytest.mark.parametrize(
    "target", ["mylab.nets.Tiny", "mylab.nets.function", "mylab.nets.bound", "mylab.nets.loss"]
)
def test_a_part_of_the_current_folder_is_found(here, target):
    assert callable(locate(target, "model.net"))


def test_modules_that_the_users_own_import_later_are_found_too(here):
    path = list(sys.path)
    locate("mylab.nets.Tiny", "model.net")
    assert sys.modules["helping"].late() == 7
    assert sys.path == path


def test_a_part_on_pythonpath_goes_before_one_in_the_current_folder(here, tmp_path, monkeypatch):
    first = tmp_path / "first"
    first.mkdir()
    write_package(first)
    monkeypatch.syspath_prepend(str(first))
    assert locate("mylab.nets.Tiny", "model.net")(2)
    assert (first / "executed").exists()
    assert not (here / "executed").exists()


@pytest.mark.parametrize("started", ["leukemia-train", "python -m"])
def test_a_library_is_never_taken_from_the_current_folder(here, monkeypatch, started):
    if started == "python -m":  # puts the current folder first
        monkeypatch.syspath_prepend(str(here))
    for name in ("timm", "torch_extra", "torchmetrics"):
        (here / f"{name}.py").write_text(f"open({str(here / 'executed')!r}, 'w').close()\nPart = dict\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match="has no Part"):
        locate("timm.Part", "model.net")
    assert locate("torchmetrics.Metric", "model.net")
    assert not (here / "executed").exists()


def test_an_installed_package_goes_before_a_file_of_its_name_in_the_current_folder(here, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    (here / "safetensors.py").write_text(f"open({str(here / 'executed')!r}, 'w').close()\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match="has no Part"):
        locate("safetensors.Part", "model.net")
    assert not (here / "executed").exists()


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("mylab.nets.Tony", r"mylab.nets has no Tony; did you mean Tiny\?"),
        ("mylab.nest.Tiny", r"mylab has no nest"),
        ("mylib.nets.Tiny", r"there is no module mylib; install it, or put its file into the current folder"),
        ("mylab.nets.number", r"is not a class or function"),
        ("mylab.nets", r"mylab has no nets"),
        ("mylab.nets.Path", r"is not a class or function of a library or your own"),
        ("mylab", "is not a dotted name"),
        ("", "is not a dotted name"),
        ("mylab..Tiny", "is not a dotted name"),
        ("mylab.nets.Tiny()", "is not a dotted name"),
        ("mylab.nets.Tiny.__subclasses__", "is not a dotted name"),
        (None, "is not a dotted name"),
        (3, "is not a dotted name"),
    ],
)
def test_a_part_that_is_not_there_is_named(here, target, named):
    with pytest.raises(InputError, match=named):
        locate(target, "model.net")


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import not_installed_at_all", "needs the package not_installed_at_all: pip install it"),
        ("1 / 0", r"mylab.broken cannot be imported \(division by zero\)"),
        ("raise SystemError", r"mylab.broken cannot be imported \(SystemError\)"),
        ("def (", r"mylab.broken cannot be imported \(.*invalid syntax|expected|mylab"),
    ],
)
def test_a_module_that_fails_says_why(here, code, named):
    (here / "mylab" / "broken.py").write_text(code)
    with pytest.raises(InputError, match=named):
        locate("mylab.broken.Part", "model.net")


PYTHONS = (
    "os.system", "builtins.eval", "eval.x", "subprocess.call", "subprocess.Popen", "shutil.rmtree", "pathlib.Path",
    "torch.serialization.os.system", "torch.serialization.os.path.join", "leukemia.runs.Path",
    "leukemia.data.demo.shutil.rmtree", "torch.sys.modules.clear", "torch.sys.exit", "torch.os.environ.update",
    "pytorch_lightning.os.remove", "torch.hub.urlopen",
)  # fmt: skip


@pytest.mark.parametrize("target", PYTHONS)
def test_pythons_own_functions_are_never_found(target):
    with pytest.raises(InputError, match=r"is not built|has no"):
        locate(target, "model.criterion")


# Settings


def test_an_unknown_setting_is_refused_with_near_names_and_the_way_to_drop_it():
    with pytest.raises(
        InputError, match=r"has no setting widht; did you mean width\?; drop it with ~model.net.widht"
    ):
        check_settings(lambda width: None, ["widht"], "model.net")
    check_settings(lambda width, **more: None, ["anything"], "model.net")
    with pytest.raises(InputError, match="has no setting width"):
        check_settings(lambda width, /: None, ["width"], "model.net")


def test_keyword_arguments_that_a_logger_passes_on_are_known_too():
    from pytorch_lightning.loggers import TensorBoardLogger

    class Mine(TensorBoardLogger):
        pass

    for logger in (TensorBoardLogger, Mine):
        check_settings(logger, ["name", "flush_secs"], "logger.tensorboard")
        with pytest.raises(InputError, match=r"has no setting flush_sec; did you mean flush_secs\?"):
            check_settings(logger, ["flush_sec"], "logger.tensorboard")


@pytest.mark.parametrize("trick", ["_args_", "_partial_", "_recursive_", "_convert_", "__class__", "_"])
def test_target_is_the_only_instruction(trick):
    with pytest.raises(InputError, match=f"model.net has no setting {trick}: "):
        plain_settings({"_target_": "a.b", trick: True}, "model.net")


def test_the_optimizer_and_the_scheduler_may_say_that_they_are_partial():
    node = {"_target_": "a.b", "_partial_": True, "lr": 1}
    assert plain_settings(node, "model.optimizer") == plain_settings(node, "model.scheduler") == {"lr": 1}
    with pytest.raises(InputError, match="has no setting _partial_"):
        plain_settings({**node, "_partial_": False}, "model.optimizer")


@pytest.mark.parametrize(
    "value", [{"_target_": "a.b"}, [{"_target_": "a.b"}], {"x": [{"y": {"_target_": "a.b"}}]}]
)
def test_a_target_within_a_node_is_refused(value):
    with pytest.raises(InputError, match=r"model.net.inner holds a _target_ of its own"):
        plain_settings({"_target_": "a.b", "inner": value}, "model.net")


def test_near_names_are_named_once():
    assert did_you_mean("dpeth", ["model.net.depth", "seed"]) == "; did you mean model.net.depth?"
    assert did_you_mean("nothing_like_it", ["seed"]) == ""


# Trust


TRUSTED = {"_target_": FAMILIES[0], "depth": 18}


def test_a_family_builds_a_network_of_a_file_with_random_weights():
    net = check_network(network_from_file(TRUSTED, "x.ckpt"))
    assert net.node == {"_target_": FAMILIES[0], "depth": 18, "weights": "none"}


@pytest.mark.parametrize(
    "target",
    [
        *PYTHONS,
        "", "print", "leukemia", "leukemia.", "leukemia..config", "os;leukemia.x", "leukemia.x\n.y",
        "leukemia/../os.system", "leukemia.config.build", "leukemia.config.compose", "leukemia.train.main",
        "leukemia.training.run.train", "leukemia.models.resnet.load_weights", "leukemia.models.network.StagedNetwork",
        "leukemia.models.classifier.CellClassifier", "leukemia.models.resnet.resnet.x",
        "torch.hub.load", "torch.load", "torch.package.PackageImporter", "torch.utils.cpp_extension.load",
        "torch.utils.data.DataLoader", "torch.jit.load", "torch.nn.Linear.__subclasses__", "torch.nn.init.zeros_",
        "torch.nn.functional.relu", "torch.testing._internal.common_utils.TestCase", "torch._dynamo.OptimizedModule",
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
        "torchvision.models.resnet18", "torchvision.models.get_model", "torchvision.datasets.ImageFolder",
        "timm.create_model", "timm.models.load_checkpoint", "timm.models.resnet.resnet18",
        "pytorch_lightning.Trainer", "pytorch_lightning.cli.LightningCLI", "pytorch_lightning_evil.Callback",
        "torchmetrics.Metric", "torch_extra.Net", "mylab.nets.Tiny", "mylab.nets.function", "helping.late",
    ],
)  # fmt: skip
def test_a_file_cannot_ask_for_anything_else_and_nothing_is_run(here, target):
    for name in ("torch_extra", "pytorch_lightning_evil"):
        (here / f"{name}.py").write_text(f"open({str(here / 'executed')!r}, 'w').close()\n")
    modules = set(sys.modules)
    with pytest.raises(InputError):
        network_from_file({"_target_": target}, "x.ckpt")
    assert not (here / "executed").exists()
    own = {"mylab", "helping", "torch_extra", "pytorch_lightning_evil"}
    assert not {name.partition(".")[0] for name in set(sys.modules) - modules} & own


@pytest.mark.parametrize(
    "node",
    [None, 3, "resnet", [], {}, {"depth": 18}, {"_target_": None}, {"_target_": {"_target_": "os.system"}}],
)
def test_a_file_without_a_node_names_the_remedy(node):
    with pytest.raises(InputError, match=r"load_from_checkpoint\(PATH, net=NET\)"):
        network_from_file(node, "x.ckpt")


@pytest.mark.parametrize("trick", ["_args_", "_partial_", "_recursive_", "_convert_", "__class__"])
def test_a_file_gives_no_instruction(trick):
    with pytest.raises(InputError, match=f"has no setting {trick}"):
        network_from_file({**TRUSTED, trick: True}, "x.ckpt")


def test_a_target_within_a_files_node_is_refused_and_never_built(tmp_path):
    evil = {"_target_": "builtins.open", "file": str(tmp_path / "executed"), "mode": "w"}
    for node in (
        {**TRUSTED, "weights": evil},
        {**TRUSTED, "weights": [evil]},
        {"_target_": "torch.nn.ReLU", "inplace": evil},
    ):
        with pytest.raises(InputError, match="holds a _target_ of its own"):
            network_from_file(node, "x.ckpt")
    assert not (tmp_path / "executed").exists()


def test_settings_that_a_files_network_does_not_take_are_refused():
    with pytest.raises(InputError, match="has no setting dept"):
        network_from_file({"_target_": FAMILIES[0], "dept": 18}, "x.ckpt")
    with pytest.raises(InputError, match=r"model.net.depth=19 is unknown"):
        network_from_file({"_target_": FAMILIES[0], "depth": 19}, "x.ckpt")
    with pytest.raises(InputError, match=r"torch.nn.Linear refuses its settings \(.*required"):
        network_from_file({"_target_": "torch.nn.Linear"}, "x.ckpt")
    with pytest.raises(InputError, match="has no `stages`"):
        check_network(
            network_from_file({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "x.ckpt")
        )


def test_a_trusted_package_may_build_its_own_classes(here, monkeypatch):
    node = {"_target_": "mylab.nets.Tiny", "width": 3}
    with pytest.raises(
        InputError, match=r"not trusted: if you know where it comes from, set LEUKEMIA_TRUST=mylab"
    ):
        network_from_file(node, "x.ckpt")
    monkeypatch.setenv("LEUKEMIA_TRUST", "otherlab, mylab")
    net = check_network(network_from_file(node, "x.ckpt"))
    assert net.stages.head.in_features == 27
    assert net.node == node


@pytest.mark.parametrize(
    "target",
    [
        "mylab.nets.function",  # not a class
        "mylab.nets.bound",
        "mylab.nets.Loss",  # not a network
        "mylab.nets.resnet18",  # not its own
        "mylab.nets.Path",
        "mylab.nets.nn.Linear.__init__",
    ],
)
def test_a_trusted_package_builds_nothing_else(here, monkeypatch, target):
    monkeypatch.setenv("LEUKEMIA_TRUST", "mylab")
    with pytest.raises(InputError, match=r"defined in a trusted package|not built|not a dotted"):
        network_from_file({"_target_": target}, "x.ckpt")


def test_a_class_of_another_package_is_refused_where_a_trusted_one_only_passes_it_on(here, monkeypatch):
    (here / "otherlab.py").write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    (here / "mylab" / "passing.py").write_text("from otherlab import Net\n")
    monkeypatch.setenv("LEUKEMIA_TRUST", "mylab")
    with pytest.raises(InputError, match="defined in a trusted package"):
        network_from_file({"_target_": "mylab.passing.Net"}, "x.ckpt")
    monkeypatch.setenv("LEUKEMIA_TRUST", "mylab,otherlab")
    assert isinstance(network_from_file({"_target_": "mylab.passing.Net"}, "x.ckpt"), torch.nn.Module)
    del sys.modules["otherlab"]


@pytest.mark.parametrize("trust", ["os", "builtins", "", ",", "*", "leukemia.train"])
def test_trust_cannot_be_given_to_python_itself(here, monkeypatch, trust):
    monkeypatch.setenv("LEUKEMIA_TRUST", trust)
    for target in ("os.system", "builtins.eval", "mylab.nets.Tiny", "leukemia.train.main"):
        with pytest.raises(InputError):
            network_from_file({"_target_": target}, "x.ckpt")
    assert not (here / "executed").exists()


def test_no_remedy_is_named_that_would_not_help():
    for target in ("os.system", "leukemia.train.main", "a;b.c"):
        with pytest.raises(InputError) as caught:
            network_from_file({"_target_": target}, "x.ckpt")
        assert "LEUKEMIA_TRUST" not in str(caught.value)


def test_a_name_from_a_file_is_shown_without_control_characters():
    with pytest.raises(InputError) as caught:
        network_from_file({"_target_": "evil\x1b[2J\n." + "x" * 10_000}, "x.ckpt")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_file_in_the_current_folder_is_not_imported_by_prediction_from_the_command_line(here):
    """As `python -m leukemia predict` is started: the current folder comes first then."""
    code = (
        "import sys; sys.path.insert(0, ''); from leukemia.models.targets import network_from_file\n"
        "try: network_from_file({'_target_': 'mylab.nets.Tiny'}, 'x')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LEUKEMIA_TRUST=mylab" in done.stdout
    assert not (here / "executed").exists()
