"""Phantom PathMNIST and RetinaMNIST as the npz files that the ``medmnist`` package reads."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medvlmoe.data.phantom.mark import NOTICE, stamp
from medvlmoe.data.phantom.retina import fundus
from medvlmoe.data.phantom.tissue import CLASS_COUNT, FIRST_CENTRE, MISLABELLED, SECOND_CENTRE, tissue_patch
from medvlmoe.seeds import derive_seed

FOLDER = "medmnist"
# Shares of train, val and test. The official ones leave too few images for validation in a small set.
_SHARES = {"val": 0.15, "test": 0.20}

# Frequency of the classes in the official training parts.
_TISSUE_FREQUENCY = (9366, 9509, 10360, 10401, 8006, 12182, 7886, 9401, 12885)
_GRADE_FREQUENCY = (486, 128, 206, 194, 66)


def write_pathmnist(root: Path, images: int, size: int, seed: int) -> int:
    """Write ``pathmnist[_size].npz``; returns the number of images."""

    def patch(label: int, split: str, random: np.random.Generator) -> np.ndarray:
        shown = int(random.integers(CLASS_COUNT)) if random.random() < MISLABELLED else label
        return tissue_patch(shown, SECOND_CENTRE if split == "test" else FIRST_CENTRE, size, random)

    return _write(root, "pathmnist", images, size, seed, _TISSUE_FREQUENCY, patch)


def write_retinamnist(root: Path, images: int, size: int, seed: int) -> int:
    """Write ``retinamnist[_size].npz``; returns the number of images."""
    return _write(
        root, "retinamnist", images, size, seed, _GRADE_FREQUENCY, lambda grade, _, random: fundus(grade, size, random)
    )


def file_name(benchmark: str, size: int) -> str:
    """Official file name: the size is left out for 28 pixels."""
    return f"{benchmark}.npz" if size == 28 else f"{benchmark}_{size}.npz"


def _write(
    root: Path,
    benchmark: str,
    images: int,
    size: int,
    seed: int,
    frequency: Sequence[int],
    draw: Callable[[int, str, np.random.Generator], np.ndarray],
) -> int:
    counts = {split: round(share * images) for split, share in _SHARES.items()}
    counts = {"train": images - sum(counts.values()), **counts}
    arrays: dict[str, np.ndarray] = {}
    for split, count in counts.items():
        labels = _class_list(count, frequency)
        np.random.default_rng(derive_seed(seed, "order", split)).shuffle(labels)
        pictures = np.empty((count, size, size, 3), dtype=np.uint8)
        for index, label in enumerate(labels):
            pictures[index] = stamp(draw(int(label), split, np.random.default_rng(derive_seed(seed, split, index))))
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = pictures, labels[:, None].astype(np.uint8)
    path = root / FOLDER / file_name(benchmark, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = NOTICE.encode()
    return images


def _class_list(count: int, frequency: Sequence[int]) -> np.ndarray:
    """``count`` labels with the given frequencies, but no class without an image where ``count`` allows it."""
    share = np.array(frequency) / sum(frequency)
    per_class = np.maximum(np.floor(share * count).astype(int), 1)
    while per_class.sum() > count:
        per_class[np.argmax(per_class)] -= 1
    for index in np.argsort(per_class - share * count)[: count - per_class.sum()]:
        per_class[index] += 1
    return np.repeat(np.arange(len(frequency)), per_class)
