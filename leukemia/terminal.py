"""Text for people: no control characters of others, colours on a terminal only; and how a command starts and ends."""

import atexit
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

RED, YELLOW = "31", "33"
WORDS = dict.fromkeys(("error", "failed", "not read", "Problem", "LEAKS"), RED)
WORDS |= dict.fromkeys(("WARNING", "NOTE"), YELLOW)
COMPLAINING = {"onnx", "triton"}  # they report objects that are still alive at the end
_STARTS = re.compile(rf"(?m)(?:(?<=^)|(?<= ))({'|'.join(WORDS)})(?=:| )")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tabs and line breaks


def show(text: object, stream: TextIO | None = None, coloured: bool = True) -> None:
    """Print a text, without control characters of names and files in it. If the stream shows colours and `coloured`, as
    for all but JSON, the words that must not be overlooked have one."""
    stream = stream or sys.stdout
    shown = without_controls(str(text))
    if coloured and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        shown = _STARTS.sub(lambda found: f"\x1b[1;{WORDS[found[1]]}m{found[1]}\x1b[0m", shown)
    print(shown, file=stream)


def without_controls(text: str) -> str:
    """A text whose control characters are spelled, as `\\x1b`: a terminal would obey them."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class PlainRecord(logging.LogRecord):
    """A message for a log, `without_controls`."""

    def getMessage(self) -> str:
        return without_controls(super().getMessage())


@contextmanager
def collects_seldom() -> Iterator[None]:
    """Let Python look for circular garbage after 10,000 new objects, and not once more when the process ends.

    It looks through all of PyTorch each time: a fifth of the processor time of a short command.
    """
    before = gc.get_threshold()
    gc.set_threshold(10_000)
    atexit.unregister(_skip_the_last_look)
    atexit.register(_skip_the_last_look)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _skip_the_last_look() -> None:
    if not COMPLAINING & sys.modules.keys():
        gc.freeze()


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a command in one line, with 130 and 143. Only a process's main thread may call it."""
    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    # An exit that is raised while Python clears away an object is lost: it needs no traceback.
    sys.unraisablehook = lambda lost: None if lost.exc_type is SystemExit else hook(lost)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """End the program after a signal: at once within an import, where an exception is swallowed or shown by others."""
    os.write(2, b"interrupted\n")  # print may be under way already
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        frame = frame.f_back
    sys.exit(128 + number)
