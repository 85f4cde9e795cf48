"""Where a download of CheXpert keeps its tables and images.

Three shapes are in use: ``CheXpert-v1.0-small/`` and ``CheXpert-v1.0/`` hold tables and the folders ``train``,
``valid`` and perhaps ``test``; the full-size download of Stanford AIMI (``chexpertchestxrays-u20210408/``) comes in
four batches: ``CheXpert-v1.0 batch 1 (validate & csv)/`` with the tables and ``valid``, and ``batch 2 (train 1)`` to
``batch 4 (train 3)`` with the training patients' folders right inside. The site's root may be one of these folders or
stand above it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medvlmoe.errors import DataError

# The released test labels are study-level (rajpurkarlab/cheXpert-test-set-labels); AIMI and CheXlocalize add tables
# with a row for each image.
_TEST_TABLES = ("test.csv", "test_labels.csv", "test_labels/groundtruth.csv", "groundtruth.csv")
_RELATED = re.compile(r"chexpert|chexlocalize", re.IGNORECASE)
_BATCH = re.compile(r"chexpert.*batch[ _-]*\d", re.IGNORECASE)
_PATIENT = "patient"


class CheXpertFolders:
    """One download.

    Attributes:
        tables: ``train``, ``valid`` and, where there is one, ``test`` -> its table.

    Raises:
        DataError: there is no ``train.csv``.
    """

    def __init__(self, root: Path) -> None:
        homes = _homes(root)
        main = next((home for home in homes if (home / "train.csv").is_file()), None)
        if main is None:
            raise DataError(f"{root}: no train.csv there nor in a CheXpert folder below; is this the CheXpert folder?")
        homes = [main, *(home for home in homes if home != main)]
        self.tables = {"train": main / "train.csv", "valid": main / "valid.csv"}
        test = next((home / name for home in homes for name in _TEST_TABLES if (home / name).is_file()), None)
        if test is not None:
            self.tables["test"] = test
        batches = [home for home in homes if _BATCH.search(home.name)]
        self._folders: dict[tuple[str, str], str] = {}
        for home in (main, *batches):
            for part in ("train", "valid"):
                self._add(part, home / part)
        for home in batches:
            self._add("train", home)
        for home in homes:
            self._add("test", home / "test")

    def image(self, part: str, patient: str, study: str, file: str) -> str:
        """Where an image should be; empty if not even the patient's folder is on disk."""
        folder = self._folders.get((part, patient))
        return f"{folder}/{study}/{file}" if folder else ""

    def images_of_study(self, patient: str, study: str) -> list[str]:
        """Names of the images of a test study, in order; empty if it is not on disk."""
        folder = self._folders.get(("test", patient))
        if folder is None:
            return []
        try:
            folder = os.path.join(folder, study)
            return sorted(name for name in os.listdir(folder) if name.startswith("view") and name.endswith(".jpg"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _add(self, part: str, folder: Path) -> None:
        for name in _folders_in(folder):
            if name.startswith(_PATIENT):
                self._folders.setdefault((part, name), os.path.join(folder, name))


def _homes(root: Path) -> list[Path]:
    """The root, related folders up to two levels below it and, if it is one of the batches, the other batches."""
    homes = [root, *_related(root)]
    homes += [home for above in homes[1:] for home in _related(above)]
    if _BATCH.search(root.resolve().name):
        homes += [home for home in _related(root.resolve().parent) if _BATCH.search(home.name)]
    return list({home.resolve(): home for home in reversed(homes)}.values())[::-1]


def _related(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _folders_in(folder) if _RELATED.match(name))


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
