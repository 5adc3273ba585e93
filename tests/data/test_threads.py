"""Parts side by side, each on a thread of its own."""

import subprocess
import sys
import threading
import time

import pytest
import torch

from leukemia.data.threads import side_by_side


@pytest.fixture(autouse=True)
def three_threads(threads):
    threads(3)


def test_results_come_in_order_from_threads_that_take_no_others():
    together = threading.Barrier(3)

    def compute(part):
        together.wait(10)  # passes only if three are at work at once
        return part, torch.get_num_threads()

    assert list(side_by_side(compute, range(9))) == [(part, 1) for part in range(9)]


def test_the_caller_and_threads_that_start_later_keep_theirs():
    list(side_by_side(str, range(3)))
    seen = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3, 3]


def test_within_a_part_no_further_threads_start():
    def compute(_):
        return [threading.get_ident()] == list(set(side_by_side(lambda _: threading.get_ident(), range(4))))

    assert all(side_by_side(compute, range(3)))


def test_no_part_is_at_work_any_more_when_an_error_arrives():
    begun, ended = set(), set()

    def compute(part):
        begun.add(part)
        if part == 1:
            raise ValueError("one part")
        time.sleep(0.1)
        ended.add(part)

    with pytest.raises(ValueError, match="one part"):
        list(side_by_side(compute, range(50)))
    time.sleep(0.2)
    assert begun - {1} == ended
    assert len(begun) < 50


def test_where_the_caller_stops_no_further_part_begins():
    begun = []
    results = side_by_side(lambda part: begun.append(part) or part, range(1000))
    assert next(results) == 0
    results.close()
    seen = len(begun)
    time.sleep(0.1)
    assert len(begun) == seen < 10


FORK = """
import os, sys, torch
from leukemia.data.threads import side_by_side
torch.set_num_threads(2)
assert list(side_by_side(abs, [-1, -2])) == [1, 2]
if (child := os.fork()) == 0:
    os._exit(list(side_by_side(abs, [-3, -4])) != [3, 4])
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_starts_threads_of_its_own():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)
