"""Open one image file, whatever its mode, as 8-bit pixels of one size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from medvlmoe.data.image_shape import ImageShape
from medvlmoe.errors import DataError

_SIXTEEN_BIT_OR_MORE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


@dataclass(frozen=True)
class ImageFiles:
    """Image files on disk, as an image source of :mod:`medvlmoe.data.index`."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: npt.NDArray[np.int64]) -> "ImageFiles":
        """The files at these positions."""
        return ImageFiles([self.paths[row] for row in rows.tolist()])

    def fingerprints(self) -> Iterator[str]:
        """Absolute name, size and time of change of each file."""
        for path in self.paths:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
            yield f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"

    def decode(self, position: int, shape: ImageShape) -> npt.NDArray[np.uint8]:
        """One image: see :func:`read_image`."""
        return read_image(self.paths[position], shape.size, shape.channels).transpose(2, 0, 1)


def read_image(path: Path, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Decode and resize one image.

    Greyscale of more than 8 bits is stretched from its own range to 0..255. An alpha channel is dropped: the colours
    below it are the picture. The aspect ratio is not kept, so that nothing at the border is lost.

    Returns:
        uint8, size x size x channels.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.draft(image.mode, (2 * size, 2 * size))  # JPEG only: decode at a reduced size, still twice ours
            return resized(ImageOps.exif_transpose(image), size, channels)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: unreadable image ({detail}); replace the file, or set on_bad_image=skip to leave such images out"
        ) from error


def resized(image: Image.Image, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """An image as uint8, size x size x channels (1 grey, 3 colour)."""
    image = _eight_bit(image).convert("L" if channels == 1 else "RGB")
    image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode not in _SIXTEEN_BIT_OR_MORE:
        return image
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    values = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.round(values).astype(np.uint8))
