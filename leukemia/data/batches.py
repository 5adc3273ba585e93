"""Batches sliced whole from a memory map, in an order that follows from (seed, epoch, rank) alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

Batch = dict[str, Any]


class Batches:
    """An iterable over batches of cells; Lightning's trainer tells it the epoch.

    A batch holds `pixels` uint8 (N, S, S, 3), `label` float32 (N,), `cell` int64 (N,), the row in the pixels,
    and `seed`, an int, from which all that is random about this batch derives.

    Args:
        images: uint8, (cells, S, S, 3).
        labels: 0 or 1, (cells,).
        rows: the cells to go through, in this order unless shuffled.
        batch_size: cells in a batch. A last batch of a single cell joins the one before it, for batch
            statistics of one cell do not exist.
        seed: of the run.
        shuffle: a new order each epoch. Every process of a distributed run then gets the same number of
            batches, the last filled up with cells from the start. Without, no cell comes twice.
        rank: of this process.
        world_size: processes that share the cells.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.labels, self.rows = images, labels, np.array(rows)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._starts(len(self._order())))

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        starts = self._starts(len(order))
        for number, rows in enumerate(np.split(order, starts[1:]) if starts else []):
            seed = np.random.SeedSequence([self.seed, self.epoch, number, self.rank]).generate_state(2)
            yield {
                "pixels": torch.from_numpy(np.asarray(self.images[rows])),
                "label": torch.from_numpy(self.labels[rows].astype(np.float32)),
                "cell": torch.from_numpy(rows),
                "seed": int(seed[0]) << 16
                ^ int(seed[1]),  # an int stays with the processor: no GPU waits for it
            }

    def _order(self) -> np.ndarray:
        """The cells of this process in this epoch."""
        rows = self.rows
        if self.shuffle:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
            rows = np.resize(rows, -(-len(rows) // self.world_size) * self.world_size)
        return rows[self.rank :: self.world_size]

    def _starts(self, count: int) -> list[int]:
        starts = list(range(0, count, self.batch_size))
        if self.shuffle and len(starts) > 1 and count - starts[-1] == 1:
            starts.pop()
        return starts
