"""PathMNIST and RetinaMNIST (Yang et al. 2023) through the ``medmnist`` package.

One image is one patient here: MedMNIST does not tell who is who.
"""

import functools
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.data.text import prompts
from medvlmoe.errors import DataError

_CLASS = {"pathmnist": "PathMNIST", "retinamnist": "RetinaMNIST"}
OPENING = {
    "pathmnist": "Hematoxylin and eosin stained colorectal tissue patch",
    "retinamnist": "Color fundus photograph, diabetic retinopathy grading",
}
_SPLIT_NAME = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


class _Arrays:
    """The images of one ``.npz``, read once per split when the first of them is asked for."""

    def __init__(self, class_name: str, root: Path, size: int) -> None:
        self._class_name, self._root, self._size = class_name, root, size
        self._read: dict[str, npt.NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            if split not in self._read:
                self._read[split] = self._images(split)
        return self._read[split][row]

    def _images(self, split: str) -> npt.NDArray[np.uint8]:
        import medmnist

        try:
            dataset = getattr(medmnist, self._class_name)(
                split=_SPLIT_NAME[split], size=self._size, root=str(self._root), download=False, mmap_mode="r"
            )
        except Exception as error:  # a damaged zip raises one of many
            detail = " ".join(str(error).split())
            raise DataError(f"{self._root}: damaged {self._class_name} file ({detail}); copy it again") from error
        if len(dataset.imgs) != len(dataset.labels) or dataset.imgs.dtype != np.uint8:
            raise DataError(f"{self._root}: the {self._class_name} file's {split} images do not fit its labels")
        return dataset.imgs


@dataclass(frozen=True)
class ArrayImages:
    """Rows of a MedMNIST file, as an image source of :mod:`medvlmoe.data.index`."""

    path: Path
    splits: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64]
    arrays: _Arrays = field(repr=False)

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
        """One image as uint8, channels first."""
        pixels = self.arrays.image(str(self.splits[position]), int(self.rows[position]))
        return resized(Image.fromarray(pixels), shape.size, shape.channels).transpose(2, 0, 1)


def read(config: DatasetConfig, root: Path) -> SiteIndex:
    """The records of all three splits, train first.

    Raises:
        DataError: the ``.npz`` file is missing or malformed.
    """
    import medmnist

    class_name = _CLASS[config.kind]
    flag = class_name.lower() + ("" if config.size == 28 else f"_{config.size}")
    path = root / f"{flag}.npz"
    labels = _labels(path)
    space = LabelSpace.known(SPACE_OF_KIND[config.kind])
    splits = np.concatenate([np.full(len(values), split, dtype="<U10") for split, values in labels.items()])
    rows = np.concatenate([np.arange(len(values), dtype=np.int64) for values in labels.values()])
    classes = np.concatenate(list(labels.values()))
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(space):
        raise DataError(f"{path}: a class is outside 0 to {len(space) - 1}; is this {class_name}?")
    names = [f"{split}-{row}" for split, row in zip(splits.tolist(), rows.tolist(), strict=True)]
    nothing = [""] * len(names)
    published = medmnist.INFO[class_name.lower()]["MD5" if config.size == 28 else f"MD5_{config.size}"]
    as_published = _md5(path, path.stat().st_mtime_ns) == published
    return SiteIndex(
        root=root,
        images=ArrayImages(path, splits, rows, _Arrays(class_name, root, config.size)),
        labels_NY=one_hot(classes, len(space)),
        patient_ids=names,
        study_ids=names,
        texts=prompts(config.text, config.prompt or OPENING[config.kind], views=nothing, ages=nothing, sexes=nothing),
        splits=splits,
        label_space=space,
        grayscale=False,
        notes={"file": "as published" if as_published else "differs from the published file"},
    )


def _labels(path: Path) -> dict[str, npt.NDArray[np.int64]]:
    if not path.exists():
        raise DataError(f"{path}: no such file; put the MedMNIST file there, or choose another size")
    try:
        with np.load(path) as content:  # members are read one by one: the images stay on disk here
            keys = {split: f"{name}_labels" for split, name in _SPLIT_NAME.items()}
            absent = [key for key in keys.values() if key not in content.files]
            if absent:
                raise DataError(f"{path}: no array '{absent[0]}'; is this a MedMNIST file?")
            return {split: content[key].reshape(-1).astype(np.int64) for split, key in keys.items()}
    except DataError:
        raise
    except Exception as error:  # a damaged zip raises one of many
        raise DataError(f"{path}: not a whole .npz file ({' '.join(str(error).split())}); copy it again") from error


@functools.lru_cache
def _md5(path: Path, _changed: int) -> str:
    digest: Any = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
