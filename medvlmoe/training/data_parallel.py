"""One batch on several devices: torch's DistributedDataParallel, made exact for parts of unequal size and for experts.

The gradient of a step is that of the whole batch, as one process would compute it, up to the order of additions:

- The loss of a part is normalised by the counts of the whole batch, so gradients add up; DDP averages them, hence
  :attr:`Network.loss_factor`.
- The balance loss sum_k f_k p_k is linear in p. With the f_k of the whole batch the parts' losses add up to it.
- An expert that no process used keeps a gradient of ``None``, and AdamW leaves it alone (``find_unused_parameters``).

Batch statistics (BatchNorm) are each process's own; running statistics are the first process's.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medvlmoe.model.moe import SparseMoE
from medvlmoe.parallel.rank import Rank
from medvlmoe.training.batches import Share


@contextmanager
def summed_counters(model: nn.Module, rank: Rank) -> Iterator[None]:
    """Afterwards the experts' counters have what all processes have counted, each in a share of its own."""
    experts = [module for module in model.modules() if isinstance(module, SparseMoE)]
    before = [module.routed_samples_K.clone() for module in experts]
    yield
    for module, before_K in zip(experts, before, strict=True):
        module.routed_samples_K.copy_(before_K + rank.sum(module.routed_samples_K - before_K))


class Network:
    """A model whose gradients are those of all processes after the last micro-batch of a step.

    Args:
        model: equal in all processes.
        rank: place of this process; with one process the model is called as it is.
        device: of the model.
    """

    def __init__(self, model: nn.Module, rank: Rank, device: torch.device) -> None:
        self._model, self._rank = model, rank
        self._experts = [module for module in model.modules() if isinstance(module, SparseMoE)]
        self._parallel: DistributedDataParallel | None = None
        if rank.world_size > 1:
            self._parallel = DistributedDataParallel(
                model,
                device_ids=None if device.type == "cpu" else [device],
                find_unused_parameters=True,
                gradient_as_bucket_view=True,  # else gradients are there twice
                init_sync=False,  # the models are equal already
            )
            warnings.filterwarnings("ignore", "Grad strides do not match")  # of class tokens: a copy, no error

    def __call__(self, *inputs: Tensor) -> Any:
        """The model's output."""
        return self._model(*inputs) if self._parallel is None else self._parallel(*inputs)

    def loss_factor(self, share: Share) -> int:
        """What a loss is multiplied by before its gradient is taken, so that DDP's mean is the sum."""
        return self._rank.world_size if share.is_divided else 1

    @contextmanager
    def micro_batch(self, share: Share, *, is_last: bool) -> Iterator[None]:
        """Context of the forward and backward pass of a micro-batch; gradients are exchanged in the last only."""
        for experts in self._experts:
            experts.sum_counts = self._rank.sum if share.is_divided else None
        try:
            with nullcontext() if self._parallel is None or is_last else self._parallel.no_sync():
                yield
        finally:
            for experts in self._experts:
                experts.sum_counts = None
