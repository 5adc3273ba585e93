"""Runs to review without training (synthetic cells, made-up logits), and their page, served from this process."""

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from leukemia import config
from leukemia.app.pictures import Pictures
from leukemia.app.review import Review
from leukemia.app.routes import create_app
from leukemia.app.scoring_worker import ScoringWorker
from leukemia.app.serve import server as page_server
from leukemia.data.datamodule import CellDataModule
from leukemia.data.demo import write_demo
from leukemia.evaluation.policy import Policy
from leukemia.runs import Run

CERTIFIED = Policy(
    low=-2.0, high=2.0, slope=0.8, intercept=0.2, max_missed=0.1, max_false_alarm=0.2, confidence=0.95,
    unit="subject", certified=True, released=0.6, fitted_on={"what": "made up"},
)  # fmt: skip


def write_run(folder: Path, root: Path, policy: Policy | None = CERTIFIED, spread: float = 1.5) -> Run:
    """A finished run on a synthetic set, with made-up logits on its prelim cells."""
    cells = CellDataModule(str(root), protocol="holdout", num_folds=3, image_size=32).cells
    run = Run(folder)
    run.write_config({
        "seed": 0, "monitor": "val/loss", "mode": "min", "trainer": {"precision": "32-true"},
        "model": {
            "net": {"_target_": "leukemia.models.resnet.resnet", "depth": 18, "name": None, "weights": "none"},
            "trainable_from": "layer4",
        },
        "data": {
            "root": str(root), "protocol": "holdout", "image_size": 32, "resize": "squash", "native_size": 450,
            "classes": ["HEM", "ALL"],
        },
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
    """A fresh copy of a finished run with a certified policy."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def review(run) -> Iterator[Review]:
    review = Review(run)
    yield review
    review.store.close()


@pytest.fixture
def decide() -> Callable[..., None]:
    """Call it with a review, a reviewer, a cell's id and a label to store a decision."""
    requests = count(1)

    def store(review, reviewer, cell_id, label, queue="review", blind=False, seconds=2.0, comment="") -> None:
        context = review.context(review.cells[cell_id], queue, blind, seconds, comment)
        review.store.decide(reviewer, context, label, f"request-{next(requests)}")

    return store


@pytest.fixture
def read_manifest() -> Callable[..., CellDataModule]:
    """Call it with a manifest and overrides to get the data module that the command line builds."""

    def read(path: Path, *overrides: str) -> CellDataModule:
        settings = ["data=cells", f"data.root={path}", "data.positive=ALL", "data.image_size=32"]
        overrides = (*settings, "data.num_folds=3", *overrides)
        return config.build_data(config.resolve(config.compose(overrides)))

    return read


class MeanRed:
    """Stands in for a run's network. The logit of the positive class is a cell's red, its heat map that of the four
    quarters; the heat map of the negative class is the opposite."""

    def scores(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {"logit": pixels[..., 0].mean(axis=(1, 2)).astype(float) / 10 - 1}

    def prepare(self) -> None:
        """There is nothing to load."""

    def overlay(self, pixels: np.ndarray, positive: bool) -> bytes:
        from leukemia.app.network_process import coloured

        size = len(pixels) // 2 * 2
        quarters = pixels[:size, :size, 0].reshape(2, size // 2, 2, size // 2)
        red = quarters.mean(axis=(1, 3)).astype(np.float32) / 255
        return coloured(red if positive else 1 - red)


@dataclass
class Page:
    """A served page."""

    url: str
    review: Review
    worker: ScoringWorker

    def wait_for_scores(self) -> None:
        end = time.monotonic() + 20
        while self.worker.pending and time.monotonic() < end:
            time.sleep(0.02)
        assert self.worker.pending == 0

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
    """Call it with a run (and a folder, a token) to serve its page until the test ends."""
    ends = []

    def start(run: Run, images: Path | None = None, token: str | None = None, blind: bool = False) -> Page:
        review = Review(run, images, blind)
        network: Any = MeanRed()
        worker = ScoringWorker(review, network.scores)
        worker.restore()
        if images is not None and review.root is None:
            worker.scan(images)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        app = create_app(review, worker, Pictures(review, network), token, port)
        server = page_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(10)
            worker.close()
            listening.close()
            review.store.close()

        ends.append(end)
        return Page(f"http://127.0.0.1:{port}/", review, worker)

    yield start
    for end in ends:
        end()
