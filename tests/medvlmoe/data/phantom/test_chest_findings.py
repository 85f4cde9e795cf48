import dataclasses
from functools import cache

import numpy as np
import pytest

from medvlmoe.data.phantom.chest_image import chest_density, chest_image
from medvlmoe.data.phantom.chest_patients import Patient, Visit
from medvlmoe.data.phantom.chest_site import CHESTXRAY14, CHEXPERT, FINDINGS

SIZE, CHESTS = 64, 24


@cache
def _mean_change(finding: str) -> np.ndarray:
    """Mean over patients of the chest with the finding minus the same chest without it."""
    changes = []
    for seed in range(CHESTS):
        patient = Patient(1, "train", 60, "FM"[seed % 2], seed, [])
        ill, well = Visit(0, "PA", False, {finding: 1.0}), Visit(0, "PA", False, {})
        changes.append(chest_density(patient, ill, SIZE) - chest_density(patient, well, SIZE))
    return np.mean(changes, axis=0)


def _region(change: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> float:
    row, column = (slice(int(a * SIZE), int(b * SIZE)) for a, b in (rows, columns))
    return float(change[row, column].mean())


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_changes_the_image(finding: str) -> None:
    assert np.abs(_mean_change(finding)).max() > 0.02


def test_heart_is_wider_with_cardiomegaly() -> None:
    change = _mean_change("Cardiomegaly")
    beside_heart, apex = _region(change, (0.5, 0.68), (0.68, 0.76)), _region(change, (0.15, 0.35), (0.6, 0.8))
    assert beside_heart > 0.08
    assert abs(apex) < 0.01


def test_effusion_whitens_the_bases_and_not_the_apices() -> None:
    change = _mean_change("Effusion")
    assert _region(change, (0.6, 0.78), (0.2, 0.35)) > 0.05
    assert abs(_region(change, (0.15, 0.35), (0.2, 0.8))) < 0.01


def test_pneumothorax_darkens_the_outer_apex() -> None:
    change = _mean_change("Pneumothorax")
    assert change[int(0.2 * SIZE) : int(0.5 * SIZE), int(0.18 * SIZE) : int(0.3 * SIZE)].min() < -0.03


def test_emphysema_darkens_and_edema_whitens_the_lungs() -> None:
    assert _region(_mean_change("Emphysema"), (0.3, 0.6), (0.25, 0.4)) < -0.03
    assert _region(_mean_change("Edema"), (0.35, 0.55), (0.28, 0.42)) > 0.08


def test_support_devices_are_bright() -> None:
    assert _mean_change("Support Devices").max() > 0.08


def test_lesion_keeps_its_place_in_a_patient() -> None:
    def lesion(seed: int, visit: int) -> np.ndarray:
        patient = Patient(1, "train", 60, "M", seed, [])
        without = chest_density(patient, Visit(visit, "PA", False, {}), SIZE)
        return chest_density(patient, Visit(visit, "PA", False, {"Nodule": 1.0}), SIZE) - without

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    same = np.mean([overlap(lesion(seed, 0), lesion(seed, 1)) for seed in range(12)])
    other = np.mean([overlap(lesion(seed, 0), lesion(seed + 1, 0)) for seed in range(12)])
    assert same > 0.6
    assert same > other + 0.25


def test_sites_look_different() -> None:
    def look(scanner: object) -> np.ndarray:
        patients = [Patient(1, "train", 60, "M", seed, []) for seed in range(CHESTS)]
        images = [chest_image(p, Visit(0, "PA", False, {}), scanner, SIZE) for p in patients]  # type: ignore[arg-type]
        return np.mean(images, axis=0)

    same_style = dataclasses.replace(CHESTXRAY14.scanner)
    assert np.array_equal(look(CHESTXRAY14.scanner), look(same_style))
    assert np.abs(look(CHESTXRAY14.scanner) - look(CHEXPERT.scanner)).mean() > 8


@pytest.mark.parametrize("seed", range(8))
def test_frame_and_side_marker_do_not_depend_on_the_findings(seed: int) -> None:
    patient = Patient(1, "train", 60, "M", seed, [])
    well = chest_image(patient, Visit(0, "PA", False, {}), CHESTXRAY14.scanner, SIZE)
    ill = chest_image(patient, Visit(0, "PA", False, {"Nodule": 1.0}), CHESTXRAY14.scanner, SIZE)
    assert not np.array_equal(ill, well)
    for corner in (np.s_[:8, :8], np.s_[:8, -8:], np.s_[-8:, -8:]):
        # one grey level: soft shapes fade out, but never end
        assert np.abs(ill[corner].astype(int) - well[corner]).max() <= 1
