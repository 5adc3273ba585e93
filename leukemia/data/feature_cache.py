"""The feature cache: activations of the frozen stages, computed once for each cell and D4 transform.

Where the boundary does not move and a cell comes in a finite set of D4 transforms, the frozen stages are a pure
function of its picture. Their activations are stored, and training starts from them.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from leukemia.data.array_store import ArrayStore
from leukemia.data.pixels import Pixels
from leukemia.data.threads import side_by_side
from leukemia.data.transforms import d4
from leukemia.errors import InputError
from leukemia.precision import autocast
from leukemia.storage.cache import cache_dir, cached_folder, preallocate_npy

VERSION = 4  # of the cached activations: raise it when the same input would give others
BATCH_SIZE = {"cpu": 16, "cuda": 256}  # cells; a processor is slower with more than fit its caches
# Cache only if this saves at least N multiply-adds per byte read. A processor of two cores does a thousand while a
# slow disk reads a byte; a GPU does more while the bus brings one.
WORTH = {"cpu": 1_000, "cuda": 5_000}

PASS = "pass.json"  # cells, seconds and threads of the pass that computed a part

Part = tuple[np.ndarray, int]  # cells, as rows of the pixel map, and the number of their D4 transform


@runtime_checkable
class FrozenPrefix(Protocol):
    """All that data knows of a network: its frozen stages."""

    @property
    def boundary(self) -> str | None:
        """The name of the first stage that trains; None where no stage is frozen."""

    @property
    def boundary_moves(self) -> bool:
        """Whether an unfreeze schedule moves the boundary."""

    @property
    def device(self) -> torch.device:
        """The place of the network."""

    def prefix(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (N, S, S, 3), to the activations at the boundary, (N, ...), without a graph."""

    def prefix_hash(self) -> str:
        """A content hash of the frozen stages (weights and buffers), the boundary and the normalisation."""

    def multiply_adds(self, size: int) -> int:
        """Those of the frozen stages for one picture of `size` x `size`."""

    @property
    def engine(self) -> str:
        """The name and version of the engine that computes the frozen stages."""

    @property
    def many_threads(self) -> bool:
        """Whether several threads may compute the frozen stages at once."""


def why_not(model: FrozenPrefix, augmentation: str) -> str | None:
    """The reason why a run cannot train on cached features, or None."""
    if model.boundary_moves:
        return "model.unfreeze thaws stages later on"
    if model.boundary is None:
        return "no stage is frozen"
    if augmentation == "full":
        return "data.augment=full shows a new picture of a cell each time"
    return None


class FeatureCache:
    """The activations of a model's frozen stages for the cells of a pixel map.

    Args:
        model: runs its frozen stages when activations are first needed.
        pixels: of the cells.
        parts: for each published split, its cells and their D4 transforms. A split of a run lies within the published
            one where it can be cached, so the cached parts serve every fold.
        device: type of the device that trains, `cpu` or `cuda`.
        precision: of the run, as Lightning names it.
        max_gb: the bound of the cache.
    """

    def __init__(
        self,
        model: FrozenPrefix,
        pixels: Pixels,
        parts: Mapping[str, Sequence[Part]],
        device: str,
        precision: str,
        max_gb: float | None = None,
    ) -> None:
        self.model, self.pixels, self.parts = model, pixels, parts
        self.device, self.precision, self.max_gb = device, precision, max_gb
        self.cost: dict[str, Any] | None = None  # of the loaded activations, see `_cost`
        self._loaded = ""  # the content hash of the frozen stages that computed the loaded activations
        self.shape = tuple(self._of_one_cell().shape[1:])
        self.multiply_adds = model.multiply_adds(pixels.images.shape[1])

    def belongs_to(self, model: FrozenPrefix) -> bool:
        """Whether the frozen stages of a model give these activations."""
        if model is self.model and not self._loaded:
            return True
        return model.prefix_hash() == (self._loaded or self.model.prefix_hash())

    def not_worth_it(self) -> str | None:
        """The reason why reading a cell's activations costs more than computing them, or None."""
        if self.multiply_adds >= WORTH.get(self.device, WORTH["cpu"]) * self.nbytes(1):
            return None
        return (
            f"reading {self.nbytes(1) / 1e6:.1f} MB a cell costs more than the "
            f"{self.multiply_adds / 1e6:.0f} million multiply-adds of the frozen stages"
        )

    def nbytes(self, count: int | None = None) -> int:
        """The bytes of the activations of `count` cells, or of all parts, in half precision."""
        if count is None:
            count = sum(len(cells) for cells, _ in self._all_parts())
        return 2 * count * int(np.prod(self.shape))

    def lacking_room(self) -> str | None:
        """The reason why the activations do not fit into the cache, or None."""
        if self.max_gb is not None and self.nbytes() + self.pixels.images.nbytes > self.max_gb * 1e9:
            return (
                f"pixels and {self.nbytes() / 1e9:.1f} GB of activations exceed cache.max_gb={self.max_gb:g}"
            )
        place, common = cache_dir(), self._common(self.model.prefix_hash())
        missing = sum(
            self.nbytes(len(part[0]))
            for part in self._all_parts()
            if not (place / _name(common, part)).is_dir()
        )
        free = shutil.disk_usage(place).free
        if missing > free:
            return f"{missing / 1e9:.1f} GB of activations do not fit into {place} ({free / 1e9:.1f} GB free)"
        return None

    def load(self) -> dict[str, ArrayStore]:
        """The activations of each published split, with an array (cells, *shape) for each D4 transform.

        They are read-only memory maps, in half precision where it can hold them, else in float32.

        Raises:
            UnusableCacheError: if the cache cannot be written.
            InputError: if activations are not finite.
        """
        content = self.model.prefix_hash()
        common, dtype = self._common(content), self._of_one_cell().dtype
        stores = {}
        folders: list[Path] = []
        for split, parts in self.parts.items():
            arrays = []
            for part in parts:
                folder = cached_folder(_name(common, part), partial(self._compute, part), self.max_gb)
                folders.append(folder)
                arrays.append(np.load(folder / "activations.npy", mmap_mode="r"))
            stores[split] = ArrayStore("features", arrays, parts[0][0], dtype)
        self._loaded, self.cost = content, self._cost(folders)
        return stores

    def _cost(self, folders: Sequence[Path]) -> dict[str, Any] | None:
        """The pass that computed the activations, whenever that was: `stage` (the boundary), `cells` (pictures),
        `seconds_per_cell` from stored pixels to stored activations, `device`, `precision`, `engine` and `threads`.
        None where a part does not tell."""
        try:
            passes = [json.loads((folder / PASS).read_text()) for folder in folders]
        except FileNotFoundError:
            return None
        cells = sum(each["cells"] for each in passes)
        seconds = sum(each["seconds"] for each in passes) / max(cells, 1)
        found: dict[str, Any] = {"stage": self.model.boundary, "cells": cells, "seconds_per_cell": seconds}
        found |= {"device": self.device, "precision": self.precision, "engine": self.model.engine}
        return found | {"threads": passes[0]["threads"]}

    def _compute(self, part: Part, folder: Path, dtype: type = np.float16) -> None:
        cells, number = part
        start_of_pass = time.perf_counter()
        stored = preallocate_npy(folder / "activations.npy", (len(cells), *self.shape), np.dtype(dtype))
        size = BATCH_SIZE.get(self.device, BATCH_SIZE["cpu"])
        words = f"frozen stages, D4 transform {number + 1}" if number else "frozen stages"

        def store(start: int) -> int:
            rows = cells[start : start + size]
            values = self._activations(self.pixels.images[rows], number).float()
            kept = values.half() if dtype == np.float16 else values
            if not torch.isfinite(kept).all():
                if torch.isfinite(values).all():
                    raise _BeyondHalf
                raise InputError(
                    f"the frozen stages give values that are not finite for cells {rows[0]} to {rows[-1]}: "
                    "use other model.net.weights, or trainer.precision=32-true"
                )
            stored[start : start + len(rows)] = kept.cpu().numpy()
            return len(rows)

        starts = range(0, len(cells), size)
        threaded = self.device == "cpu" and self.model.many_threads
        counts = side_by_side(store, starts) if threaded else (store(start) for start in starts)
        with closing(counts), tqdm(desc=words, total=len(cells), unit="cell", disable=None) as bar:
            try:
                for count in counts:
                    bar.update(count)
            except _BeyondHalf:
                return self._compute(part, folder, np.float32)
        stored.flush()  # type: ignore[attr-defined]
        seconds = time.perf_counter() - start_of_pass
        passed = {"cells": len(cells), "seconds": seconds, "threads": torch.get_num_threads()}
        (folder / PASS).write_text(json.dumps(passed))

    def _of_one_cell(self) -> Tensor:
        return self._activations(np.zeros_like(self.pixels.images[:1]), 0)

    def _activations(self, images: np.ndarray, number: int) -> Tensor:
        device = self.model.device
        pixels = d4(torch.from_numpy(images).to(device), number).contiguous()
        with torch.no_grad(), autocast(device.type, self.precision):
            return self.model.prefix(pixels)

    def _all_parts(self) -> list[Part]:
        return list(chain.from_iterable(self.parts.values()))

    def _common(self, content: str) -> str:
        """All that the activations of every part depend on; `content` is the hash of the frozen stages."""
        return f"{VERSION} {content} {self.pixels.key} {self.device} {self.precision} {self.model.engine}"


class _BeyondHalf(Exception):
    """Activations are finite, and beyond the range of half precision."""


def _name(common: str, part: Part) -> str:
    """The cache folder of a part, named by all that its activations depend on."""
    cells, number = part
    digest = hashlib.blake2b(f"{common} {number} ".encode(), digest_size=12)
    digest.update(np.ascontiguousarray(cells).tobytes())
    return f"features-{digest.hexdigest()}"
