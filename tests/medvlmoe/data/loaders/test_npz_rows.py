import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medvlmoe.data import DatasetConfig
from medvlmoe.data.decoding import decode_in_order
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.loaders import npz_rows
from medvlmoe.data.loaders.npz_rows import NpzRows
from medvlmoe.data.loaders.registry import read_index
from medvlmoe.data.problems import Problems

IMAGES = np.random.default_rng(0).integers(0, 255, (300, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def rows(request, tmp_path, monkeypatch):
    monkeypatch.setattr(npz_rows, "_WINDOW_BYTES", 20 * 48)
    monkeypatch.setattr(npz_rows, "_ROWS_PER_CORE", 0)
    request.param(tmp_path / "a.npz", labels=np.arange(3), train_images=IMAGES, test_images=IMAGES[::-1])
    return NpzRows(tmp_path / "a.npz", "train_images")


@pytest.mark.parametrize("order", [range(300), range(299, -1, -7), [5, 250, 4, 250, 0, 299]])
def test_rows_in_any_order(rows, order):
    assert (len(rows), rows.shape) == (300, (300, 4, 4, 3))
    for row in order:
        np.testing.assert_array_equal(rows[row], IMAGES[row])


def test_several_threads_and_another_process(rows):
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(rows.__getitem__, range(300)))), IMAGES)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))[7], IMAGES[7])


def test_rising_order_reads_the_file_once_and_keeps_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_rows, "_WINDOW_BYTES", 20 * 48)
    monkeypatch.setattr(npz_rows, "_ROWS_PER_CORE", 0)
    np.savez_compressed(tmp_path / "a.npz", train_images=IMAGES)
    rows = NpzRows(tmp_path / "a.npz", "train_images")
    opened = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *a, real=zipfile.ZipFile.open: opened.append(a) or real(*a))
    for row in [*range(0, 300, 3), 290]:  # a neighbour that another thread asks for late is still there
        rows[row]
        assert len(rows._window) <= 20
    assert len(opened) == 1


def test_a_row_that_is_not_there(rows):
    with pytest.raises(IndexError, match="row 300 of 300 rows"):
        rows[300]


def test_damage(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", train_images=IMAGES)
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    whole[5000:5040] = bytes(40)
    (tmp_path / "a.npz").write_bytes(whole)
    rows = NpzRows(tmp_path / "a.npz", "train_images")
    with pytest.raises(Exception, match=r"(?i)error|bad|ends|invalid"):
        [rows[row] for row in range(300)]
    np.savez(tmp_path / "b.npz", images=np.asfortranarray(IMAGES))
    with pytest.raises(ValueError, match="do not lie one after the other"):
        NpzRows(tmp_path / "b.npz", "images")


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_cache_of_many_workers_reads_the_file_once(tmp_path, monkeypatch, workers):
    """The window grows with the cores, because blocks are decoded side by side."""
    monkeypatch.setattr(npz_rows, "_WINDOW_BYTES", 0)
    monkeypatch.setattr(npz_rows, "usable_cores", lambda: workers)
    many = np.resize(IMAGES, (2000, 28, 28, 3))
    labels = np.zeros((2000, 1), np.uint8)
    parts = {
        f"{part}_{kind}": array
        for part in ("train", "val", "test")
        for kind, array in (("images", many[:9]), ("labels", labels[:9]))
    }
    np.savez_compressed(tmp_path / "pathmnist.npz", **{**parts, "train_images": many, "train_labels": labels})
    images = read_index(DatasetConfig(kind="pathmnist", root="", size=28), tmp_path, Problems()).images
    restarts = []
    monkeypatch.setattr(
        NpzRows, "_restart", lambda self, real=NpzRows._restart: restarts.append(self.name) or real(self)
    )
    decoded = [block.pixels for block in decode_in_order(images, ImageShape(3, 28), start=0, workers=workers)]
    np.testing.assert_array_equal(np.concatenate(decoded)[:2000], many.transpose(0, 3, 1, 2))
    assert restarts.count("train_images") == 1
