"""Rows of a dataset as batches, in an order that depends on the seed and the epoch only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from medvlmoe.data.batch import Batch
from medvlmoe.parallel.rank import Rank
from medvlmoe.seeds import seeded_generator

Value = TypeVar("Value")


class BatchSource(Protocol):
    """A dataset that gives whole batches, such as ``medvlmoe.data``'s."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitems__(self, indices: list[int], /) -> Batch:
        """The batch of these rows, in this order."""
        ...


def training_view(dataset: BatchSource, seed: int, epoch: int) -> BatchSource:
    """The rows as training sees them in an epoch: augmented, if the dataset is one that augments."""
    at_epoch = getattr(dataset, "at_epoch", None)
    return dataset if at_epoch is None else at_epoch(seed, epoch)


def shuffled_batches(row_count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of every step of an epoch: a permutation cut into batches.

    A last batch of one row joins the one before it: batch statistics need two.
    """
    order = torch.randperm(row_count, generator=seeded_generator(seed, "shuffle", epoch)).tolist()
    batches = ordered_batches(order, batch_size)
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def ordered_batches(rows: Iterable[int], batch_size: int) -> list[list[int]]:
    """``rows`` cut into batches, the last one maybe shorter."""
    listed = list(rows)
    return [listed[start : start + batch_size] for start in range(0, len(listed), batch_size)]


def load_batches(dataset: BatchSource, batches: list[list[int]], workers: int) -> Iterator[Batch]:
    """The batches in their order, loaded here (``workers=0``) or by processes ahead of time."""
    if workers == 0 or not batches:
        yield from (dataset.__getitems__(rows) for rows in batches)
        return
    assert isinstance(dataset, Dataset) or hasattr(dataset, "__getitems__")
    yield from DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=_unchanged,
        generator=torch.Generator(),  # else the loader draws from the random stream that dropout uses
    )


@dataclass(frozen=True)
class Share:
    """What one process does of a batch.

    Attributes:
        micro_batches: its rows, cut into the parts that are computed one after the other; every process has as many.
        batch_rows: rows of the whole batch.
        is_divided: whether the other processes have the other rows. Otherwise this one has them all: because it is
            alone, or because there are fewer rows than processes, and then every process computes the whole batch.
    """

    micro_batches: list[list[int]]
    batch_rows: int
    is_divided: bool

    @property
    def rows(self) -> list[int]:
        """All its rows."""
        return [row for micro_batch in self.micro_batches for row in micro_batch]


def share_of(rows: list[int], accumulate: int, rank: Rank) -> Share:
    """Cut a batch into up to ``accumulate`` micro-batches, and each of these among the processes, in order.

    The parts are nearly equal and none is empty.
    """
    if rank.world_size == 1 or len(rows) < rank.world_size:
        return Share(_cut(rows, min(accumulate, len(rows))), len(rows), is_divided=False)
    micro_batches = _cut(rows, min(accumulate, len(rows) // rank.world_size))
    own = [_cut(micro_batch, rank.world_size)[rank.number] for micro_batch in micro_batches]
    return Share(own, len(rows), is_divided=True)


def split_batch(batch: Batch, sizes: Iterable[int]) -> Iterator[Batch]:
    """Cut a batch into micro-batches of these sizes, in order."""
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        yield replace(batch, **{field.name: getattr(batch, field.name)[rows] for field in fields(batch)})
        start += size


def _cut(rows: list[int], parts: int) -> list[list[int]]:
    return [chunk.tolist() for chunk in torch.tensor(rows).tensor_split(parts)]


def _unchanged(value: Value) -> Value:
    return value
