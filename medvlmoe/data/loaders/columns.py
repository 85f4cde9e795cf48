"""Turn columns of text into label values and image paths: shared by the loaders. N records, Y labels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import DataError

UNCERTAIN = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}
BLANK = {"zeros": 0.0, "ignore": float("nan")}


def binary_values(
    path: Path, table: pd.DataFrame, column: str, *, uncertain: float, blank: float
) -> npt.NDArray[np.float32]:
    """A column of 1, 0, -1 (uncertain) or nothing (blank) as float32.

    Raises:
        DataError: another value, with its line.
    """
    meaning = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": uncertain, "-1.0": uncertain, "": blank, "nan": blank}
    known = {value: meaning.get(value.lower()) for value in table[column].unique()}
    for value, number in known.items():
        if number is None:
            refuse_value(path, table, column, value, "1, 0, -1 (uncertain) or empty (unknown)")
    return table[column].map(known).to_numpy(dtype=np.float32)


def refuse_value(path: Path, table: pd.DataFrame, column: str, value: str, allowed: str) -> None:
    """Raise a DataError for the first record whose ``column`` holds ``value``."""
    row = int((table[column] == value).to_numpy().argmax())
    raise DataError(f"{path} line {table.index[row]}: {column} is '{value}'; allowed: {allowed}")


def one_hot(positions: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """Class positions as one-hot rows; a negative position is unknown: NaN."""
    labels_NY = np.zeros((len(positions), count), dtype=np.float32)
    known = positions >= 0
    labels_NY[np.flatnonzero(known), positions[known]] = 1
    labels_NY[~known] = np.nan
    return labels_NY


def files_below(root: Path, suffix: str) -> dict[str, Path]:
    """Name -> path of all files below ``root`` that end with ``suffix``, walking it once."""
    found: dict[str, Path] = {}
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):  # image folders are often links to another disk
        visited.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(folder, name)) not in visited)
        for name in sorted(names):
            if name.endswith(suffix):
                found.setdefault(name, Path(folder, name))
    return found


def missing_images(
    config: DatasetConfig, root: Path, names: Sequence[str], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which records have no image on disk.

    Raises:
        DataError: there are some, and ``allow_subset`` is false.
    """
    missing = ~present
    count = int(missing.sum())
    if count and not config.allow_subset:
        first = names[int(missing.argmax())]
        raise DataError(
            f"{root}: {count} of {len(names)} images are not on disk, the first is {first}; complete the folder or "
            "set allow_subset=true to use those that are there"
        )
    return missing


def splits_by_value(path: Path, table: pd.DataFrame, column: str, meaning: Mapping[str, str]) -> npt.NDArray[np.str_]:
    """A split column in our words.

    Raises:
        DataError: a value that means no split, with its line.
    """
    known = {value: meaning.get(value.lower(), "") for value in table[column].unique()}
    for value, split in known.items():
        if not split:
            refuse_value(path, table, column, value, ", ".join(dict.fromkeys(meaning)))
    return table[column].map(known).to_numpy(dtype="<U10")
