"""The index of the synthetic set, with the hashes of its pixels."""

import pytest

from leukemia.data.cnmc import read_cnmc
from leukemia.data.pixels import load_pixels


@pytest.fixture(scope="session")
def demo_index(demo_root):
    index = read_cnmc(demo_root)
    index = index[index["label"] >= 0].reset_index(drop=True)
    return index, load_pixels(demo_root, index["path"].tolist(), size=32, native_size=450).hashes
