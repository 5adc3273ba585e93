"""torchvision's ResNets as six stages, and the freezing dial that turns on them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from leukemia.errors import InputError

DEPTHS = (18, 34, 50, 101, 152)
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")


class StagedResNet(nn.Module):
    """A torchvision ResNet with one logit, cut into STAGES and frozen up to one of them.

    `stem` is conv1 to maxpool, `layer4` ends in the pooled features (N, 512 or 2048), `head` is the linear
    layer. The parameters keep torchvision's names under `net.`. Frozen stages run without a graph and stay in
    eval mode whatever `train()` asks for, so neither their weights nor their BatchNorm statistics change.

    Args:
        depth: one of DEPTHS.
        trainable_from: the first stage that trains; `head` freezes all but the linear layer, `stem` nothing.

    Raises:
        InputError: for another depth or stage.
    """

    def __init__(self, depth: int = 18, trainable_from: str = "layer4") -> None:
        super().__init__()
        if not isinstance(depth, int) or depth not in DEPTHS:
            raise InputError(f"model.net.depth={depth} is unknown: use one of {', '.join(map(str, DEPTHS))}")
        self.net: resnet.ResNet = getattr(resnet, f"resnet{depth}")(num_classes=1)
        self.net.to(memory_format=torch.channels_last)
        self.freeze(trainable_from)

    def freeze(self, trainable_from: str) -> None:
        """Freeze the stages before `trainable_from` and thaw the rest."""
        self.trainable_from = check_stage("model.trainable_from", trainable_from)
        for stage in STAGES:
            for module in self.modules_of(stage):
                module.requires_grad_(not self.is_frozen(stage))
        self.train(self.training)

    def is_frozen(self, stage: str) -> bool:
        return STAGES.index(stage) < STAGES.index(self.trainable_from)

    def modules_of(self, stage: str) -> list[nn.Module]:
        """The modules of a stage that hold parameters."""
        if stage == "stem":
            return [self.net.conv1, self.net.bn1]
        return [self.net.fc if stage == "head" else getattr(self.net, stage)]

    def train(self, mode: bool = True) -> "StagedResNet":
        super().train(mode)
        for stage in STAGES:
            if self.is_frozen(stage):
                for module in self.modules_of(stage):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) to logits (N,)."""
        return self.suffix(self.prefix(images))

    def prefix(self, images: Tensor) -> Tensor:
        """The frozen stages: images (N, 3, H, W) to the activations at the boundary, without a graph."""
        with torch.no_grad():
            return self._run(images, frozen=True)

    def suffix(self, activations: Tensor) -> Tensor:
        """The stages that train: activations at the boundary to logits (N,)."""
        return self._run(activations, frozen=False).flatten()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the two parts, each as a whole: training on stored activations calls the suffix alone."""
        self.prefix = torch.compile(self.prefix, *args, **kwargs)  # type: ignore[method-assign]
        self.suffix = torch.compile(self.suffix, *args, **kwargs)  # type: ignore[method-assign]

    def _run(self, values: Tensor, frozen: bool) -> Tensor:
        for stage in STAGES:
            if self.is_frozen(stage) == frozen:
                values = self.run_stage(stage, values)
        return values

    def run_stage(self, stage: str, values: Tensor) -> Tensor:
        """One stage of STAGES, from what the stage before it gave; `layer4` to pooled features (N, 512 or 2048)."""
        net = self.net
        if stage == "stem":
            return net.maxpool(net.relu(net.bn1(net.conv1(values))))
        if stage == "layer4":
            return torch.flatten(net.avgpool(net.layer4(values)), 1)
        if stage == "head":  # in full precision also under autocast: bf16 logits would tie
            with torch.autocast(values.device.type, enabled=False):
                return net.fc(values.float())
        return getattr(net, stage)(values)


def thawed_from(trainable_from: str, unfreeze: Mapping[int, str], epoch: int) -> str:
    """The first stage that trains in an epoch (from 1) of a schedule; it follows from the epoch alone."""
    due = [stage for start, stage in sorted(unfreeze.items()) if start <= epoch]
    return due[-1] if due else trainable_from


def check_schedule(trainable_from: str, unfreeze: Mapping[int, str] | None) -> dict[int, str]:
    """The schedule {epoch from 2: stage}, if each entry thaws an earlier stage than the one before.

    Raises:
        InputError: if not.
    """
    if unfreeze is not None and not isinstance(unfreeze, Mapping):
        raise InputError(f"model.unfreeze={unfreeze} is no schedule: use epochs and stages, as {{3: layer4}}")
    schedule: dict[int, str] = {}
    before = STAGES.index(check_stage("model.trainable_from", trainable_from))
    for epoch, stage in sorted((unfreeze or {}).items(), key=lambda item: str(item[0]).zfill(9)):
        if not isinstance(epoch, int) or epoch < 2:
            raise InputError(
                f"model.unfreeze: {epoch!r} is no epoch: use whole numbers from 2 up, as {{3: layer4}}"
            )
        position = STAGES.index(check_stage(f"model.unfreeze[{epoch}]", stage))
        if position >= before:
            raise InputError(
                f"model.unfreeze[{epoch}]={stage} thaws nothing: {STAGES[before]} trains already; name an earlier stage"
            )
        schedule[epoch], before = stage, position
    return schedule


def check_stage(key: str, stage: str) -> str:
    if stage not in STAGES:
        raise InputError(f"{key}={stage} is no stage: use one of {', '.join(STAGES)}")
    return stage
