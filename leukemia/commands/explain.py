"""`leukemia explain`: Grad-CAM maps of cells as pictures, and their share on the black background."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from leukemia.data.files import find_pictures, spelled
from leukemia.data.pixels import read_in_batches
from leukemia.errors import InputError
from leukemia.evaluation.predictions import checked, sigmoid
from leukemia.inference.gradcam import background, cell_alone, find_target, heat_maps, on_background
from leukemia.inference.torch_predictor import TorchPredictor
from leukemia.reporting.overlays import THUMBNAIL, contact_sheet, side_by_side
from leukemia.runs import Run
from leukemia.storage.atomic import atomic_write, write_text
from leukemia.terminal import show

SAMPLE = 200  # of a run's reported cells
ON_SHEET = 16  # cells of a class
TELLABLE = 0.05  # the least difference between an even map and a map of the cell alone that a mean can lie in


@dataclass(frozen=True)
class ExplainedCell:
    """A cell, its heat map, and the numbers of both."""

    path: str
    pixels: NDArray[np.uint8]  # (S, S, 3)
    heat: NDArray[np.float32]  # (S, S)
    logit: float
    decision: str  # at probability 0.5; the map explains this one
    on_background: float
    cell_alone: float
    background: float

    @property
    def caption(self) -> list[str]:
        share = "no evidence for it" if np.isnan(self.on_background) else f"{self.on_background:.0%} on black"
        return [Path(self.path).name, f"{self.decision}, p {sigmoid(self.logit):.2f}, {share}"]


def explain(
    run: Run,
    paths: Sequence[str] = (),
    output: Path | None = None,
    sample: int = SAMPLE,
    device: str = "auto",
) -> int:
    """Write gradcam.json, the contact sheet gradcam.png, and for paths a picture of each cell.

    Without paths the cells are a random sample of the run's reported split, and both files lie in the run folder, where
    the report finds them.

    Args:
        run: finished.
        paths: files, folders (everything in them) or globs.
        output: a folder, made where there is none. For paths it is `explained` in the current folder by default.
        sample: the number of the run's cells.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        0, or 1 where pictures could not be read.

    Raises:
        InputError: if there is no picture, the run, its cells or the output cannot be used, or its network has no
            activation for Grad-CAM.
    """
    if paths:
        files, about, folder = find_pictures(paths), {"sample": "the pictures given"}, Path("explained")
    else:
        (files, about), folder = _of_the_run(run, sample), run.folder
    folder = folder if output is None else Path(output)
    predictor = TorchPredictor(run, device)
    (net,) = predictor.nets
    target = find_target(net, predictor.image_size)
    rows: list[dict[str, Any]] = []
    unread: list[str] = []
    tiles: dict[str, list[Image.Image]] = {name: [] for name in predictor.classes}
    for number, cell in _explained(predictor, target.places, files, unread):
        rows.append({name: value for name, value in vars(cell).items() if name not in ("pixels", "heat")})
        if len(tiles[cell.decision]) < ON_SHEET:
            tiles[cell.decision].append(side_by_side(cell.pixels, cell.heat, cell.caption, THUMBNAIL))
        if paths:
            stem = re.sub(r"[^\w.-]+", "_", Path(cell.path).stem)
            _save(folder / f"{number:04d}_{stem}.png", side_by_side(cell.pixels, cell.heat, cell.caption))
    if not rows:
        raise InputError(f"none of {len(files):,} pictures can be read: {unread[0]}")
    found = {
        "run": run.name,
        **about,
        "cells": len(rows),
        "method": "Grad-CAM" if target.before_patches is None else "Grad-CAM on the grid of patch tokens",
        "layer": target.stage,
        "image_size": predictor.image_size,
        "classes": gradcam_by_class(pd.DataFrame(rows), predictor.classes),
    }
    sections = {f"Decided {name}": pictures for name, pictures in tiles.items() if pictures}
    _save(folder / "gradcam.png", contact_sheet(sections, f"{run.name}: {about['sample']}"))
    write_text(folder / "gradcam.json", json.dumps(found, indent=2) + "\n")
    problems = [f"not read: {problem}" for problem in unread]
    show("\n".join([*_summary(found), *problems, str(folder / "gradcam.png")]))
    return 1 if unread else 0


def gradcam_by_class(cells: pd.DataFrame, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The share of the heat maps on the black background, by the class that the network decides on.

    Args:
        cells: `decision, on_background` (missing where a map is empty), `cell_alone, background`, a row a cell.
        classes: the names of class 0 and class 1.

    Returns:
        For each class `cells`, the number of cells; `empty`, the number of empty maps; over the other maps the means of
        `on_background`, of `cell_alone` (a map that follows the cell, the least to expect) and of `background` (an even
        map), and the `quartiles` of `on_background`; None where there is no cell.
    """
    found = {}
    for name in classes:
        of_class = cells[cells["decision"] == name]
        mapped = of_class[of_class["on_background"].notna()]
        means = {
            column: round(float(mapped[column].mean()), 4) if len(mapped) else None
            for column in ("on_background", "cell_alone", "background")
        }
        quartiles = [round(float(q), 4) for q in mapped["on_background"].quantile([0.25, 0.5, 0.75])]
        found[name] = {
            "cells": len(of_class),
            "empty": len(of_class) - len(mapped),
            **means,
            "quartiles": quartiles if len(mapped) else None,
        }
    return found


def _of_the_run(run: Run, sample: int) -> tuple[list[str], dict[str, Any]]:
    """A random sample of the reported cells, as files, and the sample in words."""
    if sample < 1:
        raise InputError(f"--sample {sample}: use 1 or more")
    table = checked(run.predictions, run.folder / "predictions.csv")
    if "split" not in table:
        raise InputError(f"{run.folder / 'predictions.csv'} has no column split")
    root = run.data.folder
    chosen = table.sample(min(sample, len(table)), random_state=0).sort_index()
    files = [str(root / path) for path in chosen["path"]]
    split = str(table["split"].iloc[0])
    if not any(map(os.path.isfile, files)):
        raise InputError(
            f"{run.folder}: its pictures do not lie in {root} any more: name pictures, as leukemia explain RUN PATH"
        )
    what = f"a random {len(chosen):,} of {len(table):,} {split} cells (seed 0)"
    if len(chosen) == len(table):
        what = f"all {len(table):,} {split} cells"
    return files, {"split": split, "sample": what}


def _explained(
    predictor: TorchPredictor, places: tuple[int, int], files: Sequence[str], unread: list[str]
) -> Iterator[tuple[int, ExplainedCell]]:
    """The readable cells, with their number from 1; the reasons of the others go to `unread`."""
    for start, items in read_in_batches(files, predictor.pixels, predictor.image_size):
        good = {place: item for place, item in enumerate(items) if not isinstance(item, InputError)}
        unread += [spelled(str(item)) for item in items if isinstance(item, InputError)]
        if not good:
            continue
        pixels = np.stack(list(good.values()))
        logits, heat = predictor.logits(pixels), heat_maps(predictor.nets[0], pixels)
        alone = cell_alone(pixels, places)
        shares = on_background(heat, pixels), on_background(alone, pixels), background(pixels)
        for row, place in enumerate(good):
            logit = float(logits[row])
            decision = predictor.classes[1] if logit >= 0 else predictor.classes[0]
            of_cell = (float(share[row]) for share in shares)
            name = spelled(files[start + place])
            yield start + place + 1, ExplainedCell(name, pixels[row], heat[row], logit, decision, *of_cell)


def _summary(found: dict[str, Any]) -> Iterator[str]:
    yield f"Share of the Grad-CAM maps on the black background, {found['sample']}:"
    for name, of_class in found["classes"].items():
        seen, least, even = (of_class[column] for column in ("on_background", "cell_alone", "background"))
        if seen is None:
            yield f"  {name}: no cell"
            continue
        note = ""
        if even - least < TELLABLE:
            note = " (too coarse to judge: take a larger data.image_size)"
        elif seen > even:
            note = " WARNING: the evidence lies on the mask more than on the cell"
        yield (
            f"  {name}, {of_class['cells']:,} cells: {seen:.0%}; a map of the cell alone has {least:.0%}, "
            f"an even one {even:.0%}{note}"
        )


def _save(path: Path, picture: Image.Image) -> None:
    with atomic_write(path) as file:
        picture.save(file, "png")
