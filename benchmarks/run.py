"""Measures this package, a plain Lightning loop and the limit side by side, and writes benchmarks/results.md.

`make bench` and `make bench-quick` start it. A contender is a script beside this one that takes a task as JSON and
prints a line of JSON; each measurement is a process of its own. The page is written anew after each row.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from page import ROWS, Measured, Measurement, page

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
BATCH_SIZE, LR = 32, 3e-4


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the scratch folder goes
    with tempfile.TemporaryDirectory() as scratch:
        measure(options, Path(scratch))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure training side by side, and write a page.")
    lists = (("data", "synthetic,pbc"), ("depths", "18,50"), ("only", ",".join(ROWS)))
    for name, default in lists:
        parser.add_argument(f"--{name}", default=default, help=f"of {default}; default: all that can be")
    numbers = (
        ("head-images", 2000, "cells of the rows of the frozen baseline"),
        ("images", 240, "cells of the other rows"),
        ("size", 224, "height and width of the pictures"),
        ("epochs", 12, "of the package, and what the plain loop's time is given for"),
        ("plain-epochs", 2, "that the plain loop runs, its time being scaled up; 0: all"),
        ("repeats", 1, "of the whole"),
        ("limit-repeats", 3, "of the limit"),
    )
    for name, default, words in numbers:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words}; default {default}")
    parser.add_argument(
        "--limit-seconds", type=float, default=3.0, help="of each repeat of the limit; default 3"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results.md", help="the page")
    parser.add_argument(
        "--rows",
        type=Path,
        help="a JSON file that keeps what was measured; rows that it holds are not measured again",
    )
    options = parser.parse_args()
    for name, _ in lists:
        setattr(options, name, getattr(options, name).split(","))
    options.depths = [int(depth) for depth in options.depths]
    options.plain_epochs = options.plain_epochs or options.epochs
    unknown = {*options.only} - {*ROWS} | {*options.data} - {"synthetic", "pbc"}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(ROWS)}, synthetic, pbc")
    if "pbc" in options.data and not (SHARED / "data" / "pbc_cells").is_dir():
        print("pbc is left out: its pictures do not lie beside the checkout")
        options.data.remove("pbc")
    return options


def measure(options: argparse.Namespace, scratch: Path) -> None:
    data, counts = data_sets(options, scratch)
    machine = contender("prepare", {"data": list(data.values())}, scratch)
    task: Measurement = {
        **{name: getattr(options, name) for name in ("size", "epochs", "plain_epochs", "repeats")},
        **{name: getattr(options, name) for name in ("limit_repeats", "limit_seconds")},
        **{"batch_size": BATCH_SIZE, "lr": LR, "precision": machine["precision"]},
        "planned": len(options.data) * len(options.depths) * len(options.only),
        "command": f"benchmarks/{' '.join([Path(__file__).name, *sys.argv[1:]]).partition(' --output')[0]}",
    }
    measured = kept_rows(options.rows, task)

    def write() -> str:
        if options.rows:
            options.rows.write_text(json.dumps({"task": as_kept(task), "rows": list(measured.items())}))
        text = page(measured, task, machine)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")
        return text

    for _ in range(options.repeats):
        for name in options.data:
            for depth in options.depths:
                for row in options.only:
                    if len(next(iter(measured.get((name, depth, row), {}).values()), [])) >= options.repeats:
                        continue
                    of_row = {**task, **row_task(name, depth, row, data[name, counts[row]])}
                    for who, found in measure_row(of_row, row, scratch).items():
                        measured.setdefault((name, depth, row), {}).setdefault(who, []).append(found)
                    write()
    print(write(), options.output, sep="\n")


def as_kept(task: Measurement) -> Measurement:
    """What rows of a kept file and of this command have in common."""
    return {name: value for name, value in task.items() if name not in ("planned", "command")}


def kept_rows(path: Path | None, task: Measurement) -> Measured:
    """The rows of an earlier command.

    Raises:
        SystemExit: if they were measured in another way.
    """
    if path is None or not path.is_file():
        return {}
    kept = json.loads(path.read_text())
    if kept["task"] != as_kept(task):
        raise SystemExit(f"{path} holds rows of {kept['task']}, and this command measures {as_kept(task)}")
    return {(name, depth, row): found for (name, depth, row), found in kept["rows"]}


def data_sets(
    options: argparse.Namespace, scratch: Path
) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[str, int]]:
    """The sets to prepare, by name and number of cells, and the number of cells of each row."""
    counts = {row: options.head_images if row == "head" else options.images for row in options.only}
    data = {}
    for name in options.data:
        for images in sorted(set(counts.values())):
            root = scratch / f"{name}-{images}" if name == "synthetic" else scratch / f"{name}-{images}.csv"
            source = str(SHARED / "data" / "pbc_cells")
            data[name, images] = {"name": name, "images": images, "root": str(root), "source": source}
    return data, counts


def row_task(name: str, depth: int, row: str, data: dict[str, Any]) -> Measurement:
    """What the contenders of a row are told beside what all are."""
    policy, augment = ROWS[row]
    root, known = Path(data["root"]), name == "pbc"
    weights = str(SHARED / "weights" / f"resnet{depth}_pbc6.pth") if known else "none"
    base = root.parent if known else root
    told = {"depth": depth, "policy": policy, "augment": augment, "weights": weights}
    return {**told, "name": name, "root": str(root), "base": str(base)}


def overrides(task: Measurement) -> list[str]:
    """The settings of a package run, as its user would type them."""
    reader = ["data=cells", "data.protocol=image", "data.positive=ig"] if task["name"] == "pbc" else []
    return [
        *reader,
        f'data.root="{task["root"]}"',
        f"data.image_size={task['size']}",
        f"data.batch_size={task['batch_size']}",
        f"data.augment={task['augment']}",
        f"model.net.depth={task['depth']}",
        f"model.trainable_from={task['policy']}",
        f'model.net.weights="{task["weights"]}"',
        f"model.optimizer.lr={task['lr']}",
        "model.head_lr_factor=1",  # as in the plain loop
        f"trainer.max_epochs={task['epochs']}",
        f"trainer.precision={task['precision']}",
        f"callbacks.early_stopping.patience={task['epochs']}",
    ]


def measure_row(task: Measurement, row: str, scratch: Path) -> dict[str, Measurement]:
    """What each contender printed, measured one directly after the other."""
    scripts = {"package": "package", "plain": "plain_loop", "plain_bf16": "plain_loop", "limit": "limit"}
    if row == "layer4-d4":  # its limit is that of layer4
        del scripts["limit"]
    found = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        files = {"folder": folder, "run": f"{folder}/run", "lists": f"{folder}/lists.json"}
        task = {**task, **files, "overrides": overrides(task)}
        for name, script in scripts.items():
            precision = "bf16-mixed" if name == "plain_bf16" else "32-true"
            found[name] = contender(script, {**task, "plain_precision": precision}, Path(folder))
            tell(task, row, name, found[name])
        if row == "head":
            found["again"] = second_start(task, Path(folder))
            tell(task, row, "second start", found["again"])
    return found


def second_start(task: Measurement, folder: Path) -> Measurement:
    """Seconds of the whole command on the cache that the package's run has filled."""
    where = f'hydra.run.dir="{folder}/again"'
    start = time.perf_counter()
    command([sys.executable, "-m", "leukemia.train", *task["overrides"], where], folder)
    seconds = time.perf_counter() - start
    assert (folder / "again" / "metrics.json").is_file()
    return {"seconds": seconds}


def tell(task: Measurement, row: str, name: str, found: Measurement) -> None:
    measured = f"{found['rate']:.4g} images/s" if name == "limit" else f"{found['seconds']:.1f} s"
    print(f"{task['name']} ResNet{task['depth']} {row} {name}: {measured}", flush=True)


def contender(script: str, task: Measurement, folder: Path) -> Measurement:
    """What a script prints about a task, with `wall`, the seconds of its whole process."""
    told = folder / f"{script}.json"
    told.write_text(json.dumps(task))
    start = time.perf_counter()
    printed = command([sys.executable, str(HERE / f"{script}.py"), str(told)], folder)
    return {**json.loads(printed.splitlines()[-1]), "wall": time.perf_counter() - start}


def command(words: list[str], folder: Path) -> str:
    """What a process prints whose cache lies in a folder.

    Raises:
        SystemExit: if it fails, with the end of what it said.
    """
    environment = {**os.environ, "LEUKEMIA_CACHE": str(folder / "cache")}
    done = subprocess.run(words, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
