"""Contender "plain": a Lightning loop as its documentation teaches it, with nothing of this package.

`python benchmarks/plain_loop.py TASK.json` trains what the task says and prints a line of JSON. With `plain_precision`
of `bf16-mixed` its network and pictures are channels-last too: what an experienced user adds in two lines.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from clock import now, peak_gb
from PIL import Image
from stopwatch import Stopwatch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

FIRST = {"stem": "conv1", "layer4": "layer4", "head": "fc"}  # the first module that trains
WORKERS = 2


class Pictures(Dataset):
    """Opens a file for each item: the picture (3, S, S) and its label."""

    def __init__(self, paths: list[str], labels: list[int], size: int, augment: str) -> None:
        self.paths, self.labels = paths, labels
        turns = [transforms.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
        d4 = [transforms.RandomHorizontalFlip(), transforms.RandomChoice(turns)]
        varied = d4 if augment == "d4" else []
        normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        resize = transforms.Resize((size, size))
        self.transform = transforms.Compose([resize, *varied, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[item]) as picture:
            return self.transform(picture.convert("RGB")), self.labels[item]


class PlainClassifier(pl.LightningModule):
    """torchvision's ResNet with one logit; the modules before the first that trains are frozen."""

    def __init__(
        self, depth: int, trainable_from: str, weights: str, lr: float, layout: torch.memory_format
    ) -> None:
        super().__init__()
        self.net, self.lr, self.layout = getattr(models, f"resnet{depth}")(num_classes=1), lr, layout
        if weights != "none":
            state = torch.load(weights, map_location="cpu", weights_only=True)
            self.net.load_state_dict(
                {k: v for k, v in state.items() if not k.startswith("fc.")}, strict=False
            )
        for name, module in self.net.named_children():
            if name == FIRST[trainable_from]:
                break
            module.requires_grad_(False).eval()  # Lightning leaves the mode of a module as it finds it
        self.net.to(memory_format=layout)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.contiguous(memory_format=self.layout)).flatten()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = functional.binary_cross_entropy_with_logits(self(images).float(), labels.float())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images).float()
        self.log("val_loss", functional.binary_cross_entropy_with_logits(logits, labels.float()))
        self.log("val_accuracy", ((logits > 0) == (labels > 0)).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), lr=self.lr)


def main() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    task = json.loads(Path(sys.argv[1]).read_text())
    files = json.loads(Path(task["lists"]).read_text())
    pl.seed_everything(0, verbose=False)
    stopwatch = Stopwatch()
    start = now()
    precision, workers = task["plain_precision"], task.get("workers", WORKERS)
    layout = torch.contiguous_format if precision == "32-true" else torch.channels_last
    model = PlainClassifier(task["depth"], task["policy"], task["weights"], task["lr"], layout)
    train = Pictures(files["train"]["paths"], files["train"]["labels"], task["size"], task["augment"])
    val = Pictures(files["val"]["paths"], files["val"]["labels"], task["size"], "none")
    trainer = pl.Trainer(
        max_epochs=task["plain_epochs"],
        default_root_dir=task["folder"],
        precision=precision,
        callbacks=[stopwatch],
        enable_progress_bar=False,
    )
    trainer.fit(
        model,
        DataLoader(train, batch_size=task["batch_size"], shuffle=True, num_workers=workers),
        DataLoader(val, batch_size=task["batch_size"], num_workers=workers),
    )
    result = {
        "seconds": now() - start,
        "epochs": stopwatch.epochs,
        "val_accuracy": float(trainer.callback_metrics["val_accuracy"]),
        "peak_gb": peak_gb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
