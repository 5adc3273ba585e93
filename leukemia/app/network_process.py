"""A run's network in a process of its own.

Importing torch takes seconds and holds the interpreter, and a heat map takes a processor; the page waits for neither,
because both happen elsewhere. The process starts when it is first asked for something, and again where it has died.
"""

import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia.errors import InputError
from leukemia.runs import Run

OPACITY = 0.7  # of the overlay where the heat is greatest
_network: dict[str, Any] = {}  # of this process, if it is the one of a network


class Network:
    """The best checkpoint of a run, elsewhere.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of pixels as the network sees them, uint8 (n, s, s, 3): the logits of the positive class, (n,).

        Raises:
            InputError: if the network cannot be used.
        """
        return np.asarray(self._ask(_logits, pixels))

    def overlay(self, pixels: NDArray[np.uint8], positive: bool) -> bytes:
        """The Grad-CAM heat map of one cell, uint8 (s, s, 3), as a PNG of that size to lay over it: of what speaks for
        the positive class, or for the negative one.

        Raises:
            InputError: if the network cannot be used.
        """
        found: bytes = self._ask(_overlay, pixels, positive)
        return found

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, question: Callable[..., Any], *given: Any) -> Any:
        for _ in range(2):  # the process may have died of something that passes
            pool = self._started()
            try:
                return pool.submit(question, *given).result()
            except BrokenProcessPool:
                self._drop(pool)
        raise InputError(
            "the network's process ended twice, as it does when memory runs out: close other programs and try again; "
            "the page is still there, and so is what was decided"
        )

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(
                    1, context, initializer=_start, initargs=(str(self._folder),)
                )
            return self._pool

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        """The next question starts another process, unless somebody else's has started one already."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False)


def _start(folder: str) -> None:
    """What the process does first. Ctrl-C is the page's affair, and when that is gone, so is this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _network["folder"] = Path(folder)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _logits(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    if "predictor" not in _network:
        from leukemia.inference.torch_predictor import torch_predictor

        _network["predictor"] = torch_predictor(Run(_network["folder"]))
    logits: NDArray[np.float64] = _network["predictor"].logits(pixels)
    return logits


def _overlay(pixels: NDArray[np.uint8], positive: bool) -> bytes:
    from leukemia.inference.gradcam import heat_maps

    if "model" not in _network:
        from leukemia.models.checkpoint import load_classifier

        _network["model"] = load_classifier(Run(_network["folder"]).best_checkpoint)
    (heat,) = heat_maps(_network["model"], pixels[None], [positive])
    return coloured(heat)


def coloured(heat: NDArray[np.float32]) -> bytes:
    """A heat map from 0 to 1, (h, w), as a PNG: clear where there is none, dark red to pale yellow where it grows."""
    from matplotlib import colormaps

    heat = np.clip(heat, 0, 1)
    picture = colormaps["inferno"](0.25 + 0.75 * heat, bytes=True)
    picture[..., 3] = np.rint(255 * OPACITY * heat).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture, "RGBA").save(file, "png")
    return file.getvalue()
