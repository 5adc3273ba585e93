"""Preparation of a benchmark: write the data sets, and describe the machine and its choices.

`python benchmarks/prepare.py TASK.json` prints a line of JSON. It is a process of its own, so that the process that
starts the contenders stays small.
"""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from leukemia.data.demo import plan, write_demo
from leukemia.precision import resolve_precision

PACKAGES = ("leukemia", "torch", "torchvision", "pytorch-lightning", "pillow")
OF_ALL, LABELLED = 15_114, 12_528  # images of C-NMC, and those of its training and preliminary sets


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    for data in task["data"]:
        make = synthetic if data["name"] == "synthetic" else subset
        make(data, Path(data["root"]))
    os.sync()  # so that no contender waits for these writes
    print(json.dumps(machine()))


def synthetic(data: dict, root: Path) -> None:
    """A synthetic C-NMC set of about this many labelled images, without unlabelled ones."""
    table = plan(round(data["images"] * OF_ALL / LABELLED))
    write_demo(root, structure=table[table["published_split"] != "final"].reset_index(drop=True))


def subset(data: dict, manifest: Path) -> None:
    """A manifest of every k-th file of a folder of class folders."""
    files = sorted(Path(data["source"]).glob("*/*.jpg"))
    images = min(data["images"], len(files))
    chosen = [files[number * len(files) // images] for number in range(images)]
    for file in chosen:
        file.read_bytes()  # so that no contender is the first to read the disk
    table = pd.DataFrame({"path": map(str, chosen), "label": [file.parent.name for file in chosen]})
    table.to_csv(manifest, index=False)


def machine() -> dict[str, object]:
    cuda = torch.cuda.is_available()
    return {
        "precision": resolve_precision("auto", "cuda" if cuda else "cpu"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "no GPU",
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
