"""Ctrl-C and SIGTERM: outside of training they end the program at once, within it after the step that is under way."""

import logging
import signal
import sys
from types import FrameType

from leukemia.terminal import leave

log = logging.getLogger(__name__)


class State:
    waits = False  # whether a step is under way that should come to its end
    received = 0  # the number of a signal that waits for that


def install() -> None:
    """Let Ctrl-C and SIGTERM end this program with 130 and 143."""
    State.waits, State.received = False, 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _receive)


def leave_if_asked() -> None:
    """End the program if a signal came and did not end it: an exit that is raised while Python clears away an object
    is lost. The next run of a sweep asks."""
    if State.received:
        State.waits = False
        sys.exit(128 + State.received)


def _receive(number: int, frame: FrameType | None) -> None:
    waits = State.waits and not State.received
    State.received = number
    if not waits:
        leave(number, frame)
    name = signal.Signals(number).name
    log.info("%s: the run is left after this step, and at once when the signal comes again", name)
