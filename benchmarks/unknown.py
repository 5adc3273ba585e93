"""Does the gate find pictures that the model has not seen? Measured on real cells; writes docs/unknown.md.

`python benchmarks/unknown.py [--data ../shared] [--output docs/unknown.md]`
"""

import argparse
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.stats import binom
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from leukemia.data.handcrafted import is_background, measure
from leukemia.data.pixels import decode, fit
from leukemia.evaluation.gate import CHECKS, Unlike, fit_gate
from leukemia.inference.torch_predictor import TorchPredictor, mean_outputs
from leukemia.models.network import pixel_outputs
from leukemia.training.run import fit as train

FOLDS, SIDE, SIZE = 5, 450, 128  # the weights were trained at 128x128
QUALITY = 98  # of JPEG: all pictures are compressed alike, so that no check can tell them by it
Picture = NDArray[np.uint8]
METHODS = (
    "Mahalanobis",
    "Mahalanobis by class",
    "relative Mahalanobis",
    "nearest neighbour",
    "5th neighbour",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=Path("docs/unknown.md"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    found = measured(options.data)
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True
    )
    options.output.write_text(pages.get_template("unknown.md.j2").render(found))
    print(options.output)


def measured(shared: Path) -> dict[str, Any]:
    """All that the page says: by case, by subject and by method."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "C-NMC_Leukemia"
        write_cells(shared / "data", root)
        runs = [
            train([
                f"data.root={root}", "data.protocol=subject_kfold", f"data.fold={fold}", f"data.num_folds={FOLDS}",
                f"data.image_size={SIZE}", f"model.net.weights={(shared / 'weights/resnet18_pbc6.pth').absolute()}",
                "model.trainable_from=layer4", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=5",
                "logger=none", f"hydra.run.dir={folder}/{fold}",
            ])
            for fold in range(FOLDS)
        ]  # fmt: skip
        lymphocytes = sorted((shared / "data/pbc_cells/lymphocyte").glob("*.jpg"))
        parts = [of_fold(run, root, lymphocytes) for run in runs]
    cells = pd.concat([part["cells"] for part in parts], ignore_index=True)
    by = {name: np.concatenate([part["by"][name] for part in parts]) for name in parts[0]["by"]}
    why = {name: sum((part["why"][name] for part in parts), Counter()) for name in by}
    far = {
        name: {m: np.concatenate([part["far"][name][m] for part in parts]) for m in METHODS} for name in by
    }
    rows = [
        {
            "case": name,
            "auroc": auroc(by["as they are"], by[name]),
            "stopped": float((by[name] > 1).mean()),
            "why": ", ".join(f"{check} ({n})" for check, n in why[name].most_common(2)),
            "methods": {m: auroc(far["as they are"][m], far[name][m]) for m in METHODS},
        }
        for name in by
        if name != "as they are"
    ]
    stopped = pd.Series(by["as they are"] > 1).groupby(cells["subject"].to_numpy()).agg(["sum", "size"])
    shares = [part["guaranteed"] for part in parts]
    worst = stopped.sort_values("sum", ascending=False)
    chance = binom.sf(stopped["sum"] - 1, stopped["size"], max(shares))
    return {
        "rows": rows,
        "missed": [row for row in rows if row["auroc"] < 0.95 or row["stopped"] < 0.9],
        "methods": METHODS,
        "means": {m: float(np.mean([row["methods"][m] for row in rows])) for m in METHODS},
        "n_cells": len(cells),
        "n_subjects": len(stopped),
        "n_stopped": int(stopped["sum"].sum()),
        "mean_share": float((stopped["sum"] / stopped["size"]).mean()),
        "guaranteed": (min(shares), max(shares)),
        "units": [part["units"] for part in parts],
        "worst": [(name, int(of["sum"]), int(of["size"])) for name, of in worst[worst["sum"] > 0].iterrows()],
        "improbable": int((chance < 0.05 / len(stopped)).sum()),
        "size": SIZE,
        "fit_seconds": max(part["seconds"] for part in parts),
    }


def write_cells(data: Path, root: Path) -> None:
    """The training cells of both sets as JPEG of one quality, under their own names."""
    for source in ("cnmc_sample", "cnmc_jpg"):
        for file in (data / source / "training_data").rglob("UID_*"):
            place = root / file.relative_to(data / source).with_suffix(".jpg")
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(decode(file)).save(place, quality=QUALITY)


def of_fold(run: Any, root: Path, lymphocytes: list[Path]) -> dict[str, Any]:
    """Every case made from the test cells of a run, judged by its gate."""
    rng = np.random.default_rng(0)
    predictor = TorchPredictor(run, "cpu")
    (gate,), (net,) = predictor.gates, predictor.nets
    cells = run.cells
    test, fitted = (cells[cells["split"] == split].reset_index(drop=True) for split in ("test", "train"))
    pictures = [decode(root / path) for path in test["path"]]

    def outputs(seen: list[Picture]) -> tuple[NDArray[Any], NDArray[Any]]:
        pixels = np.stack(seen)
        with torch.inference_mode():
            return measure(pixels), mean_outputs(
                partial(pixel_outputs, net), torch.from_numpy(pixels), "none"
            )[1]

    shape, features = outputs([predictor.pixels(root / path) for path in fitted["path"]])
    start = pd.Timestamp.now()
    fit_gate(shape, features, fitted["subject"], np.arange(len(fitted)))
    seconds = (pd.Timestamp.now() - start).total_seconds()
    distances = methods(features.astype(float), fitted["label"].to_numpy())
    found: dict[str, Any] = {"by": {}, "why": {}, "far": {}, "cells": test, "seconds": seconds}
    for name, change in cases(pictures, lymphocytes, rng).items():
        native = None if name.startswith("600x600") else SIDE
        shape, features = outputs(
            [fit(np.ascontiguousarray(change(one)), SIZE, "squash", native) for one in pictures]
        )
        unlike: Unlike = gate.unlike(shape, features)
        found["by"][name] = unlike.by
        found["why"][name] = Counter(CHECKS[number] for number in unlike.check[unlike.stopped])
        found["far"][name] = {m: distance(features.astype(float)) for m, distance in distances.items()}
    return {**found, "guaranteed": gate.about["guaranteed_share"], "units": gate.about["n_units"]}


def cases(
    cells: list[Picture], lymphocytes: list[Path], rng: np.random.Generator
) -> dict[str, Callable[[Picture], Picture]]:
    """What becomes of a cell in each case."""
    photos, pick = load_sample_images().images, iter(rng.permutation(len(lymphocytes)))
    letters = list("abcdefghijklmnopqrstuvwxyz     ")

    def gradient(cell: Picture) -> Picture:
        ends = rng.integers(0, 256, (2, 3))
        along = np.linspace(0, 1, SIDE)[:, None, None]
        return np.broadcast_to(ends[0] * (1 - along) + ends[1] * along, cell.shape).astype(np.uint8)

    def photo(cell: Picture) -> Picture:
        picture, size = photos[rng.integers(2)], rng.integers(200, 427)
        top, left = rng.integers(0, 427 - size + 1), rng.integers(0, 640 - size + 1)
        return np.asarray(Image.fromarray(picture[top : top + size, left : left + size]).resize((SIDE, SIDE)))

    def text(cell: Picture) -> Picture:
        page = Image.new("RGB", (SIDE, SIDE), "white")
        for top in range(10, SIDE - 10, 22):
            ImageDraw.Draw(page).text((10, top), "".join(rng.choice(letters, 45)), fill="black", font_size=18)
        return np.asarray(page)

    def background(cell: Picture, colour: tuple[int, int, int], noise: float = 0) -> Picture:
        drawn = np.array(colour) + noise * rng.standard_normal(cell.shape)
        return np.where(is_background(cell)[..., None], drawn.clip(0, 255), cell).astype(np.uint8)

    def scaled(cell: Picture, factor: float) -> Picture:
        size = round(SIDE * factor)
        larger = np.asarray(Image.fromarray(cell).resize((size, size), Image.Resampling.BILINEAR))
        return framed(larger, SIDE)

    def half(cell: Picture) -> Picture:
        middle = int(np.average(np.arange(SIDE), weights=(~is_background(cell)).sum(axis=0)))
        return np.where(np.arange(SIDE)[None, :, None] < middle, cell, 0).astype(np.uint8)

    def two(cell: Picture) -> Picture:
        """Two cells that touch, beside each other."""
        other = cells[rng.integers(len(cells))]
        places = np.arange(SIDE)[None, :, None]
        left, right = (int((~is_background(one)).any(axis=0).sum() // 2) for one in (cell, other))
        one = np.roll(cell, -left, axis=1) * (places < SIDE - left)
        return np.maximum(one, np.roll(other, right, axis=1) * (places >= right)).astype(np.uint8)

    return {
        "as they are": lambda cell: cell,
        "noise": lambda cell: rng.integers(0, 256, cell.shape, dtype=np.uint8),
        "gradient": gradient,
        "photograph": photo,
        "white": lambda cell: np.full_like(cell, 255),
        "black": np.zeros_like,
        "text": text,
        "cells on a smear-coloured background": lambda cell: background(cell, (226, 204, 214), 4),
        "background of grey 30": lambda cell: background(cell, (30, 30, 30)),
        "background of grey 10": lambda cell: background(cell, (10, 10, 10)),
        "PBC lymphocytes on black": lambda cell: decode(lymphocytes[next(pick)]),
        "scale x1.5": lambda cell: scaled(cell, 1.5),
        "scale x0.67": lambda cell: scaled(cell, 0.67),
        "600x600 squashed whole": lambda cell: framed(cell, 600),
        "channels BGR": lambda cell: cell[..., [2, 1, 0]],
        "channels GRB": lambda cell: cell[..., [1, 0, 2]],
        "channels RBG": lambda cell: cell[..., [0, 2, 1]],
        "channels GBR": lambda cell: cell[..., [1, 2, 0]],
        "channels BRG": lambda cell: cell[..., [2, 0, 1]],
        "half a cell": half,
        "two cells": two,
    }


def framed(picture: Picture, size: int) -> Picture:
    """The centre of a picture, or the picture in the centre of a black one."""
    have = len(picture)
    if have >= size:
        cut = (have - size) // 2
        return picture[cut : cut + size, cut : cut + size]
    before = (size - have) // 2
    return np.pad(picture, ((before, size - have - before),) * 2 + ((0, 0),))


def methods(features: NDArray[Any], label: NDArray[Any]) -> dict[str, Callable[[NDArray[Any]], NDArray[Any]]]:
    """Distances from the training cells, by pooled features alone."""

    def squared(centres: list[NDArray[Any]], apart: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
        precision = np.linalg.inv(ledoit_wolf(apart, assume_centered=True)[0])
        return lambda seen: np.min([
            np.einsum("nd,de,ne->n", seen - centre, precision, seen - centre) for centre in centres
        ], axis=0)  # fmt: skip

    centre = features.mean(axis=0)
    of_class = [features[label == number].mean(axis=0) for number in (0, 1)]
    whole = squared([centre], features - centre)
    by_class = squared(of_class, features - np.stack(of_class)[label])
    known = features / np.linalg.norm(features, axis=1, keepdims=True)

    def neighbour(k: int, seen: NDArray[Any]) -> NDArray[Any]:
        return -np.sort(seen / np.linalg.norm(seen, axis=1, keepdims=True) @ known.T, axis=1)[:, -k]

    both = (
        whole,
        by_class,
        lambda seen: by_class(seen) - whole(seen),
        partial(neighbour, 1),
        partial(neighbour, 5),
    )
    return dict(zip(METHODS, both, strict=True))


def auroc(like: NDArray[Any], unlike: NDArray[Any]) -> float:
    return float(roc_auc_score([0] * len(like) + [1] * len(unlike), np.concatenate([like, unlike])))


if __name__ == "__main__":
    main()
