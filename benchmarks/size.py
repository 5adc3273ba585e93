"""How time and memory grow with the number of cells, and how `data check` compares with `cat`. Writes results-size.md.

`python benchmarks/size.py [--cells 10000,100000] [--rows 100000,1000000] [--files 1000] [--output ...]`

Pictures are noise of 32x32 and the network is a random ResNet18 that trains its head. Memory is what a process holds
beside pages of files, which the system takes back when it needs them.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from leukemia.data.demo import write_demo
from leukemia.evaluation.predictions import sigmoid

HERE = Path(__file__).resolve().parent
SIZE, SUBJECTS, PICTURES_IN_FOLDER = 32, 118, 1000


class Cost(NamedTuple):
    """Of a process: seconds, and the most memory in GB that is not pages of files."""

    seconds: float
    gb: float
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", default="10000,100000", help="of a run and of predict")
    parser.add_argument("--rows", default="100000,1000000", help="of a table for evaluate")
    parser.add_argument("--files", type=int, default=1000, help="of the set for data check")
    parser.add_argument("--output", type=Path, default=HERE / "results-size.md")
    options = parser.parse_args()
    cells, rows = ([int(number) for number in text.split(",")] for text in (options.cells, options.rows))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LEUKEMIA_CACHE"] = f"{scratch}/cache"
        found = [trained(Path(scratch) / str(count), count) for count in cells]
        grown = [growth(name, cells, [each[name] for each in found]) for name in found[0]]
        grown += [growth("`evaluate`", rows, [evaluated(Path(scratch), count) for count in rows])]
        read = checked(Path(scratch), options.files)
    pages = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined)
    text = pages.get_template("size.md.j2").render(
        grown=grown, read=read, files=options.files, cores=os.cpu_count(), size=SIZE,
        command=f"benchmarks/{' '.join([Path(__file__).name, *sys.argv[1:]]).partition(' --output')[0]}",
    )  # fmt: skip
    options.output.write_text(text, encoding="utf-8")
    print(text)


def growth(name: str, counts: list[int], costs: list[Cost]) -> dict[str, Any]:
    """A row of the table: the exponent is the slope of log seconds on log cells, from the first to the last count."""
    exponent = math.log(costs[-1].seconds / costs[0].seconds) / math.log(counts[-1] / counts[0])
    return {"name": name, "costs": list(zip(counts, costs, strict=True)), "exponent": exponent}


def trained(folder: Path, count: int) -> dict[str, Cost]:
    """The feature pass and an epoch of a run, and `predict` with it on the same pictures."""
    write_cells(folder, count)
    task = {
        "overrides": [
            "data=cells", f"data.root={folder}/cells.csv", f"data.image_size={SIZE}", "data.positive=ALL",
            "data.protocol=image", "model.net.weights=none", "trainer=cpu", "trainer.max_epochs=3",
            "model.trainable_from=head",
        ],
        "run": f"{folder}/run", "lists": f"{folder}/lists.json", "base": str(folder),
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task))
    run = measured([str(HERE / "package.py"), f"{folder}/task.json"])
    printed = json.loads(run.said.splitlines()[-1])
    predicted = measured([
        "-m", "leukemia.cli", "predict", f"{folder}/run", f"{folder}/cells", "-o", f"{folder}/decided.csv"
    ])  # fmt: skip
    return {
        "feature pass": run._replace(seconds=printed["feature_seconds"]),
        "an epoch of the head": run._replace(seconds=float(np.median(printed["epochs"]))),
        "all of the run": run,
        "`predict`": predicted,
    }


def write_cells(folder: Path, count: int) -> None:
    """Noise as BMP files and their manifest. The noise of both classes is alike: nothing is to be learnt."""
    noise, rows = np.random.default_rng(0), []
    for number in range(count):
        subject = number % SUBJECTS
        name = f"cells/{number // PICTURES_IN_FOLDER}/{number}.bmp"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / name)
        rows.append((name, ("HEM", "ALL")[subject % 2], f"S{subject}"))
    pd.DataFrame(rows, columns=["path", "label", "subject"]).to_csv(folder / "cells.csv", index=False)


def evaluated(folder: Path, count: int) -> Cost:
    noise, cell = np.random.default_rng(0), np.arange(count)
    subject = cell % SUBJECTS
    logit = noise.normal(subject % 2 - 0.5, 1)
    table = pd.DataFrame({
        "path": [f"{number}.bmp" for number in cell], "subject": [f"S{number}" for number in subject],
        "split": "test", "label": subject % 2, "logit": logit, "probability": sigmoid(logit),
    })  # fmt: skip
    table.to_csv(folder / f"{count}.csv", index=False)
    return measured(["-m", "leukemia.cli", "evaluate", str(folder / f"{count}.csv")])


def checked(folder: Path, files: int) -> dict[str, float]:
    """MB/s of `data check` and of `cat` on the same files, each read from the disk."""
    root = write_demo(folder / "check", images=files)
    pictures = sorted(root.rglob("*.bmp"))
    megabytes = sum(path.stat().st_size for path in pictures) / 1e6
    rates = {"megabytes": megabytes}
    for name in ("cat", "check"):
        for path in pictures:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        if name == "cat":
            with open(os.devnull, "wb") as nowhere:
                subprocess.run(["xargs", "-0", "cat"], input=b"\0".join(map(os.fsencode, pictures)), stdout=nowhere,
                               check=True)  # fmt: skip
        else:
            measured(["-m", "leukemia.cli", "data", "check", str(root)], may_exit=1)  # not all of C-NMC
        rates[name] = megabytes / (time.perf_counter() - start)
    return rates


def measured(words: list[str], may_exit: int = 0) -> Cost:
    """A Python process run to its end.

    Raises:
        SystemExit: if it ends with another code than 0 or `may_exit`.
    """
    start, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as problems:
        process = subprocess.Popen([sys.executable, *words], cwd=HERE.parent, stdout=said, stderr=problems)
        while process.poll() is None:
            most = max(most, anonymous_kb(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        said.seek(0)
        problems.seek(0)
        if process.returncode not in (0, may_exit):
            raise SystemExit(f"{' '.join(words)} failed:\n{problems.read()[-3000:]}")
        return Cost(seconds, most / 1e6, said.read())


def anonymous_kb(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
