import numpy as np
import pytest

from medvlmoe.data.phantom.chest_patients import Patient, sample_patients
from medvlmoe.data.phantom.chest_site import CHESTXRAY14, CHEXPERT, MIMIC_CXR, ChestSite

COUNTS = {"train": 260, "validation": 60, "test": 80}


@pytest.mark.parametrize("site", [CHESTXRAY14, CHEXPERT, MIMIC_CXR], ids=lambda site: site.name)
def test_exact_counts_and_every_finding_in_every_split(site: ChestSite) -> None:
    patients = list(sample_patients(site, COUNTS, seed=5))
    assert len({patient.number for patient in patients}) == len(patients)
    for split, count in COUNTS.items():
        members = [patient for patient in patients if patient.split == split]
        assert sum(patient.image_count for patient in members) == count
        for finding in site.prevalence:
            ill = sum(any(finding in visit.strength for visit in patient.visits) for patient in members)
            assert 2 <= ill < 0.7 * len(members)


def _many() -> list[Patient]:
    return list(sample_patients(CHESTXRAY14, {"train": 4000, "test": 1000}, seed=1))


def test_age_sex_and_view_go_weakly_with_disease() -> None:
    visits = [(patient, visit) for patient in _many() for visit in patient.visits]
    age = np.array([patient.age for patient, _ in visits])
    bedside = np.array([visit.view == "AP" for _, visit in visits])
    heart = np.array(["Cardiomegaly" in visit.strength for _, visit in visits])
    ill = np.array([bool(visit.strength) for _, visit in visits])
    assert 2 < age[heart].mean() - age[~heart].mean() < 12
    assert 0.03 < bedside[ill].mean() - bedside[~ill].mean() < 0.3
    assert 0.25 < ill.mean() < 0.8


def test_test_patients_are_sicker_and_some_patients_come_again() -> None:
    patients = _many()

    def burden(split: str) -> float:
        members = [patient for patient in patients if patient.split == split]
        return float(np.mean([len(visit.strength) for patient in members for visit in patient.visits]))

    assert burden("test") > burden("train")
    assert 0.2 < np.mean([len(patient.visits) > 1 for patient in patients]) < 0.8
