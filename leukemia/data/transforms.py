"""Normalisation and augmentation of whole batches of pixels, on the model's device."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from leukemia.errors import check_one_of
from leukemia.evaluation.policy import TTA

AUGMENTATIONS = ("none", "d4", "full")
D4 = TTA["d4"]  # transforms of the square: four quarter turns, each with and without mirroring
Statistics = tuple[float, float, float]  # of red, green and blue, from 0 to 1


def normalise(pixels: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """Pixels (N, H, W, 3), 0 to 255, to a channels-last float batch (N, 3, H, W): (pixels - 255 mean) / (255 std)."""
    count, height, width, _ = pixels.shape
    offset, scale = _of_a_row(width, pixels.device, mean, std)
    values = pixels.reshape(count, height, 3 * width).to(torch.float32, copy=True)
    return values.sub_(offset).div_(scale).view(count, height, width, 3).permute(0, 3, 1, 2)


@cache
def _of_a_row(width: int, device: torch.device, mean: Statistics, std: Statistics) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each number in a row of pixels, (3 * width,). Whole rows are three times as fast as single
    colours."""
    with torch.inference_mode(False):
        offset, scale = (255 * torch.tensor(values, device=device).repeat(width) for values in (mean, std))
    return offset, scale


def augment(pixels: Tensor, augmentation: str, seed: int) -> Tensor:
    """Vary a batch of pixels (N, H, W, 3); all randomness comes from `seed`, on any device alike.

    Args:
        pixels: uint8.
        augmentation: `none`; `d4`, one of the 8 flips and quarter turns for each cell; `full`, a rotation by
            any angle, a flip, a shift, a scale and a mild stain jitter. Black stays black in all of them.
        seed: of this batch.

    Returns:
        uint8 for `none` and `d4`, float32 (0 to 255) for `full`; the shape is kept.

    Raises:
        InputError: for another augmentation.
    """
    check_one_of("data.augment", augmentation, AUGMENTATIONS)
    if augmentation == "none":
        return pixels
    if augmentation == "d4":
        drawn = draw_d4(len(pixels), seed)
        varied = torch.empty_like(pixels)
        for number in drawn.unique().tolist():
            rows = (drawn == number).nonzero().flatten().to(pixels.device)
            varied[rows] = d4(pixels[rows], number)
        return varied
    generator = torch.Generator().manual_seed(seed)
    return _stain(_warp(pixels, generator), generator)


def draw_d4(count: int, seed: int) -> Tensor:
    """The D4 transform of each cell of a batch, drawn from the batch's seed: int64 (count,), 0 to 7."""
    return torch.randint(D4, (count,), generator=torch.Generator().manual_seed(seed))


def d4(images: Tensor, number: int) -> Tensor:
    """One of the 8 D4 transforms of square images (N, S, S, ...): `number % 4` quarter turns, mirrored from 4 on."""
    turned = torch.rot90(images, number % 4, dims=(1, 2))
    return turned.flip(2) if number >= 4 else turned


def _warp(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by any angle, mirror half of the cells, shift by up to a tenth, scale by up to a tenth."""
    count = len(pixels)
    angle = torch.rand(count, generator=generator) * 2 * torch.pi
    mirror = 1 - 2 * torch.randint(2, (count,), generator=generator)
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * 0.4  # in half widths
    scale = 0.9 + 0.2 * torch.rand(count, generator=generator)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrix = torch.stack([mirror * cosine, -sine, shift[:, 0], mirror * sine, cosine, shift[:, 1]], dim=1)
    images = pixels.permute(0, 3, 1, 2).float()
    matrix = matrix.view(count, 2, 3).to(pixels.device)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False).permute(0, 2, 3, 1)


def _stain(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Scale each channel by 0.9 to 1.1 and the whole by 0.9 to 1.1. Black stays black."""
    channels = 0.9 + 0.2 * torch.rand(len(pixels), 1, 1, 3, generator=generator)
    whole = 0.9 + 0.2 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    return (pixels * (channels * whole).to(pixels.device)).clamp(0, 255)
