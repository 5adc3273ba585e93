"""Order follows from (seed, epoch, rank); every cell comes once; processes share the cells."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from leukemia.data.array_store import ArrayStore
from leukemia.data.loader import CellLoader


def batches(count, batch_size, **settings):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    return CellLoader(
        ArrayStore("pixels", [images]), np.arange(count) % 2, np.arange(count), batch_size, **settings
    )


def cells(found):
    return [batch["cell"].tolist() for batch in found]


@given(
    count=st.integers(2, 100), batch_size=st.integers(2, 16), epoch=st.integers(0, 5), shuffle=st.booleans()
)
def test_every_cell_comes_once_with_its_pixels_and_label(count, batch_size, epoch, shuffle):
    found = batches(count, batch_size, seed=3, shuffle=shuffle)
    found.set_epoch(epoch)
    listed = list(found)
    assert len(listed) == len(found)
    assert sorted(cell for batch in cells(listed) for cell in batch) == list(range(count))
    for batch in listed:
        assert torch.equal(batch["pixels"].flatten(1)[:, 0].long(), batch["cell"])
        assert torch.equal(batch["label"].long(), batch["cell"] % 2)
        assert not shuffle or len(batch["cell"]) > 1


@given(count=st.integers(2, 60), batch_size=st.integers(2, 8), world=st.integers(1, 4))
def test_processes_train_on_the_batch_of_one_process_split_between_them(count, batch_size, world):
    shares = [
        cells(batches(count, batch_size, shuffle=True, rank=rank, world_size=world)) for rank in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    assert {cell for share in shares for batch in share for cell in batch} == set(range(count))
    together = cells(batches(count, batch_size * world, shuffle=True))
    if count % (batch_size * world) == 0:
        assert [
            sorted(sum(parts, ())) for parts in zip(*[map(tuple, share) for share in shares], strict=True)
        ] == [sorted(batch) for batch in together]


@given(count=st.integers(1, 60), world=st.integers(1, 4))
def test_evaluation_never_counts_a_cell_twice(count, world):
    found = [
        cell
        for rank in range(world)
        for batch in cells(batches(count, 4, rank=rank, world_size=world))
        for cell in batch
    ]
    assert sorted(found) == list(range(count))


def test_another_epoch_or_seed_is_another_order_and_the_same_is_the_same():
    def order(seed, epoch):
        found = batches(50, 8, seed=seed, shuffle=True)
        found.set_epoch(epoch)
        return [(batch["cell"].tolist(), batch["seed"]) for batch in found]

    assert order(0, 0) == order(0, 0)
    orders = [str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_batches_of_an_epoch_and_of_processes_have_seeds_of_their_own():
    seeds = [
        batch["seed"] for rank in (0, 1) for batch in batches(40, 4, shuffle=True, rank=rank, world_size=2)
    ]
    assert len(set(seeds)) == len(seeds)
