"""CheXpert v1.0 (Irvin et al. 2019), full size or small, in its official layout.

``train.csv`` and ``valid.csv`` beside the folders ``train`` and ``valid``; ``test.csv`` and ``test`` too where they
were obtained. Without a test part, the published validation part is the test part, and validation is cut by patient
from train.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import BLANK, UNCERTAIN, binary_values, missing_images
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.tables import read_table
from medvlmoe.data.text import prompts
from medvlmoe.errors import DataError

OPENING = "Chest radiograph"
_PATH, _SEX, _AGE, _SIDE, _VIEW = "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"
_PLACE = re.compile(r"(?:^|/)((?:train|valid|test)/(patient[^/]+)/([^/]+)/[^/]+)$")


def read(config: DatasetConfig, root: Path) -> SiteIndex:
    """The records of all parts, train first.

    Raises:
        DataError: a file is missing or malformed.
    """
    folder = _folder(root)
    official = {"train.csv": TRAIN, "valid.csv": VALIDATION, "test.csv": TEST}
    if not (folder / "test.csv").exists():
        official = {"train.csv": TRAIN, "valid.csv": TEST}
    parts = [_read_part(config, root, folder, folder / name, split) for name, split in official.items()]
    return SiteIndex(
        root=root,
        images=ImageFiles([path for part in parts for path in part.images.paths]),  # type: ignore[attr-defined]
        labels_NY=np.concatenate([part.labels_NY for part in parts]),
        patient_ids=[patient for part in parts for patient in part.patient_ids],
        study_ids=[study for part in parts for study in part.study_ids],
        texts=[text for part in parts for text in part.texts],
        splits=np.concatenate([part.splits for part in parts]),
        label_space=parts[0].label_space,
        grayscale=True,
        left_out=_summed([part.left_out for part in parts]),
        notes={
            "labels": f"uncertain: {config.uncertain}, blank: {config.blank}",
            "official split": ", ".join(f"{name} is {split}" for name, split in official.items()),
        },
    )


def _folder(root: Path) -> Path:
    for folder in (root, *sorted(root.glob("CheXpert*"))):
        if (folder / "train.csv").exists():
            return folder
    raise DataError(f"{root}: no train.csv there nor in a CheXpert folder below; is this the CheXpert folder?")


def _read_part(config: DatasetConfig, root: Path, folder: Path, path: Path, split: str) -> SiteIndex:
    table = read_table(path, (_PATH, _SEX, _AGE, _SIDE, _VIEW, *CHEXPERT))
    places = _places(path, table)
    files = [folder / place for place in places[0]]
    lateral = table[_SIDE].str.lower().to_numpy() != "frontal"
    # the published age 0 means unknown
    ages = table[_AGE].where(~table[_AGE].isin(("0", "0.0")), "").tolist()
    views = np.where(lateral, "lateral", table[_VIEW]).tolist()
    values = {
        label: binary_values(path, table, label, uncertain=UNCERTAIN[config.uncertain], blank=BLANK[config.blank])
        for label in CHEXPERT
    }
    index = SiteIndex(
        root=root,
        images=ImageFiles(files),
        labels_NY=np.stack([values[label] for label in CHEXPERT], axis=1),
        patient_ids=places[1],
        study_ids=[f"{patient}/{study}" for patient, study in zip(places[1], places[2], strict=True)],
        texts=prompts(config.text, config.prompt or OPENING, views=views, ages=ages, sexes=table[_SEX].tolist()),
        splits=np.full(len(table), split, dtype="<U10"),
        label_space=LabelSpace.known("chexpert"),
        grayscale=True,
    )
    if config.views == "frontal":
        index = index.leave_out("not frontal", lateral)
        files = [file for file, dropped in zip(files, lateral.tolist(), strict=True) if not dropped]
    present = np.array([file.is_file() for file in files], dtype=bool)
    names = [str(file.relative_to(folder)) for file in files]
    return index.leave_out("image not on disk", missing_images(config, root, names, present))


def _places(path: Path, table: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Path below the data set's folder, patient and study: the table's paths start with one folder or another."""
    matches = [_PLACE.search(value) for value in table[_PATH]]
    for value, match in zip(table[_PATH], matches, strict=True):
        if match is None:
            raise DataError(f"{path}: Path '{value}' is not …/train/patient…/study…/view….jpg")
    found = [match for match in matches if match is not None]
    return [match[1] for match in found], [match[2] for match in found], [match[3] for match in found]


def _summed(counts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for reason, count in part.items():
            total[reason] = total.get(reason, 0) + count
    return total
