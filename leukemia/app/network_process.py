"""A run's network in a process of its own.

Importing torch takes seconds and holds the interpreter; a Grad-CAM heat map occupies a processor. In another process
neither delays the page. The process starts with the first request, and starts again if it has died.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukemia.app.png import png_bytes
from leukemia.errors import InputError
from leukemia.runs import open_model

OPACITY = 0.7  # of the overlay at the highest value of the heat map
_loaded: dict[str, Any] = {}  # in the network's process: folders, predictor


class NetworkProcess:
    """The best checkpoint of a run, or those of an ensemble, in another process.

    Args:
        folders: of the run, or of each member.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def scores(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """`Predictor.scores` of pixels as the network sees them, uint8 (n, s, s, 3).

        Raises:
            InputError: if the network cannot be used.
        """
        found: dict[str, NDArray[Any]] = self._call(_scores, pixels)
        return found

    def overlay(self, pixels: NDArray[np.uint8], positive: bool) -> bytes:
        """The Grad-CAM heat map of one cell, of an ensemble the mean of its members' maps, as a PNG to lay over it.

        Args:
            pixels: uint8 (s, s, 3), as the network sees them. The PNG has a pixel for each place of the heat map.
            positive: whether to explain the positive or the negative class.

        Raises:
            InputError: if the network cannot be used.
        """
        found: bytes = self._call(_overlay, pixels, positive)
        return found

    def prepare(self) -> None:
        """Start the process and load the network for heat maps, so that the first one comes at once."""
        if self._pool is None:
            with suppress(InputError):  # told when a heat map is asked for
                self._call(_prepare)

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        for _ in range(2):  # a process may die for a reason that passes
            pool = self._started()
            try:
                return pool.submit(function, *arguments).result()
            except BrokenProcessPool:
                self._drop(pool)
        raise InputError(
            "the network's process ended twice, as it does when memory runs out: close other programs and try again; "
            "the page still runs and every decision is saved"
        )

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, context, initializer=_start, initargs=(self._folders,))
            return self._pool

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        """Forget a broken pool, unless another thread has replaced it already."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False)


def _start(folders: tuple[Path, ...]) -> None:
    """Prepare the process: leave Ctrl-C to the page, and end when the page's process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _loaded["folders"] = folders
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _predictor() -> Any:
    """The networks, read from their checkpoints once."""
    if "predictor" not in _loaded:
        from leukemia.inference.torch_predictor import TorchPredictor

        _loaded["predictor"] = TorchPredictor(open_model(_loaded["folders"]))
    return _loaded["predictor"]


def _scores(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The scores, and as `unlike` why the gate stops a cell, see `Predictor.unlike_words`."""
    scores: dict[str, NDArray[Any]] = _predictor().scores(pixels)
    return {**scores, "unlike": np.array(_predictor().unlike_words(scores), dtype=object)}


def _overlay(pixels: NDArray[np.uint8], positive: bool) -> bytes:
    from leukemia.inference.gradcam import heat_maps

    maps = [heat_maps(net, pixels[None], [positive], enlarge=False)[0] for net in _predictor().nets]
    places = math.lcm(*(len(heat) for heat in maps))  # so that blocks of 2x2 and of 3x3 keep their edges
    same = [heat.repeat(places // len(heat), 0).repeat(places // len(heat), 1) for heat in maps]
    return coloured(np.mean(same, axis=0))


def _prepare() -> None:
    size = _predictor().image_size
    _overlay(np.zeros((size, size, 3), np.uint8), positive=True)


def coloured(heat: NDArray[np.float32]) -> bytes:
    """A heat map from 0 to 1, (h, w), as a PNG: transparent at 0, dark red to pale yellow above."""
    from matplotlib import colormaps

    heat = np.clip(heat, 0, 1)
    picture = colormaps["inferno"](0.25 + 0.75 * heat, bytes=True)
    picture[..., 3] = np.rint(255 * OPACITY * heat).astype(np.uint8)
    return png_bytes(Image.fromarray(picture, "RGBA"))
