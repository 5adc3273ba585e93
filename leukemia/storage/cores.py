"""Processor cores, and threads that work on them in order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
AHEAD = 512  # parts: it bounds the memory of their results


def cores() -> int:
    """Those that this process may use. A cluster's job may use some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(
    compute: Callable[[Part], Result], parts: Iterable[Part], ahead: int = AHEAD
) -> Generator[Result]:
    """As `in_order`, on a thread for each core and two that may wait for the disk. It pays where `compute` releases the
    interpreter's lock most of the time, as reading, hashing, numpy and Pillow do."""
    with ThreadPoolExecutor(cores() + 2) as pool:
        yield from in_order(pool, compute, parts, ahead)


def in_order(
    pool: ThreadPoolExecutor, compute: Callable[[Part], Result], parts: Iterable[Part], ahead: int
) -> Generator[Result]:
    """`compute` of each part, in their order. At most `ahead` parts are taken before their results are.

    Where a part fails, or the generator is closed, no part is at work any more when the error arrives.
    """
    begun: deque[Future[Result]] = deque()

    def first() -> Result:
        result = begun[0].result()  # it stays in the queue until it has ended
        begun.popleft()
        return result

    try:
        for part in parts:
            begun.append(pool.submit(compute, part))
            if len(begun) == ahead:
                yield first()
        while begun:
            yield first()
    finally:
        for future in begun:
            future.cancel()
        wait(begun)
