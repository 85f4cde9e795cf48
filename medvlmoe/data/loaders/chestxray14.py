"""ChestX-ray14 (NIH; Wang et al. 2017) in its official layout.

``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``), ``train_val_list.txt``, ``test_list.txt`` and the images
anywhere below the root (``images/*.png`` or ``images_001/images/*.png`` ...).
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import files_below, missing_images, refuse_value
from medvlmoe.data.split import TEST, TRAIN
from medvlmoe.data.tables import read_table, require_columns
from medvlmoe.data.text import prompts
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


def read(config: DatasetConfig, root: Path) -> SiteIndex:
    """The records of ChestX-ray14 in the order of its table.

    Raises:
        DataError: a file is missing or malformed.
    """
    path = _table_path(root)
    table = read_table(path, (_IMAGE, _FINDINGS, _PATIENT, _AGE, _VIEW))
    space = LabelSpace.known("chestxray14")
    labels_NY = _labels(path, table, space)
    names = table[_IMAGE].to_numpy()
    splits = _official_splits(root, names) if config.split == "official" else np.full(len(names), TRAIN, dtype="<U10")
    on_disk = files_below(root, ".png")
    present = np.array([name in on_disk for name in names], dtype=bool)
    index = SiteIndex(
        root=root,
        # a record without an image is left out below; until then the root stands in for its path
        images=ImageFiles([on_disk.get(name, root) for name in names]),
        labels_NY=labels_NY,
        patient_ids=table[_PATIENT].tolist(),
        study_ids=[name.removesuffix(".png") for name in names],
        texts=prompts(
            config.text,
            config.prompt or OPENING,
            views=table[_VIEW].tolist(),
            ages=table[_AGE].tolist(),
            sexes=table[_sex_column(path, table)].tolist(),
        ),
        splits=splits,
        label_space=space,
        grayscale=True,
        notes={"labels": _version(labels_NY, space), "images": f"{present.sum()} of {len(names)} on disk"},
    )
    unlisted = splits == ""
    missing = missing_images(config, root, names[~unlisted], present[~unlisted])
    index = index.leave_out("not in the official lists", unlisted)
    return index.leave_out("image not on disk", missing)


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


def _labels(path: Path, table: pd.DataFrame, space: LabelSpace) -> npt.NDArray[np.float32]:
    codes, combinations = pd.factorize(table[_FINDINGS])  # 112,120 rows hold some 800 different combinations
    position = {label: place for place, label in enumerate(space.labels)}
    labels_CY = np.zeros((len(combinations), len(space)), dtype=np.float32)
    for row, combination in enumerate(combinations):
        for name in combination.split("|"):
            if name == _NOTHING:
                continue
            if canonical_label(name) not in position:
                refuse_value(path, table, _FINDINGS, combination, f"{_NOTHING}, or {', '.join(space.labels)} with |")
            labels_CY[row, position[canonical_label(name)]] = 1
    return labels_CY[codes]


def _version(labels_NY: npt.NDArray[np.float32], space: LabelSpace) -> str:
    pneumonia = int(labels_NY[:, space.labels.index("Pneumonia")].sum())
    return _VERSION_BY_PNEUMONIA.get(pneumonia, f"unknown ({pneumonia} Pneumonia)")


def _official_splits(root: Path, names: npt.NDArray[np.object_]) -> npt.NDArray[np.str_]:
    listed: dict[str, str] = {}
    for file, split in (("train_val_list.txt", TRAIN), ("test_list.txt", TEST)):
        path = root / file
        try:
            content = path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); add the list or set split=patient") from error
        for name in content:
            if listed.setdefault(name, split) != split:
                raise DataError(f"{path}: {name} is in train_val_list.txt too; take the lists from the NIH again")
    return np.array([listed.get(name, "") for name in names], dtype="<U10")
