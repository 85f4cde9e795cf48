"""Drawing of findings: what each disease does to the chest's shape, then to its density.

Every function takes a ``strength`` around 1 (0.5 subtle, 1.5 plain) and a random generator that belongs to the patient
and the finding, so that a lesion keeps its place in all images of one patient.
"""

from collections.abc import Callable

import numpy as np

from medvlmoe.data.phantom.canvas import ellipse, smooth_noise, soft_step, stroke
from medvlmoe.data.phantom.chest_anatomy import (
    LEFT,
    RIGHT,
    SIDES,
    Anatomy,
    Chest,
    diaphragm,
    outer_border,
)

Random = np.random.Generator


def reshape(anatomy: Anatomy, finding: str, strength: float, random: Random) -> None:
    """Change the proportions of a chest for the findings that are seen in its shape."""
    width, height = anatomy.heart_size
    if finding == "Cardiomegaly":
        anatomy.heart_size = (width * (1 + 0.52 * strength), height * (1 + 0.20 * strength))
    elif finding == "Enlarged Cardiomediastinum":
        anatomy.mediastinum *= 1 + 0.85 * strength
    elif finding == "Emphysema":
        anatomy.lung_base = {side: base + 0.05 * strength for side, base in anatomy.lung_base.items()}
        anatomy.lung_lucency += 0.09 * strength
        anatomy.markings *= 1 - min(0.6, 0.35 * strength)
        anatomy.heart_size = (width * (1 - 0.15 * strength), height)
    elif finding == "Atelectasis":
        anatomy.lung_base[_side(random)] -= 0.075 * strength  # lost volume lifts the diaphragm
    elif finding == "Fibrosis":
        anatomy.lung_base = {side: base - 0.025 * strength for side, base in anatomy.lung_base.items()}


def draw(chest: Chest, finding: str, strength: float, random: Random) -> None:
    """Draw one finding into a chest; findings that only change the shape draw nothing."""
    if finding in _DRAWN:
        _DRAWN[finding](chest, strength, random)


def _side(random: Random) -> int:
    return RIGHT if random.random() < 0.7 else LEFT


def _sides(random: Random, both: float) -> tuple[int, ...]:
    first = _side(random)
    return SIDES if random.random() < both else (first,)


def _effusion(chest: Chest, strength: float, random: Random) -> None:
    for side in _sides(random, both=0.3):
        depth = (0.05 + random.uniform(0.02, 0.12)) * strength
        lateral = np.clip(chest.lateral_distance(side), 0.0, 1.0)
        # The meniscus: fluid climbs along the chest wall.
        surface = diaphragm(chest.grid, chest.anatomy, side) - depth - 0.10 * strength * lateral**3
        inside = soft_step(outer_border(chest.grid, chest.anatomy) - chest.lateral_distance(side), 0.03)
        chest.opacify(soft_step(chest.grid.y_HW - surface, 0.012) * inside * (chest.lateral_distance(side) > 0), 0.9)


def _pneumothorax(chest: Chest, strength: float, random: Random) -> None:
    side = _side(random)
    gap = random.uniform(0.24, 0.40) * strength
    height = np.clip((chest.anatomy.lung_base[side] - chest.grid.y_HW) / 0.5, 0.0, 1.0)
    edge = outer_border(chest.grid, chest.anatomy) - gap * (0.35 + height)
    beyond = (chest.lateral_distance(side) - edge) * chest.anatomy.lung_width
    free_air = chest.lungs[side] * soft_step(beyond, 0.008)
    chest.density_HW[:] -= free_air * (chest.density_HW - 0.10) * min(0.9, 0.65 * strength)
    chest.density_HW += 0.18 * strength * chest.lungs[side] * np.exp(-((beyond / 0.012) ** 2))
    chest.opacify(chest.lungs[side] - free_air, 0.32 * strength)  # the collapsed lung is denser


def _blobs(chest: Chest, strength: float, random: Random, radius: tuple[float, float], count: int) -> None:
    for _ in range(count):
        side = _side(random)
        centre = chest.point(side, random.uniform(0.42, 0.78), random.uniform(0.15, 0.75))
        size = random.uniform(*radius) * (0.75 + 0.25 * strength)
        shape = ellipse(chest.grid, centre, (size, size * random.uniform(0.8, 1.2)), softness=0.007)
        chest.opacify(shape, 0.62 * strength)


def _nodule(chest: Chest, strength: float, random: Random) -> None:
    _blobs(chest, 1.15 * strength, random, (0.028, 0.042), count=int(random.integers(3, 7)))


def _mass(chest: Chest, strength: float, random: Random) -> None:
    _blobs(chest, 1.1 * strength, random, (0.07, 0.11), count=1)


def _pneumonia(chest: Chest, strength: float, random: Random) -> None:
    for side in _sides(random, both=0.25):
        centre = chest.point(side, random.uniform(0.45, 0.7), random.uniform(0.08, 0.4))
        zone = ellipse(chest.grid, centre, (0.12, 0.11), softness=0.025)
        patches = np.clip(0.75 + 0.45 * smooth_noise(random, chest.grid.size, 10), 0.0, 1.3)
        chest.opacify(zone * patches * chest.lungs[side], 0.8 * strength)


def _consolidation(chest: Chest, strength: float, random: Random) -> None:
    side = _side(random)
    lower = random.random() < 0.75
    fissure = chest.point(side, 0.0, random.uniform(0.38, 0.55))[1]
    slope = 0.06 * (chest.lateral_distance(side) - 0.5)
    lobe = soft_step((chest.grid.y_HW - fissure - slope) * (1 if lower else -1), 0.012)
    end = chest.point(side, 0.0, random.uniform(0.05, 0.15) if lower else random.uniform(0.8, 0.95))[1]
    lobe = lobe * soft_step((end - chest.grid.y_HW) * (1 if lower else -1), 0.03)
    chest.opacify(lobe * chest.lungs[side], 0.85 * strength)


def _infiltration(chest: Chest, strength: float, random: Random) -> None:
    for side in _sides(random, both=0.6):
        patches = np.clip(smooth_noise(random, chest.grid.size, 9) + 0.15, 0.0, 1.6)
        zone = ellipse(chest.grid, chest.point(side, 0.5, random.uniform(0.25, 0.6)), (0.15, 0.19), softness=0.05)
        chest.opacify(patches * zone * chest.lungs[side], 0.7 * strength)


def _edema(chest: Chest, strength: float, random: Random) -> None:
    for side in SIDES:
        wing = ellipse(chest.grid, chest.point(side, 0.42, 0.45), (0.12, 0.17), softness=0.05)
        chest.opacify(chest.lungs[side] * (0.8 * wing + 0.2), 0.5 * strength)
    chest.opacify(np.clip(smooth_noise(random, chest.grid.size, 16), 0, 2) * sum(chest.lungs.values()), 0.08 * strength)


def _fibrosis(chest: Chest, strength: float, random: Random) -> None:
    for side in SIDES:
        base = ellipse(chest.grid, chest.point(side, 0.65, 0.15), (0.11, 0.12), softness=0.04)
        chest.opacify(base * chest.lungs[side], 0.2 * strength)
        for _ in range(18):
            start = chest.point(side, random.uniform(0.45, 0.9), random.uniform(0.0, 0.55))
            step = random.normal(0, 0.045, 2)
            line = stroke(chest.grid, [start, (start[0] + step[0], start[1] + step[1])], 0.009)
            chest.density_HW += 0.21 * strength * chest.lungs[side] * line


def _atelectasis(chest: Chest, strength: float, random: Random) -> None:
    side = _side(random)  # the same first draw as in reshape: band and lifted diaphragm are on one side
    for index in range(int(random.integers(1, 4))):
        height = 0.07 + 0.09 * index + random.uniform(0, 0.04)
        tilt = random.normal(0, 0.05)
        start, end = chest.point(side, 0.35, height + tilt), chest.point(side, 0.9, height - tilt)
        chest.opacify(stroke(chest.grid, [start, end], 0.018) * chest.lungs[side], 0.75 * strength)


def _pleural_thickening(chest: Chest, strength: float, random: Random) -> None:
    for side in _sides(random, both=0.4):
        depth = (outer_border(chest.grid, chest.anatomy) - chest.lateral_distance(side)) * chest.anatomy.lung_width
        uneven = 0.048 * (1 + 0.35 * smooth_noise(random, chest.grid.size, 5))
        rind = soft_step(uneven * strength - depth, 0.007) * soft_step(0.66 - chest.grid.y_HW, 0.02)
        chest.opacify(rind * chest.lungs[side], 0.85)


def _hernia(chest: Chest, strength: float, random: Random) -> None:
    centre = (chest.anatomy.midline + random.uniform(-0.01, 0.06), chest.anatomy.lung_base[LEFT] - 0.06)
    radius = random.uniform(0.07, 0.095)
    rim = ellipse(chest.grid, centre, (radius * 1.25, radius * 1.25), softness=0.008)
    gas = ellipse(chest.grid, centre, (radius, radius), softness=0.008)
    gas = gas * soft_step(centre[1] + 0.03 - chest.grid.y_HW, 0.006)  # above the fluid level
    chest.opacify(rim, 0.7 * min(1.0, strength), target=0.8)
    chest.density_HW -= 0.38 * strength * gas


def _fracture(chest: Chest, strength: float, random: Random) -> None:
    side = _side(random)
    for index in range(int(random.integers(2, 4))):
        centre = chest.point(side, 0.93, 0.25 + 0.16 * index + random.uniform(0, 0.05))
        callus = ellipse(chest.grid, centre, (0.040, 0.024), degrees=side * 30, softness=0.006)
        gap = stroke(chest.grid, [(centre[0], centre[1] - 0.022), (centre[0], centre[1] + 0.022)], 0.007)
        chest.density_HW += strength * (0.40 * callus - 0.45 * gap)


def _support_devices(chest: Chest, strength: float, random: Random) -> None:
    middle, bright = chest.anatomy.midline, 0.30 * (0.6 + 0.4 * strength)
    kind = random.integers(3)
    if kind in (0, 2):  # breathing tube and feeding tube
        feeding = [(middle + 0.02, 0.0), (middle + 0.02, 0.6), (middle + 0.1, 0.8)]
        chest.density_HW += bright * stroke(chest.grid, [(middle, 0.0), (middle + 0.006, 0.32)], 0.008)
        chest.density_HW += bright * stroke(chest.grid, feeding, 0.007)
    if kind in (1, 2):  # pacemaker with its lead
        side = _side(random)
        box = chest.point(side, 0.72, 0.86)
        chest.density_HW += 1.3 * bright * ellipse(chest.grid, box, (0.05, 0.04), softness=0.006)
        lead = [box, (middle + side * 0.05, 0.26), (middle + 0.02, 0.45), (middle + 0.08, 0.63)]
        chest.density_HW += bright * stroke(chest.grid, lead, 0.007)


_DRAWN: dict[str, Callable[[Chest, float, Random], None]] = {
    "Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Nodule": _nodule,
    "Mass": _mass,
    "Pneumonia": _pneumonia,
    "Consolidation": _consolidation,
    "Infiltration": _infiltration,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Atelectasis": _atelectasis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
    "Fracture": _fracture,
    "Support Devices": _support_devices,
}
