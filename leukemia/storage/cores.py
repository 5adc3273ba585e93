"""Processor cores."""

import os


def cores() -> int:
    """Those that this process may use. A cluster's job may use some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
