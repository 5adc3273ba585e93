"""The freezing dial: frozen stages keep every bit, whatever they are told; the others train."""

import copy
import importlib.util
import pickle
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from leukemia.errors import InputError
from leukemia.models.freezing import (
    check_schedule,
    check_stage,
    follow_within_an_epoch,
    freeze,
    prefix,
    prefix_hash,
    stage_names,
    suffix,
    thawed_from,
)
from leukemia.models.resnet import resnet

NETWORKS = {
    "resnet18": lambda: resnet(18, weights="none"),
    "resnet50": lambda: resnet(50, weights="none"),
    "resnext50_32x4d": lambda: resnet(name="resnext50_32x4d", weights="none"),
    "wide_resnet50_2": lambda: resnet(name="wide_resnet50_2", weights="none"),
    "own": None,  # Tiny of conftest.py
}


@pytest.fixture(params=NETWORKS)
def net(request, tiny):
    torch.manual_seed(0)
    return tiny() if request.param == "own" else NETWORKS[request.param]()


@pytest.fixture
def small(tiny):
    torch.manual_seed(0)
    return tiny()


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def one_step(net: nn.Module) -> None:
    """A training step on two pictures of noise."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    logits = suffix(net)(prefix(net)(images()))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0])).backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in trained)


def moved_stages(before: dict[str, torch.Tensor], net: nn.Module) -> set[str]:
    return {
        name.split(".")[1]
        for name, tensor in net.state_dict().items()
        if not torch.equal(before[name], tensor)
    }


def snapshot(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def every_call_of_train(net: nn.Module) -> None:
    net.train()
    net.stages.train(True)
    for module in net.modules():
        module.train()


def test_training_leaves_frozen_stages_bit_identical_and_moves_the_others(net):
    names = stage_names(net)
    for place, stage in enumerate(names):
        freeze(net, stage)
        every_call_of_train(net)
        before = snapshot(net)
        one_step(net)
        assert moved_stages(before, net) == set(names[place:]), stage


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_a_copy_is_frozen_too_and_apart_from_the_original(small, copied):
    freeze(small.train(), "pool")
    twin = copied(small)
    before = snapshot(small)
    every_call_of_train(twin)
    one_step(twin)
    assert moved_stages(before, twin) == {"pool", "head"}
    assert not moved_stages(before, small)
    freeze(twin, "stem")
    every_call_of_train(twin)
    assert all(module.training for module in twin.modules())
    assert not small.stages.stem[1].training


def test_a_thawed_stage_trains_again_in_the_mode_of_its_network(small):
    freeze(small.train(), "head")
    freeze(small, "body")
    assert [stage.training for stage in small.stages] == [False, True, True, True]
    before = snapshot(small)
    one_step(small)
    assert moved_stages(before, small) == {"body", "pool", "head"}
    freeze(small.eval(), "stem")
    assert not any(stage.training for stage in small.stages)


def test_modules_that_a_network_also_holds_under_another_name_stay_frozen(small):
    small.backbone = small.stages.stem[1]  # as wrappers of other libraries' networks do
    freeze(small, "body")
    small.train()
    assert not small.stages.stem[1].training


def test_parameters_outside_of_the_stages_never_train(small):
    small.unused = nn.Linear(2, 2)
    freeze(small, "stem")
    assert not any(parameter.requires_grad for parameter in small.unused.parameters())


def test_suffix_of_prefix_is_the_whole_network_and_the_prefix_builds_no_graph(net):
    net.eval()
    expected = net.stages(images()).flatten()
    for stage in stage_names(net):
        freeze(net, stage)
        activations = prefix(net)(images().requires_grad_())
        assert stage == stage_names(net)[0] or not activations.requires_grad
        torch.testing.assert_close(suffix(net)(activations), expected)


def test_logits_come_in_full_precision_also_under_autocast(small):
    freeze(small.eval(), "pool")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        activations = prefix(small)(images())
        features = small.stages.pool(activations)
        logits = suffix(small)(activations)
    assert activations.dtype == features.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, small.stages.head(features.float()).flatten(), rtol=0, atol=0)


def test_last_is_the_stage_before_the_head(net):
    assert check_stage(net, "model.trainable_from", "last") == stage_names(net)[-2]
    freeze(net, "last")
    assert net.trainable_from == stage_names(net)[-2]


def test_a_head_of_two_logits_is_refused_with_the_remedy(small):
    small.stages.head = nn.Linear(4, 2)
    with pytest.raises(InputError, match=r"shape \(2, 2\) for 2 cells: let it give one logit"):
        suffix(small)(images())


def test_an_unknown_stage_is_refused_with_the_known_ones(small):
    with pytest.raises(InputError, match=r"from=layer4 is not a stage: use one of stem, body, pool, head"):
        check_stage(small, "model.trainable_from", "layer4")


@pytest.mark.parametrize("batches", [1, 2, 3, 13, 14, 300])
def test_at_most_a_quarter_of_the_running_statistics_is_older_than_an_epoch(small, batches):
    freeze(small, "body")
    follow_within_an_epoch(suffix(small), batches)
    frozen, norm = small.stages.stem[1], small.stages.body[1]
    norm.running_mean.fill_(1e6)
    with torch.no_grad():
        for _ in range(batches):
            norm(torch.zeros(2, 4, 3, 3))
    assert norm.running_mean.max() <= 0.25001e6
    assert (norm.momentum == 0.1) == (batches >= 14)
    assert frozen.momentum == 0.1  # part of the hash of the feature cache


def test_a_schedule_follows_from_the_epoch_alone(small):
    schedule = check_schedule(small, "head", {3: "last", 6: "stem"})
    assert schedule == {3: "pool", 6: "stem"}
    stages = [thawed_from("head", schedule, epoch) for epoch in range(1, 8)]
    assert stages == ["head", "head", "pool", "pool", "pool", "stem", "stem"]


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ({1: "pool"}, "1 is not an epoch"),
        ({3: "head"}, "thaws nothing: head trains already"),
        ({3: "body", 5: "pool"}, "thaws nothing: body trains already"),
        ({3: "layer9"}, "is not a stage"),
        ({"x": "stem"}, "'x' is not an epoch"),
        ("pool", "is not a schedule"),
    ],
)
def test_a_schedule_that_thaws_nothing_is_refused(small, schedule, named):
    with pytest.raises(InputError, match=named):
        check_schedule(small, "head", schedule)


def changed_weight(net):
    net.stages.stem[0].weight.data[0, 0, 0, 0] += 1e-6


def changed_statistics(net):
    net.stages.stem[1].running_mean += 1


def changed_hidden_buffer(net):
    net.stages.stem.scale += 1


def changed_normalisation(net):
    net.normalisation = ((0.5, 0.5, 0.4), (0.25, 0.25, 0.25))


def changed_boundary(net):
    freeze(net, "pool")


def changed_setting(net):
    net.stages.stem[1].eps = 1e-3


def changed_unprinted_setting(net):
    net.stages.stem.slope = 0.2


def changed_function(net):
    net.stages.stem.act = torch.nn.functional.gelu


@pytest.mark.parametrize(
    "change",
    [
        changed_weight, changed_statistics, changed_hidden_buffer, changed_normalisation, changed_boundary,
        changed_setting, changed_unprinted_setting, changed_function,
    ],
)  # fmt: skip
def test_the_prefix_hash_changes_with_everything_that_the_frozen_stages_compute_with(small, change):
    stem = small.stages.stem
    stem.register_buffer("scale", torch.ones(1), persistent=False)
    stem.slope, stem.act = 0.1, torch.nn.functional.relu
    freeze(small, "body")
    before = prefix_hash(small)
    assert prefix_hash(copy.deepcopy(small)) == before
    change(small)
    assert prefix_hash(small) != before


def test_the_prefix_hash_does_not_change_with_the_stages_that_train(small):
    freeze(small, "pool")
    before = prefix_hash(small)
    one_step(small.train())
    assert prefix_hash(small) == before


def test_the_prefix_hash_of_a_loaded_network_is_that_of_the_saved_one(small, tmp_path):
    """Nothing in it is an address or an order of a set."""
    freeze(small, "pool")
    torch.save(small, tmp_path / "net.pt")
    twin = torch.load(tmp_path / "net.pt", weights_only=False)
    twin.stages.body[1].register_forward_hook(lambda *_: None)
    assert prefix_hash(twin) == prefix_hash(small)


SOURCE = """
from torch import nn

def scaled(values):
    return {factor} * values

class Scale(nn.Module):
    def forward(self, values):
        return scaled(values)
"""


def test_the_prefix_hash_changes_with_the_source_code_of_a_class_of_ones_own(tmp_path, monkeypatch):
    hashes = []
    for factor in (1, 2, 2):
        file = tmp_path / f"version{len(hashes)}" / "scaling.py"
        file.parent.mkdir()
        file.write_text(SOURCE.format(factor=factor))
        spec = importlib.util.spec_from_file_location("scaling", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "scaling", module)
        spec.loader.exec_module(module)
        net = nn.Module()
        net.stages = nn.Sequential(OrderedDict(stem=module.Scale(), head=nn.Linear(1, 1)))
        net.normalisation = ((0, 0, 0), (1, 1, 1))
        freeze(net, "head")
        hashes.append(prefix_hash(net))
    assert hashes[0] != hashes[1] == hashes[2]


def test_the_prefix_hash_changes_with_a_class_of_a_notebook():
    hashes = []
    for factor in ("1.0", "2.0", "2.0"):
        names = {"nn": nn, "__name__": "__notebook__"}
        exec(f"class Scale(nn.Module):\n def forward(self, values): return {factor} * values", names)
        net = nn.Module()
        net.stages = nn.Sequential(OrderedDict(stem=names["Scale"](), head=nn.Linear(1, 1)))
        net.normalisation = ((0, 0, 0), (1, 1, 1))
        freeze(net, "head")
        hashes.append(prefix_hash(net))
    assert hashes[0] != hashes[1] == hashes[2]
