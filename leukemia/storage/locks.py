"""One process at a time in a folder that is written to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from leukemia.errors import PlaceError, unusable_place


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder. The lock ends with the process, even if it is killed.

    Raises:
        PlaceError: if another process has the lock, or the place cannot be written to.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=1)  # a process that only tests the lock releases it by then
    except Timeout:
        raise PlaceError(
            f"{folder} is in the hands of another process: wait for it, or choose another folder"
        ) from None
    except OSError as error:
        if not (reason := unusable_place(error)):
            raise
        raise PlaceError(f"cannot write {folder}: {reason}") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
