"""The peer: a Lightning loop as its documentation teaches it, with nothing of this package."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet18

FIRST = {"stem": "conv1", "layer4": "layer4", "head": "fc"}  # the first module that trains


class Pictures(Dataset):
    """Opens a file for each item: the picture (3, S, S) and its label."""

    def __init__(self, paths: list[Path], labels: list[int], size: int) -> None:
        self.paths, self.labels = paths, labels
        normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        resize = transforms.Resize((size, size))
        self.transform = transforms.Compose([resize, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[item]) as picture:
            return self.transform(picture.convert("RGB")), self.labels[item]


class PlainClassifier(pl.LightningModule):
    """torchvision's ResNet18 with one logit; the modules before the first that trains take no gradient."""

    def __init__(self, trainable_from: str, lr: float) -> None:
        super().__init__()
        self.net, self.lr = resnet18(num_classes=1), lr
        for name, module in self.net.named_children():
            if name == FIRST[trainable_from]:
                break
            module.requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = functional.binary_cross_entropy_with_logits(self.net(images).flatten(), labels.float())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), lr=self.lr)


def loader(paths: list[Path], labels: list[int], size: int, batch_size: int) -> DataLoader:
    return DataLoader(Pictures(paths, labels, size), batch_size=batch_size, shuffle=True, num_workers=2)
