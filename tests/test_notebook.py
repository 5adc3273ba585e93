"""The quickstart runs from top to bottom, and is kept without outputs."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.fixture
def quickstart() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs_and_without_absolute_paths(quickstart):
    nbformat.validate(quickstart)
    code = [cell for cell in quickstart.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert quickstart.metadata.kernelspec.name == "python3"
    assert not re.search(r"(?<![\w.:/])(/|~/|[A-Z]:\\)\w+", "\n".join(cell.source for cell in quickstart.cells))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter|nbclient|zmq|tornado|traitlets)")
def test_it_runs_shows_pictures_and_ends_in_figures(quickstart, tmp_path, monkeypatch):
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))  # nobody's own kernels and profiles
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("LEUKEMIA_CACHE", str(tmp_path / "cache"))
    from nbclient import NotebookClient

    (tmp_path / "elsewhere").mkdir()
    client = NotebookClient(
        quickstart,
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "elsewhere")}},
    )
    client.execute()  # raises where a cell does

    outputs = {cell.id: cell.outputs for cell in quickstart.cells if cell.cell_type == "code"}
    for name in ("pictures", "curves", "run-curves"):
        assert any("image/png" in output.get("data", {}) for output in outputs[name]), name
    assert re.search(r"^ALL|ALL", _text(outputs["data"]))
    for name in ("val-metrics", "run-metrics"):
        found = re.search(r"^accuracy +([01]\.\d+)$", _text(outputs[name]), re.MULTILINE)
        assert found and 0 <= float(found[1]) <= 1, _text(outputs[name])
    assert "test side" in _text(outputs["run-metrics"])
    chatter = [output.text for given in outputs.values() for output in given if output.get("name") == "stderr"]
    assert not chatter
    assert not list((tmp_path / "elsewhere").iterdir())  # where it was started, nothing is written


def _text(outputs: list[nbformat.NotebookNode]) -> str:
    return "\n".join(output.get("text") or output.data["text/plain"] for output in outputs)
