"""The benchmark measures every row, and its page holds the ratios of what was measured."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MACHINE = {"processor": "P", "cores": 2, "threads": 2, "device": "no GPU", "versions": {"Python": "3"}}
TASK = {
    **{"command": "run.py", "size": 224, "epochs": 12, "plain_epochs": 1, "batch_size": 32, "lr": 3e-4},
    **{"repeats": 1, "limit_repeats": 3, "limit_seconds": 3.0, "planned": 4},
}
PACKAGE = {
    **{"seconds": 10.0, "wall": 14.0, "cells": 600, "train_cells": 500, "val_accuracy": 0.9, "peak_gb": 1.5},
    **{"feature_seconds": 7.5, "feature_cells": 600, "epochs": [0.2] * 10, "training": [0.2, 0.1, 0.1]},
}
PLAIN = {"seconds": 25.0, "wall": 29.0, "epochs": [20.0], "val_accuracy": 0.8, "peak_gb": 1.2}
LIMIT = {"rate": 100.0, "wall": 9.0, "peak_gb": 1.0}
PLAIN_BF16 = {**PLAIN, "epochs": [10.0], "seconds": 15.0}
ROW = {"package": [PACKAGE], "plain": [PLAIN], "plain_bf16": [PLAIN_BF16], "limit": [LIMIT]}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "page", raising=False)
    from page import page

    yield page
    del sys.modules["page"]


def table(text: str, title: str) -> list[list[str]]:
    """The cells of a table of the page, its header left out."""
    lines = text.partition(f"## {title}")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[2:]


def test_ratios_are_those_worked_out_by_hand(page):
    measured = {("synthetic", 18, row): ROW for row in ("head", "layer4", "stem")}
    measured["synthetic", 18, "head"] = {**ROW, "again": [{"seconds": 9.0}]}
    measured["synthetic", 18, "layer4"] = {**ROW, "plain": [{**PLAIN, "epochs": [5.0, 5.0]}]}
    text = page(measured, TASK, {**MACHINE, "precision": "32-true"})
    # 5 s beside the epochs and 12 epochs of 20 s; for layer4, 15 s and 12 epochs of 5 s
    plain, ratios, targets = zip(*[row[5:8] for row in table(text, "Against the plain loop")], strict=True)
    assert plain == ("245", "75", "245")
    assert ratios == ("24.5x", "7.5x", "24.5x")
    assert targets == ("13x", "4.5x", "–")
    # 5 s beside the epochs and 12 epochs of 10 s
    assert next(row[8:11] for row in table(text, "Against the plain loop")) == ["125", "12.5x", "15x"]
    # 600 cells in 7.5 s; 500 cells in the median epoch's 0.1 s
    shares = [row[4:8] for row in table(text, "Against the limit")]
    assert shares[0] == ["80", "100", "80 %", "85 %"]
    assert shares[1] == ["5000", "100", "5000 %", "85 %"]
    # 30 s against 245 + 75 + 245 s
    grid, second = table(text, "In sum")
    assert grid[1:] == ["0.05", "0.942", "18.8x", "5.5x"]
    assert second[1] == "9"
    assert table(text, "Where")[0][3:] == ["7.5", "2", "0.4", "0.5", "4", "4", "1.5", "1.2", "1"]
    assert "1 of 12 epochs" in text
    assert "1 of 4 rows are not measured yet" in text


def test_deeper_networks_have_three_quarters_of_the_target_and_repeats_their_median(page):
    twice = {**ROW, "package": [PACKAGE, {**PACKAGE, "seconds": 14.0}]}
    text = page({("pbc", 50, "head"): twice}, TASK, {**MACHINE, "precision": "bf16-mixed"})
    assert table(text, "Against the plain loop")[0][4:8] == ["12", "245", "20.4x", "22.5x"]
    assert table(text, "Against the limit")[0][-1] == "–"
    assert table(text, "In sum") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tiny_benchmark_measures_every_row(tmp_path):
    options = {"data": "synthetic", "depths": 18, "size": 32, "head-images": 48, "images": 40, "epochs": 2}
    options |= {"plain-epochs": 1, "limit-repeats": 1, "limit-seconds": 0.05, "output": tmp_path / "page.md"}
    options |= {"rows": tmp_path / "rows.json"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, BENCHMARKS / "run.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text in done.stdout
    assert str(tmp_path) not in text
    against_plain, against_limit = table(text, "Against the plain loop"), table(text, "Against the limit")
    parts, sums = table(text, "Where"), table(text, "In sum")
    assert [row[2].split("`")[1] for row in against_plain] == ["head", "layer4", "layer4", "stem"]
    assert [len(rows) for rows in (against_limit, parts, sums)] == [3, 4, 2]
    for rows, first in ((against_plain, 3), (against_limit, 4), (parts, 3), (sums, 1)):
        for row in rows:
            figures = [cell.rstrip("x %") for cell in row[first:] if cell != "–" and "under" not in cell]
            assert all(0 <= float(figure) < 1e6 for figure in figures), row
    assert all(float(row[3]) > 0 for row in parts[:3]), "each frozen row has a feature pass"
    assert float(parts[3][3]) == 0, "nothing is frozen in full fine-tuning"
    again = subprocess.run([sys.executable, BENCHMARKS / "run.py", *words], capture_output=True, text=True)
    assert again.stdout == f"{text}\n{tmp_path / 'page.md'}\n", "kept rows are not measured again"


@pytest.mark.slow
def test_the_plain_loop_has_nothing_of_this_package(tmp_path):
    script = "import sys; sys.path.insert(0, sys.argv[1]); import plain_loop; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, BENCHMARKS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not [name for name in done.stdout.split() if name.partition(".")[0] == "leukemia"]


def test_images_of_all_sources_are_compressed_alike(tmp_path):
    picture = Image.effect_noise((64, 64), 50).convert("RGB")
    names = (
        "bmp/training_data/fold_0/all/UID_1_1_1_all.bmp",
        "jpg/training_data/fold_0/hem/UID_H2_1_1_hem.jpg",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        picture.save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
    command = [sys.executable, BENCHMARKS / "recompress.py", "out", "bmp", "jpg"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "2 images in out\n", done.stderr
    written = [
        (tmp_path / "out" / Path(name).relative_to(Path(name).parts[0])).with_suffix(".jpg") for name in names
    ]
    tables = []
    for path in written:
        with Image.open(path) as image:
            tables.append(image.quantization)
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_the_speed_of_a_backbone_is_measured_against_timm_and_printed(tmp_path):
    pytest.importorskip("timm")
    command = [sys.executable, BENCHMARKS / "backbones.py", "convnext_atto", "--cells", "40", "--size", "32"]
    command += ["--epochs", "1", "--seconds", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "LEUKEMIA_CACHE": str(tmp_path)}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert row[0] == "convnext_atto", done.stderr
    package, limit, share = float(row[1]), float(row[2]), float(row[3].rstrip("%"))
    assert share == pytest.approx(100 * package / limit, abs=2)
    assert float(row[5]) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gpu_benchmark_checks_and_measures_every_row_on_a_processor_too(tmp_path):
    page = tmp_path / "gpu.md"
    words = ["--device", "cpu", "--tiny", "--workers", "1", "--minutes", "60", "--output", str(page)]
    done = subprocess.run([sys.executable, BENCHMARKS / "gpu.py", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = page.read_text(encoding="utf-8")
    checks, rows, grid = (table(text, title) for title in ("Checks", "Full", "The seed"))
    assert (len(checks), [row[0] for row in rows], len(grid)) == (7, ["ResNet50", "ResNet18"], 1)
    assert not [row for row in checks if row[1].startswith("FAILED")]
    assert all(float(cell.rstrip(" %")) > 0 for row in rows for cell in row[1:])


def test_simulated_streams_of_monitoring_lie_exactly_at_their_bounds(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import monitor_validity

    cells = monitor_validity.cells((2000, 2000), 0.4, np.random.default_rng(0))
    decision = monitor_validity.policy_at(monitor_validity.BOUNDS).decide(cells["logit"], ("0", "1"))
    wrong = (decision == (1 - cells["label"]).astype(str)).groupby(cells["subject"]).mean()
    by_class = wrong.groupby(cells.groupby("subject")["label"].first()).mean()
    assert by_class[[1, 0]].tolist() == pytest.approx(monitor_validity.BOUNDS, abs=0.015)
