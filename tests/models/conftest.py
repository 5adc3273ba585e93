"""A small network of a user's own, with four stages."""

from collections import OrderedDict

import pytest
from torch import nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Tiny(nn.Module):
    """Stages stem, body, pool and head; no class of leukemia's."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            OrderedDict(
                stem=block(3, width),
                body=block(width, width),
                pool=nn.Sequential(block(width, width), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                head=nn.Linear(width, 1),
            )
        )
        self.normalisation = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def tiny() -> type[nn.Module]:
    return Tiny
