"""Contender "limit": the network alone on a batch that is in memory, at the package's precision, channels-last.

`python benchmarks/limit.py TASK.json` measures what the task says and prints a line of JSON:

- `head`: the forward pass of a network in eval mode, which is all that its feature pass has to do;
- `layer4`: the training step of the layers from there on, on activations;
- `stem`: the training step of the whole network.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from clock import now, peak_gb
from torch import nn
from torch.nn import functional

from leukemia.models import freezing
from leukemia.models.resnet import resnet
from leukemia.precision import autocast
from leukemia.storage.memory import keep_freed_memory

FORWARD_BATCH = 16  # the fastest on two cores, of 2 to 64
WARM_UP = 3


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    keep_freed_memory()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = resnet(task["depth"], weights="none").to(device)
    freezing.freeze(net, task["policy"])
    count = FORWARD_BATCH if task["policy"] == "head" else task["batch_size"]
    images = torch.randn(count, 3, task["size"], task["size"], device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    mixed = autocast(device, task["precision"])
    step = (
        forward(net, images, mixed) if task["policy"] == "head" else training(net, images, mixed, task["lr"])
    )
    found = [rate(step, count, task["limit_seconds"]) for _ in range(task["limit_repeats"])]
    print(json.dumps({"rate": median(found), "rates": found, "peak_gb": peak_gb()}))


def forward(net: nn.Module, images: torch.Tensor, mixed: torch.autocast) -> Callable[[], object]:
    net.eval()

    def step() -> object:
        with torch.no_grad(), mixed:
            return net(images)

    return step


def training(net: nn.Module, images: torch.Tensor, mixed: torch.autocast, lr: float) -> Callable[[], object]:
    net.train()
    suffix = freezing.suffix(net)
    with mixed:
        inputs = freezing.prefix(net)(images)  # the pictures themselves where no stage is frozen
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(2, (len(images),), device=images.device).float()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr, fused=True)

    def step() -> object:
        with mixed:
            logits = suffix(inputs)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        return optimizer.step()

    return step


def rate(step: Callable[[], object], count: int, seconds: float) -> float:
    """Images a second of a step over so many images, taken over at least so many seconds."""
    for _ in range(WARM_UP):
        step()
    steps, start = 0, now()
    while steps == 0 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * count / (now() - start)


if __name__ == "__main__":
    main()
