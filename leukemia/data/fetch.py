"""Get C-NMC from Kaggle."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leukemia.errors import InputError

HANDLE = "andrewmvd/leukemia-classification"
SIZE_GB = 10.4
BY_HAND = (
    f"or download it by hand, from Kaggle ({HANDLE}) or The Cancer Imaging Archive "
    "(DOI 10.7937/tcia.2019.dc64i46r), unpack it and run `leukemia data check DIR`"
)


def fetch(root: Path | str) -> Path:
    """Download the data set through kagglehub into a new or empty folder.

    An interrupted download stays in a hidden folder beside root, and the next try clears it.

    Returns:
        The folder of the data set. It is root, except in a Kaggle notebook, which has the set elsewhere.

    Raises:
        InputError: if root is not empty, kagglehub is not installed, or the download fails.
    """
    folder = Path(root).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{root} is a file: name a new folder for the download")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{root} is not empty and nothing in it is overwritten: name a new folder, or look for the data set "
            f"there with `leukemia data check {root}`"
        )
    try:
        import kagglehub
    except ImportError:
        raise InputError(
            f"the download needs kagglehub: pip install 'leukemia[kaggle]' and start again, {BY_HAND}"
        ) from None
    part = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free / 1e9
        if free < SIZE_GB:
            raise InputError(
                f"{folder.parent} has {free:.1f} GB free and C-NMC needs {SIZE_GB}: choose another disk"
            )
        with _archives_stay_inside():
            found = Path(kagglehub.dataset_download(HANDLE, output_dir=str(part), force_download=True))
        if not found.is_relative_to(part):
            return found
        _refuse_links(part)
        os.replace(part, folder)
        return folder
    except InputError:
        raise
    except Exception as error:  # of kagglehub, requests, the server or the disk: not a bug here
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the download of {HANDLE} failed: {reason}. Check the network and the Kaggle token (make one at "
            "kaggle.com under Settings, API, and set KAGGLE_API_TOKEN, or run `python -c 'import kagglehub; "
            f"kagglehub.login()'`) and start again, {BY_HAND}"
        ) from None


@contextmanager
def _archives_stay_inside() -> Iterator[None]:
    """Keep tar archives inside the folder that they are unpacked into, whoever unpacks them (PEP 706). zipfile does so
    anyway."""
    before = vars(tarfile.TarFile).get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        if before is None:
            del tarfile.TarFile.extraction_filter
        else:
            tarfile.TarFile.extraction_filter = before


def _refuse_links(folder: Path) -> None:
    """Refuse links, pipes and devices in the data set, because they lead elsewhere."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            shutil.rmtree(folder)
            raise InputError(
                f"the download holds {path.name}, which is not a plain file: it was removed, {BY_HAND}"
            )
