"""The freezing dial: what is frozen stays bit for bit, what trains moves."""

import pytest
import torch
from torchvision.models import resnet

from leukemia.errors import InputError
from leukemia.models.resnet import DEPTHS, STAGES, StagedResNet, check_schedule, thawed_from

STATE = {  # the stage that a parameter or buffer of torchvision's belongs to, by how its name begins
    "conv1.": "stem",
    "bn1.": "stem",
    **{f"layer{number}.": f"layer{number}" for number in (1, 2, 3, 4)},
    "fc.": "head",
}


def one_step(model: StagedResNet) -> None:
    """A training step on two pictures of noise."""
    model.train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    torch.nn.functional.binary_cross_entropy_with_logits(model(images), torch.tensor([0.0, 1.0])).backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in trained)


@pytest.mark.parametrize("depth", DEPTHS)
def test_training_leaves_frozen_stages_bit_identical_and_moves_the_others(depth):
    model = StagedResNet(depth)
    for stage in STAGES:
        model.freeze(stage)
        before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
        one_step(model)
        after = model.net.state_dict()
        moved = {next(STATE[start] for start in STATE if name.startswith(start)) for name in before
                 if not torch.equal(before[name], after[name])}  # fmt: skip
        assert moved == set(STAGES[STAGES.index(stage) :]), stage


@pytest.mark.parametrize("stage", STAGES)
def test_forward_is_torchvisions(stage):
    model = StagedResNet(18, stage).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), model.net(images).flatten())


def test_parameters_keep_torchvisions_names():
    assert set(StagedResNet(50).net.state_dict()) == set(resnet.resnet50().state_dict())


@pytest.mark.parametrize("stage", STAGES)
def test_suffix_of_prefix_is_the_network_and_the_prefix_builds_no_graph(stage):
    model = StagedResNet(18, stage).eval()
    images = torch.randn(2, 3, 64, 64)
    activations = model.prefix(images)
    assert not activations.requires_grad
    torch.testing.assert_close(model.suffix(activations), model(images))


def test_frozen_stages_stay_in_eval_mode_whatever_is_asked():
    model = StagedResNet(18, "layer4")
    model.train(True)
    assert not model.net.layer3.training
    assert not model.net.bn1.training
    assert model.net.layer4.training


def test_an_unknown_depth_or_stage_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"model.net.depth=20 .* 18, 34, 50, 101, 152"):
        StagedResNet(20)
    with pytest.raises(InputError, match=r"layer5 is no stage: use one of stem, layer1"):
        StagedResNet(18, "layer5")


def test_a_schedule_follows_from_the_epoch_alone():
    schedule = check_schedule("head", {3: "layer4", 6: "layer2"})
    stages = [thawed_from("head", schedule, epoch) for epoch in range(1, 8)]
    assert stages == ["head", "head", "layer4", "layer4", "layer4", "layer2", "layer2"]


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ({1: "layer4"}, "no epoch"),
        ({3: "head"}, "trains already"),
        ({3: "layer9"}, "no stage"),
        ({"x": "stem"}, "epoch"),
    ],
)
def test_a_schedule_that_thaws_nothing_is_refused(schedule, named):
    with pytest.raises(InputError, match=named):
        check_schedule("head", schedule)


def test_both_parts_are_compiled_and_give_what_they_gave():
    model, images = StagedResNet(18, "layer4").eval(), torch.randn(2, 3, 32, 32)
    expected = model(images)
    seen = []

    def backend(graph, inputs):
        seen.append(len(graph.graph.nodes))
        return graph

    model.compile(backend=backend)
    torch.testing.assert_close(model(images), expected)
    assert len(seen) == 2  # prefix and suffix, without a break in either
