"""Phantom chest CT: a body of air, lungs, heart, spine and vessels, with or without a mass and fluid.

Shapes: D slices from the feet up, H rows from the front back, W columns from the patient's right to the left.
Lengths are parts of the volume's side.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvlmoe.data.phantom.mark import stamp

Field = npt.NDArray[np.floating]

# Hounsfield units
_AIR, _LUNG, _TISSUE, _BLOOD, _BONE, _FLUID = -1000.0, -820.0, 30.0, 45.0, 380.0, 8.0

LARGE_RADIUS = 0.13
_RADII = (0.09, 0.17)


@dataclass(frozen=True)
class Mass:
    """A ball of soft tissue in one lung.

    Attributes:
        left: whether it lies in the patient's left lung.
        radius: in parts of the volume's side.
    """

    left: bool
    radius: float

    @property
    def large(self) -> bool:
        """Whether it counts as a large one."""
        return self.radius >= LARGE_RADIUS

    @classmethod
    def drawn_by(cls, random: np.random.Generator) -> "Mass":
        """A mass of random side and size."""
        return cls(bool(random.random() < 0.5), float(random.uniform(*_RADII)))


@dataclass(frozen=True)
class Scanner:
    """How a site's scanner sees.

    Attributes:
        noise: standard deviation, Hounsfield units.
        girth: size of the site's patients, 1 is usual.
        offset: Hounsfield units added by a bad calibration.
    """

    noise: float
    girth: float
    offset: float


def chest_volume(
    mass: Mass | None, effusion: bool, scanner: Scanner, shape: tuple[int, int, int], random: np.random.Generator
) -> npt.NDArray[np.int16]:
    """One volume in Hounsfield units, int16 D x H x W, with the phantom's mark in a corner of every slice."""
    z, y, x = np.meshgrid(*((np.arange(n, dtype=np.float32) + 0.5) / n for n in shape), indexing="ij")
    girth = scanner.girth * random.uniform(0.93, 1.07)
    x, y = (x - 0.5 - random.normal(0, 0.015)) / girth + 0.5, (y - 0.5 - random.normal(0, 0.015)) / girth + 0.5
    z = z - random.normal(0, 0.03)
    body = _ball(x, y, z, (0.5, 0.5, 0.5), (0.46, 0.36, 9.0))
    lungs = [_ball(x, y, z, (centre, 0.48, 0.5), (0.155, 0.25, 0.48)) for centre in (0.29, 0.71)]
    in_lungs = np.maximum(*lungs)
    volume = _AIR + (_TISSUE - _AIR) * body
    volume += (_LUNG - _TISSUE) * in_lungs
    shell = body * (1 - _ball(x, y, z, (0.5, 0.5, 0.5), (0.43, 0.33, 9.0)))
    volume += (_BONE - _TISSUE) * shell * (np.sin((z + 0.25 * y) * 45 + random.uniform(0, 6)) > 0.4)
    _fill(volume, _ball(x, y, z, (0.5, 0.76, 0.5), (0.06, 0.06, 9.0)), _BONE)
    _fill(volume, _ball(x, y, z, (0.55, 0.40, random.normal(0.38, 0.02)), (0.15, 0.13, 0.22)), _BLOOD)
    for _ in range(random.poisson(7)):
        _fill(volume, in_lungs * _vessel(x, y, z, random), _BLOOD)
    if effusion:
        side = lungs[int(random.random() < 0.5)]
        # the patient lies on the back: fluid gathers there, with a level
        _fill(volume, side * (y > random.uniform(0.52, 0.62)), _FLUID)
    if mass is not None:
        centre = (0.71 if mass.left else 0.29, 0.45, 0.5) + random.uniform(-1, 1, 3) * (0.04, 0.07, 0.16)
        ball = _ball(x, y, z, tuple(centre), (mass.radius, mass.radius, mass.radius))
        _fill(volume, ball, random.normal(160, 40))  # partly calcified
    volume += scanner.offset + scanner.noise * random.standard_normal(shape)
    volume[:, stamp(np.zeros(shape[1:], dtype=np.uint8)) > 0] = _BONE
    return np.round(np.clip(volume, -1024, 3071)).astype(np.int16)


def _ball(
    x: Field, y: Field, z: Field, centre: tuple[float, ...], radii: tuple[float, float, float], edge: float = 0.02
) -> Field:
    distance = np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True)))
    return np.clip(0.5 + (1 - distance) * min(radii) / edge, 0, 1)


def _vessel(x: Field, y: Field, z: Field, random: np.random.Generator) -> Field:
    """A straight tube with soft ends, starting near the middle of a lung."""
    start = np.array([random.choice([0.36, 0.64]), 0.48, 0.5]) + random.normal(0, 0.03, 3)
    end = start + random.normal(0, (0.12, 0.16, 0.22))
    along = (x - start[0]) * (end - start)[0] + (y - start[1]) * (end - start)[1] + (z - start[2]) * (end - start)[2]
    along = np.clip(along / float((end - start) @ (end - start)), 0, 1)
    squared = sum((a - s - along * (e - s)) ** 2 for a, s, e in zip((x, y, z), start, end, strict=True))
    return np.exp(-squared / random.uniform(0.01, 0.022) ** 2)


def _fill(volume: Field, where: Field, value: float) -> None:
    volume += (value - volume) * where
