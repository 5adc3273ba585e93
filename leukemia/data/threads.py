"""Work beside each other: each part on a thread of its own, for which PyTorch takes no further threads.

PyTorch's own threads meet after every operator. Beside a busy process each of them waits there for the one that was
interrupted. Parts of a batch meet once.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from leukemia.storage.cores import Part, Result, in_order


def side_by_side(compute: Callable[[Part], Result], parts: Iterable[Part]) -> Generator[Result]:
    """`compute` of each part, in their order, on as many threads as PyTorch uses.

    Where a part fails, or the generator is closed, no part is at work any more when the error arrives.

    Args:
        compute: safe on several threads. Gradient and autocast modes are those of a new thread, not the caller's.
        parts: taken a few ahead of their results.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(compute, parts)
    else:
        yield from in_order(_threads(threads), compute, parts, 2 * threads)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    started = threading.Barrier(count + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread takes the common number at its first use
        torch.set_num_threads(1)  # of this thread, and of all that start later
        started.wait()

    threads = ThreadPoolExecutor(count, thread_name_prefix="leukemia", initializer=alone)
    try:
        for _ in range(count):
            threads.submit(int)
        started.wait()
    except BaseException:  # a signal, or no thread more
        started.abort()
        raise
    finally:
        torch.set_num_threads(count)  # of those that start later
    return threads


if hasattr(os, "register_at_fork"):  # a forked child has none of them
    os.register_at_fork(after_in_child=_threads.cache_clear)
