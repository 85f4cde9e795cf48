from pathlib import Path

import numpy as np
from PIL import Image

from medvlmoe.data.phantom.mark import NOTICE, save_image, stamp


def test_mark_is_the_same_in_every_image() -> None:
    dark, bright = stamp(np.zeros((64, 64), np.uint8)), stamp(np.full((64, 64), 255, np.uint8))
    marked = dark > 0
    assert np.array_equal(marked, bright < 255)
    assert 5 < marked.sum() < 20
    assert set(dark[marked].tolist()) == set(bright[marked].tolist()) == {200}
    assert not marked[:56].any()
    assert not marked[:, :56].any()


def test_mark_grows_with_the_image_and_fits_colour() -> None:
    small, large = (stamp(np.zeros((size, size, 3), np.uint8)) for size in (64, 256))
    assert large.any(axis=-1).sum() == 16 * small.any(axis=-1).sum()


def test_files_carry_mark_and_notice(phantoms: Path, tmp_path: Path) -> None:
    marked = stamp(np.zeros((64, 64), np.uint8)) > 0
    for path in (phantoms / "chestxray14" / "images").iterdir():
        with Image.open(path) as image:
            assert image.info["Comment"] == NOTICE
            assert set(np.asarray(image)[marked].tolist()) == {200}
    with np.load(phantoms / "medmnist" / "pathmnist_64.npz") as arrays:
        assert (arrays["test_images"][:, marked] == 200).all()
    save_image(tmp_path / "folder" / "one.jpg", np.zeros((28, 28, 3), np.uint8))
    with Image.open(tmp_path / "folder" / "one.jpg") as image:
        assert image.info["comment"].decode() == NOTICE
