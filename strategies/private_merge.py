r"""The merge of client-level differential privacy: clip each site's change, add it up, add noise once.

One round, with global parameters ``theta`` (public: they were released by the round before), sites s, blocks b of
parameter groups, bounds ``C_b``, and a public constant D, the number of hospitals in the federation:

    delta_s     = theta_s - theta
    clipped_s,b = delta_s,b * min(1, C_b / ||delta_s,b||)
    total       = sum_s a_s * clipped_s           a_s in [0, 1] by parameter or row, told by the site alone
    theta'_b    = theta_b + (total_b + sigma_b * xi) / D,    xi ~ N(0, 1),    sigma_b = z * C_b * sqrt(B)

**Sensitivity.** Let two federations differ by one site t, whatever it sends and whatever its weights are. Every other
site's clipped change and weight are functions of that site's data and of ``theta`` only, and D is a constant, so the
two totals differ by exactly ``a_t * clipped_t``. Weights in [0, 1] shrink every coordinate, hence
``||a_t clipped_t,b|| <= ||clipped_t,b|| <= C_b`` for every block. After dividing block b by ``sigma_b``, the difference
has a norm of at most ``sqrt(sum_b C_b^2 / sigma_b^2) = sqrt(B / (z^2 B)) = 1 / z``: the release is the Gaussian
mechanism with noise multiplier z. Dividing by D and adding ``theta`` is post-processing.

**Why not the weighted mean.** ``sum_s w_s theta_s / sum_s w_s`` has no such bound: its denominator depends on the site.
A site that holds an expert alone moves it by its whole change whatever its weight, and adding a site with a large
weight takes the weight of all others away. So the denominator here is public. The price: an expert that one of D
hospitals uses moves by a D-th of what that hospital asks for. A noised denominator would cost budget for every expert
and label, and at the size of hospital federations it would be mostly noise.

**Experts that nobody used** get noise like all others: kept bytes would tell that nobody used them.

**Adaptive bounds** (Andrew et al. 2021, arXiv 1905.03871): each site also adds, by block, +1/2 or -1/2 for whether its
change was below the bound. Adding or removing a site changes these B numbers by ``sqrt(B) / 2`` in L2, so noise of
standard deviation ``q`` on each is a Gaussian mechanism with multiplier ``2 q / sqrt(B)``, accounted beside that of
the model.

The bound holds for real numbers; rounding in float32 and the discreteness of floating-point noise (Mironov 2012) are
not covered.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping

import numpy as np
import torch

from medvlmoe.model.groups import parameter_group
from strategies.merge import Weight
from strategies.update_blocks import UpdateBlocks


class PrivateMerge:
    """Sum of clipped changes, one site at a time, in memory that does not grow with the sites; noise comes last.

    Takes the place of :class:`strategies.merge.StreamingMerge`. The order of the sites matters only by rounding.

    Args:
        base: the global parameters that the sites started from; may lie on disk. Not changed.
        blocks: what is clipped together, and to what bounds.
        noise_multiplier: z above.
        site_count: D above, a public constant.
        weight_cap: a weight of this or more counts in full, less in proportion; ``None``: every weight above 0 counts
            in full, so that hospitals weigh alike.
        random: source of the noise.
        store: empty, for the sum; ``None``: in memory. See :class:`strategies.merge.StreamingMerge`.
    """

    def __init__(
        self,
        base: Mapping[str, torch.Tensor],
        blocks: UpdateBlocks,
        *,
        noise_multiplier: float,
        site_count: int,
        weight_cap: float | None,
        random: np.random.Generator,
        store: MutableMapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._base = base
        self._blocks = blocks
        self._noise_multiplier = noise_multiplier
        self._site_count = site_count
        self._weight_cap = weight_cap
        self._random = random
        self._total: MutableMapping[str, torch.Tensor] = {} if store is None else store
        self._below = dict.fromkeys(blocks.bounds, 0.0)

    def add(self, update: Mapping[str, torch.Tensor], weight_of: Callable[[str], Weight]) -> None:
        """Fold in one validated update, which may be dropped afterwards.

        Args:
            update: parameters after local training, same names and shapes as ``base`` (a subset is allowed).
            weight_of: the update's weight by parameter name; a tensor gives one weight for each row.
        """
        for name in update:  # before all that is short-lived, or they would lie in pieces between its remains
            if name not in self._total:
                self._total[name] = torch.zeros(self._base[name].shape, dtype=torch.float32)
        squares = dict.fromkeys(self._blocks.bounds, 0.0)
        for name, change in self._changes(update):
            squares[self._block(name)] += float(change.square().sum())
        norms = {block: square**0.5 for block, square in squares.items()}
        for block, bound in self._blocks.bounds.items():
            self._below[block] += 0.5 if norms[block] <= bound else -0.5
        for name, change in self._changes(update):
            block = self._block(name)
            factor = min(1.0, self._blocks.bounds[block] / norms[block]) if norms[block] > 0 else 0.0
            share = self._share(weight_of(name), change.ndim)
            self._total[name] += (factor * share * change).float()

    def totals(self) -> Mapping[str, torch.Tensor]:
        """The sum of clipped changes before any noise: **not** private, here for tests of the sensitivity."""
        return self._total

    def below(self) -> dict[str, float]:
        """By block, half the difference between sites below the bound and above it: **not** private."""
        return dict(self._below)

    def result(self) -> Mapping[str, torch.Tensor]:
        """The merged parameters, noised; every tensor is changed. Call it once: the sums are gone afterwards."""
        deviations = noise_deviations(self._blocks.bounds, self._noise_multiplier)
        for name in self._base:
            value = self._base[name].double()
            noise = torch.from_numpy(np.asarray(self._random.standard_normal(tuple(value.shape))))
            total = self._total[name] if name in self._total else torch.zeros(())
            deviation = deviations[self._block(name)]
            self._total[name] = (value + (total.double() + deviation * noise) / self._site_count).float()
        return self._total

    def _changes(self, update: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for name in update:
            yield name, update[name].double() - self._base[name].double()

    def _block(self, name: str) -> str:
        return self._blocks.block_of[parameter_group(name)]

    def _share(self, weight: Weight, dimensions: int) -> torch.Tensor:
        weights = torch.as_tensor(weight, dtype=torch.float64)
        shares = (weights > 0).double() if self._weight_cap is None else (weights / self._weight_cap).clamp(0.0, 1.0)
        return shares.reshape(-1, *[1] * (dimensions - 1)) if shares.ndim else shares


def noise_deviations(bounds: Mapping[str, float], noise_multiplier: float) -> dict[str, float]:
    """Standard deviation of the noise on the sum by block: every block takes the same share of the budget."""
    return {block: noise_multiplier * bound * len(bounds) ** 0.5 for block, bound in bounds.items()}
