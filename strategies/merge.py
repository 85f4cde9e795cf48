"""The streaming merge: one site's update at a time, in the order given, in memory that does not grow with the sites."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Protocol

import torch

from medvlmoe.files import LayeredTensors

Weight = float | torch.Tensor

_PIECE = 2**17  # elements: their temporaries fit between what else the heap holds, and into a cache


class Merge(Protocol):
    """Takes a round's updates one by one."""

    def add(self, update: Mapping[str, torch.Tensor], weight_of: Callable[[str], Weight]) -> None:
        """Fold in one validated update, which may be dropped afterwards."""

    def result(self) -> Mapping[str, torch.Tensor]:
        """The merged parameters."""


class StreamingMerge:
    """Running weighted mean ``m += (w / W) (x - m)`` per tensor, or per row where the weight has one number a row.

    Properties (all tested): a single update passes through bit for bit; what got no weight from anybody keeps its
    bytes from ``base``; the result depends on the order of the updates only by rounding, so callers fix the order.

    Args:
        base: the global parameters that the sites started from. Not changed.
        store: empty, for the mean; ``None``: in memory. In a :class:`medvlmoe.tensor_scratch.TensorScratch` it does
            not count there, however large the model is.
    """

    def __init__(
        self, base: Mapping[str, torch.Tensor], store: MutableMapping[str, torch.Tensor] | None = None
    ) -> None:
        self._base = base  # may be on disk: a tensor is asked for once and let go of
        self._merged: MutableMapping[str, torch.Tensor] = {} if store is None else store
        self._total: dict[str, torch.Tensor] = {}

    def add(self, update: Mapping[str, torch.Tensor], weight_of: Callable[[str], Weight]) -> None:
        """Fold one validated update into the mean. The update may be dropped afterwards.

        Args:
            update: parameters after local training, same names and shapes as ``base`` (a subset is allowed).
            weight_of: the update's weight by parameter name; a tensor gives one weight for each row.
        """
        for name, value in update.items():
            weight = torch.as_tensor(weight_of(name), dtype=torch.float64)
            if bool((weight > 0).any()):
                self._fold(name, value, weight)

    def result(self) -> Mapping[str, torch.Tensor]:
        """The merged parameters; a tensor that nobody changed is the very tensor of ``base``."""
        return LayeredTensors(self._base, self._merged)

    def changed(self, name: str) -> bool:
        """Whether any update had weight for this parameter."""
        return name in self._merged

    def _fold(self, name: str, value: torch.Tensor, weight: torch.Tensor) -> None:
        before = self._total.get(name, torch.zeros_like(weight))
        total = before + weight
        self._total[name] = total
        merged = self._merged[name] if name in self._merged else _own_copy(self._base[name])
        if weight.ndim == 0:
            _fold_in(merged, value, before, weight / total)
        else:
            for row in (weight > 0).nonzero().flatten().tolist():
                _fold_in(merged[row], value[row], before[row], weight[row] / total[row])
        self._merged[name] = merged


def _fold_in(mean: torch.Tensor, value: torch.Tensor, before: torch.Tensor, share: torch.Tensor) -> None:
    """Move ``mean``, in place, to that with ``value``. A piece at a time: what is in float64 is never much."""
    if before == 0:  # copied, not computed: m + 1 (x - m) would not be x to the last bit
        mean.copy_(value)
        return
    for mean_piece, piece in zip(in_pieces(mean), in_pieces(value), strict=True):
        # float64: each site then costs one rounding to float32, not three
        mean64 = mean_piece.double()
        mean_piece.copy_(mean64 + share * (piece.double() - mean64))


def in_pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A contiguous tensor's elements, a piece at a time, so that what is computed of them in float64 is never much."""
    return tensor.reshape(-1).split(_PIECE)


def _own_copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)
