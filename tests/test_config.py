"""Composing and building: near names for typing errors, nothing built that is not allowed, readable slugs."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from leukemia.config import asks_for_several_devices, build, compose, conf_dir, resolve_auto
from leukemia.errors import InputError
from leukemia.identity import grid_names, slug


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("model.dpeth=18", "model.net.depth"),
        ("model.trainable=head", "model.trainable_from"),
        ("data.rot=x", "data.root"),
        ("max_epochs=3", "trainer.max_epochs"),
        ("trainer=gpuu", "gpu"),
        ("data=cmnc", "cnmc"),
        ("experiment=papers", "paper"),
    ],
)
def test_a_mistyped_override_names_the_near_ones(override, near):
    with pytest.raises(InputError, match=near):
        compose([override])


def test_build_refuses_what_is_not_allowed_by_name():
    with pytest.raises(InputError, match=r"_target_=os\.system"):
        build(OmegaConf.create({"_target_": "os.system", "command": "true"}))


@pytest.mark.parametrize(
    "target",
    [
        "",
        "print",
        "builtins.eval",
        "subprocess.Popen",
        "torchvision.models.resnet18",
        "leukemia",
        "leukemia.",
        "leukemia..config",
        "leukemia.data.demo.shutil.rmtree",  # only passes through an allowed module
        "torch.serialization.os.system",
        "leukemia.runs.Path",
        "leukemia.config.build",  # no class
        "leukemia.training.sweep.SweepWatch",  # Hydra's own callback
        "torch.hub.load",
        "torch.load",
        "torch.package.PackageImporter",  # runs what it is given
        "pytorch_lightning.cli.LightningCLI",
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
        "torch.utils.data.DataLoader",
        "pytorch_lightning.Trainer.__init__",
        "pytorch_lightning.Trainer.__class__",
        "torch.nn.Linear.__subclasses__",
        "leukemia.train.main",
        "pytorch_lightning_evil.Callback",
        "os;leukemia.x",
        "leukemia.x\n.y",
        "leukemia/../os.system",
    ],
)
def test_build_refuses_what_is_no_part_of_a_run(target):
    with pytest.raises(InputError, match=r"is not built|has no setting"):
        build(OmegaConf.create({"_target_": target}))


@pytest.mark.parametrize("trick", ["_args_", "_partial_", "_recursive_", "_convert_", "__class__"])
@pytest.mark.parametrize(
    "target", ["pytorch_lightning.loggers.TensorBoardLogger", "pytorch_lightning.Trainer"]
)
def test_build_passes_no_instruction_on_to_hydra(target, trick):
    with pytest.raises(InputError, match=f"has no setting {trick}"):
        build(OmegaConf.create({"_target_": target, trick: True}))


def test_what_lies_within_a_node_is_data_and_never_built(tmp_path):
    evil = {"_target_": "builtins.open", "file": str(tmp_path / "executed"), "mode": "w"}
    logger = {
        "_target_": "pytorch_lightning.loggers.TensorBoardLogger",
        "save_dir": str(tmp_path),
        "more": evil,
    }
    build(OmegaConf.create(logger))
    with pytest.raises(InputError):
        build(OmegaConf.create({"_target_": "leukemia.models.classifier.CellClassifier", "stage_lr": evil}))
    assert not (tmp_path / "executed").exists()


def test_build_refuses_an_unknown_argument_with_the_near_ones():
    with pytest.raises(InputError, match=r"has no setting dept; did you mean depth"):
        build(OmegaConf.create({"_target_": "leukemia.models.classifier.CellClassifier", "dept": 18}))


def test_a_constructors_refusal_comes_through_as_it_is():
    with pytest.raises(InputError, match=r"^model\.depth=20 is unknown"):
        build(compose(["model.net.depth=20", "model.net.weights=none"]).model)


def test_a_figure_that_does_not_exist_cannot_be_monitored():
    with pytest.raises(InputError, match=r"val/acc does not exist: use one of val/loss, val/accuracy"):
        resolve_auto(compose(["monitor=val/acc"]))


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/auroc", "max")])
def test_the_direction_follows_from_the_monitored_figure(monitor, mode):
    callbacks = compose([f"monitor={monitor}"]).callbacks
    assert callbacks.early_stopping.mode == callbacks.best.mode == mode
    assert callbacks.best.monitor == monitor


def test_a_gpu_that_is_not_there_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"no CUDA device: use trainer=cpu"):
        resolve_auto(compose(["trainer=gpu"]))


def test_auto_is_written_down_as_what_it_chose():
    trainer = resolve_auto(compose()).trainer
    assert trainer.accelerator in ("cpu", "cuda", "mps")
    assert trainer.precision in ("bf16-mixed", "32-true")


@pytest.mark.parametrize(
    ("overrides", "several"),
    [
        ([], False),
        (["trainer.devices=2"], True),
        (["trainer=ddp"], True),
        (["trainer=ddp", "trainer.devices=1"], False),
        (["trainer.devices=-1"], True),
        (["trainer.devices=[0]"], False),
        (["trainer.devices=[0,1]"], True),
        (["trainer.devices='0,1'"], True),
        (["trainer.num_nodes=2"], True),
    ],
)
def test_it_is_known_who_asks_for_several_devices(overrides, several):
    assert asks_for_several_devices(compose(["trainer.accelerator=cpu", *overrides])) == several


words = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=40
)


@given(
    values=st.dictionaries(st.sampled_from(["model.net.depth", "data.fold", "model.net.weights", "x"]), words)
)
def test_a_slug_is_a_plain_short_folder_name(values):
    name = slug([f"{key}={value}" for key, value in values.items()])
    assert len(name) < 100
    assert not set(name) & set("=/\\ \"'$(){}[]:*?<>|")
    assert not name.startswith((".", "-"))


def test_a_slug_leaves_out_what_does_not_change_the_result_and_keeps_the_rest():
    plain = slug(["model.net.depth=18", "seed=1"])
    assert plain == slug(
        ["seed=1", "model.net.depth=18", "data.root=/x", "name=y", "trainer=gpu", "resume=never"]
    )
    assert slug(["data.augment=none", "model.optimizer.lr=1"]) == slug(
        ["model.optimizer.lr=1", "data.augment=none"]
    )
    assert plain.startswith("depth-18_seed-1-")
    assert len({slug([f"seed={seed}"]) for seed in range(50)}) == 50
    assert slug(["model.net.depth=18", "model.net.depth=50"]) == slug(["model.net.depth=50"])


def test_the_names_of_a_grid_are_those_of_its_run_folders():
    """As `-m experiment=demo seed=0,1` composes it: the grid of the experiment, times the seeds."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = hydra_compose("train", ["experiment=demo", "seed=0"], return_hydra_config=True)
    config.hydra.overrides.task = ["experiment=demo", "seed=0,1", "model.net.depth=18"]
    names = grid_names(config)
    assert (
        len(set(names)) == 6
    )  # 3 stages, 2 seeds, and the depth of the command line over that of the experiment
    assert slug(["model.net.depth=18", "model.trainable_from=stem", "experiment=demo", "seed=1"]) in names
    config.hydra.sweep.subdir = "${hydra.job.num}"
    assert grid_names(config) == []
