"""Phantom haematoxylin-eosin patches of colorectal tissue: nine procedural textures in two stains.

Each texture is a pair of dye maps (haematoxylin, eosin); colour follows from the law of Beer and Lambert, so that a
laboratory's stain is three numbers for each dye. The order of the textures is that of PathMNIST's classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medvlmoe.data.phantom.canvas import Array, Grid, blur, smooth_noise, soft_step

Random = np.random.Generator
Dyes = tuple[Array, Array]

CLASS_COUNT = 9

# Share of images that show a second tissue in a part, and of labels that are wrong.
MIXED, MISLABELLED = 0.6, 0.04


@dataclass(frozen=True)
class Stain:
    """Colours of a laboratory: optical density of each dye in red, green, blue."""

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    spread: float


# Training and validation come from one centre, the test images from another.
FIRST_CENTRE = Stain((0.65, 0.74, 0.33), (0.12, 0.60, 0.22), spread=0.12)
SECOND_CENTRE = Stain((0.58, 0.80, 0.42), (0.10, 0.52, 0.32), spread=0.15)


def tissue_patch(label: int, stain: Stain, size: int, random: Random) -> Array:
    """One patch: uint8, size x size x 3."""
    grid = Grid.posed(size, degrees=random.uniform(0, 360))
    haematoxylin, eosin = _TEXTURES[label](grid, random)
    if random.random() < MIXED:
        other = _TEXTURES[int(random.integers(CLASS_COUNT))](grid, random)
        share = soft_step(smooth_noise(random, size, 2) - random.uniform(0.25, 1.3), 0.15)
        haematoxylin = haematoxylin * (1 - share) + other[0] * share
        eosin = eosin * (1 - share) + other[1] * share
    return _stained(haematoxylin, eosin, stain, random)


def _stained(haematoxylin: Array, eosin: Array, stain: Stain, random: Random) -> Array:
    density = np.zeros((*haematoxylin.shape, 3), dtype=np.float32)
    for dye, colour in ((haematoxylin, stain.haematoxylin), (eosin, stain.eosin)):
        varied = np.array(colour) * random.normal(1.0, stain.spread, 3) * random.normal(1.0, 1.5 * stain.spread)
        density += np.clip(dye, 0.0, 3.0)[..., None] * np.clip(varied, 0.02, None).astype(np.float32)
    light = blur(np.exp(-density), random.uniform(0.004, 0.012)) * random.uniform(0.88, 0.98)
    light += 0.02 * random.standard_normal(light.shape)
    return (np.clip(light, 0.0, 1.0) * 255).astype(np.uint8)


def _nuclei(grid: Grid, random: Random, count: int, radius: tuple[float, float], stretch: float = 1.0) -> Array:
    """Dark spots in random places; ``stretch`` draws them out along the grid's x axis."""
    found = np.zeros(grid.x_HW.shape, dtype=np.float32)
    for _ in range(count):
        x, y = random.uniform(-0.2, 1.2, 2)
        size = random.uniform(*radius)
        distance = np.hypot((grid.x_HW - x) / stretch, grid.y_HW - y)
        np.maximum(found, np.exp(-((distance / size) ** 4)) * random.uniform(0.7, 1.1), out=found)
    return found


def _cells(grid: Grid, random: Random, count: int) -> tuple[Array, Array]:
    """Distances from each pixel to the nearest and second nearest of ``count`` x ``count`` jittered cell centres."""
    place = (np.arange(count + 4) - 1.5) / count
    centres = np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)
    centres = centres + random.normal(0, 0.22 / count, centres.shape)
    distance = np.hypot(grid.x_HW[..., None] - centres[:, 0], grid.y_HW[..., None] - centres[:, 1])
    nearest = np.partition(distance.astype(np.float32), 1, axis=-1)
    return nearest[..., 0], nearest[..., 1]


def _fibres(grid: Grid, random: Random, spacing: float, waviness: float) -> Array:
    bend = waviness * smooth_noise(random, grid.size, 3) + 0.3 * waviness * smooth_noise(random, grid.size, 8)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (grid.y_HW + bend) / spacing)


def _adipose(grid: Grid, random: Random) -> Dyes:
    nearest, second = _cells(grid, random, int(random.integers(3, 6)))
    wall = np.exp(-(((second - nearest) / 0.022) ** 2))
    return 0.15 * wall + _nuclei(grid, random, 3, (0.015, 0.025)) * wall, 0.75 * wall + 0.03


def _background(grid: Grid, random: Random) -> Dyes:
    haze = np.clip(0.05 + 0.025 * smooth_noise(random, grid.size, 3), 0, None)
    specks = _nuclei(grid, random, int(random.integers(0, 4)), (0.008, 0.02))
    return 0.3 * haze + 0.15 * specks, 0.4 * haze


def _debris(grid: Grid, random: Random) -> Dyes:
    clumps = np.clip(smooth_noise(random, grid.size, 7), 0, None)
    dust = np.clip(smooth_noise(random, grid.size, 22) - 0.4, 0, None)
    return 0.22 * clumps + 0.5 * dust, 0.35 + 0.4 * clumps


def _lymphocytes(grid: Grid, random: Random) -> Dyes:
    nuclei = _nuclei(grid, random, int(random.integers(75, 130)), (0.026, 0.036))
    return 1.25 * nuclei + 0.18, 0.25 + 0.05 * smooth_noise(random, grid.size, 6)


def _mucus(grid: Grid, random: Random) -> Dyes:
    strands = np.clip(_fibres(grid, random, 0.35, 0.16), 0, 1) ** 3
    pool = 0.14 + 0.06 * smooth_noise(random, grid.size, 3)
    return 0.25 * strands + np.clip(pool, 0, None) + _nuclei(grid, random, 3, (0.018, 0.028)), 0.16 * strands + 0.06


def _muscle(grid: Grid, random: Random) -> Dyes:
    fibres = _fibres(grid, random, random.uniform(0.09, 0.14), 0.03)
    nuclei = _nuclei(grid, random, int(random.integers(8, 16)), (0.016, 0.022), stretch=3.0)
    return 0.9 * nuclei + 0.10 + 0.06 * fibres, 0.62 + 0.28 * fibres


def _mucosa(grid: Grid, random: Random) -> Dyes:
    count = int(random.integers(2, 4))
    nearest, second = _cells(grid, random, count)
    radius = nearest * count / 0.45  # 0 in the middle of a gland, about 1 at its border
    lining = np.exp(-(((radius - 0.85) / 0.16) ** 2))
    angle = np.arctan2(grid.y_HW - 0.5, grid.x_HW - 0.5)
    goblets = np.exp(-(((radius - 0.5) / 0.2) ** 2)) * (0.5 + 0.5 * np.cos(9 * angle))
    stroma = _nuclei(grid, random, 30, (0.018, 0.026)) * soft_step(radius - 1.1, 0.05)
    edge = np.exp(-(((second - nearest) / 0.05) ** 2))
    return 0.85 * lining + 0.8 * stroma + 0.1, np.clip(0.45 - 0.35 * goblets + 0.15 * edge, 0, None)


def _stroma(grid: Grid, random: Random) -> Dyes:
    fibres = _fibres(grid, random, random.uniform(0.10, 0.17), 0.10)
    nuclei = _nuclei(grid, random, int(random.integers(18, 34)), (0.016, 0.026), stretch=2.2)
    gaps = np.clip(smooth_noise(random, grid.size, 6) - 0.8, 0, None)
    return 0.95 * nuclei + 0.14, np.clip(0.40 + 0.24 * fibres - 0.25 * gaps, 0, None)


def _carcinoma(grid: Grid, random: Random) -> Dyes:
    nearest, second = _cells(grid, random, int(random.integers(2, 4)))
    inside = soft_step(second - nearest - 0.05, 0.02)
    lumen = soft_step(0.06 - nearest + 0.02 * smooth_noise(random, grid.size, 8), 0.015)
    nuclei = _nuclei(grid, random, int(random.integers(45, 75)), (0.030, 0.048), stretch=1.25)
    return (0.95 * nuclei + 0.28) * (0.35 + 0.65 * inside) * (1 - lumen), (0.38 + 0.1 * inside) * (1 - 0.8 * lumen)


_TEXTURES: tuple[Callable[[Grid, Random], Dyes], ...] = (
    _adipose, _background, _debris, _lymphocytes, _mucus, _muscle, _mucosa, _stroma, _carcinoma,
)  # fmt: skip
