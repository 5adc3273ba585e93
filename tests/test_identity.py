"""Which settings make another run, and the names of networks and run folders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.identity import LONGEST, differences, flatten, is_identity, network_name, slug

words = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=40
)


@given(
    values=st.dictionaries(st.sampled_from(["model.net.depth", "data.fold", "model.net.weights", "x"]), words)
)
def test_a_slug_is_a_plain_short_folder_name(values):
    name = slug([f"{key}={value}" for key, value in values.items()])
    assert len(name) <= LONGEST + 9
    assert not set(name) & set("=/\\ \"'$(){}[]:*?<>|")
    assert not name.startswith((".", "-", "_"))
    assert "__" not in name


def test_a_slug_leaves_out_what_does_not_change_the_result_and_keeps_the_rest():
    plain = slug(["model.net.depth=18", "seed=1"])
    elsewhere = [
        "data.root=/x",
        "name=y",
        "trainer=gpu",
        "resume=never",
        "logger=csv",
        "++trainer.profiler=simple",
    ]
    assert plain == slug(["seed=1", "model.net.depth=18", *elsewhere])
    assert slug(["data.augment=none", "model.optimizer.lr=1"]) == slug(
        ["model.optimizer.lr=1", "data.augment=none"]
    )
    assert plain.startswith("depth-18_seed-1-")
    assert len({slug([f"seed={seed}"]) for seed in range(50)}) == 50
    assert slug(["model.net.depth=18", "model.net.depth=50"]) == slug(["model.net.depth=50"])
    assert slug([]).startswith("default-")


def test_a_slug_tells_the_network_and_its_freezing_first():
    name = slug(["data.augment=d4", "seed=3", "data.fold=2", "model.trainable_from=head", "model/net=own",
                 "model.net.name=resnext50_32x4d"])  # fmt: skip
    assert name.startswith("net-own_name-resnext50-32x4d_from-head_fold-2_seed-3_augment-d4-")


def test_a_slug_keeps_its_short_words_where_one_override_is_long():
    long = f"model.net.weights=/{'a/' * 30}{'very_long_name_' * 8}.pth"
    name = slug(["model.net.depth=18", long, "seed=1", "data.augment=d4"])
    assert name.startswith("depth-18_seed-1_augment-d4-")
    assert name != slug(["model.net.depth=18", long + "2", "seed=1", "data.augment=d4"])


def test_a_slug_names_what_was_left_out():
    assert slug(["~callbacks.early_stopping"]).startswith("early-stopping-")
    assert slug(["callbacks.early_stopping=null"]).startswith("early-stopping-null-")


IDENTITY = (
    "seed", "monitor", "mode", "data.protocol", "data.fold", "data.batch_size", "data.tta", "data.cache_features",
    "data.reader._target_", "model.net.depth", "model.optimizer.lr", "model/net", "callbacks", "experiment",
    "callbacks.early_stopping.patience", "callbacks.mine._target_", "trainer.max_epochs", "trainer.precision",
    "trainer.gradient_clip_val", "trainer.accumulate_grad_batches", "trainer.overfit_batches", "trainer.max_steps",
)  # fmt: skip
NOT_IDENTITY = (
    "data.root", "data.classes", "data.native_size", "data.keep_on_gpu", "name", "resume", "compile", "cache",
    "cache.max_gb", "logger", "logger.csv._target_", "trainer", "trainer.accelerator", "trainer.devices",
    "trainer.strategy", "trainer.profiler", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.log_every_n_steps", "callbacks.progress", "callbacks.progress._target_", "callbacks.learning_rate",
    "hydra.run.dir", "hydra/launcher",
)  # fmt: skip


def test_it_is_known_which_settings_make_another_run():
    assert [key for key in IDENTITY if not is_identity(key)] == []
    assert [key for key in NOT_IDENTITY if is_identity(key)] == []


def test_differences_name_the_settings_that_make_another_run():
    stored = {
        "seed": 0,
        "data": {"root": "/a", "classes": ["HEM", "ALL"], "fold": 1},
        "trainer": {"devices": 1},
    }
    wanted = {"seed": 1, "data": {"root": "/b", "fold": 1, "augment": "d4"}, "trainer": {"devices": 2}}
    assert differences(stored, wanted) == [
        "seed is 0 there and 1 here",
        "data.augment is None there and d4 here",
        "the global batch is 1 x data.batch_size=None there and 2 x data.batch_size=None here",
    ]
    assert differences(stored, stored) == []


@pytest.mark.parametrize(
    ("devices", "nodes", "equal"),
    [
        (1, 2, True),
        (2, 1, True),
        ("0,1", 1, True),
        ([0, 1], 1, True),
        ([3, 5], 1, True),
        (1, 1, False),
        (2, 2, False),
    ],
)
def test_the_global_batch_makes_another_run_and_its_place_does_not(devices, nodes, equal):
    stored = {"data": {"batch_size": 32}, "trainer": {"devices": 2, "num_nodes": 1}}
    wanted = {"data": {"batch_size": 32}, "trainer": {"devices": devices, "num_nodes": nodes}}
    assert (differences(stored, wanted) == []) == equal


def test_auto_fits_any_value():
    stored, wanted = ({"trainer": {"precision": value}} for value in ("32-true", "auto"))
    assert differences(stored, wanted) == []
    assert differences(wanted, stored) == ["trainer.precision is auto there and 32-true here"]


def test_a_part_that_is_left_out_makes_another_run():
    stored, wanted = {"callbacks": {"early_stopping": {"patience": 5}}}, {"callbacks": {}}
    assert differences(stored, wanted)[0] == "callbacks.early_stopping.patience is 5 there and None here"


def test_leaves_have_dotted_names_and_an_empty_group_is_one():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2], "e": {}}


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ({"_target_": "leukemia.models.resnet.resnet", "depth": 18, "name": None}, "resnet18"),
        (
            {"_target_": "leukemia.models.resnet.resnet", "depth": 18, "name": "wide_resnet50_2"},
            "wide_resnet50_2",
        ),
        ({"_target_": "mylab.nets.Tiny", "width": 8}, "Tiny"),
        ({"_target_": "Tiny"}, "Tiny"),
        ({}, "network"),
        (None, "network"),
        ("resnet", "network"),
    ],
)
def test_a_network_goes_by_its_own_name(node, name):
    assert network_name(node) == name
