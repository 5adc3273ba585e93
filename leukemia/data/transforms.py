"""From uint8 pixels to what the network sees, on whole batches and on the model's device."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from leukemia.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AUGMENTATIONS = ("none", "views", "full")
VIEWS = 8  # four quarter turns, each as it is and mirrored


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (N, H, W, 3), 0 to 255, to a channels-last float batch (N, 3, H, W) with ImageNet statistics."""
    count, height, width, _ = pixels.shape
    offset, scale = _of_a_row(width, pixels.device)
    values = pixels.reshape(count, height, 3 * width).to(torch.float32, copy=True)
    return values.sub_(offset).div_(scale).view(count, height, width, 3).permute(0, 3, 1, 2)


@cache
def _of_a_row(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each number in a row of pixels, (3 * width,): whole rows are three times as fast as
    colours, and a GPU keeps them."""
    with torch.inference_mode(False):
        mean, deviation = (
            255 * torch.tensor(values, device=device).repeat(width)
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    return mean, deviation


def augment(pixels: Tensor, augmentation: str, seed: int) -> Tensor:
    """Vary a batch of pixels (N, H, W, 3); all randomness comes from `seed`, on any device alike.

    Args:
        pixels: uint8.
        augmentation: `none`; `views`, one of the 8 flips and quarter turns for each cell; `full`, a rotation by
            any angle, a flip, a shift, a scale and a mild stain jitter. Black stays black in all of them.
        seed: of this batch.

    Returns:
        uint8 for `none` and `views`, float32 (0 to 255) for `full`; the shape is kept.
    """
    if augmentation == "none":
        return pixels
    if augmentation == "views":
        chosen = chosen_views(len(pixels), seed)
        varied = torch.empty_like(pixels)
        for number in chosen.unique().tolist():
            rows = (chosen == number).nonzero().flatten().to(pixels.device)
            varied[rows] = view(pixels[rows], number)
        return varied
    if augmentation == "full":
        generator = torch.Generator().manual_seed(seed)
        return _stain(_warp(pixels, generator), generator)
    raise InputError(f"data.augment={augmentation} is unknown: use one of {', '.join(AUGMENTATIONS)}")


def chosen_views(count: int, seed: int) -> Tensor:
    """The view that each of a batch's cells is shown in, from the batch's seed: int64 (count,), 0 to 7."""
    return torch.randint(VIEWS, (count,), generator=torch.Generator().manual_seed(seed))


def view(pixels: Tensor, number: int) -> Tensor:
    """One of the 8 views of square pixels (N, S, S, 3): quarter turns `number % 4`, mirrored from 4 on."""
    turned = torch.rot90(pixels, number % 4, dims=(1, 2))
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
    grid = functional.affine_grid(
        matrix.view(count, 2, 3).to(pixels.device), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False).permute(0, 2, 3, 1)


def _stain(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Scale each channel by 0.9 to 1.1 and the whole by 0.9 to 1.1; as a product it leaves black black."""
    channels = 0.9 + 0.2 * torch.rand(len(pixels), 1, 1, 3, generator=generator)
    whole = 0.9 + 0.2 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    return (pixels * (channels * whole).to(pixels.device)).clamp(0, 255)
