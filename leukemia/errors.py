"""The one exception for a user's mistake, and how the command line shows it."""

import errno
import io
import math
import os
import reprlib
import select
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

from leukemia.terminal import show

UNUSABLE_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
FULL = {errno.ENOSPC, errno.EDQUOT}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


class InputError(ValueError):
    """The input of a user cannot be used.

    The message says what is wrong, where (file, row, key), and what to do. The command line prints it
    without a traceback and exits with 2; any other exception is a bug and keeps its traceback.
    """


QUOTED = 200  # characters of a refused value in a message


class _Brief(reprlib.Repr):
    """`repr` that stops early: also for a list that holds itself twice, and again in there."""

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if x is None or isinstance(x, bool | float) else f"<{type(x).__name__}>"

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 10**40 else "<a huge number>"


_brief = _Brief()
_brief.maxstring, _brief.maxlevel = 120, 3


def quoted(value: object) -> str:
    """A refused value, or the text of an error, in one line of at most QUOTED characters."""
    if isinstance(value, Exception):
        return in_a_line(str(value)) or type(value).__name__
    return _brief.repr(value)[:QUOTED]


def in_a_line(text: str) -> str:
    """A text of others, as a path or the names of columns, in one line of at most QUOTED characters."""
    return " ".join(text[: 10 * QUOTED].split())[:QUOTED]


def name_of(part: Any) -> str:
    """The dotted name of a class or function, also inside a partial; of any other object that of its class."""
    part = unwrapped(part)
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


def unwrapped(part: Any) -> Any:
    """The class or function inside a partial."""
    while isinstance(part, partial):
        part = part.func
    return part


class PlaceError(InputError):
    """A place that a run reads or writes is not usable. Once it is, the same run works."""


class DivergedError(InputError):
    """The loss is not a number."""


class OutOfMemoryError(InputError):
    """The machine or the device has less memory than the settings need."""


def check_one_of(key: str, value: Any, known: Collection[Any]) -> None:
    """Refuse a value of a setting that is not one of the known ones.

    Raises:
        InputError: with these.
    """
    if value not in known:
        raise InputError(f"{key}={value} is unknown: use one of {', '.join(map(str, known))}")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any, least: int, most: float = math.inf) -> bool:
    """Whether a value is a whole number in a range, its ends included."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def unusable_place(error: BaseException | None, reasons: Collection[int] = UNUSABLE_PLACE) -> str | None:
    """What keeps a place from being written to, with the remedy, where that is behind an error; else None."""
    while error is not None and not (isinstance(error, OSError) and error.errno in reasons):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if error is None:
        return None
    remedy = "make room there and start again, or choose another" if error.errno in FULL else "choose another"
    return f"{error.strerror}; {remedy} output folder"


@contextmanager
def clear_about_limits(place: Path, remedy: str) -> Iterator[None]:
    """Turn the many ways of running out of memory, or of disk, into one error each.

    Args:
        place: what is written to.
        remedy: for a lack of memory.

    Raises:
        OutOfMemoryError: where memory was lacking.
        PlaceError: where the disk is full.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        # torch raises RuntimeError, or its own kind of it on a GPU.
        said = isinstance(error, RuntimeError) and any(words in text.lower() for words in OUT_OF_MEMORY)
        if said or isinstance(error, MemoryError):
            text = text[:200] or type(error).__name__
            raise OutOfMemoryError(f"out of memory ({text}): {remedy}") from None
        if reason := unusable_place(error, FULL):  # of a library, as TensorBoard's
            raise PlaceError(f"cannot write into {place}: {reason}") from None
        raise


@contextmanager
def exit_readably() -> Iterator[None]:
    """End the program on a user's mistake with its message and exit code 2, and without a word with 141 when nobody
    reads its output any more, as after `| head`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name on disk may not be UTF-8
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a closed pipe shows now, and not when the interpreter ends
    except InputError as error:
        _refuse(str(error))
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _nobody_reads(stream)]
        if not closed:
            raise
        for stream in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(128 + signal.SIGPIPE)  # as a shell says of a program that the signal ended
    except OSError as error:
        if error.errno not in UNUSABLE_PLACE:
            raise
        _refuse(f"{error.filename or 'the output'}: {error.strerror}; choose another place")
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(problem: str) -> NoReturn:
    show(f"error: {problem}", sys.stderr)
    sys.exit(2)


def _nobody_reads(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))
