import pytest

from medvlmoe.data import DatasetConfig
from medvlmoe.data.check.published import published_counts
from medvlmoe.data.known_labels import CHEXPERT


def published(kind: str, version: str = "v2020"):
    counts = published_counts(DatasetConfig(kind=kind, root=""), version)
    assert counts is not None
    return counts.parts


def test_parts_of_chestxray14_add_up_to_the_whole():
    for version in ("v2020", "v1"):
        parts = published("chestxray14", version)
        for size in ("images", "patients"):
            assert getattr(parts["train_val"], size) + getattr(parts["test"], size) == getattr(parts["all"], size)
    parts = published("chestxray14")
    for label, count in parts["all"].labels["positive"].items():
        assert parts["train_val"].labels["positive"][label] + parts["test"].labels["positive"][label] == count


def test_the_values_of_a_chexpert_label_add_up_to_its_images():
    train = published("chexpert")["train"]
    for label in CHEXPERT:
        assert sum(by_label[label] for by_label in train.labels.values()) == 223_414
    assert sum(part.images for part in published("chexpert").values()) == 224_316
    assert sum(part.patients for part in published("chexpert").values()) == 65_240


def test_parts_of_mimic_add_up_to_the_whole():
    parts = published("mimic_cxr")
    for size in ("images", "studies", "patients"):
        assert sum(getattr(parts[name], size) for name in ("train", "validate", "test")) == getattr(parts["all"], size)


@pytest.mark.parametrize("kind", ["pathmnist", "retinamnist"])
def test_every_medmnist_image_has_one_class_and_the_package_agrees(kind):
    import medmnist

    names = {"train": "train", "val": "validation", "test": "test"}
    for name, count in medmnist.INFO[kind]["n_samples"].items():
        part = published(kind)[names[name]]
        assert part.images == count == sum(part.labels["positive"].values())


def test_nothing_is_published_about_a_hospital():
    assert published_counts(DatasetConfig(kind="manifest", root="")) is None
