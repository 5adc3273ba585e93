"""Checks a machine with one GPU and measures it, and writes benchmarks/results-gpu.md. `make bench-gpu` starts it.

Correctness comes first: a speed is worth nothing where a check fails, so the page begins with the checks and the
program ends with 1. The page is written anew after each row; what does not fit into the time is left out and named.
`--device cpu --tiny` runs every row in minutes on any machine.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import run as bench
from page import lines, number, package_rate
from prepare import machine, synthetic

import leukemia.training.run as training
from leukemia.config import compose
from leukemia.data.loader import CellLoader
from leukemia.evaluation.predictions import sigmoid
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.runs import Run

EPOCHS = 12  # of the seed study's grid
TARGETS = {18: 80, 50: 85}  # full fine-tuning, % of the step on random data on the device
CLOSE = 0.02  # of probabilities of one network in two precisions
Check = Callable[["Trained"], str]


class StopAfterAnEpoch(pl.Callback):
    """Ends the program where Ctrl-C would: after the first epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


class Trained:
    """Short runs on one small set, by their settings."""

    def __init__(self, scratch: Path, device: str, size: int) -> None:
        self.scratch, self.device, self.count = scratch, device, 0
        synthetic({"images": 160}, scratch / "cells")
        self.settings = [
            f'data.root="{scratch}/cells"', f"data.image_size={size}", "data.batch_size=16", "trainer.max_epochs=2",
            "model.net.weights=none", "model.trainable_from=layer4", "data.augment=d4", f"trainer={device}",
            "trainer.precision=32-true", "logger=none",
        ]  # fmt: skip

    def run(self, *more: str, folder: Path | None = None) -> Run:
        self.count += 1
        given = compose([*self.settings, *more])
        return training.train(given, folder or self.scratch / f"run{self.count}")

    def stopped(self, *more: str) -> Path:
        """The folder of a run that was left after its first epoch."""
        folder, build = self.scratch / f"stopped{self.count}", training.build_trainer

        def with_stop(*given: Any) -> pl.Trainer:
            trainer = build(*given)
            trainer.callbacks.append(StopAfterAnEpoch())
            return trainer

        with patch.object(training, "build_trainer", with_stop):
            try:
                self.run(*more, folder=folder)
            except (KeyboardInterrupt, SystemExit):
                return folder
        raise AssertionError("the run was not stopped")


def uses_the_device(trained: Trained) -> str:
    session = trained.run().status["sessions"][-1]
    wanted = "cuda" if trained.device == "gpu" else "cpu"
    assert session["device"] == wanted, f"it trained on {session['device']}"
    return f"on {session['device']}, {session['precision']}"


def is_deterministic(trained: Trained) -> str:
    return equal(trained.run("seed=3"), trained.run("seed=3"))


def resumes_to_the_bit(trained: Trained) -> str:
    whole, folder = trained.run(), trained.stopped()
    resumed = trained.run(folder=folder)
    assert len(resumed.status["sessions"]) == 2, "it did not go on"
    return equal(whole, resumed)


def keeps_on_gpu(trained: Trained) -> str:
    return equal(trained.run(), trained.run("data.keep_on_gpu=off"))


def pins_batches(trained: Trained) -> str:
    seen = set()
    iterate = CellLoader.__iter__

    def watched(loader: CellLoader) -> Iterator[Any]:
        for batch in iterate(loader):
            seen.add(batch["pixels"].is_pinned())
            yield batch

    with patch.object(CellLoader, "__iter__", watched):
        trained.run("data.keep_on_gpu=off", "data.cache_features=off")
    assert seen == {trained.device == "gpu"}, f"pinned: {seen}"
    return "pinned" if trained.device == "gpu" else "not pinned, as on a processor"


def agrees_in_other_precisions(trained: Trained) -> str:
    run = trained.run()
    predictor = TorchPredictor(run, "cuda" if trained.device == "gpu" else "cpu")
    size = run.data.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    exact, apart = sigmoid(predictor.logits(pixels)), {}
    for predictor.precision in ("bf16-mixed", "16-mixed") if trained.device == "gpu" else ("bf16-mixed",):
        apart[predictor.precision] = float(np.abs(sigmoid(predictor.logits(pixels)) - exact).max())
    assert all(most < CLOSE for most in apart.values()), str(apart)  # a NaN fails too
    return ", ".join(f"{name} within {most:.1g}" for name, most in apart.items())


def is_the_same_under_ddp(trained: Trained) -> str:
    accelerator = "gpu" if trained.device == "gpu" else "cpu"
    ddp = trained.run("trainer=ddp", "trainer.devices=1", f"trainer.accelerator={accelerator}")
    return equal(trained.run(), ddp)


CHECKS: dict[str, Check] = {
    "`trainer=gpu` trains on the device": uses_the_device,
    "the same seed gives the same run (deterministic cuDNN)": is_deterministic,
    "a run that was stopped goes on as if it had not been": resumes_to_the_bit,
    "`data.keep_on_gpu` changes nothing": keeps_on_gpu,
    "batches from the host are pinned": pins_batches,
    "other precisions agree": agrees_in_other_precisions,
    "`trainer=ddp` on one device is the same run": is_the_same_under_ddp,
}


def equal(one: Run, other: Run) -> str:
    """ "equal to the bit"; else how far the probabilities are apart, as an AssertionError."""
    texts = [(run.folder / "predictions.csv").read_bytes() for run in (one, other)]
    if texts[0] != texts[1]:
        most = float(np.abs(probabilities(one) - probabilities(other)).max())
        raise AssertionError(f"not equal: probabilities differ by up to {most:.2g}")
    return "equal to the bit"


def probabilities(run: Run) -> Any:
    return run.predictions["probability"].to_numpy()


def main() -> None:
    options = parse()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, cache_in(Path(scratch)):
        page = Page(options, machine())
        trained = Trained(
            Path(scratch), "gpu" if options.device == "cuda" else "cpu", 32 if options.tiny else 64
        )
        for name, check in CHECKS.items():
            try:
                page.check(name, check(trained))
            except Exception as error:  # a check that cannot run has failed too
                page.check(name, f"FAILED: {type(error).__name__}: {error}")
        for measure in (full_fine_tuning, grid):
            measure(options, Path(scratch), page, started + 60 * options.minutes)
    print(page.text(), options.output, sep="\n")
    sys.exit(1 if any(found.startswith("FAILED") for _, found in page.checks) else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and measure one GPU, and write a page.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few small pictures, to see that every row runs")
    parser.add_argument("--minutes", type=float, default=8, help="rows that would begin later are left out")
    parser.add_argument("--workers", type=int, default=8, help="of the plain loop")
    parser.add_argument("--output", type=Path, default=bench.HERE / "results-gpu.md", help="the page")
    return parser.parse_args()


@contextmanager
def cache_in(scratch: Path) -> Iterator[None]:
    with patch.dict("os.environ", {"LEUKEMIA_CACHE": str(scratch / "cache")}):
        yield


class Page:
    """The page, written after each row."""

    def __init__(self, options: argparse.Namespace, told: dict[str, Any]) -> None:
        self.options, self.told = options, told
        self.checks: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.grids: list[list[str]] = []
        self.left_out: list[str] = []

    def check(self, name: str, found: str) -> None:
        self.checks.append((name, found))
        self.write(f"{name}: {found}")

    def write(self, said: str) -> None:
        print(said, flush=True)
        self.options.output.parent.mkdir(parents=True, exist_ok=True)
        self.options.output.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        tiny = " Tiny: these figures show that every row runs and nothing else." if self.options.tiny else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.told["versions"].items())
        left = "".join(f"\nLeft out for lack of time: {name}.\n" for name in self.left_out)
        return f"""# Speed and correctness on one GPU

Written by `benchmarks/gpu.py`. Device: {self.told["device"]}; {self.told["processor"]}, {self.told["cores"]} cores.
{versions}.{tiny}

## Checks

| what | found |
| --- | --- |
{lines(self.checks)}

## Full fine-tuning

Images a second in the training batches of the package (its median epoch) against the same step on one random batch that
lies on the device; both in the package's precision, channels-last. The plain loop is Lightning's as its documentation
teaches it, with {self.options.workers} workers, in fp32 and in bf16 with channels-last.

| network | package | step | share | target | plain, s an epoch | plain in bf16 | package |
| --- | --- | --- | --- | --- | --- | --- | --- |
{lines(self.rows)}

## The seed study's grid

`experiment=paper`, {{18, 50}} x {{head, layer4, stem}}, {EPOCHS} epochs each, from an empty cache to the report.

| cells | s | target |
| --- | --- | --- |
{lines(self.grids)}
{left}"""


def full_fine_tuning(options: argparse.Namespace, scratch: Path, page: Page, end: float) -> None:
    images, size, epochs = (48, 32, 2) if options.tiny else (2000, 224, 3)
    root = scratch / "tuning"
    synthetic({"images": images}, root)
    for depth in (50, 18):
        if time.monotonic() > end - 60:
            page.left_out.append(f"full fine-tuning of ResNet{depth}")
            continue
        task = {
            **{
                "size": size,
                "epochs": epochs,
                "plain_epochs": epochs,
                "batch_size": 16 if options.tiny else 64,
            },
            **{"lr": bench.LR, "precision": page.told["precision"], "workers": options.workers},
            **{"limit_repeats": 1 if options.tiny else 3, "limit_seconds": 0.1 if options.tiny else 3.0},
            **bench.row_task("synthetic", depth, "stem", {"root": str(root)}),
        }
        found = bench.measure_row(task, "stem", scratch)
        ours, limit = package_rate("stem")(found["package"]), found["limit"]["rate"]
        each = [number(np.median(found[name]["epochs"])) for name in ("plain", "plain_bf16", "package")]
        share, target = f"{100 * ours / limit:.0f} %", f"{TARGETS[depth]} %"
        page.rows.append([f"ResNet{depth}", number(ours), number(limit), share, target, *each])
        page.write(f"ResNet{depth}: {share} of the step")


def grid(options: argparse.Namespace, scratch: Path, page: Page, end: float) -> None:
    images = 60 if options.tiny else 12_528
    if time.monotonic() > end - (0 if options.tiny else 240):
        page.left_out.append("the seed study's grid")
        return
    root = scratch / "full"
    synthetic({"images": images}, root)
    small = (
        ["data.image_size=32", "trainer.max_epochs=1"] if options.tiny else [f"trainer.max_epochs={EPOCHS}"]
    )
    start = time.monotonic()
    bench.command(
        [
            sys.executable, "-m", "leukemia.train", "-m", "experiment=paper", f'data.root="{root}"',
            "model.net.weights=none", f"callbacks.early_stopping.patience={EPOCHS}", *small,
            f"trainer={'gpu' if options.device == 'cuda' else 'cpu'}", f'hydra.sweep.dir="{scratch}/grid"',
        ],
        scratch,
    )  # fmt: skip
    seconds = time.monotonic() - start
    cells = len(Run(next((scratch / "grid").glob("*/metrics.json")).parent).cells)
    page.grids.append([f"{cells:,}", number(seconds), "300"])
    page.write(f"the grid on {cells:,} cells: {seconds:.0f} s")


if __name__ == "__main__":
    main()
