"""The arrays that batches are read from: pixels or features, in a memory map or on the device."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from leukemia.data.transforms import draw_d4

log = logging.getLogger(__name__)
ROOM = 0.5  # share of a device's free memory for data


@dataclass(frozen=True)
class ArrayStore:
    """A value for each cell, or one for each of its D4 transforms.

    Attributes:
        name: the key in a batch, `pixels` or `features`.
        arrays: one array (cells, ...) for each D4 transform; memory maps, or tensors on the device.
        cells: the rows of the table of cells that the arrays hold, ascending; None if they hold all.
        dtype: of a batch; None for the stored one.
    """

    name: str
    arrays: Sequence[np.ndarray | Tensor]
    cells: np.ndarray | None = None
    dtype: torch.dtype | None = None

    def read(self, cells: np.ndarray, seed: int) -> Tensor:
        """The values of cells, (N, ...). Of several D4 transforms, the seed draws one for each cell."""
        places = cells if self.cells is None else np.searchsorted(self.cells, cells)
        if len(self.arrays) == 1:
            values = _rows(self.arrays[0], places)
        else:
            drawn = draw_d4(len(cells), seed).numpy()
            numbers = np.unique(drawn)
            parts = [_rows(self.arrays[number], places[drawn == number]) for number in numbers]
            back = np.argsort(np.concatenate([np.flatnonzero(drawn == number) for number in numbers]))
            values = torch.cat(parts)[torch.from_numpy(back)]
        return values if self.dtype is None else values.to(self.dtype)


def on_device(store: ArrayStore, device: torch.device) -> ArrayStore:
    """The store with its arrays on a GPU, where they take at most ROOM of its free memory; else unchanged.

    On a processor the arrays stay memory maps, because the system keeps their pages in memory.
    """
    if device.type != "cuda" or isinstance(store.arrays[0], Tensor):
        return store
    size = sum(array.nbytes for array in store.arrays)
    if size > ROOM * torch.cuda.mem_get_info(device)[0]:
        return store
    log.info("data.keep_on_gpu=auto: %.2f GB of data live on %s", size / 1e9, device)
    moved = [torch.as_tensor(np.ascontiguousarray(array), device=device) for array in store.arrays]
    return replace(store, arrays=moved)


def _rows(array: np.ndarray | Tensor, places: np.ndarray) -> Tensor:
    if isinstance(array, Tensor):
        return array[torch.from_numpy(places).to(array.device)]
    return torch.from_numpy(np.asarray(array[places]))
