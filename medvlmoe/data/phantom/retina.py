"""Phantom fundus photographs: disc, vessels and the lesions of diabetic retinopathy, grade 0 to 4."""

import numpy as np

from medvlmoe.data.phantom.canvas import Array, Grid, blur, ellipse, smooth_noise, stroke

Random = np.random.Generator

# Mean numbers of lesions by grade; neighbouring grades overlap, as they do for graders.
_MICROANEURYSMS = (0.4, 6.0, 12.0, 18.0, 16.0)
_HAEMORRHAGES = (0.1, 0.6, 4.5, 11.0, 9.0)
_EXUDATES = (0.2, 0.7, 5.0, 8.0, 8.0)
_NEW_VESSELS = (0.0, 0.0, 0.0, 0.15, 1.5)

_RED, _YELLOW = np.array([-0.30, -0.24, -0.08]), np.array([0.22, 0.34, 0.14])


def fundus(grade: int, size: int, random: Random) -> Array:
    """One photograph: uint8, size x size x 3."""
    side = 1 if random.random() < 0.5 else -1  # left or right eye
    grid = Grid.posed(size, degrees=random.normal(0, 5), shift=(random.normal(0, 0.015), random.normal(0, 0.015)))
    eye = ellipse(grid, (0.5, 0.5), (0.48, 0.48), softness=0.006)
    disc = (0.5 + side * random.uniform(0.22, 0.32), 0.5 + random.normal(0, 0.02))
    macula = (disc[0] - side * 0.30, disc[1] + 0.02)
    tone = np.array([0.72, 0.36, 0.14]) * random.normal(1.0, 0.10, 3) * random.uniform(0.75, 1.1)
    colour = np.ones((size, size, 3)) * tone
    colour *= 1 + 0.05 * smooth_noise(random, size, 4)[..., None] + 0.02 * smooth_noise(random, size, 14)[..., None]
    colour -= 0.12 * ellipse(grid, macula, (0.07, 0.07), softness=0.025)[..., None]
    colour += ellipse(grid, disc, (0.055, 0.065), softness=0.008)[..., None] * np.array([0.24, 0.30, 0.18])
    colour += _vessels(grid, disc, side, random)[..., None] * np.array([-0.20, -0.17, -0.05])
    plainness = random.uniform(0.7, 1.2)
    colour += plainness * _lesions(grid, grade, disc, macula, random)
    lamp_x, lamp_y = random.normal(0.5, 0.08, 2)
    light = 1 - 0.5 * np.hypot(grid.x_HW - lamp_x, grid.y_HW - lamp_y) ** 1.5
    colour = np.clip(colour, 0.0, 1.0) * light[..., None] * eye[..., None]
    colour = blur(colour, random.uniform(0.002, 0.009))
    colour += 0.012 * random.standard_normal(colour.shape)
    return (np.clip(colour, 0.0, 1.0) * 255).astype(np.uint8)


def _vessels(grid: Grid, disc: tuple[float, float], side: int, random: Random) -> Array:
    drawn = np.zeros(grid.x_HW.shape)
    for up in (-1, 1):
        for reach, width in ((random.uniform(0.5, 0.65), 0.009), (random.uniform(0.35, 0.5), 0.006)):
            # The arcades leave the disc steeply and bend around the macula.
            along = np.linspace(0, 1, 6)
            x = disc[0] - side * reach * along**1.4 + random.normal(0, 0.008, 6)
            y = disc[1] + up * (0.24 * np.sin(np.pi * 0.62 * along) + 0.05 * along) + random.normal(0, 0.008, 6)
            points = list(zip(x.tolist(), y.tolist(), strict=True))
            drawn = np.maximum(drawn, stroke(grid, points, width * random.uniform(0.8, 1.2)))
            start = points[int(random.integers(2, 4))]
            end = (start[0] - side * random.uniform(0.05, 0.15), start[1] + up * random.uniform(0.05, 0.15))
            drawn = np.maximum(drawn, 0.7 * stroke(grid, [start, end], 0.005))
        outward = (disc[0] + side * 0.14, disc[1] + up * random.uniform(0.15, 0.25))
        drawn = np.maximum(drawn, 0.8 * stroke(grid, [disc, outward], 0.006))
    return drawn


def _lesions(grid: Grid, grade: int, disc: tuple[float, float], macula: tuple[float, float], random: Random) -> Array:
    red, yellow = np.zeros(grid.x_HW.shape), np.zeros(grid.x_HW.shape)
    for _ in range(random.poisson(_MICROANEURYSMS[grade])):
        np.maximum(red, 0.7 * _spot(grid, random, macula, 0.20, (0.007, 0.011)), out=red)
    for _ in range(random.poisson(_HAEMORRHAGES[grade])):
        np.maximum(red, _spot(grid, random, macula, 0.24, (0.014, 0.030)), out=red)
    centre = (macula[0] + random.normal(0, 0.06), macula[1] + random.normal(0, 0.06))
    for _ in range(random.poisson(_EXUDATES[grade])):
        np.maximum(yellow, _spot(grid, random, centre, 0.10, (0.008, 0.018)), out=yellow)
    for _ in range(random.poisson(_NEW_VESSELS[grade])):
        start = disc if random.random() < 0.5 else tuple(random.uniform(0.3, 0.7, 2))
        for _ in range(6):  # a tuft of fine curls
            curl = [(start[0] + dx, start[1] + dy) for dx, dy in random.normal(0, 0.06, (3, 2))]
            np.maximum(red, 0.9 * stroke(grid, [(start[0], start[1]), *curl], 0.006), out=red)
    return red[..., None] * _RED + yellow[..., None] * _YELLOW


def _spot(grid: Grid, random: Random, centre: tuple[float, float], spread: float, radius: tuple[float, float]) -> Array:
    x, y = centre[0] + random.normal(0, spread), centre[1] + random.normal(0, spread)
    size = random.uniform(*radius)
    distance = np.hypot((grid.x_HW - x) * random.uniform(0.8, 1.3), grid.y_HW - y)
    return np.exp(-((distance / size) ** 4))
