"""Decode pictures, a few at a time: a large one takes some hundred megabytes for a moment."""

import ctypes
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from leukemia.data import pixels

AT_ONCE = 2
M_MMAP_THRESHOLD = -3  # of mallopt(3)
_turns = threading.BoundedSemaphore(AT_ONCE)


def decode(file: Path) -> np.ndarray:
    """As `leukemia.data.pixels.decode`, at most AT_ONCE of them at the same time."""
    with _turns:
        return pixels.decode(file)


def give_memory_back() -> None:
    """Let glibc give each block beyond 1 MB back to the system when it is freed; elsewhere nothing happens.

    By default each thread keeps such blocks for itself: 40 large uploads left 1.5 GB with the threads of the server.
    """
    with suppress(OSError, AttributeError, TypeError):  # macOS, musl, Windows
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
