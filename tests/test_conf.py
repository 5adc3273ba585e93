"""Every YAML file composes, builds, and agrees with the constructors and with DESIGN."""

import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from leukemia.config import build, build_data, build_model, compose, conf_dir, resolve
from leukemia.data.datamodule import CellDataModule
from leukemia.models import optim
from leukemia.models.classifier import CellClassifier
from leukemia.models.resnet import resnet
from leukemia.models.timm_nets import timm

CONF = Path(conf_dir())
OPTIONS = [
    f"{path.parent.relative_to(CONF).as_posix()}={path.stem}"
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF and "hydra" not in path.relative_to(CONF).parts
]
GIVEN = {  # what has to be said with an option
    "model/net=own": ["model.net._target_=leukemia.models.resnet.resnet", "+model.net.weights=none"],
    "model/net=timm": ["model.net.name=convnext_atto", "model.trainable_from=last"],
    **{
        f"model/net={name}": ["model.trainable_from=last"]
        for name in ("convnext_tiny", "dinobloom_s", "efficientnet_b1", "vit_small_dinov2")
    },
    "model/criterion=own": ["model.criterion._target_=torch.nn.MultiLabelSoftMarginLoss"],
    "model/optimizer=own": ["model.optimizer._target_=torch.optim.NAdam"],
    "model/scheduler=own": [
        "model.scheduler._target_=torch.optim.lr_scheduler.StepLR",
        "+model.scheduler.step_size=1",
    ],
    "model/scheduler=step": ["model.scheduler.step_epochs=[2]"],
    "trainer=gpu": ["trainer.accelerator=cpu"],
}


def yaml_defaults(group: str, option: str) -> dict:
    node = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    return {key: value for key, value in node.items() if key not in ("_target_", "_partial_", "defaults")}


def defaults_of(constructor, without: set[str]) -> dict:
    parameters = inspect.signature(constructor).parameters
    return {name: each.default for name, each in parameters.items() if name not in without}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_resolves_and_its_data_and_model_can_be_built(option):
    weights = [] if option == "model/net=own" else ["model.net.weights=none"]
    if option.startswith("model/net=") and "model.trainable_from=last" in GIVEN.get(option, []):
        pytest.importorskip("timm")
    settings = resolve(compose([option, "data.root=nowhere", *weights, *GIVEN.get(option, [])]))
    assert build_data(settings).root == Path("nowhere").absolute()
    assert isinstance(build_model(settings), CellClassifier)


def test_every_group_of_design_has_its_files():
    groups: dict[str, set[str]] = {}
    for option in OPTIONS:
        group, _, name = option.partition("=")
        groups.setdefault(group, set()).add(name)
    expected = {
        "data": {"cnmc", "cells", "demo"},
        "model": {"classifier"},
        "model/net": {"resnet", "timm", "own"},
        "model/criterion": {"bce", "focal", "own"},
        "model/optimizer": {"adam", "adamw", "sgd", "own"},
        "model/scheduler": {"none", "cosine", "step", "warmup", "own"},
        "trainer": {"auto", "cpu", "gpu", "ddp"},
        "callbacks": {"default", "none"},
        "logger": {"tensorboard", "csv", "mlflow", "wandb", "many", "none"},
        "debug": {"fast", "overfit", "profile"},
        "experiment": {"demo", "pretrain", "paper", "challenge", "cv", "search", "backbones"},
    }
    assert set(groups) == set(expected)
    for group, names in expected.items():
        assert names <= groups[group], group


# One definition of a default: the constructor's


def test_the_data_yaml_shows_every_setting_with_the_constructors_default():
    shown = yaml_defaults("data", "cnmc")
    reader = shown.pop("reader")["_target_"]
    defaults = defaults_of(CellDataModule, {"seed", "max_gb"})
    theirs = defaults.pop("reader")
    assert shown == defaults
    assert reader == f"{theirs.__module__}.{theirs.__qualname__}"


def test_the_model_yaml_shows_every_setting_with_the_constructors_default():
    shown = yaml_defaults("model", "classifier")
    assert shown.pop("monitor") == "${monitor}"
    defaults = defaults_of(CellClassifier, {"net", "criterion", "optimizer", "classes"})
    assert defaults.pop("monitor") == compose().monitor == "val/loss"
    assert shown == defaults


def test_the_network_yaml_shows_every_setting_with_the_functions_default():
    assert yaml_defaults("model/net", "resnet") == defaults_of(resnet, set())
    shown = yaml_defaults("model/net", "timm")
    assert (shown.pop("name"), shown.pop("image_size")) == ("???", "${data.image_size}")
    assert shown == defaults_of(timm, {"name", "image_size"})


@pytest.mark.parametrize("name", ["cosine", "warmup", "step"])
def test_a_schedule_yaml_shows_every_setting_with_the_functions_default(name):
    shown = yaml_defaults("model/scheduler", name)
    defaults = defaults_of(getattr(optim, name), {"optimizer", "epochs", "steps_per_epoch"})
    if name == "step":  # has no default that makes sense
        assert (shown.pop("step_epochs"), defaults.pop("step_epochs")) == ("???", ())
    assert shown == defaults


def test_default_nodes_hold_the_fewest_keys():
    assert yaml_defaults("model/criterion", "bce") == {}
    for name in ("adam", "adamw"):
        assert list(yaml_defaults("model/optimizer", name)) == ["lr", "weight_decay"]
    for group in ("net", "criterion", "optimizer", "scheduler"):
        assert yaml_defaults(f"model/{group}", "own") == {}


def test_the_public_defaults():
    config = compose()
    assert (config.seed, config.resume, config.compile, config.monitor) == (0, "auto", False, "val/loss")
    assert (config.trainer.max_epochs, config.trainer.precision) == (30, "auto")
    assert (config.callbacks.early_stopping.patience, config.callbacks.early_stopping.monitor) == (
        5,
        "val/loss",
    )
    assert (config.data.protocol, config.data.image_size, config.data.batch_size) == ("official", 224, 32)
    assert (config.model.net.depth, config.model.trainable_from, config.model.optimizer.lr) == (
        18,
        "layer4",
        3e-4,
    )
    assert list(config.logger) == ["tensorboard"]


def test_each_callback_can_be_built(tmp_path):
    settings = resolve(compose(["data.root=x"]))
    for name, node in settings["callbacks"].items():
        assert build(node, f"callbacks.{name}")


# Experiments


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_lies_in_a_folder_of_its_own_name(path):
    assert compose([f"experiment={path.stem}"]).name == path.stem


def test_the_command_line_wins_over_an_experiment():
    config = compose(["experiment=demo", "name=mine", "data.image_size=96", "trainer.max_epochs=1"])
    assert (config.name, config.data.image_size, config.trainer.max_epochs) == ("mine", 96, 1)


def test_paper_is_the_seed_studys_grid_without_augmentation():
    config = compose(["experiment=paper"], with_hydra=True)
    assert (config.data.protocol, config.data.augment) == ("official", "none")
    assert config.model.optimizer._target_ == "torch.optim.Adam"
    assert config.hydra.sweeper.params == {
        "model.net.depth": "18,50",
        "model.trainable_from": "head,layer4,stem",
    }


def test_search_looks_for_settings_that_exist():
    config = compose(["experiment=search"], with_hydra=True)
    for key in config.hydra.sweeper.params:
        assert OmegaConf.select(config, key) is not None, key
    assert config.model.optimizer._target_ == "torch.optim.AdamW"


def test_backbones_compares_networks_that_each_have_a_yaml():
    params = compose(["experiment=backbones"], with_hydra=True).hydra.sweeper.params
    assert set(params["model/net"].split(",")) <= {
        path.stem for path in (CONF / "model" / "net").glob("*.yaml")
    }
    assert params["model.trainable_from"] == "head,last"
    assert params["data.train_subjects"].endswith(",null")


def test_challenge_is_prellberg_and_kramers_recipe():
    config = compose(["experiment=challenge"])
    rates = dict.fromkeys(("stem", "layer1", "layer2", "layer3", "layer4", "head"), config.model.optimizer.lr)
    assert {**rates, **config.model.stage_lr} == {
        "stem": 1e-6, "layer1": 1e-6, "layer2": 1e-4, "layer3": 1e-4, "layer4": 1e-4, "head": 1e-2,
    }  # fmt: skip
    scheduler = config.model.scheduler
    assert scheduler._target_ == "leukemia.models.optim.step"
    assert (list(scheduler.step_epochs), scheduler.step_factor) == ([2, 4], 0.1)
    assert (config.data.resize, config.data.image_size, config.data.batch_size) == ("crop", 300, 16)
    assert (config.data.protocol, config.data.augment, config.data.tta) == ("holdout", "full", "d4")
    assert (config.model.class_weights, config.model.trainable_from) == ("balanced", "stem")
    assert config.trainer.max_epochs == 6


def test_conf_dir_is_absolute_and_the_checkouts_own():
    assert CONF.is_absolute()
    assert Path(__file__).parents[1] / "conf" == CONF
