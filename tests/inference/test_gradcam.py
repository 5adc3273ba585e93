"""Heat maps against Grad-CAM worked out by hand, and the background's share where the right answer is known."""

import builtins

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.inference.gradcam import background, cell_alone, heat_maps, on_background
from leukemia.models.classifier import CellClassifier


def cells(count=3, size=96, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def halves(size=224):
    """A picture whose left half is bright and whose right half is black."""
    picture = np.zeros((1, size, size, 3), np.uint8)
    picture[:, :, : size // 2] = 200
    return picture


def sees_brightness(sign):
    """A ResNet18 set by hand: channel 0 leaves layer4 as the place's brightness (sign 1) or darkness (-1)."""
    model = CellClassifier(weights="none").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):  # residual branches give nothing, what passes by is kept
                module.weight.zero_()
                middle = module.kernel_size[0] // 2
                if module.kernel_size == (1, 1):
                    module.weight[0, 0, middle, middle] = 1
        model.net.net.conv1.weight[0, :, 3, 3] = sign
        model.net.net.fc.weight.zero_()
        model.net.net.fc.weight[0, 0] = 1
        model.net.net.fc.bias.zero_()
    return model


@pytest.mark.parametrize("trainable_from", ["head", "layer4", "stem"])
def test_a_heat_map_is_the_weighted_sum_of_the_last_places(trainable_from):
    # Behind mean pooling and a linear layer, Grad-CAM is the sum of the channels by their weights in the layer.
    torch.manual_seed(1)
    model = CellClassifier(weights="none", trainable_from=trainable_from).eval()
    pixels = cells()
    with torch.no_grad():
        resnet, values = model.net.net, normalise(torch.from_numpy(pixels))
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            values = getattr(resnet, name)(values)
        logit = resnet.fc(values.mean(dim=(2, 3)))
        by_hand = (values * resnet.fc.weight[0, :, None, None] * logit.sign()[..., None, None]).sum(1).relu()
        by_hand -= by_hand.amin((1, 2), keepdim=True)
        by_hand /= by_hand.amax((1, 2), keepdim=True).clamp(min=1e-12)
        enlarged = functional.interpolate(by_hand[:, None], size=(96, 96), mode="bilinear")[:, 0]
        enlarged -= enlarged.amin((1, 2), keepdim=True)
        enlarged /= enlarged.amax((1, 2), keepdim=True).clamp(min=1e-12)
    found = heat_maps(model, pixels)
    assert found.dtype == np.float32
    assert found.shape == (3, 96, 96)
    assert found.max() > 0.99
    np.testing.assert_allclose(found, enlarged.numpy(), atol=2e-3)


def test_the_decision_for_the_negative_class_is_explained_by_what_speaks_for_it():
    torch.manual_seed(1)
    model, pixels = CellClassifier(weights="none").eval(), cells()
    before = heat_maps(model, pixels)
    with torch.no_grad():
        model.net.net.fc.weight.neg_()
        model.net.net.fc.bias.neg_()
    np.testing.assert_allclose(heat_maps(model, pixels), before, atol=1e-4)


def test_the_class_to_explain_can_be_named_whatever_the_sign_of_the_logit():
    torch.manual_seed(1)
    model, pixels = CellClassifier(weights="none").eval(), cells()
    with torch.no_grad():
        model.net.net.fc.bias.fill_(100)
    of_positive = heat_maps(model, pixels)
    of_negative = heat_maps(model, pixels, [False] * 3)
    assert np.abs(of_positive - of_negative).max() > 0.5
    np.testing.assert_allclose(
        heat_maps(model, pixels, [True, False, True])[[0, 2]], of_positive[[0, 2]], atol=1e-4
    )
    with torch.no_grad():
        model.net.net.fc.bias.fill_(-100)  # what an intercept can do
    np.testing.assert_allclose(heat_maps(model, pixels), of_negative, atol=1e-4)
    np.testing.assert_allclose(heat_maps(model, pixels, [True] * 3), of_positive, atol=1e-4)


def test_a_network_that_sees_the_cell_and_one_that_sees_the_mask_are_told_apart():
    pixels = halves()
    of_cell, of_mask = (heat_maps(sees_brightness(sign), pixels) for sign in (1, -1))
    assert on_background(of_cell, pixels) < 0.2  # a map of 7x7 places reaches a little over the edge
    assert on_background(of_mask, pixels) > 0.8
    assert background(pixels) == 0.5


def test_the_share_on_the_background_is_what_was_put_there():
    pixels = halves(8)
    pixels[0, :, 4:] = 3  # what JPEG makes of black
    heat = np.zeros((3, 8, 8), np.float32)
    heat[0, :, :] = 0.5
    heat[1, 0, 3:7] = 1
    shares = on_background(heat, pixels.repeat(3, axis=0))
    np.testing.assert_allclose(shares[:2], [0.5, 0.75])
    assert np.isnan(shares[2])


def test_the_model_is_left_as_it_was_and_batches_do_not_matter(monkeypatch):
    torch.manual_seed(1)
    model = CellClassifier(weights="none", trainable_from="layer4").train()
    mark = torch.ones(1)
    model.net.net.fc.bias.grad = mark
    pixels = cells(5, 64)
    with torch.inference_mode():
        whole = heat_maps(model, pixels)
    assert model.training
    assert not model.net.net.layer3.training  # frozen
    assert model.net.net.fc.bias.grad is mark
    assert model.net.net.layer4[0].conv1.weight.grad is None
    assert not model.net.net.layer4._forward_hooks
    monkeypatch.setattr("leukemia.inference.gradcam.AT_ONCE", 2)
    np.testing.assert_allclose(heat_maps(model, pixels), whole, atol=1e-4)
    assert heat_maps(model, pixels[:0]).shape == (0, 64, 64)


def test_a_picture_of_a_single_place_has_an_empty_map():
    assert not heat_maps(CellClassifier(weights="none"), cells(2, 32)).any()


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "pytorch_grad_cam":
            raise ImportError("No module named 'pytorch_grad_cam'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"leukemia\[explain\]"):
        heat_maps(CellClassifier(weights="none"), cells(1, 64))


def test_the_least_to_expect_is_less_than_an_even_map_and_reaches_over_the_edge():
    picture = np.zeros((1, 224, 224, 3), np.uint8)
    picture[:, 48:176, 48:176] = 120
    alone = cell_alone(picture)
    assert alone.shape == (1, 224, 224)
    assert alone[0, 112, 112] == 1
    assert alone[0, 0, 0] == 0
    assert 0.1 < on_background(alone, picture) < background(picture)
    aligned = np.zeros_like(picture)
    aligned[:, 32:96] = 120  # on the edges of places: only the smooth enlargement reaches over
    assert on_background(cell_alone(aligned), aligned) < 0.3
