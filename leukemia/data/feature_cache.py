"""Activations of the frozen stages: computed once for each cell and view, and kept in the cache.

Where the boundary never moves and a cell is only ever seen in a finite set of views, the frozen stages are a
pure function of the picture. What they give is stored, and training starts from there.
"""

import hashlib
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from leukemia.data.pixels import Pixels
from leukemia.data.transforms import normalise, view
from leukemia.errors import InputError
from leukemia.models.resnet import STAGES, StagedResNet
from leukemia.precision import autocast
from leukemia.storage.cache import cache_dir, cached_folder, preallocate_npy

VERSION = 1  # of what the map holds: counted up when the same input would give other activations
BATCH_SIZE = {"cpu": 16, "cuda": 256}  # of the pass; a processor is slower with more than fit its caches
# Multiply-adds that a stored byte has to save, else computing is faster than reading: a processor of two cores
# does a thousand while a slow disk reads a byte; a GPU does more while the bus brings one.
WORTH = {"cpu": 1_000, "cuda": 5_000}


def why_not(net: StagedResNet, scheduled: bool, augmentation: str) -> str | None:
    """Why a run cannot train on stored activations, or None where it can."""
    if scheduled:
        return "model.unfreeze thaws stages later on"
    if net.trainable_from == STAGES[0]:
        return f"with model.trainable_from={STAGES[0]} no stage is frozen"
    if augmentation not in ("none", "views"):
        return f"data.augment={augmentation} shows a cell in another picture each time"
    return None


Part = tuple[np.ndarray, int]  # cells, as rows of the pixel map, and the number of the view they are seen in


class FrozenFeatures:
    """What the frozen stages of a network give for the cells of a pixel map.

    Args:
        net: its frozen stages run when activations are first asked for.
        pixels: of the cells.
        device: the type of the device that computes, `cpu` or `cuda`.
        precision: of the run, as Lightning names it.
        max_gb: the bound of the cache.
    """

    def __init__(
        self, net: StagedResNet, pixels: Pixels, device: str, precision: str, max_gb: float | None = None
    ) -> None:
        self.net, self.pixels = net, pixels
        self.device, self.precision, self.max_gb = device, precision, max_gb
        with FlopCounterMode(display=False) as counter:
            self.shape = tuple(self._of_one_cell().shape[1:])
        self.multiply_adds = counter.get_total_flops() // 2  # for one cell

    def are_of(self, net: StagedResNet) -> bool:
        """Whether the frozen stages of a network are those of this one."""
        return net is self.net or _content(net).digest() == _content(self.net).digest()

    def not_worth_it(self) -> str | None:
        """Why reading the activations of a cell costs more than computing them, or None where it does not."""
        if self.multiply_adds >= WORTH.get(self.device, WORTH["cpu"]) * self.nbytes(1):
            return None
        return (
            f"reading {self.nbytes(1) / 1e6:.1f} MB a cell costs more than the "
            f"{self.multiply_adds / 1e6:.0f} million multiply-adds of the frozen stages"
        )

    def nbytes(self, count: int) -> int:
        """The bytes of the activations of so many cells, in half precision."""
        return 2 * count * int(np.prod(self.shape))

    def lacking_room(self, parts: Sequence[Part]) -> str | None:
        """Why the activations of these cells and views do not fit into the cache, or None where they do."""
        sizes = {
            name: self.nbytes(len(cells)) for name, (cells, _) in zip(self._names(parts), parts, strict=True)
        }
        needed = sum(sizes.values())
        if self.max_gb is not None and needed + self.pixels.images.nbytes > self.max_gb * 1e9:
            return f"pixels and {needed / 1e9:.1f} GB of activations exceed cache.max_gb={self.max_gb:g}"
        place = cache_dir()
        missing = sum(size for name, size in sizes.items() if not (place / name).is_dir())
        free = shutil.disk_usage(place).free
        if missing > free:
            return f"{missing / 1e9:.1f} GB of activations do not fit into {place} ({free / 1e9:.1f} GB free)"
        return None

    def load(self, parts: Sequence[Part]) -> tuple[list[np.ndarray], torch.dtype]:
        """The activations of each part, (cells, *shape), and the type in which the network gives them.

        They are read-only memory maps, in half precision where it can hold them, else in float32.

        Raises:
            UnusableCacheError: if the cache cannot be written.
            InputError: if activations are not finite.
        """
        maps = []
        for name, part in zip(self._names(parts), parts, strict=True):
            folder = cached_folder(name, partial(self._compute, part), self.max_gb)
            maps.append(np.load(folder / "activations.npy", mmap_mode="r"))
        return maps, self._of_one_cell().dtype

    def _compute(self, part: Part, folder: Path, dtype: type = np.float16) -> None:
        cells, number = part
        stored = preallocate_npy(folder / "activations.npy", (len(cells), *self.shape), np.dtype(dtype))
        size = BATCH_SIZE.get(self.device, BATCH_SIZE["cpu"])
        words = f"frozen stages, view {number + 1}" if number else "frozen stages"
        with tqdm(desc=words, total=len(cells), unit="cell", disable=None) as bar:
            for start in range(0, len(cells), size):
                rows = cells[start : start + size]
                values = self._activations(self.pixels.images[rows], number).float()
                kept = values.half() if dtype == np.float16 else values
                if not torch.isfinite(kept).all():
                    if torch.isfinite(values).all():
                        return self._compute(part, folder, np.float32)
                    raise InputError(
                        f"the frozen stages give values that are not finite for cells {rows[0]} to {rows[-1]}: "
                        "use other model.net.weights, or trainer.precision=32-true"
                    )
                stored[start : start + len(rows)] = kept.cpu().numpy()
                bar.update(len(rows))
        stored.flush()  # type: ignore[attr-defined]

    def _of_one_cell(self) -> Tensor:
        return self._activations(np.zeros_like(self.pixels.images[:1]), 0)

    def _activations(self, images: np.ndarray, number: int) -> Tensor:
        device = next(self.net.parameters()).device
        pixels = view(torch.from_numpy(images).to(device), number).contiguous()
        with autocast(device.type, self.precision):
            return self.net.prefix(normalise(pixels))

    def _names(self, parts: Sequence[Part]) -> list[str]:
        """The cache folders of parts: named by all that the activations depend on."""
        common = _content(self.net)
        common.update(f"{VERSION} {self.pixels.key} {self.device} {self.precision}".encode())
        names = []
        for cells, number in parts:
            digest = common.copy()
            digest.update(f"{number} ".encode() + np.ascontiguousarray(cells).tobytes())
            names.append(f"features-{digest.hexdigest()}")
        return names


def _content(net: StagedResNet) -> "hashlib.blake2b":
    """A digest of what the frozen stages hold."""
    digest = hashlib.blake2b(digest_size=12)
    for stage in STAGES:
        for module in net.modules_of(stage) if net.is_frozen(stage) else []:
            for name, tensor in module.state_dict().items():
                digest.update(f"{stage} {name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.cpu().contiguous().numpy().data)
    return digest
