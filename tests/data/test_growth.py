"""Looking things up stays quick, however many cells there are."""

import time
from pathlib import Path

import numpy as np
import pytest

from leukemia.data import pixels
from leukemia.data.cnmc import cnmc
from leukemia.data.splits import assign_splits

SUBJECTS = 118


def write_names(root: Path, count: int) -> None:
    """A training set of empty files; every third subject is healthy."""
    for number in range(count):
        subject, cell = number % SUBJECTS, number // SUBJECTS
        healthy = subject % 3 == 0
        folder = (
            root / "C-NMC_Leukemia" / "training_data" / f"fold_{subject % 7 % 3}" / ("all", "hem")[healthy]
        )
        if number < SUBJECTS:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"UID_{'H' * healthy}{subject + 1}_1_{cell + 1}_{('all', 'hem')[healthy]}.bmp").touch()


def seconds_to_look_up(root: Path, monkeypatch) -> float:
    """Processor time of the reader, the name of its pixels in the cache, and the splits."""
    monkeypatch.setattr(pixels, "cached_folder", lambda name, build, max_gb: root)
    images = sum(1 for _ in root.rglob("*.bmp"))
    np.save(root / "images.npy", np.zeros((images, 1, 1, 3), dtype=np.uint8))
    np.save(root / "hashes.npy", np.arange(images).astype("U32"))
    start = time.process_time()
    table, _, native_size = cnmc(root)
    found = pixels.load_pixels(root, table["path"].tolist(), native_size=native_size)
    cells = assign_splits(table, found.hashes, "subject_kfold", 0, 5, 0)
    assert len(cells) == images
    return time.process_time() - start


@pytest.mark.slow
def test_the_whole_set_is_looked_up_in_two_seconds_and_time_grows_no_faster_than_cells(tmp_path, monkeypatch):
    small, whole = tmp_path / "small", tmp_path / "whole"
    write_names(small, 15_114 // 4)
    write_names(whole, 15_114)
    seconds_to_look_up(small, monkeypatch)  # imports and first calls
    # The fastest of three: whatever else the machine does only adds to it.
    quarter, all_of_it = (
        min(seconds_to_look_up(root, monkeypatch) for _ in range(3)) for root in (small, whole)
    )
    assert all_of_it < 2
    assert all_of_it < 2 * 4 * quarter
