"""Composing, resolving and building: every key is known, every part is of its kind, and nothing else is called."""

import copy
import inspect
import sys
from functools import cache, partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn

from leukemia.config import (
    GIVEN_ELSEWHERE,
    TRAINER_ARGUMENTS,
    asks_for_several_devices,
    build,
    build_data,
    build_model,
    compose,
    resolve,
    with_appended,
)
from leukemia.data.datamodule import CellDataModule
from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.models.targets import network_from_file

PLAIN = ("data.root=nowhere", "model.net.weights=none", "data.image_size=32", "trainer=cpu")


def resolved(*overrides: str):
    return resolve(compose([*PLAIN, *overrides]))


@cache
def plain_config():
    return compose([*PLAIN, "model/scheduler=cosine"])


def resolved_with(key: str, value: object):
    """As an override of this key, without composing it again."""
    config = copy.deepcopy(plain_config())
    OmegaConf.update(config, key, value, force_add=True)
    return resolve(config)


def model_of(*overrides: str) -> CellClassifier:
    return build_model(resolved(*overrides))


# Unknown keys


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("model.dpeth=18", "did you mean model.net.depth"),
        ("model.lr=1e-3", r"did you mean model\.optimizer\.lr"),
        ("model.trainable=head", "model.trainable_from"),
        ("data.rot=x", "data.root"),
        ("max_epochs=3", "trainer.max_epochs"),
        ("trainer.gradient_clip=1", "trainer.gradient_clip_val"),
        (
            "model.optimizer.rate=1",
            r"your own takes it as \+model.optimizer.rate=VALUE",
        ),
        ("hydra.run.dri=x", r"there is no setting hydra\.run\.dri; did you mean dir"),
        ("+hydra.sweap.dir=x", r"there is no setting hydra\.sweap\.dir; did you mean sweep"),
        ("model.scheduler.warmup_epochs=1", "choose a schedule first, as model/scheduler=cosine"),
        ("trainer=gpuu", "gpu"),
        ("data=cmnc", "cnmc"),
        ("model/net=restnet", "resnet"),
        ("model/criterion=fokal", "focal"),
        ("experiment=papers", "paper"),
        ("+trainer=foo", r"a file of trainer is chosen already; write trainer=foo$"),
        ("+model/criterion=focal", r"model/criterion is chosen already; write model/criterion=focal$"),
        ("debug=quick", r"there is no debug=quick: use one of fast, overfit, profile$"),
        (
            "logger=tensorbord",
            r"there is no logger=tensorbord: use one of csv, .*; did you mean tensorboard\?$",
        ),
    ],
)
def test_a_mistyped_override_names_the_near_ones(override, near):
    with pytest.raises(InputError, match=near):
        compose([override])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+modle.lr=3", r"there is no setting modle; did you mean .*model"),
        ("+ckpt_path=x", r"there is no setting ckpt_path"),
        ("+mointor=val/loss", r"did you mean monitor"),
        ("+data.foo=1", r"data \(leukemia.data.datamodule.CellDataModule\) has no setting foo"),
        ("+data.classes=[a,b]", r"has no setting classes"),
        ("+data.reader.foo=1", r"data.reader \(leukemia.data.cnmc.cnmc\) has no setting foo"),
        ("+model.foo=1", r"model \(leukemia.models.classifier.CellClassifier\) has no setting foo"),
        ("+model.foo.bar=1", r"has no setting foo"),
        (
            "+model.net.foo=1",
            r"model.net \(leukemia.models.resnet.resnet\) has no setting foo; .*~model.net.foo",
        ),
        ("+model.net.wieghts=x", r"did you mean weights"),
        (
            "+model.criterion.foo=1",
            r"model.criterion \(torch.nn.modules.loss.BCEWithLogitsLoss\) has no setting foo",
        ),
        ("+model.optimizer.foo=1", r"model.optimizer \(torch.optim.adam.Adam\) has no setting foo"),
        ("+callbacks.early_stopping.foo=1", r"callbacks.early_stopping .* has no setting foo"),
        ("+callbacks.early_stopping.patince=1", r"did you mean patience"),
        ("+callbacks.mine.foo=1", r"callbacks.mine has no _target_: name a class or function, or leave"),
        ("+callbacks.foo=1", r"callbacks.foo has no _target_"),
        ("+logger.tensorboard.foo=1", r"logger.tensorboard .* has no setting foo"),
        ("+logger.foo=1", r"logger.foo has no _target_"),
        ("+cache.foo=1", r"there is no setting cache.foo; did you mean cache.max_gb"),
        ("+trainer.foo=1", r"trainer \(.*Trainer\) has no setting foo"),
        ("+trainer.max_epoch=1", r"did you mean max_epochs"),
        ("+data.seed=1", r"data.seed is not a setting of its own: use seed"),
        ("+data.max_gb=1", r"data.max_gb is not a setting of its own: use cache.max_gb"),
        ("+model.classes=[a,b]", r"model.classes is not a setting of its own: the reader names the classes"),
        ("~model.net", r"model.net is missing"),
        ("~model.criterion", r"model.criterion is missing: choose one, as model/criterion=own"),
        ("model.optimizer=null", r"model.optimizer is missing"),
        ("~cache", r"cache is missing"),
        ("cache=null", r"cache=None is not a group of settings"),
        ("callbacks=3", r"a group takes the name of a YAML file; leave it out with ~GROUP"),
        ("logger=null", r"leave it out with ~GROUP, as ~logger"),
        ("+callbacks._target_=a.b", r"callbacks holds named parts: use \+callbacks.NAME._target_="),
    ],
)
def test_an_unknown_key_is_refused_at_any_level(override, named):
    with pytest.raises(InputError, match=named):
        resolved(override)


def test_a_group_that_every_run_has_cannot_be_left_out():
    for group in ("data", "model", "trainer"):
        with pytest.raises(InputError, match=f"{group} is missing: every run has {group}"):
            resolve(compose([f"~{group}"]))


# The trainer


def test_the_arguments_of_lightnings_trainer_are_known_without_importing_it():
    theirs = set(inspect.signature(pl.Trainer).parameters)
    elsewhere = {key.removeprefix("trainer.") for key in GIVEN_ELSEWHERE if key.startswith("trainer.")}
    assert {*TRAINER_ARGUMENTS, *elsewhere} == theirs
    assert elsewhere == {"callbacks", "logger", "plugins", "default_root_dir"}
    assert not {*TRAINER_ARGUMENTS} & elsewhere


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_every_argument_of_the_trainer_is_accepted_with_and_without_a_plus(sign):
    given = dict.fromkeys(TRAINER_ARGUMENTS) | {
        "precision": "32-true", "max_epochs": 3, "devices": 1, "num_nodes": 1, "log_every_n_steps": 2,
        "accelerator": "cpu",
    }  # fmt: skip
    said = [f"{sign}trainer.{name}={'null' if value is None else value}" for name, value in given.items()]
    assert resolved(*said)["trainer"] == {"_target_": "pytorch_lightning.Trainer", **given}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("callbacks", r"\+callbacks.mine._target_="),
        ("logger", "logger=csv"),
        ("plugins", "checkpoints and clusters need the project's own"),
        ("default_root_dir", "hydra.run.dir=DIR"),
    ],
)
@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_arguments_that_a_group_gives_are_refused_with_the_group(name, remedy, sign):
    for override in (f"{sign}trainer.{name}=x", f"{sign}trainer.{name}.mine._target_=a.b"):
        with pytest.raises(InputError, match=rf"trainer.{name} is not a setting of its own: .*{remedy}"):
            compose([override])


def test_a_setting_of_another_choice_is_refused_in_our_own_words():
    with pytest.raises(
        InputError, match=r"the chosen model\.net has no setting model\.net\.weights: leave it out"
    ):
        resolved("model/net=own", "model.net._target_=torch.nn.Identity", "model.net.weights=none")


def test_other_overrides_are_left_as_they_are():
    others = [
        "-m",
        "trainer=gpu",
        "data.root=trainer.x",
        "",
        "--config-dir",
        "~trainer.devices",
        "trainer.foo=1",
        "hydra.run.dir=x",
        "hydra/launcher=devices",
        "hydra.launcher.own=1",
        "~hydra.callbacks.sweep",
    ]
    assert with_appended(others) == others


def test_a_yaml_that_gives_what_a_group_gives_is_refused_too(tmp_path):
    write(tmp_path / "trainer" / "mine.yaml", "_target_: pytorch_lightning.Trainer\nlogger: true\n")
    with pytest.raises(InputError, match=r"trainer.logger is not a setting of its own"):
        resolved(f"hydra.searchpath=[{tmp_path}]", "trainer=mine")


# Values


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("monitor=val/acc", "monitor=val/acc does not exist: use one of val/loss, val/accuracy"),
        ("monitor=null", "monitor=None does not exist"),
        ("mode=max", "mode=max: val/loss is best at its min; leave mode out"),
        ("seed=-1", "seed=-1 is out of range: use a whole number from 0"),
        ("seed=x", "seed=x is out of range"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 is out of range"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5 is out of range"),
        ("callbacks.early_stopping.patience=-1", "callbacks.early_stopping.patience=-1 is out of range"),
        ("trainer.precision=64-true", "trainer.precision=64-true is not supported: use one of auto, 32-true"),
        ("cache.max_gb=much", "cache.max_gb=much is not a number of gigabytes"),
        ("cache.max_gb=-1", "cache.max_gb=-1 is not a number of gigabytes: use a number from 0 up"),
        ("+name.x=1", "is not the name of a folder"),
        ("callbacks.best.monitor=val/auroc", "callbacks.best.mode=min: val/auroc is best at its max"),
        ("callbacks.early_stopping.monitor=train/auroc", "train/auroc is best at its max"),
        (
            "callbacks.best.filename=x",
            "callbacks.best.filename=x: this callback writes checkpoints/best.ckpt",
        ),
        ("+callbacks.best.save_top_k=3", "callbacks.best.save_top_k=3: this callback writes"),
        ("name=null", "name=None is not the name of a folder"),
        ("name=", "name= is not the name of a folder"),
        ("compile=maybe", "compile=maybe is unknown: use true or false"),
        ("model.optimizer=sgd", "choose a file of conf/model/optimizer, as model/optimizer=own"),
        ("data.protocol=random", "data.protocol=random is unknown: use one of official"),
        ("data.image_size=8", "data.image_size=8 is out of range"),
        ("model.net.depth=20", "model.net.depth=20 is unknown: use one of 18, 34"),
        ("model.net.name=resnet20", "model.net.name=resnet20 is unknown"),
        ("model.net.weights=none.pth", "model.net.weights=.*none.pth: no such file"),
        ("model.trainable_from=layer5", "model.trainable_from=layer5 is not a stage"),
        ("model.unfreeze={1: stem}", "model.unfreeze: 1 is not an epoch"),
        ("model.class_weights=some", "use one of none, balanced"),
        ("model.optimizer.lr=-1", "model.optimizer.lr=-1 is out of range"),
        ("+model.optimizer.betas=x", r"model.optimizer \(torch.optim.adam.Adam\) refuses its settings"),
        ("+model.optimizer.betas=[2,2]", "Invalid beta parameter"),
        ("+model.criterion.reduction=none", "and not one loss with a gradient"),
        ("+model.criterion.pos_weight=3", "model.criterion .* refuses|cannot be called"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(override, named):
    def built():
        settings = resolved(override)
        return build_data(settings), build_model(settings)

    with pytest.raises(InputError, match=named):
        built()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model/net=own"], "model.net._target_ is not given: set model.net._target_=VALUE"),
        (["model/criterion=own"], "model.criterion._target_ is not given"),
        (["model/optimizer=own"], "model.optimizer._target_ is not given"),
        (["model/scheduler=own"], "model.scheduler._target_ is not given"),
        (
            ["model/scheduler=step"],
            "model.scheduler.step_epochs is not given: set model.scheduler.step_epochs=VALUE",
        ),
    ],
)
def test_a_setting_that_has_to_be_given_is_named(overrides, named):
    plain = [override for override in PLAIN if not override.startswith("model.net")]
    with pytest.raises(InputError, match=named):
        resolve(compose([*plain, *overrides]))


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/auroc", "max")])
def test_the_monitor_sets_the_mode_everywhere(monitor, mode):
    config = compose([*PLAIN, f"monitor={monitor}", "experiment=search"], with_hydra=True)
    settings = resolve(config)
    parts = [settings, *(settings["callbacks"][name] for name in ("early_stopping", "best", "pruning"))]
    assert {(part["monitor"], part["mode"]) for part in parts} == {(monitor, mode)}
    assert settings["model"]["monitor"] == monitor
    assert config.hydra.sweeper.direction == f"{mode}imize"


def test_a_wrong_monitor_is_named_where_the_sweeper_reads_it():
    from leukemia.config import explain

    config = compose(["experiment=search", "monitor=val/acc"], with_hydra=True)
    with pytest.raises(Exception) as caught:  # noqa: PT011  of OmegaConf, which Hydra passes on
        str(config.hydra.sweeper.direction)
    assert explain(caught.value).startswith("monitor=val/acc does not exist: use one of val/loss")
    assert explain(caught.value).endswith("specificity")


def test_an_override_that_cannot_be_read_says_how_to_quote_it():
    with pytest.raises(InputError, match=r"cannot be read as an override .*quote it"):
        compose(["data.root=a(b"])


# What resolves


@pytest.mark.parametrize(
    "overrides",
    [
        ["callbacks=none"], ["callbacks.early_stopping=null"], ["~callbacks.early_stopping"], ["~callbacks"],
        ["callbacks.best=null", "callbacks.last=null"], ["~logger"], ["logger=none"],
        ["logger=csv"], ["logger=many"], ["logger=mlflow"], ["logger=wandb"], ["model/scheduler=none"],
        ["model/scheduler=cosine"], ["model/scheduler=warmup"], ["~model.scheduler"], ["model.scheduler=null"],
        ["model/scheduler=step", "model.scheduler.step_epochs=[2]"], ["model/optimizer=sgd"], ["model/criterion=focal"],
        ["debug=fast"], ["debug=overfit"], ["debug=profile"], ["trainer.strategy=auto"], ["data=cells"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_parts_can_be_replaced_and_left_out_one_by_one(overrides):
    settings = resolved(*overrides)
    assert isinstance(build_model(settings), CellClassifier)
    for override in overrides:
        key, _, value = override.lstrip("~").partition("=")
        group, _, name = key.partition(".")
        if group in ("callbacks", "logger") and value in ("", "null", "none"):
            assert name not in settings[group] if name else settings[group] == {}
    assert "logger" in settings


def test_debug_presets_do_what_they_are_for():
    assert resolved("debug=fast")["trainer"]["fast_dev_run"] is True
    overfit = resolved("debug=overfit")
    assert overfit["trainer"]["overfit_batches"] == 2
    assert "early_stopping" not in overfit["callbacks"]
    assert resolved("debug=profile")["trainer"]["profiler"] == "simple"
    assert resolved("debug=profile", "trainer.max_epochs=7")["trainer"]["max_epochs"] == 7


def test_paths_are_absolute_and_auto_is_what_it_chose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    torch.save({}, "weights.pth")
    settings = resolve(compose(["data.root=data", "model.net.weights=weights.pth"]))
    assert settings["data"]["root"] == str(tmp_path / "data")
    assert settings["model"]["net"]["weights"] == str(tmp_path / "weights.pth")
    assert settings["trainer"]["accelerator"] == "cpu"
    assert settings["trainer"]["precision"] in ("bf16-mixed", "32-true")


def test_auto_stands_for_what_the_run_chose_that_goes_on():
    stored = {"trainer": {"precision": "bf16-mixed"}, "data": {"cache_features": "off"}}
    settings = resolve(compose(PLAIN), stored)
    assert (settings["trainer"]["precision"], settings["data"]["cache_features"]) == ("bf16-mixed", "off")
    assert (
        resolve(compose([*PLAIN, "trainer.precision=32-true"]), stored)["trainer"]["precision"] == "32-true"
    )


def test_a_gpu_that_is_not_there_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"no CUDA device: use trainer=cpu"):
        resolved("trainer=gpu")


@pytest.mark.parametrize(
    ("overrides", "several"),
    [
        ([], False),
        (["trainer.devices=2"], True),
        (["trainer=ddp"], True),
        (["trainer=ddp", "trainer.devices=1"], False),
        (["trainer.devices=-1"], True),
        (["trainer.devices=null"], False),
        (["trainer.devices=[0]"], False),
        (["trainer.devices=[0,1]"], True),
        (["trainer.devices='0,1'"], True),
        (["trainer.devices='0'"], False),
        (["trainer.num_nodes=2"], True),
    ],
)
def test_it_is_known_which_run_asks_for_several_devices(overrides, several):
    assert asks_for_several_devices(resolve(compose([*overrides, "trainer.accelerator=cpu"]))) == several


# Kinds


@pytest.fixture
def forbidden(monkeypatch):
    """Fails the test where one of Python's functions is called."""
    called = []

    def spy(*arguments, **settings):
        called.append(arguments)

    spy.__module__ = "os"
    for name in ("os.system", "subprocess.call", "shutil.rmtree", "builtins.eval"):
        monkeypatch.setattr(name, spy)
    yield
    assert called == []


EVIL = (
    "os.system", "builtins.eval", "subprocess.call", "subprocess.Popen", "shutil.rmtree", "eval.x",
    "torch.serialization.os.system", "leukemia.runs.shutil.rmtree", "pytorch_lightning.os.system",
)  # fmt: skip
KEYS = (
    "data", "data.reader", "model", "model.net", "model.criterion", "model.optimizer", "model.scheduler", "trainer",
    "callbacks.mine", "logger.mine",
)  # fmt: skip


@pytest.mark.parametrize("target", EVIL)
@pytest.mark.parametrize("key", KEYS)
def test_pythons_functions_are_refused_in_every_group_and_never_called(forbidden, key, target):
    with pytest.raises(InputError, match=r"is not built|has no|is not a dotted name"):
        resolved_with(f"{key}._target_", target)


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("data", "leukemia.models.classifier.CellClassifier"),
        ("data", "leukemia.data.cnmc.cnmc"),
        ("model", "torch.nn.Linear"),
        ("model", "leukemia.models.resnet.resnet"),
        ("model.optimizer", "torch.nn.Linear"),
        ("model.optimizer", "torch.optim.lr_scheduler.StepLR"),
        ("model.optimizer", "leukemia.models.optim.cosine"),
        ("trainer", "pytorch_lightning.loggers.CSVLogger"),
        ("trainer", "pytorch_lightning.Trainer.fit"),
        ("trainer", "leukemia.training.run.train"),
        ("callbacks.mine", "torch.hub.load"),
        ("callbacks.mine", "pytorch_lightning.loggers.CSVLogger"),
        ("callbacks.mine", "pytorch_lightning.LightningModule"),
        ("callbacks.early_stopping", "leukemia.train.main"),
        ("logger.mine", "pytorch_lightning.callbacks.EarlyStopping"),
        ("logger.tensorboard", "torch.load"),
        ("logger.mlflow", "torch.load"),
        ("logger.wandb", "os.system"),
    ],
)
def test_a_class_of_another_kind_is_refused_and_never_called(monkeypatch, key, target):
    monkeypatch.setattr(torch, "load", pytest.fail)
    monkeypatch.setattr(torch.hub, "load", pytest.fail)
    with pytest.raises(InputError, match=rf"{key}._target_={target} is not built"):
        resolved_with(f"{key}._target_", target)


@pytest.mark.parametrize("trick", ["_args_", "_recursive_", "_convert_", "_partial_", "__class__"])
@pytest.mark.parametrize("key", ["data", "data.reader", "model", "model.net", "model.criterion", "trainer",
                                 "callbacks.best", "logger.tensorboard"])  # fmt: skip
def test_target_is_the_only_instruction(key, trick):
    with pytest.raises(InputError, match=rf"{key} has no setting {trick}: "):
        resolved_with(f"{key}.{trick}", True)


@pytest.mark.parametrize("key", [*KEYS[:-2], "callbacks.best", "logger.tensorboard"])
def test_a_target_within_a_part_is_refused_and_never_built(tmp_path, key):
    evil = {"_target_": "builtins.open", "file": str(tmp_path / "executed"), "mode": "w"}
    for value in (evil, [evil], {"x": [evil]}):
        with pytest.raises(InputError, match=rf"{key}.more holds a _target_ of its own"):
            resolved_with(f"{key}.more", value)
    assert not (tmp_path / "executed").exists()


def test_a_node_of_anything_else_is_refused():
    for node in (None, {}, 3, "torch.nn.ReLU", {"lr": 1}):
        with pytest.raises(InputError, match="has no _target_"):
            build(node, "model.net")


def test_a_missing_package_is_named_only_where_it_is_known(own):
    (own / "lacks.py").write_text(
        "def known(): import no_such_package\n\ndef unknown(): raise ModuleNotFoundError('needs rich >= 10')\n"
    )
    with pytest.raises(InputError, match="needs the package no_such_package: pip install no_such_package"):
        build({"_target_": "lacks.known"}, "model.net")
    with pytest.raises(InputError, match="refuses its settings: ModuleNotFoundError: needs rich >= 10"):
        build({"_target_": "lacks.unknown"}, "model.net")


def test_a_constructors_error_names_the_part_and_the_line(own):
    for target, named in (
        ("Broken", r"refuses its settings: ZeroDivisionError: division by zero \(mylab.py, line \d+\)"),
        ("Lacking", "needs the package not_installed: pip install not_installed"),
    ):
        settings = resolve(compose([*NO_WEIGHTS, "model/net=own", f"model.net._target_=mylab.{target}"]))
        with pytest.raises(InputError, match=rf"model.net \(mylab.{target}\) {named}"):
            build_model(settings)


# The user's own parts

MYLAB = """
from collections import OrderedDict
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn


class Tiny(nn.Module):
    def __init__(self, width=4, normalisation=None):
        super().__init__()
        self.stages = nn.Sequential(OrderedDict(
            stem=nn.Conv2d(3, width, 3, stride=2), pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            head=nn.Linear(width, 1),
        ))
        self.normalisation = normalisation or ([0.5] * 3, [0.25] * 3)


def make_net(width=4):
    return Tiny(width)


def wrapped():
    from leukemia import resnet
    return resnet(18, weights="none")


class Narrow(Tiny):
    def __init__(self):
        super().__init__()
        self.stages.pool = nn.Flatten()


class Broken(Tiny):
    def __init__(self):
        super().__init__()
        1 / 0


class Lacking(Tiny):
    def __init__(self):
        import not_installed


class Loss(nn.Module):
    def __init__(self, smoothing=0.0):
        super().__init__()
        self.smoothing = smoothing
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, labels):
        labels = labels * (1 - self.smoothing) + self.smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(self.scale * logits, labels)


def loss(logits, labels, margin=1.0):
    return (margin - (2 * labels - 1) * logits).clamp(min=0).mean()


def make_loss(smoothing=0.0):
    return Loss(smoothing)


class Steps(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)


def halving(optimizer, steps_per_epoch, every=1):
    return torch.optim.lr_scheduler.StepLR(optimizer, every * steps_per_epoch, 0.5)


class Hello(pl.Callback):
    def __init__(self, word="hello"):
        self.word = word


class Log(CSVLogger):
    pass


class Trainer(pl.Trainer):
    pass


class Data(__import__("leukemia").CellDataModule):
    def __init__(self, extra=1, **settings):
        super().__init__(**settings)
        self.extra = extra


def read(root, site="A"):
    raise NotImplementedError
"""


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module mylab in the current folder, which is not on Python's path."""
    finders = list(sys.meta_path)
    folder = tmp_path / "own"
    write(folder / "mylab.py", MYLAB)
    monkeypatch.chdir(folder)
    yield folder
    sys.meta_path[:] = finders
    sys.modules.pop("mylab", None)


NO_WEIGHTS = [override for override in PLAIN if not override.startswith("model.net")]
OWN = [
    "model/net=own", "model.net._target_=mylab.Tiny", "+model.net.width=6", "model.trainable_from=last",
    "model/criterion=own", "model.criterion._target_=mylab.Loss", "+model.criterion.smoothing=0.1",
    "model/optimizer=own", "model.optimizer._target_=mylab.Steps", "+model.optimizer.lr=0.5",
    "model/scheduler=own", "model.scheduler._target_=mylab.halving", "+model.scheduler.every=2",
    "+callbacks.mine._target_=mylab.Hello", "+callbacks.mine.word=hi", "+logger.mine._target_=mylab.Log",
    "+logger.mine.save_dir=x", "trainer._target_=mylab.Trainer", "data._target_=mylab.Data", "+data.extra=2",
    "data.reader._target_=mylab.read", "+data.reader.site=B",
]  # fmt: skip


def test_parts_of_the_users_own_work_in_every_group(own):
    settings = resolve(compose([*NO_WEIGHTS, *OWN]))
    model, data = build_model(settings), build_data(settings)
    mylab = sys.modules["mylab"]
    assert isinstance(model.net, mylab.Tiny)
    assert model.net.stages.head.in_features == 6
    assert model.net.node == {"_target_": "mylab.Tiny", "width": 6}
    assert (model.criterion.smoothing, model.trainable_from) == (0.1, "pool")
    assert model.make_optimizer.func is mylab.Steps
    assert model.make_scheduler.keywords == {"every": 2}
    assert (data.extra, data.image_size, data.batch_size) == (2, 32, 32)
    assert (data.reader.func, data.reader.keywords) == (mylab.read, {"site": "B"})
    callback = build(settings["callbacks"]["mine"], "callbacks.mine")
    assert (type(callback), callback.word) == (mylab.Hello, "hi")
    assert isinstance(build(settings["logger"]["mine"], "logger.mine"), mylab.Log)
    assert isinstance(
        build(settings["trainer"], "trainer", logger=False, enable_progress_bar=False), mylab.Trainer
    )


def test_a_network_may_come_from_a_function(own):
    model = build_model(resolve(compose([*NO_WEIGHTS, "model/net=own", "model.net._target_=mylab.make_net",
                                         "+model.net.width=5", "model.trainable_from=last"])))  # fmt: skip
    assert model.net.stages.head.in_features == 5


def test_a_checkpoint_never_takes_another_network_for_one_that_a_function_made(own, monkeypatch):
    """The function may have changed what the family gave it, so that the family's node is not its own."""
    net = build_model(
        resolve(compose([*NO_WEIGHTS, "model/net=own", "model.net._target_=mylab.wrapped"]))
    ).net
    assert net.node == {"_target_": "mylab.wrapped"}
    monkeypatch.setenv("LEUKEMIA_TRUST", "mylab")
    with pytest.raises(InputError, match=r"load_from_checkpoint\(PATH, net=NET\)"):
        network_from_file(net.node, "x.ckpt")


@pytest.mark.parametrize(
    ("target", "settings", "kind"),
    [
        ("torch.nn.BCEWithLogitsLoss", [], nn.BCEWithLogitsLoss),
        ("torch.nn.MultiLabelSoftMarginLoss", [], nn.MultiLabelSoftMarginLoss),
        ("mylab.loss", ["+model.criterion.margin=2"], partial),
        ("mylab.make_loss", ["+model.criterion.smoothing=0.2"], nn.Module),
        ("mylab.make_loss", [], nn.Module),
        ("torch.nn.functional.multilabel_soft_margin_loss", [], type(lambda: None)),
        ("torchvision.ops.sigmoid_focal_loss", ["+model.criterion.reduction=mean"], partial),
    ],
)
def test_a_criterion_is_a_module_a_function_or_made_by_a_function(own, target, settings, kind):
    model = build_model(resolved("model/criterion=own", f"model.criterion._target_={target}", *settings))
    assert isinstance(model.criterion, kind)
    loss = model.criterion(torch.zeros(4, requires_grad=True), torch.tensor([0.0, 1, 1, 1]))
    assert loss.shape == ()


def test_focal_is_the_focal_loss_without_alpha():
    criterion = model_of("model/criterion=focal").criterion
    logits, labels = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    p = torch.where(labels > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(criterion(logits, labels), (-((1 - p) ** 2) * p.log()).mean())


def test_a_network_that_does_not_fit_the_pictures_is_refused_before_they_are_read(own):
    overrides = [*NO_WEIGHTS, "model/net=own", "model.net._target_=mylab.Narrow", "model.trainable_from=last"]
    with pytest.raises(InputError, match=r"model.net \(Narrow\) cannot take pictures of data.image_size=32"):
        build_model(resolve(compose(overrides)))


def test_a_function_where_a_class_is_needed_is_refused(own):
    for key in ("callbacks.mine", "logger.mine", "trainer", "model.optimizer", "data"):
        with pytest.raises(
            InputError, match=rf"{key}._target_=mylab.loss is not built: it is not a subclass of"
        ):
            resolved(f"++{key}._target_=mylab.loss")


YAML = {
    "model/net/mynet": "_target_: mylab.Tiny\nwidth: 7\n",
    "model/criterion/mine": "_target_: mylab.Loss\nsmoothing: 0.3\n",
    "model/optimizer/mine": "_target_: mylab.Steps\nlr: 0.25\n",
    "model/scheduler/mine": "_target_: mylab.halving\nevery: 3\n",
    "data/mine": "defaults:\n  - cnmc\nreader:\n  _target_: mylab.read\n  site: C\n",
    "data/bare": "_target_: leukemia.data.datamodule.CellDataModule\nroot: x\n",
    "trainer/mine": "_target_: pytorch_lightning.Trainer\nmax_epochs: 4\n",
    "callbacks/mine": "defaults:\n  - default\nhello:\n  _target_: mylab.Hello\n",
    "logger/mine": "mine:\n  _target_: mylab.Log\n  save_dir: x\n",
    "experiment/mine": "# @package _global_\ndefaults:\n  - override /model/net: mynet\nname: mine\nmodel:\n"
                       "  trainable_from: last\n",
    "debug/mine": "# @package _global_\ntrainer:\n  max_epochs: 9\n",
}  # fmt: skip
CHOICES = [
    "model/net=mynet", "model.trainable_from=last", "model/criterion=mine", "model/optimizer=mine",
    "model/scheduler=mine", "data=mine", "trainer=mine", "callbacks=mine", "logger=mine",
]  # fmt: skip


@pytest.fixture
def conf(own):
    """A folder of the user's own YAML files beside his module."""
    for name, text in YAML.items():
        write(own / "conf" / f"{name}.yaml", text)
    return own / "conf"


def check_own_yaml(settings) -> None:
    model = build_model(settings)
    assert (model.net.stages.head.in_features, model.criterion.smoothing) == (7, 0.3)
    assert (model.make_optimizer.keywords, model.make_scheduler.keywords) == ({"lr": 0.25}, {"every": 3})
    assert build_data(settings).reader.keywords == {"site": "C"}
    assert settings["callbacks"]["hello"] == {"_target_": "mylab.Hello"}
    assert "best" in settings["callbacks"]
    assert list(settings["logger"]) == ["mine"]
    assert settings["trainer"]["max_epochs"] == 4


def test_yaml_of_the_users_own_works_for_every_group(conf):
    path = f"hydra.searchpath=[file://{conf}]"
    check_own_yaml(resolve(compose([path, "data.root=x", "data.image_size=32", *CHOICES])))
    settings = resolve(compose([path, "data.root=x", "experiment=mine", "debug=mine"]))
    assert (settings["name"], settings["trainer"]["max_epochs"]) == ("mine", 9)
    assert settings["model"]["net"]["_target_"] == "mylab.Tiny"


def test_yaml_of_the_users_own_need_not_repeat_the_defaults(conf):
    path = f"hydra.searchpath=[file://{conf}]"
    settings = resolve(compose([path, "data=bare", "trainer=mine", "model.net.weights=none"]))
    data = build_data(settings)
    assert (data.protocol, data.image_size, settings["data"]["cache_features"]) == ("official", 224, "auto")
    assert settings["data"]["reader"] == {"_target_": "leukemia.data.cnmc.cnmc"}
    assert settings["trainer"]["devices"] == settings["trainer"]["num_nodes"] == 1
    assert settings["trainer"]["precision"] != "auto"


def test_the_command_line_takes_the_users_own_yaml(conf, monkeypatch, capsys):
    """Up to the point where the data are looked for."""
    from leukemia.train import main

    seen = {}
    monkeypatch.setattr(
        "leukemia.training.run.train", lambda config, folder, skip_done: seen.update(config=config)
    )
    monkeypatch.setattr("leukemia.train.prepare_process", lambda: None)
    for place in (["--config-dir", str(conf)], [f"hydra.searchpath=[file://{conf}]"]):
        run_dir = f"hydra.run.dir={conf.parent / 'run'}"
        monkeypatch.setattr("sys.argv", ["leukemia-train", *place, *CHOICES, "data.root=x", "data.image_size=32",
                                         "trainer.gradient_clip_val=0.5", run_dir])  # fmt: skip
        main()
        settings = resolve(seen.pop("config"))
        check_own_yaml(settings)
        assert settings["trainer"]["gradient_clip_val"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["+modle.lr=3"], "there is no setting modle"),
        (["modle.lr=3"], "there is no setting modle.lr"),
        (["trainer.logger=true"], "trainer.logger is not a setting of its own"),
        (["++callbacks.mine._target_=os.system"], "callbacks.mine._target_=os.system is not built"),
        (["~logger", "model.optimizer.lr=-1"], "model.optimizer.lr=-1 is out of range"),
        (["model/net=own"], "model.net._target_ is not given"),
        (["monitor=val/acc"], "monitor=val/acc does not exist"),
    ],
)
def test_the_command_line_refuses_in_one_line(leukemia_train, tmp_path, demo_root, overrides, named):
    weights = [] if "model/net=own" in overrides else ["model.net.weights=none"]
    given = [f"data.root={demo_root}", *weights, f"hydra.run.dir={tmp_path / 'run'}"]
    code, _, err = leukemia_train(*given, *overrides)
    assert code == 2
    assert err.startswith("error: ")
    assert named in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_default_parts_are_those_of_the_constructor():
    default = CellClassifier(model_of().net)
    composed = model_of()
    assert type(composed.criterion) is type(default.criterion)
    assert composed.make_optimizer.func is default.make_optimizer.func
    assert composed.make_optimizer.keywords == {"weight_decay": 0.0, **default.make_optimizer.keywords}
    assert composed.make_scheduler is default.make_scheduler is None
    assert dict(composed.hparams) == dict(default.hparams)


def test_the_data_module_gets_the_seed_and_the_bound_of_the_cache():
    data = build_data(resolved("seed=7", "cache.max_gb=3", "data.tta=d4"))
    assert isinstance(data, CellDataModule)
    assert (data.seed, data.max_gb, data.tta, data.root) == (7, 3, "d4", Path.cwd() / "nowhere")
