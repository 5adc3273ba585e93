"""Processor time of other processes: unlike the time on the wall, a busy machine hardly changes it."""

import resource
import subprocess
import sys

import psutil


def seconds_of(process: int) -> float:
    """The processor time that a running process has taken so far."""
    taken = psutil.Process(process).cpu_times()
    return taken.user + taken.system


def started(code: str, *arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    """A Python program, and the seconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
