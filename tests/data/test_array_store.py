"""A batch is read from one array for each D4 transform, in the transforms that its pixels would get."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from leukemia.data.array_store import ArrayStore, on_device
from leukemia.data.transforms import D4, augment, d4

PICTURES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)


@given(
    kept=st.lists(st.integers(0, 19), min_size=1, unique=True).map(sorted),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_stored_transforms_are_drawn_as_pixels_are_augmented(kept, seed, data):
    arrays = [d4(torch.from_numpy(PICTURES[kept]), number).numpy() for number in range(D4)]
    cells = np.array(data.draw(st.lists(st.sampled_from(kept), min_size=1, max_size=12)))
    found = ArrayStore("pixels", arrays, np.array(kept)).read(cells, seed)
    assert torch.equal(found, augment(torch.from_numpy(PICTURES[cells]), "d4", seed))


@given(cells=st.lists(st.integers(0, 19), min_size=1, max_size=12).map(np.array))
def test_a_tensor_and_a_memory_map_give_the_same_batch(cells):
    on_disk, in_memory = ArrayStore("pixels", [PICTURES]), ArrayStore("pixels", [torch.from_numpy(PICTURES)])
    assert torch.equal(on_disk.read(cells, 0), in_memory.read(cells, 0))
    assert torch.equal(on_disk.read(cells, 0), torch.from_numpy(PICTURES[cells]))


def test_a_batch_has_the_type_that_the_network_gave():
    values = np.ones((3, 2), dtype=np.float16)
    assert (
        ArrayStore("features", [values], dtype=torch.bfloat16).read(np.array([1]), 0).dtype == torch.bfloat16
    )


def test_arrays_beyond_the_room_of_the_device_stay_where_they_are(monkeypatch):
    store = ArrayStore("pixels", [PICTURES])
    assert on_device(store, torch.device("cpu")) is store
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: (2 * PICTURES.nbytes - 1, 100 * PICTURES.nbytes)
    )
    assert on_device(store, torch.device("cuda")) is store


def test_arrays_on_a_device_stay_there():
    store = ArrayStore("pixels", [torch.from_numpy(PICTURES)])
    assert on_device(store, torch.device("cuda")) is store
