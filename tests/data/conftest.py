"""A cache of each test's own, the synthetic table with the hashes of its pixels, and a small network with stages."""

import hashlib
from collections import OrderedDict

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from leukemia.data.cnmc import cnmc
from leukemia.data.pixels import Pixels, load_pixels
from leukemia.data.transforms import normalise
from leukemia.models.freezing import multiply_adds


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def demo_table(demo_root):
    table, _, native_size = cnmc(demo_root)
    table = table[table["label"] >= 0].reset_index(drop=True)
    return table, load_pixels(demo_root, table["path"].tolist(), size=32, native_size=native_size).hashes


@pytest.fixture
def noise() -> Pixels:
    """70 cells of noise, more than the frozen stages take at once."""
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    return Pixels(images, np.arange(70).astype(str), "noise")


class Staged(pl.LightningModule):
    """A network of three stages, whose frozen ones the feature cache knows by the protocol `FrozenPrefix` alone."""

    def __init__(self, boundary: str | None = "head", moves: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        body = nn.Sequential(
            nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        head = nn.Sequential(nn.Flatten(), nn.Linear(8, 1))
        self.stages = nn.Sequential(OrderedDict(stem=stem, body=body, head=head))
        self.boundary, self.boundary_moves = boundary, moves
        self.engine, self.many_threads = "torch", True
        self.cut = 0 if boundary is None else list(self.stages._modules).index(boundary)
        self.stages[: self.cut].requires_grad_(False)
        self.losses: list[float] = []
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        self.stages[: self.cut].eval()
        return self

    def prefix(self, pixels):
        return self.stages[: self.cut](normalise(pixels, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))

    def multiply_adds(self, size):
        return multiply_adds(self.stages[: self.cut], torch.zeros(1, 3, size, size))

    def prefix_hash(self):
        digest = hashlib.blake2b(repr(self.boundary).encode())
        for tensor in self.stages[: self.cut].state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, batch):
        values = batch["features"] if "features" in batch else self.prefix(batch["pixels"])
        return self.stages[self.cut :](values.float()).flatten()

    def training_step(self, batch, batch_idx):
        loss = nn.functional.binary_cross_entropy_with_logits(self(batch), batch["label"])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        self.losses.append(nn.functional.binary_cross_entropy_with_logits(self(batch), batch["label"]).item())

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.stages[self.cut :].parameters(), lr=0.1)


@pytest.fixture
def staged() -> type[Staged]:
    return Staged


@pytest.fixture
def quiet_trainer():
    """A trainer on the processor that writes nothing."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return lambda **settings: pl.Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", **dict.fromkeys(off, False), **settings}
    )
