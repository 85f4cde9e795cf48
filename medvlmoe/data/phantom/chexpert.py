"""Phantom CheXpert in the layout of CheXpert-v1.0-small."""

from pathlib import Path
from typing import Any

from medvlmoe.data.phantom.chest_image import chest_image
from medvlmoe.data.phantom.chest_labels import CHEXPERT_LABELS, chexpert_truth, mentioned, observed
from medvlmoe.data.phantom.chest_patients import Patient, Visit, sample_patients
from medvlmoe.data.phantom.chest_site import CHEXPERT
from medvlmoe.data.phantom.mark import save_image
from medvlmoe.data.phantom.tables import write_table

COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)
FOLDER = "chexpert"
_RELEASE = "CheXpert-v1.0-small"
# Folder of each split, and the number before that of its first patient, as in the release.
_SPLITS = {"train": ("train", 0), "validation": ("valid", 64540), "test": ("test", 64740)}


def write_chexpert(root: Path, images: int, size: int, seed: int) -> int:
    """Write images and one table for each split; returns the number of images.

    ``test.csv`` has the columns of ``valid.csv``: the real test labels come from elsewhere, one row for each study.
    """
    validation, test = round(0.15 * images), round(0.2 * images)
    counts = {"train": images - validation - test, "validation": validation, "test": test}
    rows: dict[str, list[list[Any]]] = {split: [] for split in _SPLITS}
    first: dict[str, int] = {}
    for patient in sample_patients(CHEXPERT, counts, seed):
        split_folder, offset = _SPLITS[patient.split]
        number = offset + 1 + patient.number - first.setdefault(patient.split, patient.number)
        for visit in patient.visits:
            study = f"{_RELEASE}/{split_folder}/patient{number:05d}/study{visit.number + 1}"
            labels = _labels(patient, visit)
            for index, lateral in enumerate([False, True] if visit.lateral else [False]):
                path = f"{study}/view{index + 1}_{'lateral' if lateral else 'frontal'}.jpg"
                save_image(root / FOLDER / path, chest_image(patient, visit, CHEXPERT.scanner, size, lateral=lateral))
                sex = "Female" if patient.sex == "F" else "Male"
                view = ("Lateral", None) if lateral else ("Frontal", visit.view)
                rows[patient.split].append([path, sex, patient.age, *view, *(labels[name] for name in CHEXPERT_LABELS)])
    for split, (split_folder, _) in _SPLITS.items():
        write_table(root / FOLDER / _RELEASE / f"{split_folder}.csv", COLUMNS, rows[split])
    return sum(map(len, rows.values()))


def _labels(patient: Patient, visit: Visit) -> dict[str, Any]:
    """Training labels as a labeller reads them from reports; validation and test labels as radiologists give them."""
    if patient.split != "train":
        return dict(chexpert_truth(set(visit.strength)))
    random = patient.random("labels", visit.number)
    return dict(mentioned(chexpert_truth(observed(set(visit.strength), CHEXPERT, random)), random))
