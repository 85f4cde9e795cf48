"""Turn columns of text into label values and image paths: shared by the loaders. N records, Y labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.known_labels import canonical_label
from medvlmoe.data.problems import Problems
from medvlmoe.data.tables import require_columns
from medvlmoe.errors import DataError

_CODES = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": float("nan"), "nan": float("nan")}


def label_codes(path: Path, table: pd.DataFrame, column: str, problems: Problems) -> npt.NDArray[np.float32]:
    """A column of 1, 0, -1 (uncertain) or nothing (blank, NaN) as float32; other values are problems, and NaN."""
    known = {value: _CODES.get(value.lower()) for value in table[column].unique()}
    wrong = [value for value, code in known.items() if code is None]
    take_down(problems, path, table, column, wrong, "1, 0, -1 (uncertain) or empty (unknown)")
    return table[column].map(known).to_numpy(dtype=np.float32)


def label_table(path: Path, table: pd.DataFrame, labels: Sequence[str], problems: Problems) -> npt.NDArray[np.float32]:
    """The codes of several labels, N x Y. Columns are found by name, in any order and in any known spelling.

    Raises:
        DataError: a label has no column.
    """
    column_of = {canonical_label(column): column for column in table.columns} | {name: name for name in table.columns}
    require_columns(path, table, [label for label in labels if label not in column_of])
    if not labels:
        return np.zeros((len(table), 0), dtype=np.float32)
    return np.stack([label_codes(path, table, column_of[label], problems) for label in labels], axis=1)


def take_down(
    problems: Problems, path: Path, table: pd.DataFrame, column: str, values: Iterable[str], allowed: str
) -> None:
    """A problem for each of ``values``, with the lines of all records whose ``column`` holds it."""
    concerned = table[column][table[column].isin(list(values))]
    for value, rows in concerned.groupby(concerned, sort=False):
        problems.add(path, f"{column} is '{value}'; allowed: {allowed}", rows.index.tolist())


def take_down_repeated(problems: Problems, path: Path, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A problem for each record whose ``column`` repeats an earlier one; returns the table without them."""
    repeated = table[column].duplicated().to_numpy()
    for line, value in zip(table.index[repeated].tolist(), table[column][repeated].tolist(), strict=True):
        problems.add(path, f"{column} '{value}' is there twice; keep one of the rows", [line])
    return table[~repeated] if repeated.any() else table


def take_down_empty(problems: Problems, path: Path, table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A problem for each record that lacks its image, study or patient; returns the table without them."""
    for column in columns:
        empty = (table[column] == "").to_numpy()
        if empty.any():
            problems.add(path, f"{column} is empty; complete or remove the row", table.index[empty].tolist())
            table = table[~empty]
    return table


def one_hot(positions: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """Class positions as one-hot rows; a negative position is unknown: NaN."""
    labels_NY = np.zeros((len(positions), count), dtype=np.float32)
    known = positions >= 0
    labels_NY[np.flatnonzero(known), positions[known]] = 1
    labels_NY[~known] = np.nan
    return labels_NY


def files_below(root: Path, suffix: str) -> dict[str, Path]:
    """Name in lower case -> path of all files below ``root`` that end with ``suffix``, or ``.PNG``; walks it once."""
    found: dict[str, Path] = {}
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):  # image folders are often links to another disk
        visited.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(folder, name)) not in visited)
        for name in sorted(names):
            if name.lower().endswith(suffix):
                found.setdefault(name.lower(), Path(folder, name))
    return found


def missing_images(
    config: DatasetConfig, root: Path, names: Sequence[str], present: npt.NDArray[np.bool_], problems: Problems
) -> npt.NDArray[np.bool_]:
    """Which records have no image on disk.

    Raises:
        DataError: there are some, and ``allow_subset`` is false. Malformed rows are named first: they may be the cause.
    """
    missing = ~present
    count = int(missing.sum())
    if count and not config.allow_subset:
        problems.refuse()
        first = names[int(missing.argmax())]
        raise DataError(
            f"{root}: {count} of {len(names)} images are not on disk, the first is {first}; complete the folder or "
            "set allow_subset=true to use those that are there"
        )
    return missing


def splits_by_value(
    path: Path, table: pd.DataFrame, column: str, meaning: Mapping[str, str], problems: Problems
) -> npt.NDArray[np.str_]:
    """A split column in our words; a value that means no split is a problem, and empty."""
    known = {value: meaning.get(value.lower(), "") for value in table[column].unique()}
    wrong = [value for value, split in known.items() if not split]
    take_down(problems, path, table, column, wrong, ", ".join(dict.fromkeys(meaning)))
    return table[column].map(known).to_numpy(dtype="<U10")
