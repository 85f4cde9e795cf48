"""Open every image once: the slow part of ``medvlmoe data check``."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rich.progress import track

from medvlmoe.data.check.site import SiteCheck
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.index import ImageSource
from medvlmoe.errors import DataError

_SHAPE = ImageShape(channels=1, size=32)  # decoding is what costs; the size does not matter
_CHUNK = 1024


def decode_all(check: SiteCheck) -> None:
    """Take down every image of the site that cannot be decoded."""
    if check.images is None:
        return
    failures = track(_failures(check.images), description=check.name, total=len(check.images), transient=True)
    for failure in failures:
        if failure:
            check.problems.add(check.root, failure.removeprefix(f"{check.root}: "))


def _failures(images: ImageSource) -> Iterator[str]:
    """What is wrong with each image in turn; empty if nothing is."""

    def decode(position: int) -> str:
        try:
            images.decode(position, _SHAPE)
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(images), _CHUNK):
            yield from pool.map(decode, range(start, min(start + _CHUNK, len(images))))
