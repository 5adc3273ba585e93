"""The figures of a fitted run: predictions.csv, baseline.csv, metrics.json, and the settings beside them in
TensorBoard."""

import logging

import pandas as pd
import pytorch_lightning as pl

from leukemia.data.datamodule import CellDataModule
from leukemia.evaluation.baseline import against_majority, baseline_logits
from leukemia.evaluation.metrics import cell_metrics, subject_metrics
from leukemia.identity import flatten, is_identity
from leukemia.inference.torch_predictor import predict_logits, predictions_table
from leukemia.models.checkpoint import load_classifier
from leukemia.runs import Run

log = logging.getLogger(__name__)


def write_final_metrics(run: Run, data: CellDataModule, trainer: pl.Trainer) -> None:
    """Predict with the best checkpoint, on one device, and write predictions.csv and metrics.json."""
    model = load_classifier(run.best_checkpoint)
    best = model.history[-1]
    device, precision = trainer.strategy.root_device.type, trainer.precision

    def predictions(split: str, views: int = 1) -> pd.DataFrame:
        batches = data.batches(split, net=model.net if views == 1 else None)
        logits = predict_logits(model, batches, device, str(precision), views)
        return predictions_table(data.cells[data.cells["split"] == split], logits)

    split = data.reported_split
    table = predictions(split, data.tta)
    run.write_table("predictions.csv", table)
    run.write_table("baseline.csv", _baseline(data))
    train_accuracy = cell_metrics(predictions("train"))["accuracy"]
    as_reported = split == "val" and data.tta == 1
    val_accuracy = cell_metrics(table if as_reported else predictions("val"))["accuracy"]
    metrics = {
        **cell_metrics(table),
        "split": split,
        "epoch_chosen_here": split == "val",
        **against_majority(table.assign(group=table["path"].map(data.cells.set_index("path")["group"]))),
        "best_epoch": int(best["epoch"]),
        "train_accuracy": train_accuracy,
        "train_val_gap": train_accuracy - val_accuracy,
        "leaks": data.leaks,
        "classes": list(data.classes),
        "synthetic": data.demo_images > 0,
        "subjects": subject_metrics(table),
    }
    run.write_json("metrics.json", metrics)
    if trainer.logger is not None:
        figures = {f"final/{name}": value for name, value in metrics.items() if isinstance(value, float)}
        settings = {
            key: value if isinstance(value, int | float) else str(value)
            for key, value in flatten(run.config).items()
            if is_identity(key) and key.startswith(("seed", "data.", "model.")) and "_target_" not in key
        }
        trainer.logger.log_hyperparams(settings, figures)
        trainer.logger.finalize("success")
    notes = ["the epoch was chosen on these cells"] * (split == "val")
    notes += [f"{data.leaks} of these cells leak"] * (data.leaks > 0)
    said = f" ({'; '.join(notes)})" if notes else ""
    log.info(
        "%s is done: %s accuracy %.4f at epoch %d%s, in %s",
        run.name, split, metrics["accuracy"], best["epoch"], said, run.folder,
    )  # fmt: skip


def _baseline(data: CellDataModule) -> pd.DataFrame:
    """Predictions on the reported split by size, colour and roundness alone, fitted on the training split."""
    split = data.reported_split
    of_train = data.cells["label"][data.cells["split"] == "train"]
    logits = baseline_logits(data.shapes("train"), of_train, data.shapes(split))
    return predictions_table(data.cells[data.cells["split"] == split], logits)
