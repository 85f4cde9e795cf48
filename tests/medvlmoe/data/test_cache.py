import dataclasses
import errno
import multiprocessing
import os
import resource
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medvlmoe.data import cache as cache_module
from medvlmoe.data import decoding, partial_file
from medvlmoe.data.cache import decoded_images
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import ImageFiles
from medvlmoe.errors import DataError

FORK = multiprocessing.get_context("fork")
SHAPE = ImageShape(3, 32)
VALUES = [20 * number for number in range(8)]


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


def test_too_little_space_is_seen_before_anything_is_decoded(images, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFiles, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"needs 19\.2 TB more and its disk has [\d.]+ .B free; .* data\.cache"):
        decoded_images(images, ImageShape(3, 894428), folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_image_that_changes_during_the_build_is_refused(images, tmp_path, draw):
    class Changing(CountedImages):
        def decode(self, position, shape):
            if position == 6:
                draw(self.paths[2], 250, size=30)
            return super().decode(position, shape)

    with pytest.raises(DataError, match=r"2\.png: the file changed while images were decoded \(1 did\)"):
        decoded_images(Changing(images.paths), SHAPE, folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert np.load(decoded_images(images, SHAPE, folder=tmp_path / "cache").path)[2, 0, 16, 4] == 250


@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_may_build_at_once(images, tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(partial_file.fcntl, "flock", no_locks)
    source = CountedImages(images.paths, log=tmp_path / "log", seconds=0.05)
    barrier = FORK.Barrier(2)
    workers = [FORK.Process(target=build_when_ready, args=(source, tmp_path / "cache", barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    decoded = source.log.read_text().split()
    assert len(decoded) == (8 if locks else 16)  # with locks one of them builds and the other waits
    path = decoded_images(images, SHAPE, folder=tmp_path / "cache").path
    assert np.load(path)[:, 0, 16, 4].tolist() == VALUES


def test_the_lock_of_a_killed_process_is_free(images, tmp_path):
    kill_after(5, CountedImages(images.paths, log=tmp_path / "log", seconds=0.2), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".partial"]
    path = decoded_images(images, SHAPE, folder=tmp_path / "cache").path
    assert np.load(path)[:, 0, 16, 4].tolist() == VALUES
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_killed_build_is_gone_on_with(images, tmp_path, every_image_noted):
    images.paths[1].write_bytes(b"not an image")
    kill_after(5, CountedImages(images.paths, log=tmp_path / "log", seconds=0.2), tmp_path / "cache")
    source = CountedImages(images.paths, log=tmp_path / "later")
    decoded = decoded_images(source, SHAPE, folder=tmp_path / "cache", skip_bad=True)
    assert "7" in (tmp_path / "later").read_text().split()
    assert "0" not in (tmp_path / "later").read_text().split()
    assert list(decoded.bad) == [1]
    fresh = decoded_images(images, SHAPE, folder=tmp_path / "fresh", skip_bad=True)
    assert decoded.path.read_bytes() == fresh.path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        path.name for path in (tmp_path / "fresh").iterdir()
    )


@pytest.mark.parametrize("damage", ["the note", "the pixels", "the header"])
def test_a_damaged_rest_of_a_killed_build_is_not_used(images, tmp_path, every_image_noted, damage):
    kill_after(5, CountedImages(images.paths, log=tmp_path / "log", seconds=0.2), tmp_path / "cache")
    rest = {path.suffix: path for path in (tmp_path / "cache").iterdir()}
    if damage == "the note":
        rest[".progress"].write_bytes(b"{")
    elif damage == "the pixels":
        os.truncate(rest[".partial"], 200)
    else:
        rest[".partial"].write_bytes(b"x" * 1_000_000)
    decoded = decoded_images(images, SHAPE, folder=tmp_path / "cache", skip_bad=True)
    fresh = decoded_images(images, SHAPE, folder=tmp_path / "fresh", skip_bad=True)
    assert decoded.path.read_bytes() == fresh.path.read_bytes()


def test_an_interrupted_build_goes_on_and_keeps_its_bad_images(images, tmp_path, every_image_noted):
    images.paths[1].write_bytes(b"not an image")

    class Interrupted(CountedImages):
        def decode(self, position, shape):
            if position == 6:
                raise KeyboardInterrupt
            return super().decode(position, shape)

    with pytest.raises(KeyboardInterrupt):
        decoded_images(Interrupted(images.paths), SHAPE, folder=tmp_path / "cache", skip_bad=True)
    with pytest.raises(DataError, match=r"1\.png"):
        decoded_images(images, SHAPE, folder=tmp_path / "cache")
    assert list(decoded_images(images, SHAPE, folder=tmp_path / "cache", skip_bad=True).bad) == [1]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_threads_than_asked_for(images, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(decoding, "_BLOCK_IMAGES", 1)
    threads = set()

    class Watched(CountedImages):
        def decode(self, position, shape):
            threads.add(threading.get_ident())
            time.sleep(0.02)
            return super().decode(position, shape)

    decoded_images(Watched(images.paths), SHAPE, folder=tmp_path / "cache", workers=workers)
    assert len(threads) == workers


def test_what_nobody_went_on_with_is_removed_after_a_week(images, tmp_path):
    folder = tmp_path / "cache"
    path = decoded_images(images, ImageShape(1, 10), folder=folder).path
    old, fresh, other = folder / ".images-1.npy.partial", folder / ".images-2.npy.partial", folder / ".mine"
    for rest in (old, fresh, other):
        rest.write_bytes(b"half")
    long_ago = time.time() - 8 * 24 * 3600
    for rest in (old, other):
        os.utime(rest, (long_ago, long_ago))
    path.unlink()
    decoded_images(images, ImageShape(1, 10), folder=folder)
    assert [old.exists(), fresh.exists(), other.exists()] == [False, True, True]


def test_the_time_of_change_tells_the_last_use(images, tmp_path):
    decoded_images(images, SHAPE, folder=tmp_path / "cache")
    files = list((tmp_path / "cache").iterdir())
    for file in files:
        os.utime(file, (0, 0))
    decoded_images(images, SHAPE, folder=tmp_path / "cache")
    assert [file.stat().st_mtime > 0 for file in files] == [True, True]


@dataclass(frozen=True)
class CountedImages(ImageFiles):
    """Image files that decode slowly and write down what was decoded, so that other processes can be watched."""

    log: Path | None = None
    seconds: float = 0

    def take(self, rows):
        return dataclasses.replace(self, paths=[self.paths[row] for row in rows.tolist()])

    def decode(self, position, shape):
        time.sleep(self.seconds)
        if self.log is not None:
            with open(self.log, "a") as log:
                log.write(f"{position}\n")
        return super().decode(position, shape)


@pytest.fixture
def every_image_noted(monkeypatch):
    monkeypatch.setattr(cache_module, "_NOTE_SECONDS", 0)
    monkeypatch.setattr(decoding, "_BLOCK_IMAGES", 1)


def build_when_ready(source, folder, barrier):
    barrier.wait(timeout=30)
    decoded_images(source, SHAPE, folder=folder, workers=1)


def kill_after(count, source, folder):
    """Kill a process with SIGKILL once it has decoded ``count`` images."""
    worker = FORK.Process(
        target=decoded_images, args=(source, SHAPE), kwargs={"folder": folder, "skip_bad": True, "workers": 1}
    )
    worker.start()
    while not source.log.exists() or len(source.log.read_text().split()) < count:
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(timeout=60)
    assert worker.exitcode == -signal.SIGKILL


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")
