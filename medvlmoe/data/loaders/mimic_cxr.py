"""MIMIC-CXR-JPG (Johnson et al. 2019) in its official layout.

``mimic-cxr-2.0.0-split.csv.gz``, ``-metadata.csv.gz`` and ``-chexpert.csv.gz`` (or ``.csv``) at the root; images
``files/p10/p10000032/s50414267/<dicom_id>.jpg``; reports, where they were obtained, beside the study's folder:
``files/p10/p10000032/s50414267.txt``.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import BLANK, UNCERTAIN, binary_values, missing_images, splits_by_value
from medvlmoe.data.report_sections import leak_free_context
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.tables import read_table, read_text
from medvlmoe.data.text import prompt, prompts
from medvlmoe.errors import DataError

_DICOM, _STUDY, _PATIENT, _SPLIT, _VIEW = "dicom_id", "study_id", "subject_id", "split", "ViewPosition"
_SPLIT_WORDS = {"train": TRAIN, "validate": VALIDATION, "test": TEST}
_FRONTAL = ("AP", "PA")
OPENING = "Chest radiograph"


def read(config: DatasetConfig, root: Path) -> SiteIndex:
    """The records of the split table in its order, with the labels of their study.

    Raises:
        DataError: a file is missing or malformed.
    """
    split_path, label_path = _table_path(root, "split"), _table_path(root, "chexpert")
    table = read_table(split_path, (_DICOM, _STUDY, _PATIENT, _SPLIT))
    views = read_table(_table_path(root, "metadata"), (_DICOM, _VIEW)).drop_duplicates(_DICOM).set_index(_DICOM)[_VIEW]
    table[_VIEW] = table[_DICOM].map(views).fillna("").str.upper()
    labels = _study_labels(label_path, config).reindex(table[_STUDY])
    files = [
        root / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{dicom}.jpg"
        for patient, study, dicom in zip(table[_PATIENT], table[_STUDY], table[_DICOM], strict=True)
    ]
    index = SiteIndex(
        root=root,
        images=ImageFiles(files),
        labels_NY=labels[list(CHEXPERT)].to_numpy(dtype=np.float32),
        patient_ids=table[_PATIENT].tolist(),
        study_ids=table[_STUDY].tolist(),
        texts=[""] * len(table),
        splits=splits_by_value(split_path, table, _SPLIT, _SPLIT_WORDS),
        label_space=LabelSpace.known("mimic_cxr"),
        grayscale=True,
        notes={"labels": f"chexpert labeler, uncertain: {config.uncertain}, blank: {config.blank}"},
    )
    unlabelled = ~table[_STUDY].isin(labels.index[labels["there"].fillna(0) == 1]).to_numpy()
    other_view = ~table[_VIEW].isin(_FRONTAL).to_numpy() & (config.views == "frontal")
    index = index.leave_out("study without labels", unlabelled)
    index = index.leave_out("not frontal (AP or PA)", other_view[~unlabelled])
    kept = np.flatnonzero(~unlabelled & ~other_view)
    present = np.array([files[row].is_file() for row in kept], dtype=bool)
    names = [str(files[row].relative_to(root)) for row in kept]
    missing = missing_images(config, root, names, present)
    index = index.leave_out("image not on disk", missing)
    kept = kept[~missing]
    texts = _texts(config, [files[row] for row in kept], table[_VIEW].iloc[kept].tolist())
    return replace(index, texts=texts)


def _table_path(root: Path, name: str) -> Path:
    for ending in (".csv.gz", ".csv"):
        path = root / f"mimic-cxr-2.0.0-{name}{ending}"
        if path.exists():
            return path
    raise DataError(f"{root}: no mimic-cxr-2.0.0-{name}.csv.gz there; is this the MIMIC-CXR-JPG folder?")


def _study_labels(path: Path, config: DatasetConfig) -> pd.DataFrame:
    table = read_table(path, (_STUDY, *CHEXPERT)).drop_duplicates(_STUDY)
    values = {
        label: binary_values(path, table, label, uncertain=UNCERTAIN[config.uncertain], blank=BLANK[config.blank])
        for label in CHEXPERT
    }
    return pd.DataFrame({**values, "there": 1}, index=pd.Index(table[_STUDY]))


def _texts(config: DatasetConfig, files: list[Path], views: list[str]) -> list[str]:
    opening = config.prompt or OPENING
    nothing = [""] * len(files)
    if config.text in ("none", "demographics"):  # age and sex are in MIMIC-IV, not here
        return prompts(config.text, opening, views=views, ages=nothing, sexes=nothing)
    texts: list[str] = []
    reports: dict[Path, str] = {}  # the images of a study share its report
    for file, view in zip(files, views, strict=True):
        path = file.parent.with_suffix(".txt")
        if path not in reports:
            reports[path] = read_text(path) if path.exists() else ""
        if config.text == "report":
            texts.append(" ".join(reports[path].split()))
        else:
            context = leak_free_context(reports[path], file.parent.name.removeprefix("s"))
            texts.append(" ".join(part for part in (prompt(opening, view=view), context) if part))
    return texts
