"""Phantom MIMIC-CXR(-JPG) in the layout of the two PhysioNet projects laid over each other."""

from pathlib import Path
from typing import Any

import numpy as np

from medvlmoe.data.phantom.chest_image import chest_image
from medvlmoe.data.phantom.chest_labels import CHEXPERT_LABELS, chexpert_truth, mentioned, observed
from medvlmoe.data.phantom.chest_patients import sample_patients
from medvlmoe.data.phantom.chest_site import MIMIC_CXR
from medvlmoe.data.phantom.mark import save_image
from medvlmoe.data.phantom.reports import write_report
from medvlmoe.data.phantom.tables import write_table

FOLDER = "mimic_cxr"
LABELS = tuple(sorted(CHEXPERT_LABELS))
_SPLIT_NAMES = {"train": "train", "validation": "validate", "test": "test"}
_METADATA_COLUMNS = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
_VIEW_MEANING = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}


def write_mimic_cxr(root: Path, images: int, size: int, seed: int) -> int:
    """Write images, reports and the four tables; returns the number of images."""
    folder = root / FOLDER
    validation, test = round(0.15 * images), round(0.2 * images)
    counts = {"train": images - validation - test, "validation": validation, "test": test}
    metadata: list[tuple[Any, ...]] = []
    splits: list[tuple[Any, ...]] = []
    labels: dict[str, list[tuple[Any, ...]]] = {"chexpert": [], "negbio": []}
    for patient in sample_patients(MIMIC_CXR, counts, seed):
        # Spread over the folders p10 to p19; the step shares no factor with the range, so no id comes twice.
        subject = 10_000_000 + 30_011 * patient.number % 9_999_999
        for visit in patient.visits:
            random = patient.random("labels", visit.number)
            study = 50_000_000 + 137 * patient.number + visit.number
            mentions = mentioned(chexpert_truth(observed(set(visit.strength), MIMIC_CXR, random)), random)
            patient_folder = folder / "files" / f"p{subject // 1_000_000}" / f"p{subject}"
            for lateral in [False, True] if visit.lateral else [False]:
                dicom = _dicom_id(random)
                pixels = chest_image(patient, visit, MIMIC_CXR.scanner, size, lateral=lateral)
                save_image(patient_folder / f"s{study}" / f"{dicom}.jpg", pixels)
                view = "LATERAL" if lateral else visit.view
                metadata.append(_metadata_row(dicom, subject, study, view, size, visit.number))
                splits.append((dicom, study, subject, _SPLIT_NAMES[patient.split]))
            report = write_report(
                mentions,
                sex=patient.sex,
                view=visit.view,
                lateral=visit.lateral,
                follow_up=visit.number > 0,
                random=random,
            )
            (patient_folder / f"s{study}.txt").write_text(report)
            labels["chexpert"].append((subject, study, *(mentions[label] for label in LABELS)))
            other = _second_labeller(mentions, random)
            labels["negbio"].append((subject, study, *(other[label] for label in LABELS)))
    write_table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", _METADATA_COLUMNS, metadata)
    write_table(folder / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
    for labeller, rows in labels.items():
        write_table(folder / f"mimic-cxr-2.0.0-{labeller}.csv.gz", ("subject_id", "study_id", *LABELS), rows)
    return len(metadata)


def _dicom_id(random: np.random.Generator) -> str:
    return "-".join(random.bytes(4).hex() for _ in range(5))


def _metadata_row(dicom: str, subject: int, study: int, view: str, size: int, visit_number: int) -> tuple[Any, ...]:
    procedure = "CHEST (PORTABLE AP)" if view == "AP" else "CHEST (PA AND LAT)"
    date, time = 21_800_101 + 10_000 * visit_number, 93_000.0 + visit_number
    return (dicom, subject, study, procedure, view, size, size, date, time, procedure, _VIEW_MEANING[view], "Erect")


def _second_labeller(mentions: dict[str, float | None], random: np.random.Generator) -> dict[str, float | None]:
    """The other labeller mostly agrees; where it does not, it is unsure about what the first one is sure of."""
    return {
        label: -1.0 if value is not None and label != "No Finding" and random.random() < 0.04 else value
        for label, value in mentions.items()
    }
