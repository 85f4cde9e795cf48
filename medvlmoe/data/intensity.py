"""Grey values of any range to 8 bits: a chosen window, or a stretch between two percentiles."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medvlmoe.errors import ConfigError

PERCENTILES = (0.5, 99.5)

Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Intensity:
    """How grey values of more than 8 bits become 8 bits. 8-bit pictures stay as they are.

    Attributes:
        window: (center, width) in the file's units (Hounsfield units for CT): everything below
            ``center - width / 2`` is black, everything above ``center + width / 2`` is white.
        percentiles: stretch from the first to the second percentile of each image or volume.

    With neither, a flat DICOM image is shown as its own header says, and everything else is stretched between
    :data:`PERCENTILES`, which one hot pixel cannot spoil.

    Raises:
        ConfigError: both are given, or one is out of range.
    """

    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.percentiles is not None:
            raise ConfigError("'window' and 'percentiles' exclude each other; keep one")
        if self.window is not None and not (np.isfinite(self.window).all() and self.window[1] > 0):
            raise ConfigError(f"window={list(self.window)}: write [center, width] with a width above 0")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"percentiles={list(self.percentiles)}: write two rising numbers from 0 to 100")

    @property
    def automatic(self) -> bool:
        """Whether nothing was chosen."""
        return self.window is None and self.percentiles is None

    def scaled(self, values: Values) -> Values:
        """Values as 0 (black) to 1 (white), same shape; values that are not finite (padding, NaN) become 0.

        Raises:
            ValueError: no value is finite.
        """
        return between(values, *self.bounds(values))

    def bounds(self, values: Values) -> tuple[float, float]:
        """The values that become black and white.

        Raises:
            ValueError: no value is finite.
        """
        finite = np.isfinite(values)
        if not finite.any():
            raise ValueError("it has no finite value")
        if self.window is not None:
            center, width = self.window
            return center - width / 2, center + width / 2
        known = values if finite.all() else values[finite]
        low, high = np.percentile(known, self.percentiles or PERCENTILES)
        if low == high:  # nearly all pixels are alike: then the few others are the picture
            low, high = known.min(), known.max()
        return float(low), float(high)


AUTOMATIC = Intensity()


def between(values: Values, low: float, high: float) -> Values:
    """0 up to ``low``, 1 from ``high`` on, linear between; 0 where a value is not finite or nothing is between."""
    if high <= low:
        return np.zeros_like(values)
    return np.where(np.isfinite(values), np.clip((values - low) / (high - low), 0, 1), 0)


def eight_bit(scaled: Values) -> npt.NDArray[np.uint8]:
    """0..1 as 0..255."""
    return np.round(scaled * 255).astype(np.uint8)
