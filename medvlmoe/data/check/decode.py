"""Open every image once: the slow part of ``medvlmoe data check``."""

import numpy as np

from medvlmoe.data.check.site import SiteCheck
from medvlmoe.data.decoding import decode_in_order, usable_cores
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import ImageFiles
from medvlmoe.data.index import ImageSource
from medvlmoe.data.volumes import is_volume
from medvlmoe.progress import progress_bar

# Decoding is what costs; the size does not matter.
_PICTURE, _VOLUME = ImageShape(channels=1, size=32), ImageShape(channels=1, size=32, depth=8)


def decode_all(check: SiteCheck) -> None:
    """Take down every image of the site that cannot be decoded."""
    if check.images is None:
        return
    done = 0
    with progress_bar(f"{check.name}: decoding images") as on_step:
        for images, shape in _by_shape(check.images):
            for decoded in decode_in_order(images, shape, start=0, workers=usable_cores()):
                for reason in decoded.bad.values():
                    check.problems.add(check.root, reason.removeprefix(f"{check.root}: "))
                done += len(decoded.pixels)
                if on_step is not None:
                    on_step(done, len(check.images))


def _by_shape(images: ImageSource) -> list[tuple[ImageSource, ImageShape]]:
    """Flat images and volumes apart."""
    if not isinstance(images, ImageFiles):
        return [(images, _PICTURE)]
    volumes = np.array([is_volume(path) for path in images.paths], dtype=bool)
    parts = ((~volumes, _PICTURE), (volumes, _VOLUME))
    return [(images.take(np.flatnonzero(mask)), shape) for mask, shape in parts if mask.any()]
