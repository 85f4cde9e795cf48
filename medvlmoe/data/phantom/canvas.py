"""Drawing primitives on float images: soft-edged shapes, strokes, smooth noise, blur.

All shapes are given in the unit square (x to the right, y downwards), so that one description serves every image
size. Masks are float32 H x W in 0..1. Shape legend: H height, W width, P points of a line.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

Array = np.ndarray


@dataclass(frozen=True)
class Grid:
    """Where each pixel lies in the unit square of the drawn object.

    Attributes:
        x_HW: horizontal coordinate.
        y_HW: vertical coordinate.
        size: pixels on each side.
    """

    x_HW: Array
    y_HW: Array
    size: int

    @classmethod
    def posed(
        cls, size: int, *, degrees: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0
    ) -> "Grid":
        """A grid on which the object appears rotated by ``degrees``, moved by ``shift`` and enlarged by ``scale``."""
        line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        x, y = line[None, :] - shift[0], line[:, None] - shift[1]
        cosine, sine = np.cos(np.deg2rad(degrees)) / scale, np.sin(np.deg2rad(degrees)) / scale
        return cls(
            (cosine * x + sine * y + 0.5).astype(np.float32), (-sine * x + cosine * y + 0.5).astype(np.float32), size
        )


def soft_step(distance_HW: Array, softness: float) -> Array:
    """0 where the distance is far below zero, 1 far above, rising over about four times ``softness``."""
    clipped = np.clip(distance_HW / softness, -12.0, 12.0)
    return 1.0 / (1.0 + np.exp(-clipped))


def ellipse(
    grid: Grid, centre: tuple[float, float], radii: tuple[float, float], *, degrees: float = 0.0, softness: float = 0.01
) -> Array:
    """Filled ellipse with a soft edge."""
    x, y = grid.x_HW - centre[0], grid.y_HW - centre[1]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    radius = np.hypot((cosine * x + sine * y) / radii[0], (-sine * x + cosine * y) / radii[1])
    return soft_step((1.0 - radius) * min(radii), softness)


def stroke(grid: Grid, points_P2: Sequence[tuple[float, float]], width: float) -> Array:
    """Line through the points with a bell-shaped profile of the given half-width."""
    squared = np.full(grid.x_HW.shape, np.inf, dtype=np.float32)
    for (x0, y0), (x1, y1) in itertools.pairwise(points_P2):
        dx, dy = x1 - x0, y1 - y0
        along = ((grid.x_HW - x0) * dx + (grid.y_HW - y0) * dy) / (dx * dx + dy * dy + 1e-12)
        along = np.clip(along, 0.0, 1.0)
        squared = np.minimum(squared, (grid.x_HW - x0 - along * dx) ** 2 + (grid.y_HW - y0 - along * dy) ** 2)
    return np.exp(-squared / width**2)


def smooth_noise(random: np.random.Generator, size: int, cells: int) -> Array:
    """Random field of zero mean and unit spread whose bumps are about ``1 / cells`` wide."""
    coarse = random.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    field = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    return (field - field.mean()) / (field.std() + 1e-6)


def blur(image: Array, width: float) -> Array:
    """Gaussian blur of an H x W or H x W x C square image; ``width`` in parts of the image side."""
    if width <= 0:
        return image
    kernel = _blur_matrix(image.shape[0], round(width, 4))
    if image.ndim == 2:
        return kernel @ image @ kernel.T
    return np.stack([kernel @ image[..., channel] @ kernel.T for channel in range(image.shape[2])], axis=-1)


@lru_cache(maxsize=64)
def _blur_matrix(size: int, width: float) -> Array:
    position = np.arange(size, dtype=np.float32) / size
    kernel = np.exp(-0.5 * ((position[:, None] - position[None, :]) / max(width, 1e-4)) ** 2)
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
