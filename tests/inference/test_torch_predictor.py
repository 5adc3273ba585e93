"""Logits come in the order of the cells, in eval mode."""

import numpy as np
import torch

from leukemia.data.datamodule import CellDataModule
from leukemia.inference.torch_predictor import predict_logits, predictions_table
from leukemia.models.classifier import CellClassifier


def test_predictions_are_the_networks_eval_output_cell_by_cell(demo_root):
    torch.manual_seed(0)
    data = CellDataModule(str(demo_root), image_size=32, batch_size=8, augment="full")
    model = CellClassifier(weights="none", trainable_from="stem").train()
    logits = predict_logits(model, data.batches("val"))
    cells = data.cells[data.cells["split"] == "val"]
    table = predictions_table(cells, logits)
    assert list(table.columns) == ["path", "subject", "split", "label", "logit", "probability"]
    row_of = {path: row for row, path in enumerate(data.index["path"])}
    with torch.inference_mode():
        for path, logit in zip(table["path"][:5], table["logit"], strict=False):
            alone = model(torch.from_numpy(data.pixels.images[[row_of[path]]]))
            np.testing.assert_allclose(logit, alone.item(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table["probability"], torch.sigmoid(torch.tensor(logits)).numpy())
