"""Batches read from arrays, in an order that follows from (seed, epoch, rank) alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from leukemia.data.array_store import ArrayStore
from leukemia.storage.cores import in_order

Batch = dict[str, Any]


class CellLoader:
    """An iterable over batches of cells. Lightning's trainer sets its epoch.

    A batch holds `pixels` uint8 (N, S, S, 3) or `features` (N, ...), `label` float32 (N,), `cell` int64 (N,)
    (the row in the table of cells), and `seed`, an int, from which all randomness of this batch derives. The next
    batch is read while the one before it is in use.

    Args:
        stored: the pixels or features.
        labels: 0 or 1, (cells,).
        rows: the cells of this loader, in this order unless shuffled.
        batch_size: cells in a batch. While training, a last batch of a single cell joins the one before it, because
            BatchNorm needs at least two samples.
        seed: of the run.
        shuffle: a new order each epoch. Then every process of a distributed run gets the same number of batches, the
            last filled up with cells from the start. Without it, no cell comes twice.
        rank: of this process.
        world_size: processes that share the cells.
        pinned: whether batches lie in page-locked memory, from which a GPU copies them while it computes.
    """

    def __init__(
        self,
        stored: ArrayStore,
        labels: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        pinned: bool = False,
    ) -> None:
        self.stored, self.labels, self.rows, self.pinned = stored, labels, np.array(rows), pinned
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._handed_out = 0  # batches of the current epoch
        self._skipped = 0  # batches to skip in the next epoch, for a run that resumes within an epoch
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._starts(len(self._order())))

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        starts = self._starts(len(order))
        parts = np.split(order, starts[1:]) if starts else []
        first, self._skipped = self._skipped % max(len(parts), 1), 0
        numbers = range(first, len(parts))
        with ThreadPoolExecutor(1, "next-batch") as reader:
            batches = in_order(reader, lambda number: self._read(number, parts[number]), numbers, ahead=2)
            for number, batch in zip(numbers, batches, strict=True):
                self._handed_out = number + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches handed out in this epoch, for a run that resumes within an epoch."""
        return {"handed_out": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch after the batches that were handed out."""
        self._skipped = state["handed_out"]

    def _read(self, number: int, rows: np.ndarray) -> Batch:
        words = np.random.SeedSequence([self.seed, self.epoch, number, self.rank]).generate_state(2)
        seed = int(words[0]) << 16 ^ int(words[1])  # an int stays on the processor, so no GPU waits for it
        values = self.stored.read(rows, seed)
        return {
            self.stored.name: values.pin_memory() if self.pinned and not values.is_cuda else values,
            "label": torch.from_numpy(self.labels[rows].astype(np.float32)),
            "cell": torch.from_numpy(rows),
            "seed": seed,
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
