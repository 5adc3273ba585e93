"""The page: tables of what was measured, its ratios, and the targets beside them. Pure text, nothing is measured."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

ROWS = {  # the row: where training starts, and the augmentation
    "head": ("head", "none"),
    "layer4": ("layer4", "none"),
    "layer4-d4": ("layer4", "d4"),
    "stem": ("stem", "none"),
}
GRID = ("head", "layer4", "stem")
NAMES = {
    "head": "frozen baseline (`head`)",
    "layer4": "`layer4`",
    "layer4-d4": "`layer4`, D4",
    "stem": "full fine-tuning (`stem`)",
}
TIMES = {  # the plain loop, ResNet18, by precision; deeper networks: three quarters
    "bf16-mixed": {"head": 30, "layer4": 5, "layer4-d4": 3.5, "stem": 3},
    "32-true": {"head": 13, "layer4": 4.5, "layer4-d4": 2.5},
}
TIMES_BF16 = {"head": 15, "layer4": 2.5, "stem": 1.5}  # the plain loop in bf16 and channels-last, ResNet18
GRID_TIMES, SECOND_START = 5.5, 15
SHARE = {"head": 85, "layer4": 85, "stem": 90}  # % of the limit, ResNet18
PARTS = {
    "head": "feature pass / forward pass",
    "layer4": "training batches / step of the layers from `layer4` on",
    "stem": "training batches / training step",
}

Measurement = dict[str, Any]
Key = tuple[str, int, str]  # data set, depth, row
Measured = dict[Key, dict[str, list[Measurement]]]  # by contender, one of each repeat


def page(measured: Measured, task: Measurement, machine: Measurement) -> str:
    """The page in Markdown.

    Args:
        measured: what the contenders `package`, `plain`, `plain_bf16` and `limit` printed, complete rows only; and of
            the frozen baseline the seconds of `again`, the second start.
        task: what was measured: `size`, `epochs`, `plain_epochs`, `batch_size`, `lr`, `repeats`, `planned` rows.
        machine: as `prepare.py` prints it.
    """
    precision, epochs = machine["precision"], task["epochs"]
    against_plain = [plain_row(key, found, precision, epochs) for key, found in measured.items()]
    against_limit = [limit_row(key, found) for key, found in measured.items() if "limit" in found]
    parts = [parts_row(key, found) for key, found in measured.items()]
    sums = [*grid_rows(measured, epochs), *start_rows(measured)]
    missing = task["planned"] - len(measured)
    unfinished = f" {missing} of {task['planned']} rows are not measured yet." if missing else ""
    return f"""# Speed: this package, a plain Lightning loop, and the limit, side by side

Written by `{task["command"]}`.

Pictures of {task["size"]}x{task["size"]}, {epochs} epochs, batches of {task["batch_size"]}, Adam at \
{task["lr"]:g}, validation each epoch. The targets
are stated for 224x224, 12 epochs and two processor cores.{unfinished}

## Against the plain loop

| data | network | trains from | cells | package, s | plain, s | times faster | target | plain in bf16, s | \
times faster | target | val accuracy, package | plain | plain in bf16 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{lines(against_plain)}

## Against the limit

| data | network | trains from | what, in images a second | package | limit | share | target |
| --- | --- | --- | --- | --- | --- | --- | --- |
{lines(against_limit)}

## In sum

| what | package | plain | times faster | target |
| --- | --- | --- | --- | --- |
{lines(sums)}

## Where the package's time goes, and memory

| data | network | trains from | feature pass, s | epochs, s | of which training batches, s | all else, s | \
start and imports, s, package | plain | peak GB, package | plain | limit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{lines(parts)}

## How it was measured

- Each number is of a process of its own, from the call that begins set-up to the end; its start and imports are in
  the last table. The contenders of a row run directly after one another. {repeated(task["repeats"])}
- Package: `leukemia.train.train` in {precision}, as `auto` chooses here, from an empty cache to `metrics.json`:
  decoding, feature pass, all epochs, checkpoints, curves and final predictions. With `pbc` it also decodes and
  predicts the test split, a fifth of the cells, which the plain loop does not have.
- Plain: `benchmarks/plain_loop.py` on the same training and validation cells: PIL, torchvision transforms, a
  DataLoader with 2 workers for each split, 32-true, frozen modules by `requires_grad_(False)` and `eval()`, Lightning's
  own checkpoint and logger. {scaled(task)}
- Plain in bf16: the same loop with `precision="bf16-mixed"` and a channels-last network and pictures.
- Limit: `benchmarks/limit.py`, the network alone on one batch in memory, in {precision}, channels-last, median of
  {task["limit_repeats"]} repeats of {task["limit_seconds"]:g} s after a warm-up. Training batches of the package: the \
median epoch, from its
  first batch to its last, validation left out.
- The seed study's grid: seconds for each cell, summed over its runs. Each package run starts from an empty cache,
  which those of a sweep would not.
- Second start: the whole command `python -m leukemia.train` with the settings of the row, imports included, on the
  cache that the package's run has filled and into a new run folder.
- Peak memory: of the main process, pages of memory-mapped files included; the plain loop's workers come on top.
- Data: `synthetic` has the structure of C-NMC, and the network random weights; `pbc` is real blood cells, and the
  network is pre-trained on others.

Machine: {machine["processor"]}, {machine["cores"]} cores, {machine["threads"]} threads, {machine["device"]}, \
precision {precision}.
{", ".join(f"{name} {version}" for name, version in machine["versions"].items())}.
"""


def plain_row(key: Key, found: dict[str, list[Measurement]], precision: str, epochs: int) -> list[str]:
    package = typical(found["package"], "seconds")
    wanted = TIMES.get(precision, {})
    ratios = []
    for name, targets in (("plain", wanted), ("plain_bf16", TIMES_BF16 if wanted else {})):
        plain = median(plain_seconds(run, epochs) for run in found[name])
        times = targets.get(key[2])
        target = f"{number(times * (1 if key[1] == 18 else 0.75))}x" if times else "–"
        ratios += [number(plain), f"{number(plain / package)}x", target]
    accuracies = [
        f"{typical(found[name], 'val_accuracy'):.3f}" for name in ("package", "plain", "plain_bf16")
    ]
    return [*named(key), str(found["package"][0]["cells"]), number(package), *ratios, *accuracies]


def limit_row(key: Key, found: dict[str, list[Measurement]]) -> list[str]:
    ours, limit = median(map(package_rate(key[2]), found["package"])), typical(found["limit"], "rate")
    target = f"{SHARE[key[2]]} %" if key[1] == 18 else "–"
    return [*named(key), PARTS[key[2]], number(ours), number(limit), f"{100 * ours / limit:.0f} %", target]


def parts_row(key: Key, found: dict[str, list[Measurement]]) -> list[str]:
    runs = found["package"]
    feature = typical(runs, "feature_seconds")
    epochs, training = (median(sum(run[name]) for run in runs) for name in ("epochs", "training"))
    rest = typical(runs, "seconds") - feature - epochs
    imports = [median(run["wall"] - run["seconds"] for run in found[name]) for name in ("package", "plain")]
    memory = [
        number(typical(found[name], "peak_gb")) if name in found else "–"
        for name in ("package", "plain", "limit")
    ]
    return [*named(key), *map(number, (feature, epochs, training, rest, *imports)), *memory]


def grid_rows(measured: Measured, epochs: int) -> list[list[str]]:
    """A row for each data set whose depths have the whole grid."""
    rows = []
    for data in dict.fromkeys(key[0] for key in measured):
        depths = sorted({depth for name, depth, _ in measured if name == data})
        keys = [(data, depth, row) for depth in depths for row in GRID]
        if not all(key in measured for key in keys):
            continue
        package, plain = 0.0, 0.0
        for key in keys:
            runs = measured[key]
            package += typical(runs["package"], "seconds") / runs["package"][0]["cells"]
            plain += median(plain_seconds(run, epochs) for run in runs["plain"]) / runs["package"][0]["cells"]
        words = f"the seed study's grid, {{{', '.join(map(str, depths))}}} x {{{', '.join(GRID)}}}, {data}: s a cell"
        target = f"{GRID_TIMES}x"
        rows.append([words, number(package), number(plain), f"{number(plain / package)}x", target])
    return rows


def start_rows(measured: Measured) -> list[list[str]]:
    rows = []
    for (data, depth, _), found in measured.items():
        if "again" in found:
            cells = found["package"][0]["cells"]
            words = f"second start on a warm cache, frozen baseline, ResNet{depth}, {data}, {cells} cells: s"
            seconds = number(typical(found["again"], "seconds"))
            rows.append([words, seconds, "–", "–", f"under {SECOND_START} s for 2,000"])
    return rows


def plain_seconds(run: Measurement, epochs: int) -> float:
    """Seconds of the plain loop for all epochs: what it took beside its epochs, and its mean epoch as often."""
    done = run["epochs"]
    return run["seconds"] - sum(done) + epochs * sum(done) / len(done)


def package_rate(row: str) -> Any:
    """The part of a package run that the limit is the limit of, in images a second."""
    if row == "head":
        return lambda run: run["feature_cells"] / run["feature_seconds"] if run["feature_cells"] else math.nan
    return lambda run: run["train_cells"] / median(run["training"])


def repeated(repeats: int) -> str:
    return "Measured once." if repeats == 1 else f"Medians of {repeats} repeats."


def scaled(task: Measurement) -> str:
    if task["plain_epochs"] == task["epochs"]:
        return "It runs all epochs."
    return (
        f"It ran {task['plain_epochs']} of {task['epochs']} epochs: its seconds are scaled up, each missing epoch\n"
        "  counted as the mean of those run, and its accuracy is after those only."
    )


def named(key: Key) -> list[str]:
    return [key[0], f"ResNet{key[1]}", NAMES[key[2]]]


def typical(runs: Sequence[Measurement], name: str) -> float:
    return median(run[name] for run in runs)


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
