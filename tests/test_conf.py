"""Every YAML file composes, builds, and says what DESIGN promises."""

import inspect
from pathlib import Path

import pytest

from leukemia.config import build, compose, conf_dir
from leukemia.data.datamodule import CellDataModule
from leukemia.models.classifier import CellClassifier

CONF = Path(conf_dir())
OPTIONS = [
    f"{path.parent.relative_to(CONF).as_posix()}={path.stem}"
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and "hydra" not in path.relative_to(CONF).parts
]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_its_data_and_model_can_be_built(option):
    config = compose([option, "data.root=nowhere", "model.net.weights=none"])
    assert build(config.data).root == Path("nowhere")
    assert isinstance(build(config.model), CellClassifier)


@pytest.mark.parametrize(
    ("node", "constructor", "given_by_code"),
    [
        ("data", CellDataModule, {"seed", "max_gb"}),
        ("model", CellClassifier, {"classes"}),
    ],
)
def test_yaml_shows_every_setting_of_the_constructor_with_its_default(node, constructor, given_by_code):
    shown = {key: value for key, value in compose()[node].items() if key != "_target_"}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in given_by_code
    }
    assert shown == defaults


def test_the_public_defaults():
    config = compose()
    assert (config.seed, config.resume, config.compile) == (0, "auto", False)
    assert (config.trainer.max_epochs, config.trainer.precision) == (30, "auto")
    stopping = config.callbacks.early_stopping
    assert (stopping.patience, stopping.monitor) == (5, "val/loss")
    assert (config.data.protocol, config.data.image_size, config.data.batch_size) == ("official", 224, 32)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_lies_in_a_folder_of_its_own_name(path):
    assert compose([f"experiment={path.stem}"]).name == path.stem


def test_what_the_command_line_says_wins_over_an_experiment():
    config = compose(["experiment=demo", "name=mine", "data.image_size=96", "trainer.max_epochs=1"])
    assert (config.name, config.data.image_size, config.trainer.max_epochs) == ("mine", 96, 1)


def test_paper_is_the_seed_studys_grid_without_augmentation():
    config = compose(["experiment=paper"])
    assert (config.data.protocol, config.data.augment, config.model.optimizer) == ("official", "none", "adam")
    text = (CONF / "experiment" / "paper.yaml").read_text()
    assert "model.net.depth: 18,50" in text
    assert "model.trainable_from: head,layer4,stem" in text


def test_conf_dir_is_absolute_and_the_checkouts_own():
    assert CONF.is_absolute()
    assert Path(__file__).parents[1] / "conf" == CONF
