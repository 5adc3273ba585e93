"""The LightningDataModule: from a data folder to batches with splits."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from leukemia.data.class_folders import read_class_folders
from leukemia.data.cnmc import CLASSES, read_cnmc
from leukemia.data.handcrafted import handcrafted_features
from leukemia.data.loader import Batch, CellLoader
from leukemia.data.pixels import CNMC_SIZE, RESIZES, Pixels, load_pixels
from leukemia.data.sources import BatchSource
from leukemia.data.splits import PROTOCOLS, SPLITS, assign_splits, leaking, splits_table
from leukemia.data.transforms import AUGMENTATIONS, VIEWS, augment
from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.models.resnet import StagedResNet
from leukemia.storage.cache import cached_folder

LAYOUTS = ("cnmc", "cells")
SWITCH = ("auto", "off")


class CellDataModule(pl.LightningDataModule):
    """Cells of a C-NMC folder, or of a folder or manifest of one's own, in batches for training and evaluation.

    Args:
        root: the data folder as it was downloaded, or a manifest csv (`layout="cells"`).
        layout: `cnmc`, or `cells` for class folders and manifests.
        protocol: `official`, `holdout`, `subject_kfold` or `image`; see `assign_splits`.
        fold: k of the folds, from 0.
        num_folds: number of folds.
        split_seed: of the folds; independent of `seed`.
        image_size: height and width that the network sees.
        resize: `squash` or `crop`; see `leukemia.data.pixels.fit`.
        batch_size: cells in a training batch, per device; evaluation uses twice as many.
        positive: the class that counts as 1, for `layout="cells"`.
        augment: `none`, `views` or `full`; see `leukemia.data.transforms.augment`.
        features: `auto` trains on stored activations of the frozen stages where that can be, `off` never.
        test_views: 1, or 8 for mean logits over the flips and quarter turns on the reported split.
        resident: `auto` keeps the data on a GPU that has room for them, `off` never.
        seed: of order and augmentation.
        demo_images: write a synthetic set of this many images, and read it, where no root is given.
        max_gb: the bound of the cache in GB.

    Raises:
        InputError: for settings that cannot be; the folder is looked at by `prepare_data` and `setup`.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: str = "cnmc",
        protocol: str = "official",
        fold: int = 0,
        num_folds: int = 5,
        split_seed: int = 0,
        image_size: int = 224,
        resize: str = "squash",
        batch_size: int = 32,
        positive: str | None = None,
        augment: str = "none",
        features: str = "auto",
        resident: str = "auto",
        test_views: int = 1,
        seed: int = 0,
        demo_images: int = 0,
        max_gb: float | None = None,
    ) -> None:
        super().__init__()
        _one_of("data.layout", layout, LAYOUTS)
        _one_of("data.protocol", protocol, PROTOCOLS)
        _one_of("data.resize", resize, RESIZES)
        _one_of("data.augment", augment, AUGMENTATIONS)
        _one_of("data.cache_features", features, SWITCH)
        _one_of("data.keep_on_gpu", resident, SWITCH)
        _one_of("data.tta", test_views, (1, VIEWS))
        _at_least("data.image_size", image_size, 32)
        _at_least("data.batch_size", batch_size, 2)
        _at_least("data.num_folds", num_folds, 3)
        _at_least("data.fold", fold, 0)
        if fold >= num_folds:
            raise InputError(f"data.fold={fold} is out of range: use 0 to {num_folds - 1}")
        if root is None and not demo_images:
            raise InputError("data.root is not given: name the data folder with data.root=DIR")
        self.save_hyperparameters(logger=False)
        self.given_root = root
        self.layout, self.protocol, self.fold, self.num_folds = layout, protocol, fold, num_folds
        self.split_seed, self.image_size, self.resize = split_seed, image_size, resize
        self.batch_size, self.positive, self.augment = batch_size, positive, augment
        self.features, self.resident, self.test_views = features, resident, test_views
        self.seed, self.demo_images, self.max_gb = seed, demo_images, max_gb

    @cached_property
    def root(self) -> Path:
        """The data folder or manifest; the synthetic set is written when it is first asked for."""
        if self.given_root is not None:
            return Path(str(self.given_root)).expanduser()
        images = self.demo_images
        return cached_folder(f"demo-{images}", lambda folder: _write_demo(folder, images), self.max_gb)

    @cached_property
    def index(self) -> pd.DataFrame:
        """The labelled cells; names only are read."""
        return self._index_and_classes[0]

    @property
    def classes(self) -> tuple[str, str]:
        """The names of class 0 and class 1."""
        return self._index_and_classes[1]

    @cached_property
    def pixels(self) -> Pixels:
        """The pixels of `index`, row by row."""
        folder = self.root.parent if self.root.is_file() else self.root
        return load_pixels(
            folder, self.index["path"].tolist(), self.image_size, self.resize, self.native_size, self.max_gb
        )

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells of this split: `path, subject, group, label, split, pixel_hash`."""
        return assign_splits(
            self.index,
            self.pixels.hashes,
            self.protocol,
            self.fold,
            self.num_folds,
            self.split_seed,
            self.classes,
        )

    def shapes(self, split: str) -> np.ndarray:
        """Area, colour and roundness of the cells of a split, in the order of `cells`; see `handcrafted_features`."""
        return handcrafted_features(self.pixels, self.max_gb)[self._rows(split)]

    @property
    def native_size(self) -> int | None:
        return CNMC_SIZE if self.layout == "cnmc" else None

    @property
    def reported_split(self) -> str:
        """The split that the final figures are of: `test`, or `val` where the split has no test split."""
        return "test" if (self.cells["split"] == "test").any() else "val"

    @property
    def leaks(self) -> int:
        """Cells of the reported split that are not independent of the other splits."""
        return int((leaking(self.cells) & (self.cells["split"] == self.reported_split)).sum())

    def describe(self) -> str:
        """The table of splits, and a warning where they leak."""
        text = splits_table(self.cells, self.classes).to_string()
        if not self.leaks:
            return text
        if self.cells["subject"].isna().any():
            why = "subjects are unknown, so its figures are too good for new patients"
        else:
            why = (
                f"{self.leaks} {self.reported_split} cells share subject, group or picture with another split"
            )
        return f"{text}\nWARNING: this split leaks: {why}"

    def prepare_data(self) -> None:
        """Decode every picture into the cache, where it does not lie there already."""
        assert len(self.pixels.images) == len(self.index)

    def setup(self, stage: str | None = None) -> None:
        assert set(self.cells["split"]) <= set(SPLITS)
        model = self.trainer.lightning_module if self.trainer else None
        if stage == "fit" and isinstance(model, CellClassifier) and self.sources.chosen_for is not model.net:
            assert self.trainer is not None
            self.choose_features(model, self.trainer.strategy.root_device.type, str(self.trainer.precision))

    def choose_features(self, model: CellClassifier, device: str, precision: str) -> str:
        """Decide whether training this model reads stored activations, and say why in a line; see `BatchSource.choose`.

        Args:
            model: that will be trained.
            device: the type of device that trains it.
            precision: in which it is trained.
        """
        if self.features == "off":
            return "off"
        splits = self.index["published_split"][self.index["path"].isin(self.cells["path"])].unique()
        return self.sources.choose(model.net, bool(model.unfreeze_at), device, precision, splits)

    def train_dataloader(self) -> CellLoader:
        return self._share("train", shuffle=True)

    def val_dataloader(self) -> CellLoader:
        return self._share("val")

    def test_dataloader(self) -> CellLoader:
        return self._share(self.reported_split)

    def batches(
        self,
        split: str,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        net: StagedResNet | None = None,
    ) -> CellLoader:
        """The cells of a split, in the order of `cells` unless shuffled; see `CellLoader`.

        They come as pixels; as features where `net` is given and its frozen stages are those whose activations
        training reads.
        """
        rows = self._rows(split)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return CellLoader(
            self.sources.of(rows, device, net, varied=shuffle),
            self.index["label"].to_numpy(),
            rows,
            batch_size=self.batch_size if shuffle else 2 * self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
            pinned=device.type == "cuda",
        )

    @cached_property
    def sources(self) -> BatchSource:
        """What batches are cut from."""
        split = self.index["published_split"].to_numpy()
        return BatchSource(self.pixels, split, self.augment, self.resident == "auto", self.max_gb)

    def _rows(self, split: str) -> np.ndarray:
        """The rows of `index` that hold the cells of a split."""
        of_split = self.cells["path"][self.cells["split"] == split]
        row_of_path = pd.Series(np.arange(len(self.index)), index=self.index["path"].to_numpy())
        return np.asarray(row_of_path.loc[of_split].to_numpy())

    def _share(self, split: str, shuffle: bool = False) -> CellLoader:
        """The batches of this process among those of the trainer."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        model = self.trainer.lightning_module if self.trainer else None
        net = model.net if isinstance(model, CellClassifier) else None
        return self.batches(split, shuffle, rank, world_size, net)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if "pixels" in batch and self.trainer is not None and self.trainer.training:
            return {**batch, "pixels": augment(batch["pixels"], self.augment, batch["seed"])}
        return batch

    @cached_property
    def _index_and_classes(self) -> tuple[pd.DataFrame, tuple[str, str]]:
        if self.layout == "cnmc":
            index, classes = read_cnmc(self.root), CLASSES
        else:
            index, classes = read_class_folders(self.root, self.positive)
        return index[index["label"] >= 0].reset_index(drop=True), classes


def _write_demo(folder: Path, images: int) -> None:
    from leukemia.data.demo import write_demo

    write_demo(folder / "C-NMC_Leukemia", images=images)


def _one_of(key: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise InputError(f"{key}={value} is unknown: use one of {', '.join(map(str, known))}")


def _at_least(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(f"{key}={value} is out of range: use a whole number from {least} up")
