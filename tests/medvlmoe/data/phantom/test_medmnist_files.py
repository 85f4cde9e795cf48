from pathlib import Path

import medmnist
import numpy as np
import pytest

from medvlmoe.data.phantom import PhantomConfig, generate_phantoms
from medvlmoe.data.phantom.medmnist_files import file_name
from medvlmoe.data.phantom.retina import fundus

CLASSES = {"pathmnist": 9, "retinamnist": 5}


@pytest.mark.parametrize("benchmark", CLASSES)
def test_keys_shapes_and_classes(phantoms: Path, benchmark: str) -> None:
    with np.load(phantoms / "medmnist" / f"{benchmark}_64.npz") as arrays:
        assert sorted(arrays) == sorted(
            f"{s}_{kind}" for s in ("train", "val", "test") for kind in ("images", "labels")
        )
        total = 0
        for split in ("train", "val", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            assert images.dtype == labels.dtype == np.uint8
            assert images.shape == (len(labels), 64, 64, 3)
            assert labels.shape == (len(labels), 1)
            assert set(labels[:, 0].tolist()) == set(range(CLASSES[benchmark]))
            total += len(labels)
        assert total == 80


@pytest.mark.parametrize("class_name", ["PathMNIST", "RetinaMNIST"])
def test_the_medmnist_package_reads_them(phantoms: Path, class_name: str) -> None:
    dataset = getattr(medmnist, class_name)(split="val", size=64, root=str(phantoms / "medmnist"), download=False)
    image, label = dataset[0]
    assert image.size == (64, 64)
    assert label.shape == (1,)


def test_size_28_has_the_short_name(tmp_path: Path) -> None:
    assert file_name("pathmnist", 28) == "pathmnist.npz"
    generate_phantoms(
        PhantomConfig(root=str(tmp_path / "p"), images_per_site=60, image_size=28, benchmarks=["pathmnist"])
    )
    assert [path.name for path in (tmp_path / "p" / "medmnist").glob("*.npz")] == ["pathmnist.npz"]


def test_test_tissue_comes_from_another_stain(phantoms: Path) -> None:
    with np.load(phantoms / "medmnist" / "pathmnist_64.npz") as arrays:
        colour = {s: arrays[f"{s}_images"].reshape(-1, 3).astype(float).mean(0) for s in ("train", "val", "test")}
    # Blue over red tells the two stains apart whatever the mix of classes.
    ratio = {split: value[2] / value[0] for split, value in colour.items()}
    assert abs(ratio["train"] - ratio["val"]) < abs(ratio["train"] - ratio["test"])


def test_grades_follow_the_official_frequencies(phantoms: Path) -> None:
    with np.load(phantoms / "medmnist" / "retinamnist_64.npz") as arrays:
        share = np.bincount(arrays["train_labels"][:, 0], minlength=5) / len(arrays["train_labels"])
    assert share == pytest.approx(np.array([0.45, 0.12, 0.19, 0.18, 0.06]), abs=0.03)


def test_lesions_grow_with_the_grade() -> None:
    """Local roughness of the fundus rises with the grade up to grade 3, and 4 stays above 1."""

    def roughness(grade: int) -> float:
        images = [fundus(grade, 64, np.random.default_rng(seed))[16:48, 16:48, 1].astype(float) for seed in range(30)]
        return float(np.mean([np.abs(np.diff(image, axis=0)).mean() / image.mean() for image in images]))

    measured = [roughness(grade) for grade in range(5)]
    assert measured[0] < measured[1] < measured[2] < measured[3]
    assert measured[4] > measured[1]
