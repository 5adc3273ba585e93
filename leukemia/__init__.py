"""Leukemia: transfer learning on C-NMC cells, from a folder to a table that can be believed.

The names that a notebook needs, imported when they are first used:
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# OpenMP reads these when PyTorch is loaded. Threads that wait would otherwise spin for milliseconds and take the
# processor from others. GNU's, which reads the second, spins for the microseconds between two operators.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_HOMES = {
    "CellClassifier": "leukemia.models.classifier",
    "CellDataModule": "leukemia.data.datamodule",
    "InputError": "leukemia.errors",
    "Run": "leukemia.runs",
    "StagedNetwork": "leukemia.models.network",
    "Sweep": "leukemia.runs",
    "TorchPredictor": "leukemia.inference.torch_predictor",
    "build_data": "leukemia.config",
    "build_model": "leukemia.config",
    "cell_metrics": "leukemia.evaluation.metrics",
    "class_folders": "leukemia.data.class_folders",
    "cnmc": "leukemia.data.cnmc",
    "compose": "leukemia.config",
    "fit": "leukemia.training.run",
    "load_classifier": "leukemia.models.checkpoint",
    "load_network": "leukemia.models.checkpoint",
    "predictions_table": "leukemia.inference.torch_predictor",
    "resnet": "leukemia.models.resnet",
    "resolve": "leukemia.config",
    "subject_metrics": "leukemia.evaluation.metrics",
    "write_demo": "leukemia.data.demo",
    "write_report": "leukemia.reporting.html",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leukemia' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
