"""Tell a site, on its own log, which of its DICOM files carry patient data. Nothing but pixels is ever read from them.

Two things are looked for: elements of the header that identify a person, in files that do not say that they were
de-identified, and pictures with writing in them, which no reader can take out.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlmoe.data.dicom import import_pydicom, is_dicom
from medvlmoe.data.dicom_series import slice_files
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.volumes import is_volume
from medvlmoe.files import write_json

logger = logging.getLogger(__name__)

# The direct identifiers of the patient, and of those who name a person with a date or number (DICOM PS3.15 E.1).
IDENTIFYING = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientBirthName",
    "PatientMotherBirthName", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientAddress",
    "PatientTelephoneNumbers", "PatientInsurancePlanCodeSequence", "MilitaryRank", "MedicalRecordLocator",
    "ResponsiblePerson", "PatientComments", "AdditionalPatientHistory", "AccessionNumber", "ReferringPhysicianName",
    "PhysiciansOfRecord", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName",
    "RequestingPhysician", "InstitutionAddress",
)  # fmt: skip
_FLAT_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".nii", ".gz")


def warn_of_patient_data(index: SiteIndex, cache: Path) -> None:
    """Log once how many of the site's DICOM files carry patient data, by element, and name the first; never a value.

    The names of all of them are written to ``patient-data-….json`` in the cache folder. As long as the files stay
    the same, the next call is silent and opens none of them.

    Raises:
        ConfigError: pydicom is not installed.
        DataError: a file is gone.
        CheckpointError: the list cannot be written.
    """
    images = index.images
    if not isinstance(images, ImageFiles):
        return
    suspects = ImageFiles([path for path in images.paths if not path.name.lower().endswith(_FLAT_PICTURES)])
    if len(suspects) == 0:
        return
    digest = hashlib.sha256("\n".join(suspects.fingerprints()).encode("utf-8", "surrogateescape"))
    record = cache / f"patient-data-{digest.hexdigest()[:32]}.json"
    if record.exists():
        return
    count, identified, burned_in = _review(suspects.paths)
    _log(index.root, record, count, identified, burned_in)
    write_json(
        record, {"dicom_files": count, "patient_data": identified, "burned_in_annotation": burned_in}, key="data.cache"
    )


def _review(paths: Sequence[Path]) -> tuple[int, dict[str, list[str]], list[str]]:
    """DICOM files, then by file the identifying elements that hold something, then the files with writing in them."""
    count, identified, burned_in = 0, {}, []
    for path in paths:
        for file in slice_files(path) if is_volume(path) else [path]:
            header = _header(file)
            if header is None:
                continue
            count += 1
            removed = str(header.get("PatientIdentityRemoved", "")).upper() == "YES"
            found = [] if removed else [key for key in IDENTIFYING if _holds_something(header, key)]
            if found:
                identified[str(file)] = found
            if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
                burned_in.append(str(file))
    return count, identified, burned_in


def _header(path: Path) -> Any:
    wanted = [*IDENTIFYING, "PatientIdentityRemoved", "BurnedInAnnotation"]
    try:
        if not is_dicom(path):
            return None
        return import_pydicom(path).dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        return None  # damaged: decoding names it


def _holds_something(header: Any, key: str) -> bool:
    """Whether an element is not empty, without decoding it: nobody has to read it to know that it is there."""
    value = header.get_item(key).value if key in header else None
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _log(root: Path, record: Path, count: int, identified: dict[str, list[str]], burned_in: list[str]) -> None:
    if identified:
        elements = [key for key in IDENTIFYING if any(key in found for found in identified.values())]
        logger.warning(
            "%s: %d of %d DICOM files carry patient data in their header (%s), the first is %s; only their pixels are "
            "read and no header leaves this site. All are listed in %s",
            root, len(identified), count, ", ".join(elements), next(iter(identified)), record,
        )  # fmt: skip
    if burned_in:
        logger.warning(
            "%s: %d of %d DICOM files are marked BurnedInAnnotation=YES, the first is %s: writing in the picture may "
            "name the patient and is part of what the model learns from; mask it or leave the files out. All are "
            "listed in %s",
            root, len(burned_in), count, burned_in[0], record,
        )  # fmt: skip
