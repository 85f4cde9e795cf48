import numpy as np
import pytest

from medvlmoe.data import DatasetConfig, load_index
from medvlmoe.errors import DataError

COUNTS = {"train": 20, "val": 6, "test": 8}


@pytest.fixture
def make_medmnist(tmp_path):
    def make(kind="pathmnist", *, size=28, classes=9, counts=COUNTS, **config):
        arrays = {}
        for number, (name, count) in enumerate(counts.items()):
            images = np.zeros((count, size, size, 3), dtype=np.uint8)
            images[..., 1] = 50 * number + np.arange(count)[:, None, None]
            arrays[f"{name}_images"] = images
            arrays[f"{name}_labels"] = (np.arange(count) % classes)[:, None].astype(np.uint8)
        np.savez_compressed(tmp_path / (f"{kind}.npz" if size == 28 else f"{kind}_{size}.npz"), **arrays)
        return DatasetConfig(**{"kind": kind, "root": str(tmp_path), "size": size, **config})

    return make


@pytest.mark.parametrize("size", [28, 64])
def test_splits_labels_and_pixels(make_medmnist, build, size):
    config = make_medmnist(size=size)
    index = load_index(config)
    assert [(index.splits == part).sum() for part in ("train", "validation", "test")] == [20, 6, 8]
    assert index.labels_NY.argmax(axis=1)[:20].tolist() == [number % 9 for number in range(20)]
    dataset = build(config, "test", mean=0.0, std=1.0)
    image_BCHW = dataset.__getitems__([7, 0]).image_BCHW
    assert (image_BCHW * 255).round()[:, :, 5, 5].tolist() == [[0, 107, 0], [0, 100, 0]]


def test_retina_is_ordinal_with_five_grades(make_medmnist):
    space = load_index(make_medmnist("retinamnist", classes=5)).label_space
    assert (space.blocks[0].task, len(space)) == ("ordinal", 5)


def test_split_by_patient_pools_and_cuts_images(make_medmnist):
    index = load_index(make_medmnist(counts={"train": 300, "val": 50, "test": 50}, split="patient"))
    assert len(set(index.patient_ids)) == 400
    assert 50 < (index.splits == "test").sum() < 110


def test_mistakes_are_named(make_medmnist, tmp_path, build):
    with pytest.raises(DataError, match=r"pathmnist_128.npz: no such file"):
        load_index(DatasetConfig(kind="pathmnist", root=str(tmp_path), size=128))
    with pytest.raises(
        DataError, match=r"train label in row 5 \(from 0\) is not a class from 0 to 4.* \(and 11 more such rows"
    ):
        load_index(make_medmnist("retinamnist", classes=9))
    with pytest.raises(DataError, match="all 20 training records have the class"):
        load_index(make_medmnist(classes=1))
    config = make_medmnist()
    path = tmp_path / "pathmnist.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"not a whole \.npz file"):
        load_index(config)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(DataError, match="no array 'train_labels'"):
        load_index(config)
    place = whole.index(b"test_images.npy") + 40
    path.write_bytes(whole[:place] + b"\x00" * 20 + whole[place + 20 :])
    with pytest.raises(DataError, match=r"not a whole \.npz file"):
        build(config, "test")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((20, 1), 1.5), "train label in row 0"),
        (np.full((20, 1), np.nan), "train label in row 0"),
        (np.array([["a"]] * 20), "'train_labels' is 20 x 1 <U1"),
        (np.zeros((20, 9), dtype=np.uint8), "'train_labels' is 20 x 9 uint8"),
        (np.zeros((19, 1), dtype=np.uint8), "the train images are 20 x 28 x 28 x 3 uint8, and should be 19 x"),
    ],
)
def test_labels_of_another_kind(make_medmnist, tmp_path, labels, message):
    config = make_medmnist()
    with np.load(tmp_path / "pathmnist.npz") as content:
        arrays = {**content, "train_labels": labels}
    np.savez(tmp_path / "pathmnist.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_index(config)
