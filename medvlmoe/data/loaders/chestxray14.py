"""ChestX-ray14 (NIH; Wang et al. 2017) in its official layout.

``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``), ``train_val_list.txt``, ``test_list.txt`` and the images
anywhere below the root (``images/*.png`` as the NIH packs them, ``images_001/images/*.png`` … as Kaggle does).

The tables' last two headers hold commas without quotes, so that there are eleven columns; the one of 2017 has a twelfth
without a name. Its ages above 120 (some above 400) are typing errors and count as unknown.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import files_below, take_down, take_down_empty, take_down_repeated
from medvlmoe.data.loaders.records import Records, site_index
from medvlmoe.data.problems import Problems
from medvlmoe.data.split import TEST, TRAIN
from medvlmoe.data.tables import read_table, require_columns
from medvlmoe.data.text import age_words, prompts
from medvlmoe.errors import DataError

OPENING = "Frontal chest radiograph"
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_IMAGE, _FINDINGS, _PATIENT, _AGE, _VIEW = (
    "Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position",
)  # fmt: skip
_SEX = ("Patient Gender", "Patient Sex")  # newer downloads say Sex
_NOTHING = "No Finding"
# The two published versions of the labels differ; the number of Pneumonia images tells them apart.
_VERSION_BY_PNEUMONIA = {1431: "v2020", 1353: "v1"}


def read(config: DatasetConfig, root: Path, problems: Problems) -> SiteIndex:
    """The records of ChestX-ray14 in the order of its table.

    Raises:
        DataError: a file is missing or malformed.
    """
    table, records = _read(config, root, problems)
    facts = {"views": table[_VIEW].tolist(), "ages": table[_AGE].tolist(), "sexes": table["sex"].tolist()}
    texts = prompts(config.text, config.prompt or OPENING, **facts)
    space = LabelSpace.known("chestxray14")
    return site_index(config, root, space, records, texts, problems, Demographics.of(**facts))


def read_records(config: DatasetConfig, root: Path, problems: Problems) -> Records:
    """The table and the lists as they stand there."""
    return _read(config, root, problems)[1]


def _read(config: DatasetConfig, root: Path, problems: Problems) -> tuple[pd.DataFrame, Records]:
    path = _table_path(root)
    table = read_table(path, (_IMAGE, _FINDINGS, _PATIENT, _AGE, _VIEW), problems=problems)
    table = take_down_empty(problems, path, table, (_IMAGE, _PATIENT))
    table = take_down_repeated(problems, path, table, _IMAGE)
    table = table.assign(sex=table[_sex_column(path, table)])
    labels_NY = _labels(path, table, LabelSpace.known("chestxray14"), problems)
    names = table[_IMAGE].tolist()
    official = config.split == "official"
    splits = _official_splits(root, names, problems) if official else np.full(len(names), TRAIN, dtype="<U10")
    on_disk = files_below(root, ".png")
    files = [str(on_disk.get(name.lower(), "")) for name in names]
    ages = table[_AGE]
    records = Records(
        names=names,
        files=files,
        codes_NY=labels_NY,
        patient_ids=table[_PATIENT].tolist(),
        study_ids=[name.removesuffix(".png") for name in names],
        splits=splits,
        parts=np.select([splits == TRAIN, splits == TEST], ["train_val", "test"], "")
        if official
        else np.full(len(names), ""),
        left_out={"not in the official lists": splits == ""},
        facts={
            "views PA": int((table[_VIEW] == "PA").sum()),
            "views AP": int((table[_VIEW] == "AP").sum()),
            "rows of age 0": int(ages.isin(("0", "000Y", "0Y")).sum()),
            "ages read as unknown": int((~ages.map({age: bool(age_words(age)) for age in ages.unique()})).sum()),
        },
        notes={
            "labels": label_version(labels_NY, LabelSpace.known("chestxray14")),
            "images": f"{sum(map(bool, files))} of {len(files)} on disk",
        },
    )
    return table, records


def _table_path(root: Path) -> Path:
    for name in _TABLES:
        if (root / name).exists():
            return root / name
    raise DataError(f"{root}: neither {' nor '.join(_TABLES)} is there; is this the ChestX-ray14 folder?")


def _sex_column(path: Path, table: pd.DataFrame) -> str:
    there = [column for column in _SEX if column in table.columns]
    if not there:
        require_columns(path, table, _SEX[:1])
    return there[0]


def _labels(path: Path, table: pd.DataFrame, space: LabelSpace, problems: Problems) -> npt.NDArray[np.float32]:
    codes, combinations = pd.factorize(table[_FINDINGS])  # 112,120 rows hold some 800 different combinations
    position = {label: place for place, label in enumerate(space.labels)}
    labels_CY = np.zeros((len(combinations), len(space)), dtype=np.float32)
    wrong: list[str] = []
    for row, combination in enumerate(combinations):
        places = [position.get(canonical_label(name)) for name in combination.split("|") if name != _NOTHING]
        if None in places or (places and _NOTHING in combination.split("|")):
            wrong.append(combination)
            labels_CY[row] = np.nan
        labels_CY[row, [place for place in places if place is not None]] = 1
    take_down(problems, path, table, _FINDINGS, wrong, f"{_NOTHING}, or {', '.join(space.labels)} with |")
    return labels_CY[codes]


def label_version(labels_NY: npt.NDArray[np.float32], space: LabelSpace) -> str:
    """Which of the two published versions of the labels this is: ``v2020``, ``v1`` (2017) or unknown."""
    pneumonia = int((labels_NY[:, space.labels.index("Pneumonia")] == 1).sum())
    return _VERSION_BY_PNEUMONIA.get(pneumonia, f"unknown ({pneumonia} Pneumonia)")


def _official_splits(root: Path, names: list[str], problems: Problems) -> npt.NDArray[np.str_]:
    listed: dict[str, str] = {}
    known = set(names)
    for file, split in (("train_val_list.txt", TRAIN), ("test_list.txt", TEST)):
        path = root / file
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); add the list or set split=patient") from error
        for number, line in enumerate(lines, start=1):
            name = line.strip()
            if not name:
                continue
            if listed.setdefault(name, split) != split:
                problems.add(path, f"{name} is in train_val_list.txt too; take the lists from the NIH again", [number])
            elif name not in known:
                problems.add(path, f"{name} is not in the table; take table and lists from the NIH again", [number])
    return np.array([listed.get(name, "") for name in names], dtype="<U10")
