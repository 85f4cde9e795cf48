"""Phantom ChestX-ray14 in the layout of the NIH download."""

from pathlib import Path

from medvlmoe.data.phantom.chest_image import chest_image
from medvlmoe.data.phantom.chest_labels import observed
from medvlmoe.data.phantom.chest_patients import sample_patients
from medvlmoe.data.phantom.chest_site import CHESTXRAY14, CHESTXRAY14_FINDINGS
from medvlmoe.data.phantom.mark import save_image
from medvlmoe.data.phantom.tables import write_table

COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
           "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")  # fmt: skip
FOLDER = "chestxray14"


def write_chestxray14(root: Path, images: int, size: int, seed: int) -> int:
    """Write images, the table and the two official lists; returns the number of images."""
    folder = root / FOLDER
    rows: list[tuple[object, ...]] = []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    test_images = round(0.22 * images)
    for patient in sample_patients(CHESTXRAY14, {"train": images - test_images, "test": test_images}, seed):
        for visit in patient.visits:
            name = f"{patient.number:08d}_{visit.number:03d}.png"
            save_image(folder / "images" / name, chest_image(patient, visit, CHESTXRAY14.scanner, size))
            seen = observed(set(visit.strength), CHESTXRAY14, patient.random("labels", visit.number))
            labels = "|".join(label for label in CHESTXRAY14_FINDINGS if label in seen) or "No Finding"
            bedside = visit.view == "AP"
            shape = (2500, 2048, 0.168, 0.168) if bedside else (2992, 2991, 0.143, 0.143)
            rows.append((name, labels, visit.number, patient.number, patient.age, patient.sex, visit.view, *shape))
            lists["test_list.txt" if patient.split == "test" else "train_val_list.txt"].append(name)
    write_table(folder / "Data_Entry_2017_v2020.csv", COLUMNS, rows, quoting=False)
    for list_name, names in lists.items():
        (folder / list_name).write_text("\n".join(names))  # like the official lists: no newline at the end
    return len(rows)
