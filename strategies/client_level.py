"""Client-level differential privacy over the rounds of a run: noise, bounds and what they have cost."""

import logging
import math
import secrets
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch

from medvlmoe.errors import CheckpointError, ConfigError
from medvlmoe.privacy.accountant import Accountant
from medvlmoe.privacy.config import ClientLevelConfig
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.noise import solve_noise
from strategies.private_merge import PrivateMerge
from strategies.update_blocks import UpdateBlocks

logger = logging.getLogger(__name__)

_SMALLEST_FEDERATION = 2
_USUAL_FEDERATION = 100


class ClientLevelPrivacy:
    """What hides each hospital's update among the others': see :mod:`strategies.private_merge` for the proof.

    All hospitals are asked in every round, so nothing is gained by sampling them.

    Args:
        config: settings.
        groups: the parameter groups that travel.
        site_count: hospitals in the federation: public, and fixed for the whole run.
        rounds: rounds planned, for which a target epsilon is solved.
        kind: how it is counted: ``rdp`` or ``prv``.
        random: source of the noise; ``None``: a generator seeded by the operating system. For tests only: who knows
            the seed can take the noise away.

    Attributes:
        noise_multiplier: of the release of the model.
        blocks: what is clipped together, with the present bounds.
        accountant: what has been released.

    Raises:
        ConfigError: too few hospitals, an unknown group, or a target that no noise reaches.
    """

    def __init__(
        self,
        config: ClientLevelConfig,
        *,
        groups: Iterable[str],
        site_count: int,
        rounds: int,
        kind: str = "rdp",
        random: np.random.Generator | None = None,
    ) -> None:
        if site_count < _SMALLEST_FEDERATION:
            raise ConfigError(
                f"client-level privacy with {site_count} hospital: there is no other to hide it among; use "
                "privacy.mode=record"
            )
        self.config = config
        self.site_count = site_count
        self.blocks = UpdateBlocks.of(groups, config.max_update_norm, config.max_group_norms)
        self.accountant = Accountant(kind)
        self._random = random or np.random.Generator(np.random.Philox(np.random.SeedSequence(secrets.randbits(256))))
        self.noise_multiplier = config.noise_multiplier or solve_noise(
            lambda noise: [_gaussian(noise, rounds)],
            config.target_epsilon or math.inf,
            config.delta,
            already_spent=self._releases_of_bounds(rounds),
            kind=kind,
        )
        if site_count < _USUAL_FEDERATION:
            logger.warning(
                "client-level privacy among %d hospitals: its noise does not shrink with their number, so that a "
                "usable model usually takes hundreds; privacy.md tells noise and signal of this run", site_count,
            )  # fmt: skip

    def merge(
        self, base: Mapping[str, torch.Tensor], store: MutableMapping[str, torch.Tensor] | None = None
    ) -> PrivateMerge:
        """An empty merge of a round that starts from ``base``; ``store`` as there."""
        return PrivateMerge(
            base,
            self.blocks,
            noise_multiplier=self.noise_multiplier,
            site_count=self.site_count,
            weight_cap=self.config.weight_cap,
            random=self._random,
            store=store,
        )

    def releases(self, rounds: int = 1) -> list[Mechanism]:
        """What so many rounds release."""
        return [_gaussian(self.noise_multiplier, rounds), *self._releases_of_bounds(rounds)]

    def charge(self) -> None:
        """Count a round. To be on disk before anything of the round's result is."""
        for mechanism in self.releases():
            self.accountant.add(mechanism)

    def affords_a_round(self) -> bool:
        """Whether another round stays within the target epsilon. Without a target it always does."""
        target = self.config.target_epsilon
        return target is None or self.accountant.epsilon_after(self.releases(), self.config.delta) <= target

    def epsilon(self) -> float:
        """Spent so far, at the configured delta."""
        return self.accountant.epsilon(self.config.delta)

    def adapt(self, merge: PrivateMerge) -> None:
        """Move the bounds towards the quantile: ``C <- C exp(-rate (share below - target))``, from noised counts.

        Does nothing with fixed clipping.
        """
        if self.config.clipping != "adaptive":
            return
        bounds = {}
        for block, half_difference in merge.below().items():
            noised = half_difference + self.config.quantile_noise * self._random.standard_normal()
            share_below = noised / self.site_count + 0.5
            step = math.exp(-self.config.quantile_rate * (share_below - self.config.target_quantile))
            bounds[block] = self.blocks.bounds[block] * step
        self.blocks = UpdateBlocks(self.blocks.block_of, bounds)

    def to_dict(self) -> dict[str, Any]:
        """State for the server's checkpoint."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "site_count": self.site_count,
            "bounds": dict(self.blocks.bounds),
            **self.accountant.to_dict(),
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Take the state of an earlier process of the run: noise, bounds, number of hospitals and what was spent.

        Raises:
            CheckpointError: it is damaged or of other parameter groups.
        """
        self.accountant = Accountant.from_dict(state, self.accountant.kind)
        try:
            bounds = {str(block): float(bound) for block, bound in state["bounds"].items()}
            self.noise_multiplier, self.site_count = float(state["noise_multiplier"]), int(state["site_count"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the state of client-level privacy is damaged ({error})") from error
        if bounds.keys() != self.blocks.bounds.keys():
            raise CheckpointError("the state of client-level privacy is of other parameter groups")
        self.blocks = UpdateBlocks(self.blocks.block_of, bounds)

    def _releases_of_bounds(self, rounds: int) -> list[Mechanism]:
        if self.config.clipping != "adaptive":
            return []
        return [_gaussian(2 * self.config.quantile_noise / math.sqrt(len(self.blocks.bounds)), rounds)]


def _gaussian(noise_multiplier: float, steps: int) -> Mechanism:
    return Mechanism(noise_multiplier=noise_multiplier, steps=steps)
