"""The data module works in plain Lightning, with any module; only equal frozen stages get cached features."""

import functools
import logging
import pickle

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from leukemia.data.class_folders import class_folders
from leukemia.data.cnmc import cnmc
from leukemia.data.datamodule import CellDataModule
from leukemia.data.feature_cache import FeatureCache
from leukemia.data.reader import COLUMNS
from leukemia.errors import InputError
from leukemia.storage.cache import cache_dir

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def module(demo_root):
    """A data module of small pictures, with some settings."""
    return lambda **settings: CellDataModule(demo_root, **{"image_size": 32, "batch_size": 16, **settings})


class Foreign(pl.LightningModule):
    """A module that knows nothing of stages."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.seen: list[int] = []

    def forward(self, batch):
        self.seen += batch["cell"].tolist()
        return self.linear(batch["pixels"].float().mean(dim=(1, 2)) / 255).flatten()

    def training_step(self, batch, batch_idx):
        return nn.functional.binary_cross_entropy_with_logits(self(batch), batch["label"])

    def validation_step(self, batch, batch_idx):
        self(batch)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_fit_validate_test_and_predict_work_with_any_module_in_plain_lightning(module, quiet_trainer):
    data, model, trainer = module(protocol="holdout", augment="full"), Foreign(), quiet_trainer()
    trainer.fit(model, datamodule=data)
    model.seen.clear()
    for method, split in (("validate", "val"), ("test", "test"), ("predict", "test")):
        found = getattr(trainer, method)(model, datamodule=data)
        paths = data.table["path"][model.seen].tolist()
        assert paths == data.cells["path"][data.cells["split"] == split].tolist(), method
        model.seen.clear()
    assert len(torch.cat(found)) == (data.cells["split"] == "test").sum()


@pytest.mark.parametrize("settings", [{}, {"augment": "d4", "protocol": "subject_kfold"}], ids=str)
def test_training_on_features_is_training_on_pixels(module, staged, quiet_trainer, settings):
    models = []
    for switch in ("auto", "off"):
        model = staged()
        quiet_trainer(max_epochs=2).fit(model, datamodule=module(cache_features=switch, seed=3, **settings))
        models.append(model)
    assert list(cache_dir().glob("features-*"))
    on_features, on_pixels = (model.losses for model in models)
    np.testing.assert_allclose(on_features, on_pixels, rtol=2e-3)


def test_no_picture_passes_the_frozen_stages_twice(module, staged, quiet_trainer, monkeypatch):
    passes = []
    prefix = staged.prefix
    monkeypatch.setattr(
        staged, "prefix", lambda self, pixels: passes.append(len(pixels)) or prefix(self, pixels)
    )
    data = module(augment="d4")
    quiet_trainer(max_epochs=3, num_sanity_val_steps=0).fit(staged(), datamodule=data)
    splits = data.cells["split"].value_counts()
    assert sum(count for count in passes if count > 1) == 8 * splits["train"] + splits["val"]
    passes.clear()
    quiet_trainer(max_epochs=3).fit(staged(), datamodule=module(augment="d4"))
    assert not [count for count in passes if count > 1]


def test_another_network_never_gets_the_features(module, staged, quiet_trainer):
    data = module()
    first, second = staged(), staged(seed=1)
    quiet_trainer().fit(first, datamodule=data)
    assert data.batches("val", model=first).stored.name == "features"
    assert data.batches("val", model=staged()).stored.name == "features"  # equal frozen stages
    assert data.batches("val").stored.name == "pixels"
    assert data.batches("val", model=second).stored.name == "pixels"
    quiet_trainer().fit(second, datamodule=data)
    assert data.batches("val", model=second).stored.name == "features"
    assert data.batches("val", model=first).stored.name == "pixels"


def test_the_same_object_with_other_weights_gets_features_of_its_own(module, staged, quiet_trainer):
    data, model = module(), staged()
    quiet_trainer().fit(model, datamodule=data)
    model.load_state_dict(staged(seed=1).state_dict())
    assert data.batches("val", model=model).stored.name == "pixels"
    quiet_trainer().fit(model, datamodule=data)
    batches = data.batches("val", model=model)
    assert batches.stored.name == "features"
    with torch.no_grad():
        (on_features, *_), (on_pixels, *_) = (
            [model(batch) for batch in loader] for loader in (batches, data.batches("val"))
        )
    torch.testing.assert_close(on_features, on_pixels, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "boundary", "moves", "returned", "reason"),
    [
        ({}, "head", False, "auto", "on, because the stages before head are frozen"),
        ({"augment": "d4"}, "head", False, "auto", "their activations for 8 D4 transforms are computed once"),
        ({}, None, False, "auto", "off, because no stage is frozen"),
        ({}, "head", True, "auto", "off, because model.unfreeze thaws"),
        ({"augment": "full"}, "head", False, "auto", "off, because data.augment=full"),
        ({}, "body", False, "auto", "off, because reading"),
        ({"max_gb": 1e-6}, "head", False, "off", "exceed cache.max_gb=1e-06"),
        ({"cache_features": "off"}, "head", False, "off", ""),
    ],
)
def test_the_choice_is_logged_with_its_reason_and_lacking_room_is_remembered(
    module, staged, caplog, settings, boundary, moves, returned, reason
):
    caplog.set_level(logging.INFO, "leukemia.data.datamodule")
    data = module(**settings)
    assert data.choose_cache(staged(boundary, moves), "cpu", "32-true") == returned
    assert [reason in message for message in caplog.messages] == [True] * bool(reason)


def test_after_a_full_disk_the_run_goes_on_with_pixels(module, staged, quiet_trainer, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureCache, "_compute", full)
    model = staged()
    quiet_trainer().fit(model, datamodule=module())
    assert model.losses
    assert "off from here on, because cannot write the cache" in caplog.text


def sites(root, positive="blast"):
    """A third layout: a list of the pictures, with numbers as subjects."""
    table = pd.read_csv(root / "list.csv")
    table["label"] = (table["kind"] == positive).astype(int)
    negative = "blast" if positive == "normal" else "normal"
    return table[["path", "label", "subject", "site", "age_group"]], (negative, positive), 40


@pytest.fixture
def third_layout(tmp_path):
    from PIL import Image

    root = tmp_path / "third"
    root.mkdir()
    rows = []
    for number in range(48):
        kind = ("normal", "blast")[number % 2]
        rows.append(
            (f"{number}.png", kind, number // 2 % 6 * 2 + number % 2, "AB"[number % 3 == 0], number % 5 * 10)
        )
        noise = np.random.default_rng(number).integers(0, 256, (44, 44, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"{number}.png")
    columns = ["path", "kind", "subject", "site", "age_group"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "list.csv", index=False)
    return root


def test_a_reader_of_a_third_layout_trains_and_its_further_columns_reach_the_cells(
    third_layout, staged, quiet_trainer
):
    data = CellDataModule(
        third_layout, sites, protocol="subject_kfold", num_folds=3, image_size=32, batch_size=8
    )
    model = staged()
    quiet_trainer().fit(model, datamodule=data)
    assert model.losses
    assert data.classes == ("normal", "blast")
    assert data.native_size == 40
    assert tuple(data.table.columns) == (*COLUMNS, "site", "age_group")
    assert set(data.table["subject"]) == set(map(str, range(12)))
    standard = ["path", "subject", "group", "label", "split", "pixel_hash"]
    assert list(data.cells.columns) == [*standard, "site", "age_group"]
    listed = pd.read_csv(third_layout / "list.csv").set_index("path").loc[data.cells["path"]]
    assert data.cells["site"].tolist() == listed["site"].tolist()
    assert data.cells["age_group"].tolist() == listed["age_group"].tolist()


def test_positive_is_handed_to_a_reader_that_takes_it_and_refused_by_others(third_layout, demo_root):
    assert CellDataModule(third_layout, sites, positive="normal").table["label"][0] == 1
    assert CellDataModule(third_layout, functools.partial(sites), positive="normal").table["label"][0] == 1
    with pytest.raises(
        InputError, match=r"data\.positive=ALL: the reader leukemia\.data\.cnmc\.cnmc does not"
    ):
        CellDataModule(demo_root, cnmc, positive="ALL")
    with pytest.raises(InputError, match=r"data\.positive=blast or data.positive=normal"):
        _ = CellDataModule(manifest_of(third_layout), class_folders).classes


def manifest_of(root):
    (root / "cells.csv").write_text("path,label\n0.png,normal\n1.png,blast\n")
    return root / "cells.csv"


def test_a_reader_has_to_be_callable(demo_root):
    with pytest.raises(InputError, match=r"data\.reader='cnmc' cannot be called"):
        CellDataModule(demo_root, "cnmc")


def test_a_checkpoint_of_plain_lightning_opens_as_plain_values(module, staged, quiet_trainer, tmp_path):
    trainer = quiet_trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    trainer.fit(staged(), datamodule=module())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["datamodule_hyper_parameters"]["image_size"] == 32
    pickle.dumps(content)


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ({"cache_features": "on"}, "data.cache_features=on is unknown: use one of auto, off"),
        ({"keep_on_gpu": "on"}, "data.keep_on_gpu=on is unknown: use one of auto, off"),
        ({"tta": "views"}, "data.tta=views is unknown: use one of none, d4"),
        ({"augment": "views"}, "data.augment=views is unknown: use one of none, d4, full"),
        ({"protocol": "prelim"}, "data.protocol=prelim is unknown"),
        ({"fold": 5}, "data.fold=5 is out of range: use 0 to 4"),
        ({"batch_size": 1}, "data.batch_size=1 is out of range"),
        ({"root": None}, "data.root is not given"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_before_the_data_are_read(setting, refused):
    with pytest.raises(InputError, match=refused):
        CellDataModule(**{"root": "nowhere", **setting})


def test_it_trains_on_as_many_subjects_as_are_asked_for(demo_root):
    whole, few = (
        CellDataModule(str(demo_root), protocol="holdout", image_size=32, train_subjects=count)
        for count in (None, 4)
    )
    of_few = few.cells[few.cells["split"] == "train"]
    assert of_few["subject"].nunique() == 4
    assert set(of_few["path"]) < set(whole.cells["path"])
    assert sum(len(batch["label"]) for batch in few.batches("train")) == len(of_few)
    with pytest.raises(InputError, match=r"data.train_subjects=1 is out of range"):
        CellDataModule(str(demo_root), train_subjects=1)
