"""The healthy chest of a made-up patient: sampled proportions and the drawing of bones, lungs and heart."""

from dataclasses import dataclass, field

import numpy as np

from medvlmoe.data.phantom.canvas import Array, Grid, ellipse, smooth_noise, soft_step, stroke

# Sides as signs of x: the patient's right lung is on the left of the image.
RIGHT, LEFT = -1, 1
SIDES = (RIGHT, LEFT)

SOFT_TISSUE = 0.72


@dataclass
class Anatomy:
    """Proportions of one chest in the unit square; findings may change them before drawing.

    Attributes:
        midline: x of the spine.
        lung_width: distance from the midline to the outer lung border.
        lung_top: y of the lung apex.
        lung_base: y of the middle of the diaphragm, per side.
        lung_lucency: how dark the lungs are.
        heart_size: half width and half height of the heart.
        mediastinum: half width of the mediastinum.
        body_width: half width of the trunk.
        rib_spacing, rib_phase, rib_contrast: rib pattern.
        breast: density of the breast shadow.
        markings: contrast of the lung vessels.
    """

    midline: float
    lung_width: float
    lung_top: float
    lung_base: dict[int, float]
    lung_lucency: float
    heart_size: tuple[float, float]
    mediastinum: float
    body_width: float
    rib_spacing: float
    rib_phase: float
    rib_contrast: float
    breast: float
    markings: float


@dataclass
class Chest:
    """A chest being drawn.

    Attributes:
        grid: pixel positions.
        anatomy: the proportions it is drawn with.
        density_HW: the image so far; bright is dense.
        lungs: mask of each lung by side.
    """

    grid: Grid
    anatomy: Anatomy
    density_HW: Array
    lungs: dict[int, Array] = field(default_factory=dict)

    def opacify(self, mask_HW: Array, amount: float, target: float = SOFT_TISSUE) -> None:
        """Move the density under the mask towards soft tissue: water and cells never outshine bone."""
        self.density_HW += np.clip(mask_HW * amount, 0.0, 1.0) * (target - self.density_HW)

    def lateral_distance(self, side: int) -> Array:
        """Distance of each pixel from the midline towards one side, in lung widths."""
        return side * (self.grid.x_HW - self.anatomy.midline) / self.anatomy.lung_width

    def point(self, side: int, lateral: float, height: float) -> tuple[float, float]:
        """Position inside a lung: ``lateral`` 0 midline to 1 chest wall, ``height`` 0 base to 1 apex."""
        base, top = self.anatomy.lung_base[side], self.anatomy.lung_top
        return self.anatomy.midline + side * lateral * self.anatomy.lung_width, base - height * (base - top)


def sample_anatomy(random: np.random.Generator, sex: str) -> Anatomy:
    """Proportions of a new patient."""
    base = random.normal(0.70, 0.018)
    size = random.normal(1.0, 0.05)
    return Anatomy(
        midline=0.5 + random.normal(0, 0.012),
        lung_width=0.335 * np.clip(random.normal(1.0, 0.035), 0.9, 1.1),
        lung_top=random.normal(0.17, 0.015),
        lung_base={RIGHT: base - 0.015, LEFT: base + abs(random.normal(0.012, 0.01))},
        lung_lucency=random.normal(0.49, 0.02),
        heart_size=(0.140 * size, 0.130 * size),
        mediastinum=random.normal(0.062, 0.006),
        body_width=random.normal(0.425, 0.02),
        rib_spacing=random.normal(0.078, 0.004),
        rib_phase=random.uniform(0, 1),
        rib_contrast=random.uniform(0.03, 0.07),
        breast=max(0.0, random.normal(0.10, 0.05)) if sex == "F" else 0.0,
        markings=random.uniform(0.05, 0.09),
    )


def draw_frontal(grid: Grid, anatomy: Anatomy, random: np.random.Generator) -> Chest:
    """A healthy frontal chest."""
    x, y, middle = grid.x_HW, grid.y_HW, anatomy.midline
    off_centre = np.abs(x - middle)
    shoulder = anatomy.body_width * (0.30 + 0.72 * soft_step(y - 0.10, 0.035))
    shoulder += 0.04 * np.exp(-(((y - 0.2) / 0.1) ** 2))
    density = SOFT_TISSUE * soft_step(shoulder - off_centre, 0.012) * (0.94 - 0.08 * off_centre)
    density += 0.10 * soft_step(y - 0.72, 0.05) * soft_step(shoulder - off_centre, 0.03)
    chest = Chest(grid, anatomy, density)
    for side in SIDES:
        chest.lungs[side] = _lung(grid, anatomy, side)
        density -= anatomy.lung_lucency * chest.lungs[side]
        _draw_vessels(chest, side, random)
    _draw_bones(chest)
    spine = np.exp(-((off_centre / 0.035) ** 2))
    chest.opacify(soft_step(anatomy.mediastinum - off_centre, 0.014) * soft_step(y - 0.08, 0.03), 0.75)
    density += 0.05 * spine
    density -= 0.10 * stroke(grid, [(middle, 0.0), (middle - 0.005, 0.30)], 0.018)
    chest.opacify(ellipse(grid, (middle + 0.065, 0.31), (0.045, 0.05), softness=0.012), 0.7)
    _draw_heart(chest)
    for side in SIDES:
        if anatomy.breast:
            chest.opacify(ellipse(grid, (middle + side * 0.2, 0.66), (0.15, 0.12), softness=0.015), anatomy.breast)
    if random.random() < 0.5:  # gas in the stomach
        bubble = (middle + random.uniform(0.10, 0.18), anatomy.lung_base[LEFT] + random.uniform(0.10, 0.14))
        density -= random.uniform(0.08, 0.2) * ellipse(grid, bubble, (0.05, 0.03), softness=0.015)
    return chest


def draw_lateral(grid: Grid, anatomy: Anatomy, random: np.random.Generator) -> Chest:
    """A healthy chest from the side: both lungs lie over each other."""
    y = grid.y_HW
    density = SOFT_TISSUE * ellipse(grid, (0.5, 0.55), (0.33, 0.56), softness=0.015)
    base = max(anatomy.lung_base.values())
    lung = ellipse(grid, (0.5, 0.48), (0.26, 0.34), degrees=6, softness=0.015) * soft_step(base + 0.06 - y, 0.012)
    density -= 0.8 * anatomy.lung_lucency * lung
    chest = Chest(grid, anatomy, density, {RIGHT: lung, LEFT: lung})
    heart_width, heart_height = anatomy.heart_size
    chest.opacify(ellipse(grid, (0.40, 0.60), (heart_width * 0.8, heart_height * 1.1), degrees=25, softness=0.02), 0.8)
    spine = stroke(grid, [(0.68, 0.1), (0.74, 0.5), (0.70, 1.0)], 0.05)
    density += 0.22 * spine * (0.7 + 0.3 * np.cos(2 * np.pi * y / 0.06))
    density += 0.03 * lung * smooth_noise(random, grid.size, 14)
    return chest


def diaphragm(grid: Grid, anatomy: Anatomy, side: int) -> Array:
    """Height (y) of the diaphragm under each pixel column: a dome that falls to the costophrenic angle."""
    lateral = side * (grid.x_HW - anatomy.midline) / anatomy.lung_width
    return anatomy.lung_base[side] + 0.10 * np.clip(lateral - 0.35, 0.0, 1.0) ** 1.5 * 2.0


def outer_border(grid: Grid, anatomy: Anatomy) -> Array:
    """Distance of the outer lung border from the midline at each pixel row, in lung widths."""
    base = max(anatomy.lung_base.values())
    rise = np.clip((base - 0.08 - grid.y_HW) / (base - 0.08 - anatomy.lung_top), 0.0, 1.0)
    return np.sqrt(1.0 - rise**2.6) * (0.97 + 0.03 * np.clip(1 - rise, 0, 1))


def _lung(grid: Grid, anatomy: Anatomy, side: int) -> Array:
    lateral = side * (grid.x_HW - anatomy.midline) / anatomy.lung_width
    inside = soft_step((outer_border(grid, anatomy) - lateral) * anatomy.lung_width, 0.010)
    beyond_spine = soft_step(lateral * anatomy.lung_width - anatomy.mediastinum * 0.8, 0.012)
    above = soft_step(diaphragm(grid, anatomy, side) - grid.y_HW, 0.010)
    below = soft_step(grid.y_HW - anatomy.lung_top, 0.010)
    return inside * beyond_spine * above * below


def _draw_vessels(chest: Chest, side: int, random: np.random.Generator) -> None:
    hilum = chest.point(side, 0.26, 0.48)
    branches = np.zeros_like(chest.density_HW)
    for angle in np.linspace(-1.2, 1.3, 6) + random.normal(0, 0.12, 6):
        length = random.uniform(0.14, 0.24)
        end = (hilum[0] + side * length * np.cos(angle), hilum[1] + length * np.sin(angle))
        bend = ((hilum[0] + end[0]) / 2, (hilum[1] + end[1]) / 2 + random.normal(0, 0.015))
        branches = np.maximum(branches, stroke(chest.grid, [hilum, bend, end], 0.009))
    branches += 1.2 * ellipse(chest.grid, hilum, (0.028, 0.05), softness=0.02)
    texture = 0.35 * smooth_noise(random, chest.grid.size, 16)
    chest.density_HW += chest.anatomy.markings * chest.lungs[side] * (branches + texture)


def _draw_bones(chest: Chest) -> None:
    grid, anatomy = chest.grid, chest.anatomy
    for side in SIDES:
        lateral = np.clip(chest.lateral_distance(side), 0.0, 1.2)
        cage = soft_step(outer_border(grid, anatomy) + 0.06 - chest.lateral_distance(side), 0.03)
        cage = cage * (chest.lateral_distance(side) > 0.1) * soft_step(0.78 - grid.y_HW, 0.03)
        # Posterior ribs leave the spine almost level and fall towards the side.
        phase = (grid.y_HW - 0.10 * lateral**2 + 0.02 * lateral) / anatomy.rib_spacing + anatomy.rib_phase
        chest.density_HW += anatomy.rib_contrast * cage * np.clip(np.cos(2 * np.pi * phase), 0, 1)
        start, end = chest.point(side, 0.12, 0.96), chest.point(side, 1.12, 1.06)
        middle = chest.point(side, 0.6, 0.97)
        chest.density_HW += 0.10 * stroke(grid, [start, middle, end], 0.016)


def _draw_heart(chest: Chest) -> None:
    anatomy = chest.anatomy
    half_width, half_height = anatomy.heart_size
    centre = (anatomy.midline + 0.045 + 0.35 * (half_width - 0.13), anatomy.lung_base[LEFT] - 0.10)
    heart = ellipse(chest.grid, centre, (half_width, half_height), degrees=20, softness=0.010)
    chest.opacify(heart, 0.9, target=SOFT_TISSUE + 0.02)
