"""The notebook about sweeps runs from top to bottom, shows its plots, and is kept without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "analyse_sweep.ipynb"


def test_it_is_kept_without_outputs_and_absolute_paths():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert not re.search(r"(?<![\w.:/])(/|~/|[A-Z]:\\)\w", "\n".join(cell.source for cell in notebook.cells))


@pytest.mark.slow
def test_it_opens_compares_and_triages_a_sweep(tmp_path, monkeypatch):
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:The `srun` command is available")  # on a cluster
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    patient = Config(KernelManager={"shutdown_wait_time": 60.0})  # a busy machine needs more than 5 s to end
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=where, config=patient).execute()
    shown = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    said = [output for outputs in shown.values() for output in outputs if output.get("name") == "stderr"]
    assert not said
    for cell in ("subjects", "risk"):
        assert any("image/png" in output.get("data", {}) for output in shown[cell]), cell
    assert text(shown["open"]).count("done") == 2
    rows = re.findall(r"accuracy +(-?\d\.\d+) +(-?\d\.\d+) +(-?\d\.\d+)", text(shown["intervals"]))
    assert len(rows) == 4
    assert all(float(low) <= float(value) <= float(high) for value, low, high in rows)
    assert "resnet18_from-stem minus resnet18_from-head" in text(shown["compare"])
    assert "Floor, " in text(shown["policy"])
    assert re.search(r"certified: (True|False)", text(shown["policy"]))
    assert not list(tmp_path.glob("leukemia-*"))  # its temporary folder went with the kernel


def text(outputs: list[nbformat.NotebookNode]) -> str:
    return "\n".join(output.get("text") or output.data["text/plain"] for output in outputs)
