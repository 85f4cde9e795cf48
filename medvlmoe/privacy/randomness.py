"""Random numbers that nobody outside may know: which records are in a batch, and the noise.

The seed of a run is the server's: noise made from it could be subtracted again. At a hospital these numbers therefore
start from 256 bits of the operating system, are made anew for every epoch, and are neither kept nor sent. torch's own
CPU generator would not do: it keeps 32 bits of its seed, few enough to try them all.
"""

import secrets

import numpy as np
import torch
from torch import Tensor


class SecretRandomness:
    """Streams of random numbers by epoch.

    Args:
        seed: repeats the same numbers, for simulations and tests, where server and site are one; ``None``: secret.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed

    def stream(self, *purpose: int) -> "Stream":
        """A stream of its own for an epoch (and a use)."""
        entropy = secrets.randbits(256) if self._seed is None else self._seed
        return Stream(np.random.Generator(np.random.Philox(np.random.SeedSequence([entropy, *purpose]))))


class Stream:
    """One sequence of numbers."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def sample(self, rows: int, rate: float) -> list[int]:
        """Each of ``rows`` rows with probability ``rate``, independently of the others; in random order."""
        chosen = np.flatnonzero(self._generator.random(rows) < rate)
        return self._generator.permutation(chosen).tolist()

    def below(self, bound: int) -> int:
        """One of the numbers 0 to ``bound`` - 1, each as probable as the others."""
        return int(self._generator.integers(bound))

    def normal(self, like: Tensor, deviation: float) -> Tensor:
        """Normal noise of the shape and on the device of ``like``."""
        drawn = self._generator.standard_normal(tuple(like.shape), dtype=np.float64) * deviation
        return torch.from_numpy(np.asarray(drawn)).to(like.device, like.dtype)
