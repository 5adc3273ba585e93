"""torchvision's ResNets, ResNeXts and wide ResNets as six stages."""

import sys
from collections import OrderedDict
from types import ModuleType

import torch
from torch import nn

from leukemia.errors import check_one_of
from leukemia.models.network import StagedNetwork
from leukemia.models.weights import load_weights

DEPTHS = (18, 34, 50, 101, 152)
NAMES = (
    *(f"resnet{depth}" for depth in DEPTHS),
    "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
PUBLISHED = {"stem.": "", "head.": "fc."}  # torchvision's names of the parameters


def resnet(
    depth: int | None = 18,
    name: str | None = None,
    weights: str = "imagenet",
    pretrained_on: str | None = None,
) -> StagedNetwork:
    """A ResNet of torchvision with one logit, in the stages stem, layer1 to layer4 and head.

    `stem` is conv1 to maxpool, `layer4` ends in the pooled features (N, 512 or 2048), `head` is the linear layer.

    Args:
        depth: one of DEPTHS, the short form for plain ResNets.
        name: one of NAMES; it goes before `depth`.
        weights: `imagenet` (torchvision's IMAGENET1K_V1 at every depth, so that depths compare on equal terms), `none`
            (random), or the path of a state dict or checkpoint.
        pretrained_on: the data that the weights have seen, in words; recorded with the run.

    Raises:
        InputError: for another depth or name, or weights that cannot be loaded.
    """
    if name is None:
        check_one_of("model.net.depth", depth, DEPTHS)
    name = name or f"resnet{depth}"
    check_one_of("model.net.name", name, NAMES)
    seen = {"pretrained_on": pretrained_on} if pretrained_on else {}
    models = _torchvision_models()
    parts = getattr(models, name)(num_classes=1)
    stem = OrderedDict((part, getattr(parts, part)) for part in ("conv1", "bn1", "relu", "maxpool"))
    net = StagedNetwork(
        {
            "stem": nn.Sequential(stem),
            "layer1": parts.layer1,
            "layer2": parts.layer2,
            "layer3": parts.layer3,
            "layer4": nn.Sequential(*parts.layer4, parts.avgpool, nn.Flatten()),
            "head": parts.fc,
        },
        node={"_target_": f"{__name__}.resnet", "name": name, "weights": "none", **seen},
        published=PUBLISHED,
    )
    net.to(memory_format=torch.channels_last)
    load_weights(net, weights, lambda: models.get_model_weights(name)["IMAGENET1K_V1"])
    return net


def _torchvision_models() -> ModuleType:
    """`torchvision.models` without torch's compiler, 2 s of processor time. torchvision imports it for one function of
    its detection code; with the stand-in that function imports it when it is called."""
    asked = "torch._dynamo.utils"
    if asked not in sys.modules:
        sys.modules[asked] = _Later(asked)
    try:
        import torchvision
    finally:
        if isinstance(sys.modules[asked], _Later):
            del sys.modules[asked]
    return torchvision.models


class _Later(ModuleType):
    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(device_type)
