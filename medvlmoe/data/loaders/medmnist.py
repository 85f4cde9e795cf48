"""PathMNIST and RetinaMNIST (Yang et al. 2023) at 28, 64, 128 and 224 pixels: ``pathmnist_224.npz`` and so on.

One image is one patient here: MedMNIST does not tell who is who.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medvlmoe.data.config import DatasetConfig
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import resized
from medvlmoe.data.index import SiteIndex
from medvlmoe.data.known_labels import SPACE_OF_KIND
from medvlmoe.data.labels import LabelSpace
from medvlmoe.data.loaders.columns import one_hot
from medvlmoe.data.loaders.npz_rows import NpzRows
from medvlmoe.data.problems import Problems
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.text import prompts
from medvlmoe.errors import ConfigError, DataError

OPENING = {
    "pathmnist": "Hematoxylin and eosin stained colorectal tissue patch",
    "retinamnist": "Color fundus photograph, diabetic retinopathy grading",
}
_LARGEST = 1 << 31
_SPLIT_NAME = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


@dataclass(frozen=True)
class ArrayImages:
    """Rows of a MedMNIST file, as an image source of :mod:`medvlmoe.data.index`."""

    path: Path
    splits: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64]
    arrays: dict[str, NpzRows]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: npt.NDArray[np.int64]) -> "ArrayImages":
        """The images at these positions."""
        return ArrayImages(self.path, self.splits[rows], self.rows[rows], self.arrays)

    def fingerprints(self) -> Iterator[str]:
        """The file's name, size and time of change, then the row of each image."""
        status = self.path.stat()
        yield f"{self.path.absolute()} {status.st_size} {status.st_mtime_ns}"
        for split, row in zip(self.splits.tolist(), self.rows.tolist(), strict=True):
            yield f"{split} {row}"

    def decode(self, position: int, shape: ImageShape) -> npt.NDArray[np.uint8]:
        """One image as uint8, channels first.

        Raises:
            ConfigError: volumes are wanted.
            DataError: the file is damaged there.
        """
        if shape.depth is not None:
            raise ConfigError(f"{self.path} holds flat images, and this model reads volumes; choose other data")
        split, row = str(self.splits[position]), int(self.rows[position])
        try:
            pixels = self.arrays[split][row]
        except Exception as error:  # a damaged zip raises one of many
            raise DataError(_damaged(self.path, error)) from error
        return resized(Image.fromarray(pixels), shape.size, shape.channels).transpose(2, 0, 1)


def read(config: DatasetConfig, root: Path, problems: Problems) -> SiteIndex:
    """The records of all three splits, train first.

    Raises:
        DataError: the ``.npz`` file is missing or malformed.
    """
    path = npz_path(config, root)
    labels, arrays = _open(path)
    space = LabelSpace.known(SPACE_OF_KIND[config.kind])
    for split, values in labels.items():
        for row in np.flatnonzero((values < 0) | (values >= len(space))).tolist():
            allowed = f"a class from 0 to {len(space) - 1}; is this the file of {config.kind}?"
            problems.add(path, f"{split} label in row {row} (from 0) is not {allowed}")
            values[row] = -1
        shape = (len(values), config.size, config.size, 3)
        if arrays[split].shape != shape or arrays[split].dtype != np.uint8:
            found = " x ".join(map(str, arrays[split].shape))
            raise DataError(
                f"{path}: the {split} images are {found} {arrays[split].dtype}, and should be "
                f"{' x '.join(map(str, shape))} uint8 to fit its labels and size={config.size}; copy it again"
            )
    splits = np.concatenate([np.full(len(values), split, dtype="<U10") for split, values in labels.items()])
    rows = np.concatenate([np.arange(len(values), dtype=np.int64) for values in labels.values()])
    names = [f"{split}-{row}" for split, row in zip(splits.tolist(), rows.tolist(), strict=True)]
    nothing = [""] * len(names)
    return SiteIndex(
        root=root,
        images=ArrayImages(path, splits, rows, arrays),
        labels_NY=one_hot(np.concatenate(list(labels.values())), len(space)),
        patient_ids=names,
        tells_patients=False,
        study_ids=names,
        texts=prompts(config.text, config.prompt or OPENING[config.kind], views=nothing, ages=nothing, sexes=nothing),
        splits=splits,
        label_space=space,
        grayscale=False,
        notes={"file": path.name},
    )


def npz_path(config: DatasetConfig, root: Path) -> Path:
    """The file that holds the benchmark at the configured size."""
    return root / f"{config.kind}{'' if config.size == 28 else f'_{config.size}'}.npz"


def _open(path: Path) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, NpzRows]]:
    """Labels and images by split; the images stay on disk."""
    if not path.exists():
        raise DataError(f"{path}: no such file; put the MedMNIST file there, or choose another size")
    try:
        with np.load(path) as content:
            wanted = [f"{name}_{kind}" for name in _SPLIT_NAME.values() for kind in ("labels", "images")]
            absent = [key for key in wanted if key not in content.files]
            if absent:
                raise DataError(f"{path}: no array '{absent[0]}'; is this a MedMNIST file?")
            labels = {split: _classes(path, content, f"{name}_labels") for split, name in _SPLIT_NAME.items()}
        arrays = {split: NpzRows(path, f"{name}_images") for split, name in _SPLIT_NAME.items()}
    except DataError:
        raise
    except Exception as error:  # a damaged zip raises one of many
        raise DataError(_damaged(path, error)) from error
    return labels, arrays


def _classes(path: Path, content: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[np.int64]:
    """One class an image; -1 for a number that is none."""
    values = content[name]
    if values.dtype.kind not in "iufb" or values.shape not in ((len(values), 1), (len(values),)):
        found = f"{' x '.join(map(str, values.shape))} {values.dtype}"
        raise DataError(f"{path}: '{name}' is {found}, and should be one number an image; is this a MedMNIST file?")
    values = values.reshape(-1)
    whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < _LARGEST)
    return np.where(whole, values, -1).astype(np.int64)


def _damaged(path: Path, error: Exception) -> str:
    return f"{path}: not a whole .npz file ({' '.join(str(error).split())}); copy it again"
