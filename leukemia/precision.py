"""Precision: what `auto` means on this machine, measured once and kept in the cache, and its autocast."""

import hashlib
import json
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from leukemia.storage.cache import cached_folder

FASTER = 1.2  # by how much bf16 has to beat fp32


def resolve_precision(precision: str, accelerator: str) -> str:
    """Lightning's name for a precision; `auto` becomes `bf16-mixed` where that trains faster, else `32-true`.

    Args:
        precision: `auto`, or any value of Lightning's.
        accelerator: `cpu` or `cuda`, resolved.
    """
    if precision != "auto":
        return str(precision)
    if accelerator not in ("cpu", "cuda"):
        return "32-true"
    device = torch.device(accelerator)
    machine = torch.cuda.get_device_name() if accelerator == "cuda" else _processor()
    described = f"{accelerator} {machine} torch {torch.__version__} {torch.get_num_threads()} threads"
    key = hashlib.blake2b(described.encode(), digest_size=8).hexdigest()

    def measure(folder: Path) -> None:
        ratio = _speed_up(device)
        choice = "bf16-mixed" if ratio >= FASTER else "32-true"
        found = {"machine": described, "bf16_speed_up": round(ratio, 2), "precision": choice}
        (folder / "precision.json").write_text(json.dumps(found, indent=2))

    folder = cached_folder(f"precision-{key}", measure)
    return json.loads((folder / "precision.json").read_text())["precision"]


def autocast(device: str, precision: str) -> torch.autocast:
    """The context in which Lightning runs a network in this precision.

    Args:
        device: `cpu`, `cuda`, ...
        precision: Lightning's name, as `32-true` or `bf16-mixed`.
    """
    dtype = torch.float16 if precision.startswith("16") else torch.bfloat16
    return torch.autocast(device, dtype=dtype, enabled="mixed" in precision)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def _speed_up(device: torch.device) -> float:
    """Seconds of a training step in fp32 over those in bf16, on a small stack of ResNet's convolutions."""
    layers = [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()] * 4
    net = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    count = 8 if device.type == "cpu" else 256  # so that a GPU computes, and does not wait for its launches
    images = torch.randn(count, 64, 56, 56, device=device).contiguous(memory_format=torch.channels_last)
    # In turn, so that another load on the machine slows both; the fastest of each is its own.
    pairs = [(_step(net, images, torch.float32), _step(net, images, torch.bfloat16)) for _ in range(8)]
    full, half = map(min, zip(*pairs, strict=True))
    return full / half


def _step(net: nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    start = time.perf_counter()
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = net(images).float().square().mean()
    loss.backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
