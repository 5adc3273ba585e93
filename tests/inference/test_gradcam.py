"""Heat maps against Grad-CAM by hand, by differences and on torchvision's network; shares with a known answer."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.inference.gradcam import background, cell_alone, find_target, heat_maps, on_background
from leukemia.models.freezing import freeze
from leukemia.models.network import IMAGENET, StagedNetwork
from leukemia.models.resnet import resnet
from leukemia.models.weights import published_state


def cells(count=3, size=96, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def halves(size=224):
    """A picture whose left half is bright and whose right half is black."""
    picture = np.zeros((1, size, size, 3), np.uint8)
    picture[:, :, : size // 2] = 200
    return picture


def sees_brightness(sign):
    """A ResNet18 set by hand: channel 0 leaves layer4 as the place's brightness (sign 1) or darkness (-1)."""
    net = resnet(18, weights="none").eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(
                module, nn.Conv2d
            ):  # residual branches give nothing, and shortcuts pass channel 0 on
                module.weight.zero_()
                middle = module.kernel_size[0] // 2
                if module.kernel_size == (1, 1):
                    module.weight[0, 0, middle, middle] = 1
        net.stages.stem.conv1.weight[0, :, 3, 3] = sign
        net.stages.head.weight.zero_()
        net.stages.head.weight[0, 0] = 1
        net.stages.head.bias.zero_()
    return net


def random_resnet():
    torch.manual_seed(1)
    return resnet(18, weights="none").eval()


@pytest.mark.parametrize("trainable_from", ["head", "layer4", "stem"])
def test_a_heat_map_is_the_weighted_sum_of_the_last_places(trainable_from):
    # Behind mean pooling and a linear layer, Grad-CAM is the sum of the channels by their weights in the layer.
    net, pixels = random_resnet(), cells()
    freeze(net, trainable_from)
    with torch.no_grad():
        values, head = normalise(torch.from_numpy(pixels), *net.normalisation), net.stages.head
        for stage in (*net.stages[:4], net.stages.layer4[:-2]):
            values = stage(values)
        logit = head(values.mean(dim=(2, 3)))
        by_hand = (values * head.weight[0, :, None, None] * logit.sign()[..., None, None]).sum(1).relu()
        by_hand -= by_hand.amin((1, 2), keepdim=True)
        by_hand /= by_hand.amax((1, 2), keepdim=True).clamp(min=1e-12)
        enlarged = functional.interpolate(by_hand[:, None], size=(96, 96), mode="bilinear")[:, 0]
        enlarged -= enlarged.amin((1, 2), keepdim=True)
        enlarged /= enlarged.amax((1, 2), keepdim=True).clamp(min=1e-12)
    found = heat_maps(net, pixels)
    assert found.dtype == np.float32
    assert found.shape == (3, 96, 96)
    assert found.max() > 0.99
    np.testing.assert_allclose(found, enlarged.numpy(), atol=2e-3)
    np.testing.assert_allclose(heat_maps(net, pixels, enlarge=False), by_hand.numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [64, 224])
def test_the_maps_of_a_resnet_are_those_at_the_end_of_layer4_of_torchvisions_own_network(size):
    net, pixels = random_resnet(), cells(2, size)
    theirs = torchvision.models.resnet18(num_classes=1).eval()
    theirs.load_state_dict(published_state(net))
    at_layer4 = []
    theirs.layer4.register_forward_hook(lambda module, inputs, output: at_layer4.append(output))
    logits = theirs(normalise(torch.from_numpy(pixels), *IMAGENET))
    (slopes,) = torch.autograd.grad(logits.abs().sum(), at_layer4)
    expected = torch.einsum("nchw,nc->nhw", at_layer4[0], slopes.mean((2, 3))).relu().detach().numpy()
    lowest, highest = (function(expected, axis=(1, 2), keepdims=True) for function in (np.min, np.max))
    found = heat_maps(net, pixels, enlarge=False)
    np.testing.assert_allclose(found, (expected - lowest) / (highest - lowest), atol=1e-5)


def test_a_channel_weighs_as_much_as_the_logit_rises_with_it():
    # A channel that rises by t everywhere raises the logit by t times the sum of its slopes. Behind curved layers.
    torch.manual_seed(0)
    late = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Tanh())
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 9, 8), nn.Tanh(), nn.Linear(8, 1))
    net = StagedNetwork({"stem": nn.Conv2d(3, 4, 3, 2), "late": late, "head": head}).eval()
    pixels = cells(4, 12)
    with torch.no_grad():
        values = late(net.stages.stem(normalise(torch.from_numpy(pixels), *net.normalisation))).double()
        step = 1e-4 * torch.eye(6, dtype=torch.float64)[:, None, :, None, None]
        rise = (head.double()(torch.cat([*(values + step), *(values - step)])).view(2, 6, 4) / 2e-4).diff(
            dim=0
        )
        expected = torch.einsum("nchw,cn->nhw", values, -rise[0] / 9).relu().numpy()
    head.float()
    lowest, highest = (function(expected, axis=(1, 2), keepdims=True) for function in (np.min, np.max))
    found = heat_maps(net, pixels, [True] * 4, enlarge=False)
    np.testing.assert_allclose(found, (expected - lowest) / (highest - lowest), atol=1e-4)


def test_a_decision_for_the_negative_class_is_explained_by_the_evidence_for_it():
    net, pixels = random_resnet(), cells()
    before = heat_maps(net, pixels)
    with torch.no_grad():
        net.stages.head.weight.neg_()
        net.stages.head.bias.neg_()
    np.testing.assert_allclose(heat_maps(net, pixels), before, atol=1e-4)


def test_the_class_to_explain_can_be_named_whatever_the_sign_of_the_logit():
    net, pixels = random_resnet(), cells()
    with torch.no_grad():
        net.stages.head.bias.fill_(100)
    of_positive = heat_maps(net, pixels)
    of_negative = heat_maps(net, pixels, [False] * 3)
    assert np.abs(of_positive - of_negative).max() > 0.5
    mixed = heat_maps(net, pixels, [True, False, True])
    np.testing.assert_allclose(mixed[[0, 2]], of_positive[[0, 2]], atol=1e-4)
    with torch.no_grad():
        net.stages.head.bias.fill_(-100)  # as an intercept can
    np.testing.assert_allclose(heat_maps(net, pixels), of_negative, atol=1e-4)
    np.testing.assert_allclose(heat_maps(net, pixels, [True] * 3), of_positive, atol=1e-4)


def test_a_network_that_sees_the_cell_and_one_that_sees_the_mask_are_told_apart():
    pixels = halves()
    of_cell, of_mask = (heat_maps(sees_brightness(sign), pixels) for sign in (1, -1))
    assert on_background(of_cell, pixels) < 0.2  # a map of 7x7 places reaches a little over the edge
    assert on_background(of_mask, pixels) > 0.8
    assert background(pixels) == 0.5


def test_the_share_on_the_background_is_that_of_the_heat_put_there():
    pixels = halves(8)
    pixels[0, :, 4:] = 3  # as JPEG makes of black
    heat = np.zeros((3, 8, 8), np.float32)
    heat[0, :, :] = 0.5
    heat[1, 0, 3:7] = 1
    shares = on_background(heat, pixels.repeat(3, axis=0))
    np.testing.assert_allclose(shares[:2], [0.5, 0.75])
    assert np.isnan(shares[2])


def test_the_network_is_left_as_it_was_and_batches_do_not_matter(monkeypatch):
    net = random_resnet().train()
    freeze(net, "layer4")
    net.stages.layer4[1].eval()
    modes = [module.training for module in net.modules()]
    mark = torch.ones(1)
    net.stages.head.bias.grad = mark
    pixels, before = cells(5, 64), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.inference_mode():
        whole = heat_maps(net, pixels)
    assert [module.training for module in net.modules()] == modes
    assert net.stages.head.bias.grad is mark
    assert net.stages.layer4[0].conv1.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    monkeypatch.setattr("leukemia.inference.gradcam.AT_ONCE", 2)
    np.testing.assert_allclose(heat_maps(net, pixels), whole, atol=1e-4)
    assert heat_maps(net, pixels[:0]).shape == (0, 64, 64)


class Functional(nn.Module):
    """A stage with one activation for all its steps, and pooling, in a forward of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 3), nn.ReLU()

    def forward(self, values):
        return self.relu(self.second(self.relu(self.first(values)))).mean((2, 3))


class Attention(nn.Module):
    """A block of tokens (N, T, C), with an attention matrix (N, 1, T, T) inside."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Identity()

    def forward(self, tokens):
        weights = self.weights(tokens.softmax(-1)[:, None] @ tokens.transpose(1, 2)[:, None])
        return weights[:, 0] @ tokens


def network(**stages):
    torch.manual_seed(0)
    return StagedNetwork(stages)


def stem():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(inplace=True))


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
TARGETS = {
    "a ResNet": (lambda: resnet(18, weights="none"), "layer4", (2, 2)),
    "layers in place": (lambda: network(stem=stem(), late=nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3),
        nn.ReLU(inplace=True), *POOLED), head=nn.Linear(5, 1)), "late", (29, 29)),
    "pooling in the head": (lambda: network(stem=stem(), head=nn.Sequential(*POOLED, nn.Linear(4, 1))),
                            "stem", (31, 31)),
    "a forward of its own": (lambda: network(stem=stem(), late=Functional(), head=nn.Linear(5, 1)), "late", (27, 27)),
    "places lost early": (lambda: network(stem=stem(), flat=nn.Sequential(*POOLED), late=nn.Linear(4, 5),
                                          head=nn.Linear(5, 1)), "stem", (31, 31)),
    "tokens": (lambda: network(stem=nn.Sequential(*stem(), nn.Flatten(2)), blocks=nn.Sequential(Attention()),
                               head=nn.Sequential(nn.Flatten(), nn.Linear(4 * 31 * 31, 1))), "stem", (31, 31)),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_any_network_is_explained_at_its_last_activation_with_places(name):
    build, stage, places = TARGETS[name]
    net = build()
    pixels = cells(3, 64)
    net(normalise(torch.from_numpy(pixels), *net.normalisation))
    target = find_target(net, 64)
    assert (target.stage, target.places) == (stage, places)
    maps = heat_maps(net, pixels, [True, False, True])
    assert maps.shape == (3, 64, 64)
    assert maps.max() > 0.99


def test_small_pictures_are_explained_at_an_earlier_stage():
    target = find_target(random_resnet(), 32)
    assert (target.stage, target.places) == ("layer3", (2, 2))
    assert heat_maps(random_resnet(), cells(2, 32)).any()


def test_a_network_without_places_is_refused():
    net = network(stem=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), head=nn.Linear(4, 1))
    with pytest.raises(InputError, match=r"activation \(N, C, H, W\).* has none at 32 pixels"):
        heat_maps(net, cells(1, 32))


def test_the_first_heat_map_costs_little_more_than_the_network():
    code = """
import sys, time
import numpy as np
from leukemia.models.resnet import resnet
net, before = resnet(50, weights="none"), set(sys.modules)
begin = time.process_time()
from leukemia.inference.gradcam import heat_maps
assert heat_maps(net, np.full((1, 224, 224, 3), 200, np.uint8)).shape == (1, 224, 224)
print(time.process_time() - begin)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    print(f"first heat map of a ResNet50 after {float(said):.2f} s of a processor")
    assert float(said) < 2


def test_the_least_to_expect_is_less_than_an_even_map_and_reaches_over_the_edge():
    picture = np.zeros((1, 224, 224, 3), np.uint8)
    picture[:, 48:176, 48:176] = 120
    alone = cell_alone(picture, (7, 7))
    assert alone.shape == (1, 224, 224)
    assert alone[0, 112, 112] == 1
    assert alone[0, 0, 0] == 0
    assert 0.1 < on_background(alone, picture) < background(picture)
    aligned = np.zeros_like(picture)
    aligned[:, 32:96] = 120  # on the edges of places: only the smooth enlargement reaches over
    assert on_background(cell_alone(aligned, (7, 7)), aligned) < 0.3
