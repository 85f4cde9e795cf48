"""One kind of noisy release, as the accountant sees it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """The Gaussian mechanism on a Poisson sample, a number of times.

    A step of DP-SGD is one with the sampling rate of its batches. A plain Gaussian release, such as a noised count or
    the noised merge of a round in which every hospital takes part, is one with sampling rate 1.

    Attributes:
        noise_multiplier: standard deviation of the noise, in units of the L2 sensitivity.
        sampling_rate: probability with which each record (or hospital) is in the sample, independently of the others.
        steps: how often.

    Raises:
        ValueError: a number out of range. Noise 0 is refused: nothing is private without noise.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(
                f"noise_multiplier {self.noise_multiplier}: must be above 0; without noise nothing is private"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate {self.sampling_rate}: must be above 0 and at most 1")
        if self.steps < 0 or self.steps != int(self.steps):
            raise ValueError(f"steps {self.steps}: must be a whole number, 0 or more")
