"""The place of a process among the local processes that train one model together."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch.distributed as distributed
from torch import Tensor


@dataclass(frozen=True)
class Rank:
    """One of ``world_size`` processes; the process that the user started is number 0.

    With one process nothing is exchanged and no process group is needed.

    Attributes:
        number: from 0.
        world_size: how many processes there are.
    """

    number: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that the user started."""
        return self.number == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors; every process must call it. No gradient flows through it."""
        if self.world_size == 1:
            return tensor
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of process 0; every process must call it with tensors of equal shapes."""
        if self.world_size == 1:
            return
        for tensor in tensors:
            dense = tensor.detach().contiguous()
            distributed.broadcast(dense, src=0)
            if not self.is_first and dense.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(dense)
