"""The quickstart runs from top to bottom, writes nothing beside itself, and is kept without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.fixture
def quickstart() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs_and_absolute_paths(quickstart):
    nbformat.validate(quickstart)
    assert quickstart.metadata.kernelspec.name == "python3"
    code = [cell for cell in quickstart.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    text = "\n".join(cell.source for cell in quickstart.cells)
    assert not re.search(r"(?<![\w.:/])(/|~/|[A-Z]:\\)\w", text)


@pytest.mark.slow
def test_it_runs_shows_pictures_and_ends_in_metrics(quickstart, tmp_path, monkeypatch):
    started_in = tmp_path / "started_in"
    started_in.mkdir()
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # nobody's own kernels and profiles
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:The `srun` command is available")  # on a cluster

    where = {"metadata": {"path": str(started_in)}}
    NotebookClient(quickstart, timeout=240, kernel_name="python3", resources=where).execute()

    outputs = {cell.id: cell.outputs for cell in quickstart.cells if cell.cell_type == "code"}
    assert "stderr" not in [output.get("name") for given in outputs.values() for output in given]
    for cell in ("pictures", "curves", "run-curves"):
        assert any("image/png" in output.get("data", {}) for output in outputs[cell]), cell
    for cell in ("val-metrics", "run-metrics"):
        accuracy = re.search(r"^accuracy +(\d\.\d+)$", _text(outputs[cell]), re.MULTILINE)
        assert accuracy, _text(outputs[cell])
        assert 0 < float(accuracy[1]) <= 1
    assert "metrics of the test split" in _text(outputs["run-metrics"])
    assert not list(started_in.iterdir())
    assert not list(tmp_path.glob("leukemia-*"))  # its temporary folder went with the kernel


def _text(outputs: list[nbformat.NotebookNode]) -> str:
    return "\n".join(output.get("text") or output.data["text/plain"] for output in outputs)
