"""From a patient's study to the pixels of one image."""

from dataclasses import replace

import numpy as np

from medvlmoe.data.phantom.canvas import Array, Grid, blur, smooth_noise
from medvlmoe.data.phantom.chest_anatomy import draw_frontal, draw_lateral, sample_anatomy
from medvlmoe.data.phantom.chest_findings import draw, reshape
from medvlmoe.data.phantom.chest_patients import Patient, Visit
from medvlmoe.data.phantom.chest_site import Scanner


def chest_image(patient: Patient, visit: Visit, scanner: Scanner, size: int, *, lateral: bool = False) -> Array:
    """Draw one image: uint8, size x size. Anatomy and places of lesions are the patient's, the rest is the visit's."""
    density = chest_density(patient, visit, size, lateral=lateral)
    return expose(density, scanner, patient.random("scan", visit.number, lateral))


def chest_density(patient: Patient, visit: Visit, size: int, *, lateral: bool = False) -> Array:
    """The chest of one visit before the scanner's exposure: float32, size x size, bright is dense."""
    anatomy = sample_anatomy(patient.random("anatomy"), patient.sex)
    anatomy = replace(anatomy, lung_base=dict(anatomy.lung_base))
    pose = patient.random("pose", visit.number, lateral)
    if visit.view == "AP":  # lying or sitting: the heart is magnified, the breath shallower
        anatomy.heart_size = (anatomy.heart_size[0] * 1.05, anatomy.heart_size[1])
        anatomy.lung_base = {side: base - 0.015 for side, base in anatomy.lung_base.items()}
    breath = pose.normal(0, 0.010)
    anatomy.lung_base = {side: base + breath for side, base in anatomy.lung_base.items()}
    for finding, strength in visit.strength.items():
        reshape(anatomy, finding, strength, patient.random("finding", finding))
    spread = 1.6 if visit.view == "AP" else 1.0
    grid = Grid.posed(
        size,
        degrees=pose.normal(0, 1.3 * spread),
        shift=(pose.normal(0, 0.012 * spread), pose.normal(0, 0.014 * spread)),
        scale=float(np.clip(pose.normal(1.03, 0.02), 0.95, 1.10)),
    )
    chest = (draw_lateral if lateral else draw_frontal)(grid, anatomy, patient.random("vessels"))
    for finding, strength in visit.strength.items():
        draw(chest, finding, strength, patient.random("finding", finding))
    return chest.density_HW


def expose(density_HW: Array, scanner: Scanner, random: np.random.Generator) -> Array:
    """Turn density into the grey values of one scanner: uint8, H x W."""
    size = density_HW.shape[0]
    image = density_HW + 0.012 * smooth_noise(random, size, 4)
    image = blur(image, scanner.blur * random.uniform(0.7, 1.4))
    image = np.clip(image, 0.0, 1.2) ** (scanner.gamma * random.normal(1.0, 0.05))
    image = 0.5 + scanner.contrast * random.normal(1.0, 0.04) * (image - 0.5)
    image += scanner.brightness + random.normal(0, 0.02)
    image += scanner.noise * random.uniform(0.7, 1.4) * random.standard_normal((size, size))
    pixels = (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    if random.random() < scanner.border:
        value = 0 if random.random() < 0.7 else 235
        side, width = int(random.integers(4)), max(1, round(size * random.uniform(0.015, 0.05)))
        turned = np.rot90(pixels, side)
        turned[:width] = value
    if random.random() < scanner.marker:
        pixel = max(1, size // 64)
        start = 4 * pixel if random.random() < 0.5 else size - 6 * pixel
        pixels[4 * pixel : 8 * pixel, start : start + 2 * pixel] = 230
    return pixels
