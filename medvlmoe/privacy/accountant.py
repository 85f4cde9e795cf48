"""What a sequence of noisy releases costs together.

Adjacency: two data sets are neighbours if one has a record (or, at the server, a hospital) that the other lacks; every
sensitivity that a noise multiplier refers to is with respect to adding or removing one. The bounds hold for releases
that are chosen in the light of earlier ones, as those of training are.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from medvlmoe.errors import CheckpointError
from medvlmoe.privacy.mechanism import Mechanism
from medvlmoe.privacy.renyi import divergences, epsilon_of

KINDS = ("rdp", "prv")

# Opacus's PRV upper bound adds this much to epsilon, and spends this share of delta, for its discretisation.
_PRV_EPSILON_ERROR = 0.01
_PRV_DELTA_SHARE = 1e-3
_PRV_LARGEST = 50.0  # beyond, its grid gets long and the figure means nothing anyway


class Accountant:
    """Adds up mechanisms.

    ``rdp`` composes Rényi divergences: milliseconds, some 5 to 15 % above the truth. ``prv`` composes the privacy loss
    itself numerically (Gopi et al. 2021, arXiv 2106.02848) and takes its upper bound: tighter, up to seconds; where
    the Rényi bound is lower (few releases), that one counts.

    The order of the mechanisms does not matter, and equal ones are kept as one entry, so the state stays small
    however long training lasts.

    Args:
        kind: ``rdp`` or ``prv``.
        spent: what has already been released.
    """

    def __init__(self, kind: str = "rdp", spent: Iterable[Mechanism] = ()) -> None:
        if kind not in KINDS:
            raise ValueError(f"no accountant '{kind}'; there are {', '.join(KINDS)}")
        self.kind = kind
        self._steps: dict[tuple[float, float], int] = {}
        for mechanism in spent:
            self.add(mechanism)

    def add(self, mechanism: Mechanism) -> None:
        """Count a release. Do it before it is made: a crash in between then costs too much, never too little."""
        if mechanism.steps:
            key = (float(mechanism.noise_multiplier), float(mechanism.sampling_rate))
            self._steps[key] = self._steps.get(key, 0) + int(mechanism.steps)

    @property
    def spent(self) -> tuple[Mechanism, ...]:
        """Everything counted so far."""
        return tuple(
            Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps)
            for (noise, rate), steps in sorted(self._steps.items())
        )

    def epsilon(self, delta: float) -> float:
        """Epsilon of everything so far at ``delta``: an upper bound, 0 if nothing was released.

        Raises:
            ValueError: ``delta`` is not between 0 and 1.
        """
        if not 0 < delta < 1:
            raise ValueError(f"delta {delta}: must be between 0 and 1")
        if not self._steps:
            return 0.0
        renyi = epsilon_of(
            np.sum([steps * np.array(divergences(*key)) for key, steps in sorted(self._steps.items())], axis=0), delta
        )
        if self.kind == "rdp" or renyi > _PRV_LARGEST:
            return renyi
        return min(renyi, self._prv_epsilon(delta))

    def epsilon_after(self, planned: Iterable[Mechanism], delta: float) -> float:
        """Epsilon if ``planned`` were released on top. Nothing is counted."""
        return Accountant(self.kind, [*self.spent, *planned]).epsilon(delta)

    def to_dict(self) -> dict[str, Any]:
        """State for a JSON file."""
        return {
            "accountant": self.kind,
            "adjacency": "add or remove one",
            "spent": [
                {"noise_multiplier": m.noise_multiplier, "sampling_rate": m.sampling_rate, "steps": m.steps}
                for m in self.spent
            ],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], kind: str | None = None) -> "Accountant":
        """The accountant of an earlier process.

        Args:
            state: made by :meth:`to_dict`.
            kind: count it in another way from now on; what was released stays what it was.

        Raises:
            CheckpointError: the state is damaged. It is never taken for an empty one.
        """
        try:
            spent = [Mechanism(**entry) for entry in state["spent"]]
            return cls(kind or state["accountant"], spent)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the record of spent privacy is damaged ({error}); restore it from a backup"
            ) from error

    def _prv_epsilon(self, delta: float) -> float:
        from opacus.accountants import PRVAccountant  # here: Opacus takes seconds to import

        accountant = PRVAccountant()
        accountant.history = [(noise, rate, steps) for (noise, rate), steps in sorted(self._steps.items())]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # about the orders of its own Rényi bound, and log(0) without sampling
            try:
                found = float(
                    accountant.get_epsilon(delta, eps_error=_PRV_EPSILON_ERROR, delta_error=delta * _PRV_DELTA_SHARE)
                )
            except (RuntimeError, ValueError, OverflowError, IndexError, MemoryError):
                return math.inf  # outside what its grid can hold: the Rényi bound counts
        return found if found > 0 else math.inf
