"""Patient-disjoint cuts. Each patient's part depends on that patient's id alone: adding one never moves another."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

# Different salts make the three cuts independent of each other. Changing one moves every patient: never do.
_PART_SALT = "medvlmoe part"
_VALIDATION_SALT = "medvlmoe validation"
_PARTITION_SALT = "medvlmoe partition"


def patient_position(patient_id: str, salt: str) -> float:
    """A number in [0, 1) that looks random and depends on the patient and the salt only."""
    digest = hashlib.sha256(f"{salt}/{patient_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def assign_splits(patient_ids: Sequence[str], validation_fraction: float, test_fraction: float) -> npt.NDArray[np.str_]:
    """Cut all patients into test, validation and train, in expectation with the given shares."""
    position = patient_positions(patient_ids, _PART_SALT)
    outcome = np.full(len(position), TRAIN, dtype="<U10")
    outcome[position < test_fraction + validation_fraction] = VALIDATION
    outcome[position < test_fraction] = TEST
    return outcome


def cut_validation(
    patient_ids: Sequence[str], splits: npt.NDArray[np.str_], validation_fraction: float
) -> npt.NDArray[np.str_]:
    """Move a share of the training patients to validation."""
    chosen = patient_positions(patient_ids, _VALIDATION_SALT) < validation_fraction
    return np.where(chosen & (splits == TRAIN), VALIDATION, splits)


def partition_of(patient_ids: Sequence[str], count: int) -> npt.NDArray[np.int64]:
    """Which of ``count`` hospitals each record belongs to."""
    return (patient_positions(patient_ids, _PARTITION_SALT) * count).astype(np.int64)


def shared_patient(patient_ids: Sequence[str], splits: npt.NDArray[np.str_]) -> str | None:
    """A patient with records in more than one split, or ``None``."""
    seen: dict[str, str] = {}
    for patient, part in zip(patient_ids, splits.tolist(), strict=True):
        if seen.setdefault(patient, part) != part:
            return patient
    return None


def patient_positions(patient_ids: Sequence[str], salt: str) -> npt.NDArray[np.float64]:
    """:func:`patient_position` of each record's patient."""
    known = {patient: patient_position(patient, salt) for patient in dict.fromkeys(patient_ids)}
    return np.array([known[patient] for patient in patient_ids], dtype=np.float64)
