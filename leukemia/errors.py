"""The one exception for a user's mistake, and how the command line shows it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSABLE_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EEXIST,
}


class InputError(ValueError):
    """What the user gave cannot be used.

    The message says what is wrong, where (file, row, key), and what to do. The command line prints it
    without a traceback and exits with 2; any other exception is a bug and keeps its traceback.
    """


class DivergedError(InputError):
    """Training ended in a loss that is no number."""


@contextmanager
def exit_readably() -> Iterator[None]:
    """End the program on a user's mistake with its message and exit code 2, and on Ctrl-C with 130."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in UNUSABLE_PLACE:
            raise
        print(f"error: {error.filename}: {error.strerror}; choose another place", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
