"""Speed of any backbone: the package's feature pass against timm's bare forward pass, and the head's step on features.

`python benchmarks/backbones.py` prints a Markdown table. Each network has a run of its own in a process of its own
(`package.py`), from an empty cache; the bare forward pass of timm's own model is measured before and after it, in the
same precision and batch. Weights are random. Measure on a machine without other work.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import timm
import torch
from limit import forward, rate

from leukemia.data.feature_cache import BATCH_SIZE
from leukemia.precision import autocast, resolve_precision
from leukemia.storage.memory import keep_freed_memory

NETWORKS = ("vit_small_patch14_dinov2", "efficientnet_b1", "convnext_tiny", "resnet50")
BATCH = 32  # of the head
TARGET, MOST_MS = 0.85, 2.0
PACKAGE = Path(__file__).with_name("package.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="names of timm")
    parser.add_argument("--cells", type=int, default=480, help="pictures of the feature pass")
    parser.add_argument("--size", type=int, default=224, help="height and width of the pictures")
    parser.add_argument("--epochs", type=int, default=12, help="of the head")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each bare measurement")
    given = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision("auto", device)
    print(
        f"Pictures of {given.size}x{given.size}, {precision}, batches of {BATCH_SIZE[device]} (feature pass and bare "
        f"forward pass) and {BATCH} (head), {torch.get_num_threads()} threads, "
        f"{torch.cuda.get_device_name() if device == 'cuda' else 'no GPU'}.\n"
    )
    print(
        "| network | package, cells a second | timm, cells a second | share | target | head, ms a step | target |"
    )
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for name in given.networks:
        before = bare(name, given.size, given.seconds, device, precision)
        ours, step = package(name, given.size, given.cells, given.epochs)
        limit = median([before, bare(name, given.size, given.seconds, device, precision)])
        share = f"{ours:.1f} | {limit:.1f} | {ours / limit:.0%} | {TARGET:.0%}"
        print(f"| {name} | {share} | {1000 * step:.2f} | {MOST_MS:g} |", flush=True)


def bare(name: str, size: int, seconds: float, device: str, precision: str) -> float:
    """Pictures a second of timm's own model without its head, on a batch in memory."""
    torch.manual_seed(0)
    sized = {"img_size": size} if "vit" in name else {}
    net = timm.create_model(name, num_classes=0, **sized).to(device, memory_format=torch.channels_last)
    images = torch.randn(BATCH_SIZE[device], 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return rate(forward(net, images, autocast(device, precision)), len(images), seconds)


def package(name: str, size: int, cells: int, epochs: int) -> tuple[float, float]:
    """Cells a second of a run's feature pass, and the seconds of a step of its head: the median epoch, from its first
    batch to its last."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "data=demo", f"data.demo_images={cells}", f"data.image_size={size}", f"data.batch_size={BATCH}",
            "data.protocol=holdout", "model/net=timm", f"model.net.name={name}", "model.net.weights=none",
            "model.trainable_from=head", f"trainer.max_epochs={epochs}", "callbacks.early_stopping=null",
        ]  # fmt: skip
        task = {
            "overrides": overrides,
            "run": f"{folder}/run",
            "lists": f"{folder}/lists.json",
            "base": folder,
        }
        Path(folder, "task.json").write_text(json.dumps(task))
        command = [sys.executable, str(PACKAGE), f"{folder}/task.json"]
        cache = {**os.environ, "LEUKEMIA_CACHE": f"{folder}/cache"}
        done = subprocess.run(command, env=cache, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    steps = math.ceil(found["train_cells"] / BATCH)
    return found["feature_cells"] / found["feature_seconds"], median(found["training"]) / steps


if __name__ == "__main__":
    main()
