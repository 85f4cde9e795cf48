"""What a hospital's records have cost so far, as numbers beside its reply to the server."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from medvlmoe.privacy.units import IMAGE, PATIENT

PREFIX = "privacy/"


@dataclass(frozen=True, kw_only=True)
class RecordCost:
    """Record-level privacy spent by one hospital, over all rounds and restarts. No number here depends on a record.

    Attributes:
        epsilon: of everything released so far.
        delta: at this delta.
        noise_multiplier: of the last round's steps.
        sampling_rate: of the last round's steps.
        steps: of DP-SGD, over all rounds.
        max_grad_norm: bound on a record's gradient.
        counts_noise: noise multiplier of the counts that are sent; 0: none are.
        epsilon_before: of this, what earlier runs on the same data have spent.
        epsilon_cap: the hospital's own limit; infinite if it has set none.
        earlier_accounts: how often the hospital has begun its account anew; ``epsilon`` is without what was spent
            before.
        releases_again: releases of this run beyond one a round: results that had left, or were about to, when their
            round was asked for again. Each is in ``epsilon``.
        by_patient: 1: what is hidden is a patient; 0: an image.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    sampling_rate: float
    steps: float
    max_grad_norm: float
    counts_noise: float = 0.0
    epsilon_before: float = 0.0
    epsilon_cap: float = math.inf
    by_patient: float = 0.0
    earlier_accounts: float = 0.0
    releases_again: float = 0.0

    @property
    def unit(self) -> str:
        """What is hidden as one."""
        return PATIENT if self.by_patient else IMAGE

    def to_numbers(self) -> dict[str, float]:
        """As metrics of a reply, ``privacy/epsilon`` and so on; without what is infinite."""
        return {PREFIX + name: float(value) for name, value in asdict(self).items() if math.isfinite(value)}

    @classmethod
    def of_numbers(cls, metrics: Mapping[str, Any]) -> "RecordCost | None":
        """The inverse of :meth:`to_numbers`; other metrics are passed over.

        Returns:
            ``None`` if the hospital reports no privacy, or less than is needed to state it.
        """
        names = {entry.name for entry in fields(cls)}
        given = {
            name: float(value)
            for key, value in metrics.items()
            if (name := key.removeprefix(PREFIX)) in names and key.startswith(PREFIX) and isinstance(value, int | float)
        }
        try:
            return cls(**given)
        except TypeError:
            return None
