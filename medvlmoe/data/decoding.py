"""Images decoded by several threads, in their order.

Threads, not processes: Pillow and NumPy let other threads run while they decode and resize (measured in
docs/data-pipeline.md), and threads need no copy of the source, end with their process and start at once.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.index import ImageSource
from medvlmoe.errors import DataError

_BLOCK_IMAGES = 16  # decoded by one thread in a go: small images cost less than handing them over one by one
_BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Decoded:
    """Consecutive images.

    Attributes:
        pixels: uint8, n x ``shape.dimensions``; 0 where an image could not be decoded.
        bad: position in the source -> reason, for the images that could not be decoded.
    """

    pixels: npt.NDArray[np.uint8]
    bad: dict[int, str]


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def decode_in_order(images: ImageSource, shape: ImageShape, *, start: int, workers: int) -> Iterator[Decoded]:
    """All images from position ``start`` on; a few blocks a worker are held in memory.

    An image that cannot be decoded does not stop the others.
    """
    size = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // int(np.prod(shape.dimensions))))

    def decode(positions: range) -> Decoded:
        pixels = np.zeros((len(positions), *shape.dimensions), dtype=np.uint8)
        bad = {}
        for place, position in enumerate(positions):
            try:
                pixels[place] = images.decode(position, shape)
            except DataError as error:
                bad[position] = str(error)
        return Decoded(pixels, bad)

    blocks = (range(first, min(first + size, len(images))) for first in range(start, len(images), size))
    yield from _ahead(decode, blocks, workers)


def _ahead(work: Callable[[range], Decoded], blocks: Iterator[range], workers: int) -> Iterator[Decoded]:
    pool = ThreadPoolExecutor(workers)
    try:
        running: deque[Future[Decoded]] = deque()
        for block in itertools.islice(blocks, 2 * workers):
            running.append(pool.submit(work, block))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(work, block) for block in itertools.islice(blocks, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
