"""CheXpert v1.0 (Irvin et al. 2019), full size or small, in its official layouts (:mod:`.chexpert_folders`).

``train.csv`` and ``valid.csv`` have a row for each image. The test part is separate: images, and a table of them or of
their studies. Without it, the published validation part is the test part, and validation is cut by patient from train.
Columns are found by name: products order them differently.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.chexpert_folders import CheXpertFolders
from medvlmoe.data.loaders.columns import label_table, take_down, take_down_repeated
from medvlmoe.data.loaders.records import Records, site_index
from medvlmoe.data.problems import Problems
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.tables import read_table, require_columns
from medvlmoe.data.text import prompts

OPENING = "Chest radiograph"
_PATH, _STUDY, _SEX, _AGE, _SIDE, _VIEW = "Path", "Study", "Sex", "Age", "Frontal/Lateral", "AP/PA"
# Tables of one product start their paths with the folder of another: what stands before the part does not count.
_IMAGE = re.compile(r"(?:^|/)(train|valid|test)/(patient[^/]+)/([^/]+)/([^/]+)$")
_STUDY_FOLDER = re.compile(r"(?:^|/)(test)/(patient[^/]+)/([^/]+)/?$")


def read(config: DatasetConfig, root: Path, problems: Problems) -> SiteIndex:
    """The records of all parts, train first.

    Raises:
        DataError: a file is missing or malformed.
    """
    parts, records = _read(config, root, problems)
    facts = {
        "views": [view for part in parts for view in part.views()],
        "ages": [age for part in parts for age in part.ages()],
        "sexes": [sex for part in parts for sex in part.table[_SEX]],
    }
    texts = prompts(config.text, config.prompt or OPENING, **facts)
    space = LabelSpace.known("chexpert")
    return site_index(config, root, space, records, texts, problems, Demographics.of(**facts))


def read_records(config: DatasetConfig, root: Path, problems: Problems) -> Records:
    """The tables as they stand there."""
    return _read(config, root, problems)[1]


@dataclass(frozen=True)
class _Part:
    """One table, a row an image: ``part``, ``patient``, ``study``, ``file`` and the official columns, and its codes."""

    table: pd.DataFrame
    codes_NY: npt.NDArray[np.float32]
    split: str

    def lateral(self) -> npt.NDArray[np.bool_]:
        """By the table, or by the file's name where the table does not say."""
        told = self.table[_SIDE].where(self.table[_SIDE] != "", self.table["file"])
        return np.array(["lateral" in word.lower() for word in told], dtype=bool)

    def views(self) -> list[str]:
        """``lateral``, ``AP``, ``PA``, or ``frontal`` for the few marked as frontal with another projection."""
        frontal = self.table[_VIEW].where(self.table[_VIEW].isin(("AP", "PA")), "frontal")
        return np.where(self.lateral(), "lateral", frontal).tolist()

    def ages(self) -> list[str]:
        """The published age 0 means unknown."""
        return self.table[_AGE].where(~self.table[_AGE].isin(("0", "0.0")), "").tolist()

    def facts(self) -> list[tuple[str, int]]:
        """Counts that tell a complete table."""
        lateral, listed = self.lateral(), self.table["listed"].to_numpy(dtype=bool)
        facts = [("frontal", int((listed & ~lateral).sum())), ("lateral", int((listed & lateral).sum()))]
        if (self.table[_SEX] != "").any():
            facts.append(("sex unknown", int((~self.table[_SEX].isin(("Male", "Female"))).sum())))
            facts.append(("age 0 (unknown)", int(self.table[_AGE].isin(("0", "0.0")).sum())))
        return facts


def _read(config: DatasetConfig, root: Path, problems: Problems) -> tuple[list[_Part], Records]:
    folders = CheXpertFolders(root)
    splits = {"train": TRAIN, "valid": VALIDATION, "test": TEST}
    if "test" not in folders.tables:
        splits = {"train": TRAIN, "valid": TEST}
    parts = [_read_part(folders, part, split, problems) for part, split in splits.items()]
    rows = pd.concat([part.table for part in parts])
    places = list(zip(*(rows[name] for name in ("part", "patient", "study", "file")), strict=True))
    lateral = np.concatenate([part.lateral() for part in parts])
    records = Records(
        names=["/".join(place) for place in places],
        files=[folders.image(*place) for place in places],
        codes_NY=np.concatenate([part.codes_NY for part in parts]),
        patient_ids=[patient for _, patient, _, _ in places],
        study_ids=[f"{patient}/{study}" for _, patient, study, _ in places],
        splits=np.concatenate([np.full(len(part.table), part.split, dtype="<U10") for part in parts]),
        parts=rows["part"].to_numpy(dtype="<U10"),
        left_out={"not frontal": lateral & (config.views == "frontal")},
        unlisted=(~rows["listed"]).to_numpy(dtype=bool),
        facts={
            f"{name}, {fact}": count for name, part in zip(splits, parts, strict=True) for fact, count in part.facts()
        },
        notes={
            "labels": f"uncertain: {config.uncertain}, blank: {config.blank}",
            "official split": ", ".join(f"{folders.tables[part].name} is {split}" for part, split in splits.items()),
        },
    )
    return parts, records


def _read_part(folders: CheXpertFolders, part: str, split: str, problems: Problems) -> _Part:
    path = folders.tables[part]
    table = read_table(path, problems=problems)
    if part == "test" and _PATH not in table.columns:
        return _read_studies(folders, path, table, split, problems)
    described = () if part == "test" else (_SEX, _AGE, _SIDE, _VIEW)  # released test tables tell only the labels
    require_columns(path, table, (_PATH, *described))
    table = take_down_repeated(problems, path, table, _PATH)
    table, found = _matched(path, table, _PATH, _IMAGE, "…/train/patient…/study…/view….jpg", problems)
    codes_NY = label_table(path, table, CHEXPERT, problems)
    return _Part(_described(table, found), codes_NY, split)


def _read_studies(folders: CheXpertFolders, path: Path, table: pd.DataFrame, split: str, problems: Problems) -> _Part:
    """Study-level labels: a row for each image that is on disk, or one for the study if none is."""
    require_columns(path, table, (_STUDY,))
    table = take_down_repeated(problems, path, table, _STUDY)
    table, found = _matched(path, table, _STUDY, _STUDY_FOLDER, "…/test/patient…/study…", problems)
    codes_NY = label_table(path, table, CHEXPERT, problems)
    rows: list[int] = []
    places: list[tuple[str, ...]] = []
    listed: list[bool] = []
    for row, place in enumerate(found):
        files = folders.images_of_study(place[1], place[2])
        for file in files or ["view1_frontal.jpg"]:
            rows.append(row)
            places.append((*place, file))
            listed.append(bool(files))
    expanded = _described(table.iloc[rows], places)
    expanded["listed"] = listed
    return _Part(expanded, codes_NY[rows], split)


def _matched(
    path: Path, table: pd.DataFrame, column: str, pattern: re.Pattern[str], shape: str, problems: Problems
) -> tuple[pd.DataFrame, list[tuple[str, ...]]]:
    """The rows whose path has the right shape, and its parts; the others are taken down."""
    matches = [pattern.search(value.replace("\\", "/")) for value in table[column]]  # tables written on Windows
    wrong = np.array([match is None for match in matches], dtype=bool)
    if wrong.any():
        take_down(problems, path, table, column, table[column][wrong].unique(), shape)
        table = table[~wrong]
    return table, [match.groups() for match in matches if match is not None]


def _described(table: pd.DataFrame, places: list[tuple[str, ...]]) -> pd.DataFrame:
    columns = {name: table[name].tolist() if name in table.columns else "" for name in (_SEX, _AGE, _SIDE, _VIEW)}
    described = pd.DataFrame({**columns, "listed": True}, index=table.index)
    for position, name in enumerate(("part", "patient", "study", "file")):
        described[name] = [place[position] for place in places]
    return described
