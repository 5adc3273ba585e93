"""Does the gate find pictures that the model has not seen? Measured on real cells; writes docs/unknown.md.

`python benchmarks/unknown.py [--data ../shared] [--features FILE.npz] [--stress RUN/stress.json] [--output FILE.md]`
"""

import argparse
import io
import json
import time
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
from leukemia.evaluation.gate import CHECKS, fit_gate
from leukemia.models.freezing import pooled
from leukemia.models.network import pixel_outputs
from leukemia.models.resnet import resnet

FOLDS, SIDE, SIZE = 5, 450, 224
QUALITY = 98  # of JPEG: all pictures are compressed alike, so that no check can tell them by it
AS_THEY_ARE, WHOLE = "as they are", "600x600 squashed whole"
METHODS = ("Mahalanobis", "by class", "relative", "1st neighbour", "5th neighbour")
Picture = NDArray[np.uint8]
Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared"))
    parser.add_argument(
        "--features", type=Path, help="where the features are kept, and read when they are there"
    )
    parser.add_argument(
        "--stress", type=Path, help="of a run with a policy: the page shows it with and without its gate"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/unknown.md"))
    options = parser.parse_args()
    if options.features and options.features.is_file():
        with np.load(options.features) as file:
            found = dict(file)
    else:
        torch.set_num_threads(1)
        found = features(options.data)
        if options.features:
            np.savez(options.features, **found)
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True
    )
    stress = json.loads(options.stress.read_text()) if options.stress else None
    options.output.write_text(pages.get_template("unknown.md.j2").render(judged(found), stress=stress))
    print(options.output)


def features(shared: Path) -> dict[str, Array]:
    """Handcrafted and pooled features of each case, `CASE/h` and `CASE/d`, and each cell's subject and label."""
    files = [
        file
        for source in ("cnmc_sample", "cnmc_jpg")
        for file in sorted((shared / "data" / source / "training_data").rglob("UID_*"))
    ]
    cells = [compressed(decode(file)) for file in files]
    net = resnet(18, weights=str(shared / "weights/resnet18_pbc6.pth")).eval()
    found: dict[str, Array] = {
        "subj": np.array([file.name.split("_")[1].upper() for file in files]),
        "lab": np.array(["_all" in file.name.lower() for file in files]),
    }
    lymphocytes = sorted((shared / "data/pbc_cells/lymphocyte").glob("*.jpg"))
    for name, change in cases(cells, lymphocytes).items():
        native = None if name == WHOLE else SIDE
        pixels = np.stack([fit(np.ascontiguousarray(change(cell)), SIZE, "squash", native) for cell in cells])
        with torch.inference_mode():
            parts = [pooled(pixel_outputs(net, part)[1]) for part in torch.from_numpy(pixels).split(32)]
        found |= {f"{name}/h": measure(pixels), f"{name}/d": torch.cat(parts).numpy()}
        print(name, flush=True)
    return found


def judged(found: dict[str, Array]) -> dict[str, Any]:
    """All that the page says: by case, by subject and by method. Every cell is judged by a gate of other subjects."""
    subject, label = found["subj"], found["lab"].astype(int)
    names = [key[:-2] for key in found if key.endswith("/d")]
    subjects, number = np.unique(subject, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(subjects)) % FOLDS)[number]
    by = {name: np.zeros(len(subject)) for name in names}
    far = {name: {method: np.zeros(len(subject)) for method in METHODS} for name in names}
    why: dict[str, Counter[str]] = {name: Counter() for name in names}
    gates, seconds = [], 0.0
    for held in range(FOLDS):
        rest, here = fold != held, fold == held
        shape, deep = found[f"{AS_THEY_ARE}/h"][rest], found[f"{AS_THEY_ARE}/d"][rest].astype(float)
        start = time.perf_counter()
        gates.append(gate := fit_gate(shape, deep, subject[rest], np.arange(rest.sum())))
        seconds = max(seconds, time.perf_counter() - start)
        distances = methods(deep, label[rest])
        for name in names:
            seen = found[f"{name}/d"][here].astype(float)
            unlike = gate.unlike(found[f"{name}/h"][here], seen)
            by[name][here] = unlike.by
            why[name].update(CHECKS[check] for check in unlike.check[unlike.stopped])
            for method, distance in distances.items():
                far[name][method][here] = distance(seen)
    others = [name for name in names if name != AS_THEY_ARE]
    rows = [
        {
            "case": name,
            "auroc": auroc(by[AS_THEY_ARE], by[name]),
            "stopped": float((by[name] > 1).mean()),
            "why": ", ".join(f"{check} ({count})" for check, count in why[name].most_common(2)),
            "methods": {method: auroc(far[AS_THEY_ARE][method], far[name][method]) for method in METHODS},
        }
        for name in others
    ]
    stopped = pd.Series(by[AS_THEY_ARE] > 1).groupby(subject).agg(["sum", "size"])
    shares = [gate.about["guaranteed_share"] for gate in gates]
    chance = binom.sf(stopped["sum"] - 1, stopped["size"], max(shares))
    return {
        "rows": rows,
        "missed": [row for row in rows if row["auroc"] < 0.95 or row["stopped"] < 0.9],
        "methods": METHODS,
        "means": {method: float(np.mean([row["methods"][method] for row in rows])) for method in METHODS},
        "n_cells": len(subject),
        "n_subjects": len(subjects),
        "n_stopped": int(stopped["sum"].sum()),
        "mean_share": float((stopped["sum"] / stopped["size"]).mean()),
        "guaranteed": (min(shares), max(shares)),
        "units": [gate.about["n_units"] for gate in gates],
        "worst": [(name, *of) for name, of in stopped[stopped["sum"] > 0].iterrows()],
        "improbable": int((chance < 0.05 / len(stopped)).sum()),
        "size": SIZE,
        "fit_seconds": seconds,
    }


def cases(cells: list[Picture], lymphocytes: list[Path]) -> dict[str, Callable[[Picture], Picture]]:
    """What becomes of a cell in each case."""
    rng = np.random.default_rng(0)
    photos, pick = load_sample_images().images, iter(rng.permutation(len(lymphocytes)))
    letters = list("abcdefghijklmnopqrstuvwxyz     ")

    def gradient(cell: Picture) -> Picture:
        ends, across = rng.integers(0, 255, (2, 3)), rng.permutation([0, 1])[0]
        along = np.linspace(0, 1, SIDE)[:, None, None]
        drawn = np.broadcast_to(ends[0] * (1 - along) + ends[1] * along, cell.shape)
        return (drawn if across else drawn.transpose(1, 0, 2)).astype(np.uint8)

    def photo(cell: Picture) -> Picture:
        picture, size = photos[rng.integers(2)], rng.integers(200, 427)
        top, left = rng.integers(0, 427 - size + 1), rng.integers(0, 640 - size + 1)
        return np.asarray(Image.fromarray(picture[top : top + size, left : left + size]).resize((SIDE, SIDE)))

    def text(cell: Picture) -> Picture:
        page = Image.new("RGB", (SIDE, SIDE), "white")
        for top in range(10, SIDE - 10, 22):
            ImageDraw.Draw(page).text((10, top), "".join(rng.choice(letters, 45)), fill="black", font_size=18)
        return np.asarray(page)

    def on(colour: tuple[int, int, int], noise: float, cell: Picture) -> Picture:
        drawn = np.array(colour) + noise * rng.standard_normal(cell.shape)
        return np.where(is_background(cell)[..., None], drawn.clip(0, 255), cell).astype(np.uint8)

    def scaled(factor: float, cell: Picture) -> Picture:
        size = round(SIDE * factor)
        return framed(np.asarray(Image.fromarray(cell).resize((size, size), Image.Resampling.BILINEAR)), SIDE)

    def half(cell: Picture) -> Picture:
        middle = int(np.average(np.arange(SIDE), weights=(~is_background(cell)).sum(axis=0)))
        return np.where(np.arange(SIDE)[None, :, None] < middle, cell, 0).astype(np.uint8)

    def two(cell: Picture) -> Picture:
        """Two cells that touch, beside each other."""
        other, places = cells[rng.integers(len(cells))], np.arange(SIDE)[None, :, None]
        left, right = (int((~is_background(one)).any(axis=0).sum() // 2) for one in (cell, other))
        one = np.roll(cell, -left, axis=1) * (places < SIDE - left)
        return np.maximum(one, np.roll(other, right, axis=1) * (places >= right)).astype(np.uint8)

    orders = {"BGR": [2, 1, 0], "GRB": [1, 0, 2], "RBG": [0, 2, 1], "GBR": [1, 2, 0], "BRG": [2, 0, 1]}
    return {
        AS_THEY_ARE: lambda cell: cell,
        "noise": lambda cell: rng.integers(0, 256, cell.shape, dtype=np.uint8),
        "gradient": gradient,
        "photograph": photo,
        "white": lambda cell: np.full_like(cell, 255),
        "black": np.zeros_like,
        "text": text,
        "cell on a smear-coloured background": partial(on, (226, 204, 214), 4),
        "PBC lymphocyte on black": lambda cell: decode(lymphocytes[next(pick)]),
        "scale x1.5": partial(scaled, 1.5),
        "scale x0.67": partial(scaled, 0.67),
        **{f"channels {name}": lambda cell, order=order: cell[..., order] for name, order in orders.items()},
        "half a cell": half,
        "two cells": two,
        WHOLE: partial(framed, size=600),
        "background of grey 30": partial(on, (30, 30, 30), 0),
        "background of grey 10": partial(on, (10, 10, 10), 0),
    }


def framed(picture: Picture, size: int) -> Picture:
    """The centre of a picture, or the picture in the centre of a black one."""
    have = len(picture)
    if have >= size:
        cut = (have - size) // 2
        return picture[cut : cut + size, cut : cut + size]
    before = (size - have) // 2
    return np.pad(picture, ((before, size - have - before),) * 2 + ((0, 0),))


def compressed(picture: Picture) -> Picture:
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(memory).convert("RGB"))


def methods(known: Array, label: Array) -> dict[str, Callable[[Array], Array]]:
    """Distances from the training cells, by pooled features alone."""

    def squared(centres: list[Array], apart: Array) -> Callable[[Array], Array]:
        precision = np.linalg.inv(ledoit_wolf(apart, assume_centered=True)[0])
        return lambda seen: np.min(
            [((seen - one) @ precision * (seen - one)).sum(axis=1) for one in centres], axis=0
        )

    of_class = [known[label == number].mean(axis=0) for number in (0, 1)]
    whole = squared([known.mean(axis=0)], known - known.mean(axis=0))
    by_class = squared(of_class, known - np.stack(of_class)[label])
    directions = known / np.linalg.norm(known, axis=1, keepdims=True)

    def neighbour(place: int, seen: Array) -> Array:
        return -np.sort(seen / np.linalg.norm(seen, axis=1, keepdims=True) @ directions.T, axis=1)[:, -place]

    found = (
        whole,
        by_class,
        lambda seen: by_class(seen) - whole(seen),
        partial(neighbour, 1),
        partial(neighbour, 5),
    )
    return dict(zip(METHODS, found, strict=True))


def auroc(like: Array, unlike: Array) -> float:
    return float(roc_auc_score([0] * len(like) + [1] * len(unlike), np.concatenate([like, unlike])))


if __name__ == "__main__":
    main()
