"""Runs to review, without training: synthetic cells, made-up logits; and the page, served from this process."""

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn

from leukemia.app.pictures import Pictures
from leukemia.app.review import Review
from leukemia.app.routes import create_app
from leukemia.app.scoring_worker import Intake
from leukemia.data.cnmc import read_cnmc
from leukemia.data.demo import write_demo
from leukemia.data.pixels import load_pixels
from leukemia.data.splits import assign_splits
from leukemia.evaluation.policy import Policy
from leukemia.runs import Run

CERTIFIED = Policy(
    low=-2.0, high=2.0, slope=0.8, intercept=0.2, max_missed=0.1, max_false_alarm=0.2, confidence=0.95,
    unit="subject", certified=True, released=0.6, fitted_on={"what": "made up"},
)  # fmt: skip


def write_run(folder: Path, root: Path, policy: Policy | None = CERTIFIED, spread: float = 1.5) -> Run:
    """A finished run on a synthetic set, with made-up logits on its prelim cells."""
    index = read_cnmc(root)
    index = index[index["label"] >= 0].reset_index(drop=True)
    hashes = load_pixels(root, index["path"].tolist(), 32, native_size=450).hashes
    cells = assign_splits(index, hashes, "holdout", 0, 3, 0)
    run = Run(folder)
    run.write_config({
        "seed": 0, "model": {"depth": 18, "trainable_from": "layer4"}, "trainer": {"precision": "32-true"},
        "data": {"root": str(root), "layout": "cnmc", "protocol": "holdout", "image_size": 32, "resize": "squash"},
    })  # fmt: skip
    run.write_json("status.json", {"status": "done"})
    run.write_json("metrics.json", {"classes": ["HEM", "ALL"], "split": "test", "epoch_chosen_here": False})
    run.write_table("cells.csv", cells)
    tested = cells[cells["split"] == "test"]
    random = np.random.default_rng(0)
    logit = 1.6 * (2 * tested["label"].to_numpy() - 1) + spread * random.standard_normal(len(tested))
    table = tested[["path", "subject", "split", "label"]].assign(logit=logit)
    run.write_table("predictions.csv", table.assign(probability=1 / (1 + np.exp(-table["logit"]))))
    if policy is not None:
        run.write_json("triage.json", policy.to_json())
    return run


@pytest.fixture(scope="session")
def cells_root(tmp_path_factory) -> Path:
    """A synthetic set of 300 small pictures, 37 of them prelim."""
    return write_demo(tmp_path_factory.mktemp("cells") / "C-NMC_Leukemia", images=300, seed=0, size=96)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, cells_root) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "depth-18", cells_root)


@pytest.fixture
def run(tmp_path, finished_run) -> Run:
    """A copy of its own of a finished run with a certified policy."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


class MeanRed:
    """Stands in for a run's network: its logit is how red a cell is, what speaks for the positive class its red, and
    for the negative one what is not red."""

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[..., 0].mean(axis=(1, 2)).astype(float) / 10 - 1

    def overlay(self, pixels: np.ndarray, positive: bool) -> bytes:
        from leukemia.app.network_process import coloured

        red = pixels[..., 0].astype(np.float32) / 255
        return coloured(red if positive else 1 - red)


@dataclass
class Page:
    """A page that is being served."""

    url: str
    review: Review
    intake: Intake

    def ask(
        self, method: str, path: str, content: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (parsed where it is JSON) and headers of an answer."""
        body = content if isinstance(content, bytes | None) else json.dumps(content)
        given = {"Cookie": "leukemia_reviewer=Ann"}
        if body is not None:
            given["Content-Type"] = (
                "application/octet-stream" if isinstance(content, bytes) else "application/json"
            )
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        connection.request(
            method, path, body, given | {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        text = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        connection.close()
        return answer.status, json.loads(text) if "json" in found.get("content-type", "") else text, found


@pytest.fixture
def serve() -> Iterator[Callable[..., Page]]:
    """Call it with a run (and a folder, a token) to have its page served until the test ends."""
    ends = []

    def start(run: Run, images: Path | None = None, token: str | None = None) -> Page:
        review = Review(run, images)
        network: Any = MeanRed()
        intake = Intake(review, network.logits)
        intake.restore()
        if images is not None and review.root is None:
            intake.scan(images)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        app = create_app(review, intake, Pictures(review, network), token, port)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", ws="none", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(10)
            intake.close()
            listening.close()
            review.store.close()

        ends.append(end)
        return Page(f"http://127.0.0.1:{port}/", review, intake)

    yield start
    for end in ends:
        end()
