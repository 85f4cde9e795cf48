"""Decoded images, kept once on disk: from the second epoch (and run) on, nothing is decoded.

One file per list of images: uint8, N x C x S x S (volumes: N x C x D x S x S), memory-mapped. Its name is a hash of
the source files' names, sizes and times of change and of the shape, so a changed file is never read from an old cache.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.index import ImageSource
from medvlmoe.errors import DataError

CACHE_VERSION = 2  # raise it whenever decoding or resizing changes
_ABANDONED_SECONDS = 3600
_CHUNK = 256  # images decoded between two writes: bounds the memory


@dataclass(frozen=True)
class DecodedImages:
    """A finished cache file.

    Attributes:
        path: the ``.npy`` file, uint8, one image after the other.
        bad: position of each image that could not be decoded (its pixels are 0) -> reason.
    """

    path: Path
    bad: dict[int, str]


def decoded_images(images: ImageSource, shape: ImageShape, *, folder: Path, skip_bad: bool = False) -> DecodedImages:
    """The cache of ``images``, built now if it is not there.

    Two processes may build the same cache at once: each writes its own file and renames it when it is whole.

    Args:
        images: what to decode.
        shape: shape of every decoded image.
        folder: where caches are kept; made if missing.
        skip_bad: record images that cannot be decoded instead of stopping at the first.

    Raises:
        DataError: an image cannot be decoded (named), or the cache cannot be written (disk full).
    """
    path = folder / f"images-{_key(images, shape)}.npy"
    bad_file = path.with_suffix(".json")
    bad = _finished(path, bad_file, (len(images), *shape.dimensions))
    if bad is None:
        bad = _build(images, shape, path, bad_file, skip_bad)
    if bad and not skip_bad:
        raise DataError(next(iter(bad.values())))
    return DecodedImages(path, bad)


def _key(images: ImageSource, shape: ImageShape) -> str:
    digest = hashlib.sha256(f"version {CACHE_VERSION}, {shape.dimensions}\n".encode())
    for line in images.fingerprints():
        digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _finished(path: Path, bad_file: Path, shape: tuple[int, ...]) -> dict[int, str] | None:
    """The images a finished cache lacks, or ``None`` if there is no cache or it is damaged."""
    try:
        if np.load(path, mmap_mode="r").shape != shape:
            return None
        return {int(place): reason for place, reason in json.loads(bad_file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, EOFError):
        return None


def _build(images: ImageSource, shape: ImageShape, path: Path, bad_file: Path, skip_bad: bool) -> dict[int, str]:
    bad: dict[int, str] = {}

    def decode(position: int) -> npt.NDArray[np.uint8]:
        try:
            return images.decode(position, shape)
        except DataError as error:
            if not skip_bad:
                raise
            bad[position] = str(error)
            return np.zeros(shape.dimensions, dtype=np.uint8)

    def write_images(file: IO[bytes]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *shape.dimensions)}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in _decoded_chunks(decode, len(images)):
            file.write(chunk.tobytes())

    # Plain writes, not a writable memory map: on a full disk a map kills the process, a write raises an error.
    _write_whole(path, write_images)
    reasons = {str(place): bad[place] for place in sorted(bad)}
    _write_whole(bad_file, lambda file: _write_text(file, json.dumps(reasons)))
    return {int(place): reason for place, reason in reasons.items()}


def _decoded_chunks(decode: Callable[[int], npt.NDArray[np.uint8]], count: int) -> Iterator[npt.NDArray[np.uint8]]:
    with ThreadPoolExecutor(_worker_count()) as pool:
        for start in range(0, count, _CHUNK):
            yield np.stack(list(pool.map(decode, range(start, min(start + _CHUNK, count)))))


def _worker_count() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write the image cache {path}: {error.strerror or error}; free space or set data.cache to a "
            "folder on another disk"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it may not be there, nor its folder
            temporary.unlink()


def _remove_abandoned(path: Path) -> None:
    """Delete what a killed process left half-written; a process at work changes its file all the time."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - temporary.stat().st_mtime > _ABANDONED_SECONDS:
                temporary.unlink()


def _write_text(file: IO[bytes], text: str) -> None:
    file.write(text.encode())
