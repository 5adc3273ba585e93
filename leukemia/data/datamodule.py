"""The LightningDataModule: from a data folder to the batches of each split."""

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from leukemia.data.array_store import ArrayStore, on_device
from leukemia.data.cnmc import cnmc
from leukemia.data.demo import MANIFEST, SETS, write_demo
from leukemia.data.feature_cache import FeatureCache, FrozenPrefix, Part, why_not
from leukemia.data.handcrafted import handcrafted_features
from leukemia.data.loader import Batch, CellLoader
from leukemia.data.pixels import RESIZES, Pixels, cell_hashes, load_pixels
from leukemia.data.reader import Classes, Reader, Reading, check_reader, read_cells
from leukemia.data.run_files import SPLITS, checked_image_size
from leukemia.data.splits import PROTOCOLS, assign_splits, leaking, splits_table, with_train_subjects
from leukemia.data.transforms import AUGMENTATIONS, D4, augment
from leukemia.errors import InputError, check_one_of
from leukemia.evaluation.policy import TTA
from leukemia.storage.cache import UnusableCacheError, cached_folder

log = logging.getLogger(__name__)
_tell = rank_zero_only(log.info)
SWITCH = ("auto", "off")


class CellDataModule(pl.LightningDataModule):
    """Cells of a data folder, in batches for training and evaluation.

    Args:
        root: the data folder as it was downloaded, or the file that the reader takes.
        reader: a function from the root to its cells, see `leukemia.data.reader.check_reader_result`.
        protocol: `official`, `holdout`, `subject_kfold` or `image`; see `assign_splits`.
        fold: k of the folds, from 0.
        num_folds: number of folds.
        split_seed: of the folds; independent of `seed`.
        train_subjects: the number of training subjects, for curves by number of subjects; see `with_train_subjects`.
        image_size: height and width of the network's input.
        resize: `squash` or `crop`; see `leukemia.data.pixels.fit`.
        batch_size: cells in a training batch, for each device. Evaluation uses twice as many.
        positive: the class that counts as 1, for a reader that takes it.
        augment: `none`, `d4` or `full`; see `leukemia.data.transforms.augment`.
        cache_features: `auto` trains on cached activations of the frozen stages where possible, `off` never.
        keep_on_gpu: `auto` keeps the data on a GPU with enough memory, `off` never.
        tta: `none`, or `d4` for the mean logit over the 8 D4 transforms on the reported split. It is applied by the
            evaluation of a run, not by the batches.
        seed: of order and augmentation.
        demo_images: the size of a synthetic set, which is written and read where no root is given.
        demo_set: its kind, see `write_demo`.
        max_gb: the bound of the cache in GB.

    Raises:
        InputError: for a setting out of range. The data are read by `prepare_data` and `setup`.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        reader: Reader = cnmc,
        protocol: str = "official",
        fold: int = 0,
        num_folds: int = 5,
        split_seed: int = 0,
        train_subjects: int | None = None,
        image_size: int = 224,
        resize: str = "squash",
        batch_size: int = 32,
        positive: str | None = None,
        augment: str = "none",
        cache_features: str = "auto",
        keep_on_gpu: str = "auto",
        tta: str = "none",
        seed: int = 0,
        demo_images: int = 0,
        demo_set: str = "cnmc",
        max_gb: float | None = None,
    ) -> None:
        super().__init__()
        check_one_of("data.protocol", protocol, PROTOCOLS)
        check_one_of("data.resize", resize, RESIZES)
        check_one_of("data.augment", augment, AUGMENTATIONS)
        check_one_of("data.demo_set", demo_set, SETS)
        check_one_of("data.cache_features", cache_features, SWITCH)
        check_one_of("data.keep_on_gpu", keep_on_gpu, SWITCH)
        check_one_of("data.tta", tta, TTA)
        _at_least("data.image_size", image_size, 32)
        checked_image_size(image_size, "data.image_size")
        _at_least("data.batch_size", batch_size, 2)
        _at_least("data.num_folds", num_folds, 3)
        _at_least("data.fold", fold, 0)
        if train_subjects is not None:
            _at_least("data.train_subjects", train_subjects, 2)
        if fold >= num_folds:
            raise InputError(f"data.fold={fold} is out of range: use 0 to {num_folds - 1}")
        if root is None and not demo_images:
            raise InputError("data.root is not given: name the data folder with data.root=DIR")
        check_reader(reader, positive)
        root = None if root is None else str(root)
        self.save_hyperparameters(logger=False, ignore=["reader"])  # a checkpoint holds plain values only
        self.given_root, self.reader, self.positive, self.demo_images = root, reader, positive, demo_images
        self.demo_set = demo_set
        self.protocol, self.fold, self.num_folds, self.split_seed = protocol, fold, num_folds, split_seed
        self.train_subjects = train_subjects
        self.image_size, self.resize, self.batch_size = image_size, resize, batch_size
        self.augment, self.tta, self.seed = augment, tta, seed
        self.cache_features, self.keep_on_gpu, self.max_gb = cache_features, keep_on_gpu, max_gb
        self._cache: FeatureCache | None = None
        self._chosen_for: FrozenPrefix | None = None
        self._stores: dict[str, ArrayStore] = {}  # `pixels`, and features by published split

    @cached_property
    def root(self) -> Path:
        """The data folder or file. The synthetic set is written at the first access."""
        if self.given_root is not None:
            return Path(self.given_root).expanduser()
        images, kind, name = self.demo_images, self.demo_set, "C-NMC_Leukemia"

        def build(folder: Path) -> None:
            write_demo(folder / name, images, kind=kind)

        folder = cached_folder(f"demo-{kind}-{images}", build, self.max_gb)
        return folder / name / MANIFEST if kind == "others" else folder

    @cached_property
    def table(self) -> pd.DataFrame:
        """The labelled cells of the reader. No picture is read."""
        table = self._reading[0]
        return table[table["label"] >= 0].reset_index(drop=True)

    @property
    def classes(self) -> Classes:
        """The names of class 0 and class 1."""
        return self._reading[1]

    @property
    def native_size(self) -> int | None:
        """The size in pixels to whose centre larger pictures are cut; None where there is none."""
        return self._reading[2]

    @cached_property
    def pixels(self) -> Pixels:
        """The pixels of `table`, row by row."""
        folder = self.root.parent if self.root.is_file() else self.root
        paths = self.table["path"].tolist()
        return load_pixels(folder, paths, self.image_size, self.resize, self.native_size, self.max_gb)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells of all splits: `path, subject, group, label, split, pixel_hash`, and the further columns."""
        cells = assign_splits(
            self.table,
            self.pixels.hashes,
            self.protocol,
            self.fold,
            self.num_folds,
            self.split_seed,
            self.classes,
        )
        if self.train_subjects is None:
            return cells
        return with_train_subjects(cells, self.train_subjects, self.split_seed)

    def handcrafted(self, split: str) -> np.ndarray:
        """The handcrafted features of the cells of a split, (n, F); see `leukemia.data.handcrafted.measure`."""
        return handcrafted_features(self.pixels, self.max_gb)[self._rows(split)]

    def cell_hashes(self, split: str) -> np.ndarray:
        """See `leukemia.data.pixels.cell_hashes`; of the cells of a split, (n,)."""
        return cell_hashes(self.pixels.images[row] for row in self._rows(split))

    @property
    def reported_split(self) -> str:
        """The split of the final metrics: `test`, or `val` where the protocol has no test split."""
        return "test" if (self.cells["split"] == "test").any() else "val"

    @property
    def leaks(self) -> int:
        """The number of cells of the reported split that are not independent of the other splits."""
        return int((leaking(self.cells) & (self.cells["split"] == self.reported_split)).sum())

    @property
    def embedding(self) -> dict[str, Any] | None:
        """The cost of the cached activations that training reads, see `FeatureCache`; None where it reads pixels."""
        return self._cache.cost if self._cache else None

    def describe(self) -> str:
        """The table of splits, and a warning where they leak."""
        text = splits_table(self.cells, self.classes).to_string()
        if not self.leaks:
            return text
        why = f"{self.leaks} {self.reported_split} cells share subject, group or picture with another split"
        if self.cells["subject"].isna().any():
            why = "subjects are unknown, so its metrics are too good for new patients"
        return f"{text}\nWARNING: this split leaks: {why}"

    def prepare_data(self) -> None:
        """Decode every picture into the cache, unless it is there already."""
        assert len(self.pixels.images) == len(self.table)

    def setup(self, stage: str | None = None) -> None:
        assert set(self.cells["split"]) <= set(SPLITS)
        model = self._frozen_model
        if stage == "fit" and model is not None and not self._has_chosen(model):
            assert self.trainer is not None
            self.choose_cache(model, self.trainer.strategy.root_device.type, str(self.trainer.precision))

    def choose_cache(self, model: FrozenPrefix, device: str, precision: str) -> str:
        """Decide whether training reads cached activations of a model's frozen stages, and log the reason in a line.

        Args:
            model: that is trained.
            device: type of the device that trains it.
            precision: in which it is trained, as Lightning names it.

        Returns:
            The value of `cache_features` for a run that resumes: `off` where it is set or where room is lacking, else
            `auto`, because the other reasons follow from the settings.
        """
        self._cache, self._chosen_for = None, model
        self._stores = {name: store for name, store in self._stores.items() if name == "pixels"}
        if self.cache_features == "off":
            return "off"
        room = None
        if (reason := why_not(model, self.augment)) is None:
            cache = FeatureCache(model, self.pixels, self._parts(), device, precision, self.max_gb)
            reason = cache.not_worth_it()
            room = None if reason else cache.lacking_room()
        if reason or room:
            _tell("data.cache_features=auto: off, because %s", reason or room)
            return "off" if room else "auto"
        self._cache = cache
        _tell(
            "data.cache_features=auto: on, because the stages before %s are frozen: their activations%s are computed "
            "once (%.0f MB) and then read",
            model.boundary,
            f" for {D4} D4 transforms" if self.augment == "d4" else "",
            cache.nbytes() / 1e6,
        )
        return "auto"

    def train_dataloader(self) -> CellLoader:
        return self._share("train", shuffle=True)

    def val_dataloader(self) -> CellLoader:
        return self._share("val")

    def test_dataloader(self) -> CellLoader:
        return self._share(self.reported_split)

    def predict_dataloader(self) -> CellLoader:
        return self._share(self.reported_split)

    def batches(
        self,
        split: str,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        model: FrozenPrefix | None = None,
    ) -> CellLoader:
        """The cells of a split, in the order of `cells` unless shuffled; see `CellLoader`.

        They come as pixels. They come as features where `model` is given and training reads the cached activations of
        its frozen stages.
        """
        rows = self._rows(split)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        store, size = self._features(rows, device, model) or self._kept("pixels", device), self.batch_size
        if not shuffle:
            store, size = replace(store, arrays=store.arrays[:1]), 2 * size
        labels, pinned = self.table["label"].to_numpy(), device.type == "cuda"
        return CellLoader(store, labels, rows, size, self.seed, shuffle, rank, world_size, pinned)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if "pixels" in batch and self.trainer is not None and self.trainer.training:
            return {**batch, "pixels": augment(batch["pixels"], self.augment, batch["seed"])}
        return batch

    @cached_property
    def _reading(self) -> Reading:
        return read_cells(self.reader, self.root, self.positive)

    def _rows(self, split: str) -> np.ndarray:
        """The rows of `table` with the cells of a split."""
        of_split = self.cells["path"][self.cells["split"] == split]
        row_of_path = pd.Series(np.arange(len(self.table)), index=self.table["path"].to_numpy())
        return np.asarray(row_of_path.loc[of_split].to_numpy())

    def _share(self, split: str, shuffle: bool = False) -> CellLoader:
        """The batches of this process among those of the trainer."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        overfits = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        loader = self.batches(split, shuffle and not overfits, rank, world_size, self._frozen_model)
        if overfits:  # the same batches in each epoch
            del loader.sampler  # Lightning would replace it by a sampler for a Dataset
        return loader

    @property
    def _frozen_model(self) -> FrozenPrefix | None:
        """The trainer's model, where its frozen stages can be cached."""
        model = self.trainer.lightning_module if self.trainer else None
        return model if isinstance(model, FrozenPrefix) else None

    def _has_chosen(self, model: FrozenPrefix) -> bool:
        return self._chosen_for is model and (self._cache is None or self._cache.belongs_to(model))

    def _parts(self) -> dict[str, list[Part]]:
        """The cells to cache for each published split in use, and the numbers of their D4 transforms."""
        published = self.table["published_split"]
        used = published[self.table["path"].isin(self.cells["path"])].unique()
        parts = {}
        for split in used:
            transforms = D4 if split == "train" and self.augment == "d4" else 1
            parts[split] = [(np.flatnonzero(published == split), number) for number in range(transforms)]
        return parts

    def _features(
        self, rows: np.ndarray, device: torch.device, model: FrozenPrefix | None
    ) -> ArrayStore | None:
        """The features of rows of one published split, where training reads those of this model."""
        if model is None or self._cache is None or not len(rows) or not self._cache.belongs_to(model):
            return None
        split = str(self.table["published_split"][rows[0]])
        if split not in self._stores:  # all splits at once, while the network is on its device
            try:
                self._stores |= self._cache.load()
            except UnusableCacheError as error:
                log.warning("data.cache_features=auto: off from here on, because %s", error)
                self._cache = None
                return None
        return self._kept(split, device)

    def _kept(self, name: str, device: torch.device) -> ArrayStore:
        """A store, moved to a GPU where `keep_on_gpu` allows it."""
        store = self._stores.get(name) or ArrayStore("pixels", [self.pixels.images])
        self._stores[name] = on_device(store, device) if self.keep_on_gpu == "auto" else store
        return self._stores[name]


def _at_least(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(f"{key}={value} is out of range: use a whole number from {least} up")
