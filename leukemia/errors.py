"""The one exception for a user's mistake, and how the command line shows it."""

import errno
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from leukemia.terminal import emphasised

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
}
FULL = {errno.ENOSPC, errno.EDQUOT}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


class InputError(ValueError):
    """What the user gave cannot be used.

    The message says what is wrong, where (file, row, key), and what to do. The command line prints it
    without a traceback and exits with 2; any other exception is a bug and keeps its traceback.
    """


class PlaceError(InputError):
    """What a run reads is not there, or it cannot write where it is to: once that is mended the same run will do."""


class DivergedError(InputError):
    """Training ended in a loss that is no number."""


class OutOfMemoryError(InputError):
    """The machine or the device has less memory than the settings need."""


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
        said = isinstance(error, RuntimeError) and any(words in text.lower() for words in OUT_OF_MEMORY)
        if said or isinstance(
            error, MemoryError
        ):  # torch raises RuntimeError, or its own kind of it on a GPU
            text = text[:200] or type(error).__name__
            raise OutOfMemoryError(f"out of memory ({text}): {remedy}") from None
        if reason := unusable_place(error, FULL):  # of a library, as TensorBoard's
            raise PlaceError(f"cannot write into {place}: {reason}") from None
        raise


@contextmanager
def exit_readably() -> Iterator[None]:
    """End the program on a user's mistake with its message and exit code 2, and on Ctrl-C with 130."""
    try:
        yield
    except InputError as error:
        print(emphasised(f"error: {error}", sys.stderr), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in UNUSABLE_PLACE:
            raise
        problem = f"error: {error.filename}: {error.strerror}; choose another place"
        print(emphasised(problem, sys.stderr), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
