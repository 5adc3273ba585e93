"""The network seam: a network that does not keep its promises is refused, and the message names the remedy."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision import transforms

from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.models.freezing import freeze
from leukemia.models.network import IMAGENET, StagedNetwork, check_input, check_network, pixel_logits


def without_stages(net):
    del net.stages


def one_stage(net):
    net.stages = nn.Sequential(OrderedDict(head=nn.Linear(1, 1)))


def list_of_stages(net):
    net.stages = nn.ModuleList(net.stages)


def unnamed_stages(net):
    net.stages = nn.Sequential(*net.stages)


def head_that_does_not_learn(net):
    net.stages.head = nn.Flatten()


def shared_layer(net):
    net.stages.body = nn.Sequential(net.stages.stem, nn.ReLU())


def shared_weight(net):
    net.stages.body[0].bias = net.stages.stem[0].bias


def without_normalisation(net):
    del net.normalisation


def normalisation_of_one_number(net):
    net.normalisation = (0.5, 0.25)


def normalisation_of_five_numbers(net):
    net.normalisation = ((0.5, 0.5), (0.25, 0.25, 0.25, 0.25))


def normalisation_by_zero(net):
    net.normalisation = ((0.5, 0.5, 0.5), (0.25, 0, 0.25))


def normalisation_without_a_number(net):
    net.normalisation = ((0.5, float("nan"), 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (
            without_stages,
            "set self.stages to an nn.Sequential of two or more named stages, the last one `head`",
        ),
        (one_stage, "two or more named stages"),
        (list_of_stages, "set self.stages to an nn.Sequential"),
        (unnamed_stages, "the last stage of Tiny is 3: name it `head`"),
        (head_that_does_not_learn, r"let it end in a layer that learns"),
        (shared_layer, r"stages stem and body of Tiny share 0\.0\.weight: let each stage own its layers"),
        (shared_weight, r"stages stem and body of Tiny share 0\.bias"),
        (
            without_normalisation,
            "set self.normalisation to mean and standard deviation of red, green and blue, as",
        ),
        (normalisation_of_one_number, "set self.normalisation"),
        (normalisation_of_five_numbers, "set self.normalisation"),
        (normalisation_by_zero, "set self.normalisation"),
        (normalisation_without_a_number, "set self.normalisation"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_the_remedy(tiny, damage, remedy):
    net = tiny()
    damage(net)
    with pytest.raises(InputError, match=remedy):
        check_network(net)


def test_what_is_not_a_module_is_refused():
    with pytest.raises(InputError, match=r"model.net is a function and not an nn.Module"):
        check_network(lambda images: images)


@pytest.mark.parametrize("kind", [list, torch.tensor], ids=["lists", "tensors"])
def test_a_normalisation_of_lists_or_tensors_serves_too(tiny, kind):
    net, other = tiny(), tiny()
    other.load_state_dict(net.state_dict())
    other.normalisation = tuple(kind(values) for values in net.normalisation)
    pixels = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    expected = pixel_logits(check_network(net.eval()), pixels)
    assert torch.equal(pixel_logits(check_network(other.eval()), pixels), expected)


def test_pixels_become_logits_by_the_normalisation_of_the_network(tiny):
    net = tiny().eval()
    pixels = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    images = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(pixel_logits(net, pixels), net.stages(images).flatten())
    freeze(net, "last")
    torch.testing.assert_close(pixel_logits(net, pixels), net.stages(images).flatten())


def test_a_staged_network_calls_its_stages_in_order():
    net = StagedNetwork({"stem": nn.Flatten(), "head": nn.Linear(12, 1)}, node={"_target_": "x.y"})
    images = torch.randn(5, 3, 2, 2)
    assert torch.equal(net(images), net.stages.head(images.flatten(1)).flatten())
    assert (net.normalisation, net.node) == (IMAGENET, {"_target_": "x.y"})


def test_a_picture_of_the_wrong_size_is_refused_before_any_is_read(tiny):
    net = tiny()
    net.stages.pool = nn.Flatten()  # 4 x 4 x 4 values, where the head takes 4
    with pytest.raises(
        InputError, match=r"\(Tiny\) cannot take pictures of data.image_size=16: .*mat1 and mat2"
    ):
        check_input(net, 16)
    net.stages.head = nn.Linear(4, 3)
    net.stages.pool = tiny().stages.pool
    with pytest.raises(InputError, match="let it give one logit"):
        check_input(net, 16)


def test_trying_a_picture_changes_nothing(tiny):
    net = tiny()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    check_input(net, 32)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_normalisation_is_that_of_torchvision():
    pixels = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    expected = transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, *map(list, IMAGENET))
    torch.testing.assert_close(normalise(pixels, *IMAGENET), expected)
