"""Where the reports of MIMIC-CXR lie.

Reports and JPG images are two PhysioNet projects. A report ``files/p10/p10000032/s50414267.txt`` may lie beside its
study's folder (both projects laid over each other), below a folder of its own, or in ``mimic-cxr-reports.zip`` as
downloaded.
"""

import threading
import zipfile
from pathlib import Path
from typing import Any, Protocol

from medvlmoe.data.tables import read_text
from medvlmoe.errors import DataError

_ZIP, _UNPACKED = "mimic-cxr-reports.zip", "mimic-cxr-reports"


class ReportStore(Protocol):
    """Reports by patient and study."""

    def has(self, patient_id: str, study_id: str) -> bool:
        """Whether there is a report."""

    def read(self, patient_id: str, study_id: str) -> str:
        """The whole report; empty if there is none. Raises DataError if it cannot be read."""


def open_reports(root: Path, reports_root: str | None) -> ReportStore:
    """The reports of a MIMIC-CXR-JPG folder.

    Args:
        root: the site's folder.
        reports_root: where they are said to be, taken from ``root``: a folder or a zip file; ``None``: at the root.

    Raises:
        DataError: there are none where they are said to be.
    """
    place = root if reports_root is None else root / Path(reports_root).expanduser()
    if place.is_file():
        return ReportsInZip(place)
    # `files` comes last: beside a zip or an unpacked one it may hold images alone.
    if (place / _UNPACKED / "files").is_dir():
        return ReportsInFolder(place / _UNPACKED / "files")
    if (place / _ZIP).is_file():
        return ReportsInZip(place / _ZIP)
    if (place / "files").is_dir() or reports_root is None:
        return ReportsInFolder(place / "files")
    raise DataError(f"{place}: neither files/p10/… nor {_ZIP} is there; correct reports_root")


class ReportsInFolder:
    """A text file for each report."""

    def __init__(self, files: Path) -> None:
        self._files = files

    def has(self, patient_id: str, study_id: str) -> bool:
        """See :class:`ReportStore`."""
        return (self._files / _member(patient_id, study_id)).is_file()

    def read(self, patient_id: str, study_id: str) -> str:
        """See :class:`ReportStore`."""
        path = self._files / _member(patient_id, study_id)
        return read_text(path) if path.exists() else ""


class ReportsInZip:
    """The zip file as downloaded, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read ({error}); download it again") from error
        self._names = set(self._zip.namelist())

    def __reduce__(self) -> tuple[Any, ...]:
        return ReportsInZip, (self._path,)  # an open file stays in its process

    def has(self, patient_id: str, study_id: str) -> bool:
        """See :class:`ReportStore`."""
        return f"files/{_member(patient_id, study_id)}" in self._names

    def read(self, patient_id: str, study_id: str) -> str:
        """See :class:`ReportStore`."""
        name = f"files/{_member(patient_id, study_id)}"
        if name not in self._names:
            return ""
        try:
            with self._lock:
                return self._zip.read(name).decode("utf-8")
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{self._path}: {name} cannot be read ({error}); download it again") from error


def _member(patient_id: str, study_id: str) -> str:
    return f"p{patient_id[:2]}/p{patient_id}/s{study_id}.txt"
