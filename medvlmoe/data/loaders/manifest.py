"""A hospital's own table: a CSV of images, with a YAML file beside it that says what its columns mean."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import TEXT_OF_REPORTS, DatasetConfig
from medvlmoe.data.demographics import Demographics
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import NOT_ON_DISK, SiteIndex
from medvlmoe.data.loaders.columns import (
    label_codes,
    missing_images,
    one_hot,
    take_down,
    take_down_empty,
    take_down_repeated,
)
from medvlmoe.data.loaders.columns import splits_by_value as read_splits
from medvlmoe.data.loaders.label_policy import resolve_uncertain
from medvlmoe.data.loaders.manifest_file import Manifest, load_manifest
from medvlmoe.data.problems import Problems
from medvlmoe.data.report_text import report_reader
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.tables import read_table
from medvlmoe.data.text import prompts
from medvlmoe.errors import ConfigError

_SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN,
    "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "validate": VALIDATION, "dev": VALIDATION,
    "test": TEST, "testing": TEST,
}  # fmt: skip


def read(config: DatasetConfig, root: Path, problems: Problems) -> SiteIndex:
    """The records of a hospital's table, in its order.

    Raises:
        DataError: the table or an image is missing or malformed.
        ConfigError: the manifest is missing or malformed, or does not fit the configuration.
    """
    manifest = load_manifest(config, root)
    path = root / manifest.table
    table = read_table(
        path,
        manifest.columns(),
        encoding=manifest.encoding,
        declare=f"declare its 'encoding' in {manifest.path}",
        problems=problems,
    )
    table[manifest.image] = table[manifest.image].str.replace("\\", "/", regex=False)  # tables written on Windows
    table = take_down_empty(problems, path, table, (manifest.image,))
    table = take_down_repeated(problems, path, table, manifest.image)  # else one image may be in two splits
    names = table[manifest.image].tolist()
    patients = table[manifest.patient].tolist() if manifest.patient else names
    files = [root / name for name in names]
    index = SiteIndex(
        root=root,
        images=ImageFiles(files, manifest.intensity),
        labels_NY=resolve_uncertain(
            _codes(manifest, path, table, problems), manifest.label_space.labels, names, config
        ),
        # a record without a patient id is a patient of its own
        patient_ids=[patient or f"image {name}" for patient, name in zip(patients, names, strict=True)],
        tells_patients=manifest.patient is not None,
        study_ids=table[manifest.study].tolist() if manifest.study else names,
        texts=_texts(manifest, config, table),
        demographics=_demographics(manifest, table),
        splits=_splits(manifest, config, path, table, problems),
        label_space=manifest.label_space,
        grayscale=False,
        notes={
            "patients": "told by the table" if manifest.patient else "not told: every image is its own",
            **({"labels": f"uncertain: {config.uncertain}"} if manifest.labels else {}),
        },
    )
    present = np.array([file.exists() for file in files], dtype=bool)  # a volume may be a folder
    return index.leave_out(NOT_ON_DISK, missing_images(config, root, names, present, problems))


def _codes(manifest: Manifest, path: Path, table: pd.DataFrame, problems: Problems) -> npt.NDArray[np.float32]:
    space = manifest.label_space
    if manifest.class_column:
        position = {label: place for place, label in enumerate(space.labels)}
        places = {
            value: position[f"{space.blocks[0].name}/{label}"] for value, label in manifest.class_names.items()
        } | {"": -1}
        return one_hot(_classes(path, table, manifest.class_column, places, problems), len(space))
    labels_NY = np.full((len(table), len(space)), np.nan, dtype=np.float32)
    for column, label in manifest.labels.items():
        labels_NY[:, space.labels.index(label)] = label_codes(path, table, column, problems)
    return labels_NY


def _classes(
    path: Path, table: pd.DataFrame, column: str, places: dict[str, int], problems: Problems
) -> npt.NDArray[np.int64]:
    # tables saved by spreadsheets write the grade 2 as 2.0
    known = {value: places.get(value, places.get(value.removesuffix(".0"))) for value in table[column].unique()}
    wrong = [value for value, place in known.items() if place is None]
    take_down(problems, path, table, column, wrong, f"{', '.join(filter(None, places))}, or empty (unknown)")
    return table[column].map(known | dict.fromkeys(wrong, -1)).to_numpy(dtype=np.int64)


def _splits(
    manifest: Manifest, config: DatasetConfig, path: Path, table: pd.DataFrame, problems: Problems
) -> npt.NDArray[np.str_]:
    if config.split == "patient":
        return np.full(len(table), TRAIN, dtype="<U10")
    if manifest.split is None:
        raise ConfigError(f"{manifest.path} names no split column; set split=patient to cut the data by patient")
    return read_splits(path, table, manifest.split, _SPLIT_WORDS, problems)


def _texts(manifest: Manifest, config: DatasetConfig, table: pd.DataFrame) -> list[str]:
    if config.text in TEXT_OF_REPORTS:
        if manifest.text is None:
            raise ConfigError(f"text={config.text}, but {manifest.path} names no text column")
        read = report_reader(config.text, manifest.label_space.labels, manifest.synonyms)
        return [read(report, "") for report in table[manifest.text]]
    return prompts(config.text, config.prompt or manifest.prompt, **_context(manifest, table))


def _context(manifest: Manifest, table: pd.DataFrame) -> dict[str, list[str]]:
    nothing = [""] * len(table)
    columns = {fact: table[column].tolist() for fact, column in manifest.context.items()}
    return {name: columns.get(fact, nothing) for name, fact in (("views", "view"), ("ages", "age"), ("sexes", "sex"))}


def _demographics(manifest: Manifest, table: pd.DataFrame) -> Demographics | None:
    return Demographics.of(**_context(manifest, table)) if manifest.context else None
