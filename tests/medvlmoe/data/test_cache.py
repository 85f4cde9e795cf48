import multiprocessing
import os
import resource
import time

import numpy as np
import pytest

from medvlmoe.data import cache as cache_module
from medvlmoe.data.cache import decoded_images
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import ImageFiles
from medvlmoe.errors import DataError


@pytest.fixture
def images(tmp_path, draw):
    return ImageFiles([draw(tmp_path / f"{number}.png", 20 * number) for number in range(8)])


def test_pixels_are_those_of_the_files_in_order(images, tmp_path):
    decoded = decoded_images(images, ImageShape(3, 10), folder=tmp_path / "cache")
    pixels = np.load(decoded.path, mmap_mode="r")
    assert pixels.shape == (8, 3, 10, 10)
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 5, 1].tolist() == [20 * number for number in range(8)]


def test_the_second_time_nothing_is_decoded(images, tmp_path, monkeypatch):
    first = decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache")
    monkeypatch.setattr(ImageFiles, "decode", lambda *_: pytest.fail("decoded again"))
    assert decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache") == first


def test_another_size_channel_order_or_file_is_another_cache(images, tmp_path, draw):
    folder = tmp_path / "cache"
    paths = {
        decoded_images(images, ImageShape(1, 10), folder=folder).path,
        decoded_images(images, ImageShape(1, 12), folder=folder).path,
        decoded_images(images, ImageShape(3, 10), folder=folder).path,
        decoded_images(images.take(np.array([1, 0])), ImageShape(1, 10), folder=folder).path,
    }
    draw(tmp_path / "3.png", 255, size=24)
    changed = decoded_images(images, ImageShape(1, 10), folder=folder)
    assert len(paths | {changed.path}) == 5
    assert np.load(changed.path)[3, 0, 5, 1] == 255


def test_a_change_of_content_within_one_size_is_seen(images, tmp_path):
    path = images.paths[3]
    first = decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache").path != first.path


def test_a_bad_image_stops_the_build_and_leaves_nothing(images, tmp_path):
    images.paths[5].write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"5\.png"):
        decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_skipped_images_are_recorded_and_stay_known(images, tmp_path):
    images.paths[5].write_bytes(b"not an image")
    for _ in range(2):
        decoded = decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache", skip_bad=True)
        assert list(decoded.bad) == [5]
    with pytest.raises(DataError, match=r"5\.png"):
        decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache")


def test_a_damaged_cache_is_built_again(images, tmp_path):
    decoded = decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache")
    content = decoded.path.read_bytes()
    decoded.path.write_bytes(content[:300])
    decoded_images(images, ImageShape(1, 10), folder=tmp_path / "cache")
    assert decoded.path.read_bytes() == content


def test_a_full_disk_is_one_line_and_leaves_nothing(images, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write the image cache .*; free space or set data\.cache"):
            decoded_images(images, ImageShape(3, 64), folder=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_is_removed(images, tmp_path):
    folder = tmp_path / "cache"
    path = decoded_images(images, ImageShape(1, 10), folder=folder).path
    old, fresh = folder / f".{path.name}.1.tmp", folder / f".{path.name}.2.tmp"
    for temporary in (old, fresh):
        temporary.write_bytes(b"half")
    long_ago = time.time() - 2 * cache_module._ABANDONED_SECONDS
    os.utime(old, (long_ago, long_ago))
    path.unlink()
    decoded_images(images, ImageShape(1, 10), folder=folder)
    assert not old.exists()
    assert fresh.exists()


def test_two_processes_may_build_at_once(images, tmp_path):
    processes = multiprocessing.get_context("fork")
    folder = tmp_path / "cache"

    def build_when_both_are_ready(barrier):
        barrier.wait(timeout=30)
        decoded_images(images, ImageShape(3, 32), folder=folder)

    barrier = processes.Barrier(2)
    workers = [processes.Process(target=build_when_both_are_ready, args=(barrier,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list(folder.iterdir())) == 2
    decoded = decoded_images(images, ImageShape(3, 32), folder=folder)
    assert np.load(decoded.path)[:, 0, 16, 4].tolist() == [20 * number for number in range(8)]
