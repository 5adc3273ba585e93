"""A run of 100,000 predictions opens in about 2 s, and each cell appears in 100 ms: of processor time, with half as
much again allowed, because other tests share the machine."""

import shutil
import time
from statistics import median

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leukemia.data.pixels import pixel_hash
from leukemia.runs import Run

CELLS, SUBJECTS, REAL = 100_000, 118, 40


@pytest.fixture
def large_run(finished_run, tmp_path):
    """A run of many test cells, of which the least certain have pictures; the others' files are empty."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    root = tmp_path / "cells"
    root.mkdir()
    random = np.random.default_rng(0)
    subject = np.char.add("S", np.char.zfill(np.sort(random.integers(SUBJECTS, size=CELLS)).astype(str), 3))
    label = (pd.factorize(subject)[0] % 3 > 0).astype(int)
    logit = 3 * (2 * label - 1) + 2 * random.standard_normal(CELLS)
    hashes = [f"{number:032x}" for number in range(CELLS)]
    names = [f"{number}.png" for number in range(CELLS)]
    for name in names:
        (root / name).touch()
    for number in np.argsort(np.abs(0.8 * logit + 0.2))[:REAL]:
        pixels = random.integers(20, 255, (450, 450, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / names[number])
        hashes[number] = pixel_hash(pixels)
    table = pd.DataFrame({"path": names, "subject": subject, "label": label, "split": "test"})
    run.write_table("cells.csv", table.assign(group=subject, pixel_hash=hashes))
    run.write_table("predictions.csv", table.assign(logit=logit, probability=1 / (1 + np.exp(-logit))))
    config = run.config
    config["data"]["root"] = str(root)
    run.write_config(config)
    return Run(run.folder)


def asked(page, method, path, content=None):
    start = time.process_time()
    status, body, _ = page.ask(method, path, content)
    assert status == 200, body
    return time.process_time() - start, body


@pytest.mark.slow
def test_a_run_of_100000_predictions_opens_and_pages_quickly(serve, large_run):
    start = time.process_time()
    page = serve(large_run)
    asked(page, "GET", "/")
    _, state = asked(page, "GET", "/api/cell?queue=review")
    asked(page, "GET", "/" + state["cell"]["picture"])
    opened = time.process_time() - start
    deciding, skipping, polling = [], [], []
    for number in range(REAL // 2):
        body = {
            "cell": state["cell"]["id"],
            "label": "ALL",
            "queue": "review",
            "request": f"request-{number}",
        }
        took, state = asked(page, "POST", "/api/decisions", body)
        seen, _ = asked(page, "GET", "/" + state["cell"]["picture"])
        deciding.append(took + seen)
        polling.append(asked(page, "GET", "/api/changes?queue=review&since=0")[0])
    for _ in range(REAL // 4):
        took, state = asked(page, "GET", f"/api/cell?queue=review&after={state['cell']['id']}")
        skipping.append(took + asked(page, "GET", "/" + state["cell"]["picture"])[0])
    board = asked(page, "GET", "/dashboard")[0]
    print(f"open {opened:.2f} s, decide {median(deciding):.3f} s (longest {max(deciding):.3f} s), next "
          f"{median(skipping):.3f} s, poll {median(polling):.3f} s, dashboard {board:.2f} s")  # fmt: skip
    assert opened < 3
    assert max(median(times) for times in (deciding, skipping, polling)) < 0.15
