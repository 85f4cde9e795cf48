import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medvlmoe.parallel.rank import Rank
from medvlmoe.training.batches import load_batches, ordered_batches, share_of, shuffled_batches, split_batch


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(rows: int, batch_size: int, epoch: int) -> None:
    batches = shuffled_batches(rows, batch_size, seed=0, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    if batch_size > 1 and rows > 1:
        assert 2 <= len(batches[-1]) <= batch_size + 1


def test_order_depends_on_seed_and_epoch_only() -> None:
    outer = torch.get_rng_state()
    orders = [shuffled_batches(50, 8, seed=seed, epoch=epoch) for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert torch.equal(outer, torch.get_rng_state())


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))
def test_the_shares_of_all_processes_are_the_batch(row_count: int, accumulate: int, world_size: int) -> None:
    rows = list(range(100, 100 + row_count))
    shares = [share_of(rows, accumulate, Rank(number, world_size)) for number in range(world_size)]
    parts = [part for share in shares for part in share.micro_batches]
    assert all(share.batch_rows == row_count for share in shares)
    assert min(map(len, parts)) >= 1 and max(map(len, parts)) - min(map(len, parts)) <= 1
    if shares[0].is_divided:
        # in lockstep, and read across the processes they are the batch in its order
        in_order = [
            row for at_once in zip(*(s.micro_batches for s in shares), strict=True) for p in at_once for row in p
        ]
        assert in_order == rows
        assert len(shares[0].micro_batches) == min(accumulate, row_count // world_size)
    else:
        assert world_size == 1 or row_count < world_size
        assert all(share.rows == rows for share in shares)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_a_split_batch_is_the_batch(make_dataset, parts: int) -> None:
    batch = make_dataset(10).__getitems__(list(range(10)))
    sizes = [len(part) for part in share_of(list(range(10)), parts, Rank()).micro_batches]
    pieces = list(split_batch(batch, sizes))
    assert len(pieces) == min(parts, 10)
    assert [len(piece) for piece in pieces] == sizes
    assert torch.equal(torch.cat([piece.image_BCHW for piece in pieces]), batch.image_BCHW)
    assert [patient for piece in pieces for patient in piece.patient_ids] == batch.patient_ids


def test_workers_load_the_same_batches_and_draw_no_random_number(make_dataset) -> None:
    dataset = make_dataset(20)
    batches = ordered_batches(reversed(range(20)), 6)
    state = torch.get_rng_state()
    by_workers = list(load_batches(dataset, batches, workers=2))
    assert torch.equal(state, torch.get_rng_state())
    for ours, theirs in zip(load_batches(dataset, batches, workers=0), by_workers, strict=True):
        assert torch.equal(ours.image_BCHW, theirs.image_BCHW)
        assert ours.study_ids == theirs.study_ids
