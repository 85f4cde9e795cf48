"""Decoded images, kept once on disk: from the second epoch (and run) on, nothing is decoded.

One file per list of images: uint8, N x C x S x S (volumes: N x C x D x S x S), memory-mapped. Its name is a hash of
the source files' names, sizes and times of change and of the shape, so a changed file is never read from an old cache.
Any cache file may be deleted at any time; it is built again when it is needed.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from medvlmoe.data.decoding import decode_in_order, usable_cores
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.index import ImageSource
from medvlmoe.data.partial_file import PartialFile, write_small
from medvlmoe.errors import DataError
from medvlmoe.progress import progress_bar

logger = logging.getLogger(__name__)

CACHE_VERSION = 2  # raise it whenever decoding or resizing changes
_NOTE_SECONDS = 30.0  # a killed build loses no more than this
_ABANDONED_SECONDS = 7 * 24 * 3600
_STATUS_THREADS = 16  # a network file system answers many questions at once, each slowly
_STATUS_BLOCK = 4096


@dataclass(frozen=True)
class DecodedImages:
    """A finished cache file.

    Attributes:
        path: the ``.npy`` file, uint8, one image after the other.
        bad: position of each image that could not be decoded (its pixels are 0) -> reason.
    """

    path: Path
    bad: dict[int, str]


def decoded_images(
    images: ImageSource, shape: ImageShape, *, folder: Path, skip_bad: bool = False, workers: int | None = None
) -> DecodedImages:
    """The cache of ``images``, built now if it is not there.

    Of several processes that want the same cache one builds it and the others wait. A build that was killed or
    interrupted goes on where it was, up to half a minute back.

    Args:
        images: what to decode.
        shape: shape of every decoded image.
        folder: where caches are kept; made if missing.
        skip_bad: record images that cannot be decoded instead of stopping at the first.
        workers: threads that decode; ``None`` takes every core this process may use.

    Raises:
        DataError: an image cannot be decoded (named), images changed while they were decoded, or the cache cannot be
            written (disk full).
    """
    fingerprints = source_fingerprints(images)
    path = folder / f"images-{_key(fingerprints, shape)}.npy"
    bad = _finished(path, (len(images), *shape.dimensions))
    if bad is None:
        try:
            with PartialFile(path) as partial:
                bad = _finished(path, (len(images), *shape.dimensions))  # by whom we have waited for
                if bad is None:
                    bad = _build(images, shape, path, partial, fingerprints, skip_bad, workers or usable_cores())
        except OSError as error:
            raise DataError(
                f"cannot write the image cache {path}: {error.strerror or error}; free space or set data.cache to a "
                "folder on another disk"
            ) from error
    _refuse_bad(bad, skip_bad)
    with contextlib.suppress(OSError):  # the cache may be someone else's, or read-only
        for file in (path, _bad_file(path)):
            os.utime(file)  # their time of change tells when they were last used
    return DecodedImages(path, bad)


def source_fingerprints(images: ImageSource) -> list[str]:
    """A line for each image that changes when its file changes; many files are asked for at once."""
    rows = np.arange(len(images))
    blocks = [rows[start : start + _STATUS_BLOCK] for start in range(0, len(images), _STATUS_BLOCK)]
    with ThreadPoolExecutor(_STATUS_THREADS) as pool:
        found = pool.map(lambda block: list(images.take(block).fingerprints()), blocks)
        return [line for lines in found for line in lines]


def _key(fingerprints: list[str], shape: ImageShape) -> str:
    digest = hashlib.sha256(f"version {CACHE_VERSION}, {shape.dimensions}\n".encode())
    for line in fingerprints:
        digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _finished(path: Path, shape: tuple[int, ...]) -> dict[int, str] | None:
    """The images a finished cache lacks, or ``None`` if there is no cache or it is damaged."""
    try:
        if np.load(path, mmap_mode="r").shape != shape:
            return None
        return _read_bad(json.loads(_bad_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, EOFError):
        return None


def _bad_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_bad(reasons: dict[str, str]) -> dict[int, str]:
    return {int(position): reason for position, reason in reasons.items()}


def _build(
    images: ImageSource,
    shape: ImageShape,
    path: Path,
    partial: PartialFile,
    fingerprints: list[str],
    skip_bad: bool,
    workers: int,
) -> dict[int, str]:
    _remove_abandoned(path.parent)
    try:
        done, bad = _resume(partial, images, shape)
        _refuse_full_disk(path, (len(images) - done) * _image_bytes(shape))
        _refuse_bad(bad, skip_bad)
        _decode_into(partial, images, shape, done, bad, skip_bad, workers)
        _refuse_changed(partial, images, fingerprints)
        write_small(_bad_file(path), json.dumps({str(position): bad[position] for position in sorted(bad)}))
        partial.file.truncate()  # a longer rest may be left of an older format
        partial.finish()
    except OSError:
        partial.discard()  # what filled the disk must not stay on it
        raise
    return bad


def _resume(partial: PartialFile, images: ImageSource, shape: ImageShape) -> tuple[int, dict[int, str]]:
    """Put the file's end where a build goes on: images that it holds, and the bad ones among them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (len(images), *shape.dimensions)}
    )
    noted: Any = partial.noted()
    file = partial.file
    if noted is not None and file.read(len(header.getvalue())) == header.getvalue():
        done, bad = int(noted["images"]), _read_bad(noted["bad"])
        end = len(header.getvalue()) + done * _image_bytes(shape)
        if file.seek(0, io.SEEK_END) >= end:
            logger.info("going on with %s: %s of %s images are decoded", file.name, f"{done:,}", f"{len(images):,}")
            file.seek(end)
            return done, bad
    partial.forget()
    file.seek(0)
    file.write(header.getvalue())
    return 0, {}


def _decode_into(
    partial: PartialFile,
    images: ImageSource,
    shape: ImageShape,
    done: int,
    bad: dict[int, str],
    skip_bad: bool,
    workers: int,
) -> None:
    started = noted = time.monotonic()
    with progress_bar("decoding images") as on_step:
        # Plain writes, not a writable memory map: on a full disk a map kills the process, a write raises an error.
        for decoded in decode_in_order(images, shape, start=done, workers=workers):
            _refuse_bad(decoded.bad, skip_bad)
            bad |= decoded.bad
            partial.file.write(decoded.pixels.data)
            done += len(decoded.pixels)
            if on_step is not None:
                on_step(done, len(images))
            if time.monotonic() - noted > _NOTE_SECONDS:
                noted = time.monotonic()
                partial.note({"images": done, "bad": bad})
    if time.monotonic() - started > _NOTE_SECONDS:
        logger.info("decoded %s images in %.0f s", f"{done:,}", time.monotonic() - started)


def _image_bytes(shape: ImageShape) -> int:
    return math.prod(shape.dimensions)


def _refuse_bad(bad: dict[int, str], skip_bad: bool) -> None:
    if bad and not skip_bad:
        raise DataError(bad[min(bad)])


def _refuse_full_disk(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"the image cache {path} needs {decimal(needed)} more and its disk has {decimal(free)} free; "
            "free space or set data.cache to a folder on another disk"
        )


def _refuse_changed(partial: PartialFile, images: ImageSource, fingerprints: list[str]) -> None:
    """Images that changed while they were decoded may be read half old, half new."""
    now = source_fingerprints(images)
    changed = [before for before, after in zip(fingerprints, now, strict=True) if before != after]
    if changed:
        partial.discard()
        name = changed[0].rsplit(" ", 2)[0]
        raise DataError(
            f"{name}: the file changed while images were decoded ({len(changed)} did); run again when all are in place"
        )


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed builds left, if nobody has gone on with it for a week."""
    for path in folder.glob(".images-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
