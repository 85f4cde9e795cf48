"""The streaming merge: one site's update at a time, in the order given, in memory that does not grow with the sites."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

Weight = float | torch.Tensor


class Merge(Protocol):
    """Takes a round's updates one by one."""

    def add(self, update: Mapping[str, torch.Tensor], weight_of: Callable[[str], Weight]) -> None:
        """Fold in one validated update, which may be dropped afterwards."""

    def result(self) -> dict[str, torch.Tensor]:
        """The merged parameters."""


class StreamingMerge:
    """Running weighted mean ``m += (w / W) (x - m)`` per tensor, or per row where the weight has one number a row.

    Properties (all tested): a single update passes through bit for bit; what got no weight from anybody keeps its
    bytes from ``base``; the result depends on the order of the updates only by rounding, so callers fix the order.

    Args:
        base: the global parameters that the sites started from. Not changed.
    """

    def __init__(self, base: Mapping[str, torch.Tensor]) -> None:
        self._base = base  # may be on disk: a tensor is asked for once and let go of
        self._merged: dict[str, torch.Tensor] = {}
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

    def result(self) -> dict[str, torch.Tensor]:
        """The merged parameters; a tensor that nobody changed is the very tensor of ``base``."""
        return {name: self._merged[name] if name in self._merged else self._base[name] for name in self._base}

    def changed(self, name: str) -> bool:
        """Whether any update had weight for this parameter."""
        return name in self._merged

    def _fold(self, name: str, value: torch.Tensor, weight: torch.Tensor) -> None:
        before = self._total.get(name, torch.zeros_like(weight))
        total = before + weight
        self._total[name] = total
        if name not in self._merged:
            self._merged[name] = self._base[name].clone()
        merged = self._merged[name]
        # A first contribution is copied, not computed: m + 1 (x - m) would not be x to the last bit.
        if weight.ndim == 0:
            if before == 0:
                merged.copy_(value)
            else:
                merged.copy_(_step(merged, value, weight / total))
            return
        first = (before == 0) & (weight > 0)
        further = (before > 0) & (weight > 0)
        if bool(first.any()):
            merged[first] = value[first].to(merged.dtype)
        if bool(further.any()):
            share = (weight[further] / total[further]).reshape(-1, *[1] * (merged.ndim - 1))
            merged[further] = _step(merged[further], value[further], share).to(merged.dtype)


def _step(mean: torch.Tensor, value: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    # float64 for one tensor at a time: each site then costs one rounding to float32, not three.
    mean64 = mean.double()
    return mean64 + share * (value.double() - mean64)
