"""What batches are cut from: pixels or features, in a memory map or on the device."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leukemia.data.transforms import chosen_views

log = logging.getLogger(__name__)
ROOM = 0.5  # the share of a device's free memory that data may take


@dataclass(frozen=True)
class ArrayStore:
    """A value for each cell, or one for each of its views.

    Attributes:
        name: under which a batch holds it, `pixels` or `features`.
        views: one array (cells, ...) for each view; memory maps, or tensors on the device.
        cells: the rows of the index that the arrays hold, ascending; None if they hold all.
        dtype: that a batch gets; None for the stored one.
    """

    name: str
    views: Sequence[np.ndarray | Tensor]
    cells: np.ndarray | None = None
    dtype: torch.dtype | None = None

    def read(self, cells: np.ndarray, seed: int) -> Tensor:
        """The values of cells, (N, ...); where there are several views, each in the one that the seed draws."""
        places = cells if self.cells is None else np.searchsorted(self.cells, cells)
        if len(self.views) == 1:
            values = _rows(self.views[0], places)
        else:
            chosen = chosen_views(len(cells), seed).numpy()
            numbers = np.unique(chosen)
            parts = [_rows(self.views[number], places[chosen == number]) for number in numbers]
            back = np.argsort(np.concatenate([np.flatnonzero(chosen == number) for number in numbers]))
            values = torch.cat(parts)[torch.from_numpy(back)]
        return values if self.dtype is None else values.to(self.dtype)


def resident(views: Sequence[np.ndarray | Tensor], device: torch.device) -> Sequence[np.ndarray | Tensor]:
    """The arrays on the device, where they take no more than ROOM of its free memory; else as they are.

    On the processor they stay memory maps: what is used often lies in memory anyway.
    """
    size = sum(array.nbytes for array in views)
    if device.type != "cuda" or size > ROOM * torch.cuda.mem_get_info(device)[0]:
        return views
    log.info("data.keep_on_gpu=auto: %.2f GB of data live on %s", size / 1e9, device)
    return [torch.as_tensor(np.ascontiguousarray(array), device=device) for array in views]


def _rows(array: np.ndarray | Tensor, places: np.ndarray) -> Tensor:
    if isinstance(array, Tensor):
        return array[torch.from_numpy(places).to(array.device)]
    return torch.from_numpy(np.asarray(array[places]))
