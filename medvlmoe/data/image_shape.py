"""The shape that every image of a data set is brought to. C channels, D slices, S rows and columns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageShape:
    """Shape of a decoded image.

    Attributes:
        channels: C, 1 (grey) or 3 (colour).
        size: S, rows and columns.
        depth: D, slices of a volume; ``None`` for a flat image.
    """

    channels: int
    size: int
    depth: int | None = None

    @property
    def dimensions(self) -> tuple[int, ...]:
        """C x S x S, or C x D x S x S for a volume."""
        slices = () if self.depth is None else (self.depth,)
        return (self.channels, *slices, self.size, self.size)
