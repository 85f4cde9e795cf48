"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 (Johnson et al. 2019) in its official layout.

``mimic-cxr-2.0.0-split.csv.gz``, ``-metadata.csv.gz`` and ``-chexpert.csv.gz`` or ``-negbio.csv.gz`` (or ``.csv``;
version 2.1.0 keeps these names) at the root, and images ``files/p10/p10000032/s50414267/<dicom_id>.jpg``. Version 2.1.0
adds ``mimic-cxr-2.1.0-test-set-labeled.csv``: a radiologist's labels of test studies, read from their reports.
Labels belong to studies. Shape suffixes: N images, S studies, Y labels. Where the reports lie: :mod:`.report_store`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import CHEXPERT
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import label_table, splits_by_value, take_down_empty, take_down_repeated
from medvlmoe.data.loaders.mimic_reports import ReportTexts
from medvlmoe.data.loaders.records import Records, site_index
from medvlmoe.data.loaders.report_store import ReportStore, open_reports
from medvlmoe.data.problems import Problems
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.tables import read_table
from medvlmoe.data.text import prompts
from medvlmoe.errors import DataError

logger = logging.getLogger(__name__)

OPENING = "Chest radiograph"
_DICOM, _STUDY, _PATIENT, _SPLIT, _VIEW = "dicom_id", "study_id", "subject_id", "split", "ViewPosition"
_SPLIT_WORDS = {"train": TRAIN, "validate": VALIDATION, "test": TEST}
_FRONTAL = ("AP", "PA")
_STUDIES_LOOKED_AT = 100
_RADIOLOGIST = "2.1.0-test-set-labeled"


def read(config: DatasetConfig, root: Path, problems: Problems) -> SiteIndex:
    """The records of the split table in its order, with the labels of their study.

    Raises:
        DataError: a file is missing or malformed.
    """
    table, records = _read(config, root, problems)
    opening, views = config.prompt or OPENING, table[_VIEW].tolist()
    nothing = [""] * len(views)  # age and sex are in MIMIC-IV, not here
    if config.text in ("none", "demographics"):
        texts: Sequence[str] = prompts(config.text, opening, views=views, ages=nothing, sexes=nothing)
    else:
        reports = open_reports(root, config.reports_root)
        texts = ReportTexts(config.text, opening, views, records.patient_ids, records.study_ids, reports)
        records.notes["reports"] = _reports_found(root, records, reports)
    demographics = Demographics.of(ages=nothing, sexes=nothing, views=views)
    return site_index(config, root, LabelSpace.known("mimic_cxr"), records, texts, problems, demographics)


def read_records(config: DatasetConfig, root: Path, problems: Problems) -> Records:
    """The tables as they stand there."""
    return _read(config, root, problems)[1]


def _read(config: DatasetConfig, root: Path, problems: Problems) -> tuple[pd.DataFrame, Records]:
    path = _table_path(root, "2.0.0-split")
    table = read_table(path, (_DICOM, _STUDY, _PATIENT, _SPLIT), problems=problems)
    table = take_down_empty(problems, path, table, (_DICOM, _STUDY, _PATIENT))
    table = take_down_repeated(problems, path, table, _DICOM)
    table = table.assign(**{_VIEW: _views(root, path, table, problems)})
    splits = splits_by_value(path, table, _SPLIT, _SPLIT_WORDS, problems)
    codes_NY, labelled = _study_labels(_table_path(root, f"2.0.0-{config.labeler}"), table, problems)
    labels = f"{config.labeler} labeler"
    if config.test_labels == "radiologist":
        by_hand_NY, read_by_hand = _study_labels(_table_path(root, _RADIOLOGIST), table, problems)
        test = splits == TEST
        codes_NY[test], labelled[test] = by_hand_NY[test], read_by_hand[test]
        labels += ", radiologist in the test split"
    dicoms, studies, patients = (table[name].tolist() for name in (_DICOM, _STUDY, _PATIENT))
    names = [
        f"files/p{patient[:2]}/p{patient}/s{study}/{dicom}.jpg"
        for patient, study, dicom in zip(patients, studies, dicoms, strict=True)
    ]
    frontal = table[_VIEW].isin(_FRONTAL).to_numpy()
    records = Records(
        names=names,
        files=[f"{root}/{name}" for name in names] if (root / "files").is_dir() else [""] * len(names),
        codes_NY=codes_NY,
        patient_ids=patients,
        study_ids=studies,
        splits=splits,
        parts=np.where(splits == VALIDATION, "validate", splits),
        left_out={
            "study without labels": ~labelled,
            "not frontal (AP or PA)": ~frontal & (config.views == "frontal"),
        },
        facts={
            "views AP or PA": int(frontal.sum()),
            "labelled studies": len(dict.fromkeys(table[_STUDY][labelled])),
        },
        notes={"labels": f"{labels}, uncertain: {config.uncertain}, blank: {config.blank}"},
    )
    return table, records


def _table_path(root: Path, name: str) -> Path:
    for ending in (".csv.gz", ".csv"):
        path = root / f"mimic-cxr-{name}{ending}"
        if path.exists():
            return path
    raise DataError(f"{root}: no mimic-cxr-{name}.csv.gz there; is this the MIMIC-CXR-JPG folder?")


def _reports_found(root: Path, records: Records, reports: ReportStore) -> str:
    """For how many of some studies, spread over all, there is a report; they are a download of their own."""
    studies = list(dict(zip(records.study_ids, records.patient_ids, strict=True)).items())
    chosen = studies[:: max(1, len(studies) // _STUDIES_LOOKED_AT)][:_STUDIES_LOOKED_AT]
    found = sum(reports.has(patient, study) for study, patient in chosen)
    if chosen and not found:
        logger.warning(
            "%s: none of %d studies has a report, so that the text is the view alone; set reports_root (docs/data.md)",
            root, len(chosen),
        )  # fmt: skip
    return f"{found} of {len(chosen)} studies looked at have one"


def _views(root: Path, split_path: Path, table: pd.DataFrame, problems: Problems) -> pd.Series:
    path = _table_path(root, "2.0.0-metadata")
    metadata = read_table(path, (_DICOM, _VIEW), problems=problems, others=False)
    metadata = take_down_repeated(problems, path, metadata, _DICOM)
    views = table[_DICOM].map(metadata.set_index(_DICOM)[_VIEW])
    unknown = views.isna()
    if unknown.any():  # an image without a view would be left out as not frontal
        lines = table.index[unknown].tolist()
        problems.add(split_path, f"{_DICOM} is not in {path.name}; take both from PhysioNet again", lines)
    return views.fillna("").str.upper()


def _study_labels(
    path: Path, table: pd.DataFrame, problems: Problems
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """For each image the codes of its study (N x Y, NaN without), and whether its study has labels."""
    labels = take_down_empty(problems, path, read_table(path, (_STUDY,), problems=problems), (_STUDY,))
    labels = take_down_repeated(problems, path, labels, _STUDY)
    codes_SY = label_table(path, labels, CHEXPERT, problems)
    place = pd.Index(labels[_STUDY]).get_indexer(table[_STUDY])
    codes_NY = codes_SY[place] if len(codes_SY) else np.full((len(table), len(CHEXPERT)), np.nan, dtype=np.float32)
    codes_NY[place < 0] = np.nan
    if _PATIENT in labels.columns and len(labels):
        others = (place >= 0) & (labels[_PATIENT].to_numpy()[place] != table[_PATIENT].to_numpy())
        for row in dict.fromkeys(place[others].tolist()):
            problems.add(path, f"{_PATIENT} is not that of the study in the split table", [labels.index[row]])
    return codes_NY, place >= 0
