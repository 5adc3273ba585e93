"""The metrics of a fitted run: predictions.csv, baseline.csv and metrics.json, and the same in the loggers."""

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from numpy.typing import NDArray

from leukemia.config import Settings
from leukemia.data.datamodule import CellDataModule
from leukemia.data.handcrafted import BASELINE
from leukemia.evaluation.baseline import against_majority, baseline_logits
from leukemia.evaluation.gate import Gate, fit_gate
from leukemia.evaluation.metrics import cell_metrics, subject_metrics
from leukemia.evaluation.predictions import clusters
from leukemia.identity import flatten, is_identity, network_name
from leukemia.inference.torch_predictor import predict_outputs, predictions_table
from leukemia.models.checkpoint import fill, read_checkpoint
from leukemia.models.classifier import CellClassifier
from leukemia.models.network import network_size
from leukemia.runs import Run
from leukemia.training.loggers import log_final

log = logging.getLogger(__name__)


def write_final_metrics(run: Run, data: CellDataModule, model: CellClassifier, trainer: pl.Trainer) -> None:
    """Predict with the tensors of best.ckpt on one device. Write predictions.csv, baseline.csv and metrics.json."""
    content = read_checkpoint(run.best_checkpoint)
    fill(model.net, content)
    model.set_boundary(model.trainable_from)  # as `predict` does, also after a schedule
    best_epoch = int(content["history"][-1]["epoch"])
    device, precision = trainer.strategy.root_device.type, str(trainer.precision)

    def predictions(split: str, tta: str = "none") -> tuple[pd.DataFrame, NDArray[np.float32]]:
        batches = data.batches(split, model=model if tta == "none" else None)
        logits, features = predict_outputs(model.outputs, batches, device, precision, tta)
        return predictions_table(data.cells[data.cells["split"] == split], logits), features

    model.to(device).eval()
    split = data.reported_split
    of_train, features = predictions("train")
    gate = gate_of(data, features)
    run.write_gate(gate)
    del features  # of all training cells
    table, features = predictions(split, data.tta)
    unlike = gate.unlike(data.handcrafted(split), features)
    why = pd.Series(unlike.words(gate.share), table.index, dtype=object)
    run.write_table("predictions.csv", table.assign(unlike=why, unlike_by=unlike.by))
    run.write_table("baseline.csv", _baseline(data))
    train_accuracy = cell_metrics(of_train)["accuracy"]
    as_reported = split == "val" and data.tta == "none"
    val_accuracy = cell_metrics(table if as_reported else predictions("val")[0])["accuracy"]
    metrics = {
        **cell_metrics(table),
        "split": split,
        "epoch_chosen_here": split == "val",
        **against_majority(table.assign(group=table["path"].map(data.cells.set_index("path")["group"]))),
        "best_epoch": best_epoch,
        "train_accuracy": train_accuracy,
        "train_val_gap": train_accuracy - val_accuracy,
        "leaks": data.leaks,
        "classes": list(data.classes),
        "synthetic": data.demo_images > 0,
        "subjects": subject_metrics(table),
        "train_subjects": int(data.cells["subject"][data.cells["split"] == "train"].nunique()),
        "network": network_size(model.net),
    }
    run.write_json("metrics.json", metrics)
    if data.embedding:
        run.write_json("embedding.json", data.embedding)  # of this machine, unlike the metrics
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    log_final(trainer.loggers, logged_settings(run.config), numbers)
    notes = ["the epoch was chosen on these cells"] * (split == "val")
    notes += [f"{data.leaks} of these cells leak"] * (data.leaks > 0)
    said = f" ({'; '.join(notes)})" if notes else ""
    log.info(
        "%s is done: %s accuracy %.4f at epoch %d%s, in %s",
        run.name, split, metrics["accuracy"], best_epoch, said, run.folder,
    )  # fmt: skip


def logged_settings(settings: Settings) -> dict[str, Any]:
    """The settings that loggers show, flat, the network and its freezing first."""
    model = settings["model"]
    first = {"network": network_name(model["net"]), "trainable_from": model["trainable_from"]}
    return first | {
        key: value if isinstance(value, int | float) else str(value)
        for key, value in flatten(settings).items()
        if is_identity(key)
        and key.startswith(("seed", "data.", "model.", "trainer.max_epochs", "trainer.precision"))
    }


def gate_of(data: CellDataModule, features: NDArray[np.float32]) -> Gate:
    """The gate of the training cells, from their pooled features, (cells, D), in the order of `data.cells`."""
    cells = data.cells[data.cells["split"] == "train"]
    unit, units = clusters(cells)
    if len(set(units)) < 2:
        unit, units = "cell", cells["path"].to_numpy(dtype=object)
    return fit_gate(data.handcrafted("train"), features, units, data.cell_hashes("train"), unit)


def _baseline(data: CellDataModule) -> pd.DataFrame:
    """Predictions on the reported split from handcrafted features alone, fitted on the training split."""
    split = data.reported_split
    of_train = data.cells["label"][data.cells["split"] == "train"]
    fitted, reported = (data.handcrafted(name)[:, :BASELINE] for name in ("train", split))
    logits = baseline_logits(fitted, of_train, reported)
    return predictions_table(data.cells[data.cells["split"] == split], logits)
