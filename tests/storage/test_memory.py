"""Steps that free and ask for the same large blocks get them without a page fault."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from leukemia.storage.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("unsupported")
    sys.exit()
def step():
    return torch.ones(20_000_000).sum()  # 80 MB
for _ in range(60):
    step()  # until the heap has its size: by chance after one step or after a dozen
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_large_blocks_are_kept_between_steps():
    def faults(mode):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True
        ).stdout.strip()

    kept = faults("keep")
    if kept == "unsupported":
        pytest.skip("not glibc")
    assert int(kept) < int(faults("default")) / 10
