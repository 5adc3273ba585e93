"""Which store batches are cut from: the pixels, or the activations of a network's frozen stages."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only

from leukemia.data.array_store import ArrayStore, resident
from leukemia.data.feature_cache import FrozenFeatures, Part, why_not
from leukemia.data.pixels import Pixels
from leukemia.data.transforms import VIEWS
from leukemia.models.resnet import StagedResNet
from leukemia.storage.cache import UnusableCacheError

log = logging.getLogger(__name__)
_tell = rank_zero_only(log.info)


class BatchSource:
    """The stores of a data set: its pixels from the start, activations once a network is frozen.

    Args:
        pixels: of the index.
        split: of each cell of the index, as read. A split lies within one split, so that what is stored for a
            split serves every fold.
        augmentation: with `views`, activations of the training split are stored in all views.
        keep_resident: whether what is stored may live on a GPU.
        max_gb: the bound of the cache.
    """

    def __init__(
        self,
        pixels: Pixels,
        split: np.ndarray,
        augmentation: str,
        keep_resident: bool,
        max_gb: float | None = None,
    ) -> None:
        self.pixels, self.split, self.augmentation = pixels, split, augmentation
        self.keep_resident, self.max_gb = keep_resident, max_gb
        self.frozen: FrozenFeatures | None = None
        self.chosen_for: StagedResNet | None = None
        self._chosen: dict[str, list[Part]] = {}  # what is computed of each split
        self._opened: dict[str, ArrayStore] = {}

    def choose(
        self, net: StagedResNet, scheduled: bool, device: str, precision: str, splits: Iterable[str]
    ) -> str:
        """Turn to the activations of a network's frozen stages where that can be, and say why in a line.

        Args:
            net: the network that will be trained.
            scheduled: whether its boundary moves.
            device: the type of device that trains it.
            precision: in which it is trained.
            splits: that will be read.

        Returns:
            What a run has to remember to choose alike when it goes on: `off` where only room was lacking, else
            `auto`, for the rest follows from the settings.
        """
        self.frozen, self.chosen_for = None, net
        self._opened = {name: stored for name, stored in self._opened.items() if stored.name == "pixels"}
        reason = why_not(net, scheduled, self.augmentation)
        if reason is None:
            frozen = FrozenFeatures(net, self.pixels, device, precision, self.max_gb)
            self._chosen = {split: self._parts(split) for split in splits}
            parts = [part for of_split in self._chosen.values() for part in of_split]
            reason = frozen.not_worth_it()
        room = frozen.lacking_room(parts) if reason is None else None
        if reason or room:
            _tell("data.cache_features=auto: off, because %s", reason or room)
            return "off" if room else "auto"
        self.frozen = frozen
        _tell(
            "data.cache_features=auto: on, because the stages before %s are frozen: their activations%s are computed "
            "once (%.0f MB) and then read",
            net.trainable_from,
            f" in {VIEWS} views" if self.augmentation == "views" else "",
            sum(frozen.nbytes(len(cells)) for cells, _ in parts) / 1e6,
        )
        return "auto"

    def of(
        self, cells: np.ndarray, device: torch.device, net: StagedResNet | None = None, varied: bool = False
    ) -> ArrayStore:
        """The store to cut batches of these cells from.

        Args:
            cells: rows of the index, of one split.
            device: that reads them.
            net: that reads them; only one with the frozen stages that were chosen gets their activations.
            varied: whether each cell may come in any of its views.
        """
        stored = None
        if net is not None and self.frozen is not None and len(cells) and self.frozen.are_of(net):
            stored = self._features(cells, device)
        if stored is None:
            stored = self._open("pixels", ArrayStore("pixels", [self.pixels.images]), device)
        return stored if varied else replace(stored, views=stored.views[:1])

    def _features(self, cells: np.ndarray, device: torch.device) -> ArrayStore | None:
        assert self.frozen is not None
        split = self.split[cells[0]]
        if split not in self._opened:  # all splits at once, while the network is on its device
            try:
                maps, dtype = self.frozen.load([part for parts in self._chosen.values() for part in parts])
            except UnusableCacheError as error:
                log.warning("data.cache_features=auto: off from here on, because %s", error)
                self.frozen = None
                return None
            following = iter(maps)
            for name, parts in self._chosen.items():
                self._open(
                    name,
                    ArrayStore("features", list(islice(following, len(parts))), parts[0][0], dtype),
                    device,
                )
        return self._opened[split]

    def _open(self, name: str, stored: ArrayStore, device: torch.device) -> ArrayStore:
        if name not in self._opened:
            views = resident(stored.views, device) if self.keep_resident else stored.views
            self._opened[name] = replace(stored, views=views)
        return self._opened[name]

    def _parts(self, split: str) -> list[Part]:
        several = split == "train" and self.augmentation == "views"
        return [(np.flatnonzero(self.split == split), number) for number in range(VIEWS if several else 1)]
