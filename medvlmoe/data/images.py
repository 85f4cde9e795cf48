"""Open one image file, whatever its format and mode, as 8-bit pixels of one size."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from medvlmoe.data.dicom import is_dicom, read_flat
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.intensity import AUTOMATIC, Intensity, eight_bit
from medvlmoe.data.volumes import is_volume, read_volume
from medvlmoe.errors import DataError, UserError

_WIDE_GREY = ("I", "F")  # and I;16 in its byte orders


@dataclass(frozen=True)
class ImageFiles:
    """Image files on disk, as an image source of :mod:`medvlmoe.data.index`.

    Attributes:
        paths: of an image each; for volumes a NIfTI file or a folder of DICOM slices each.
        intensity: how more than 8 bits become 8.
    """

    paths: Sequence[Path]
    intensity: Intensity = AUTOMATIC

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: npt.NDArray[np.int64]) -> "ImageFiles":
        """The files at these positions."""
        return ImageFiles([self.paths[row] for row in rows.tolist()], self.intensity)

    def fingerprints(self) -> Iterator[str]:
        """Absolute name, size and time of change of each file, or of all files of a folder; the chosen intensity."""
        chosen = "" if self.intensity.automatic else f" {self.intensity}"
        for path in self.paths:
            try:
                yield f"{path.absolute()} {_state(path)}{chosen}"
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error

    def decode(self, position: int, shape: ImageShape) -> npt.NDArray[np.uint8]:
        """One image (see :func:`read_image`), or one volume if the shape has a depth."""
        path = self.paths[position]
        if shape.depth is not None:
            return read_volume(path, shape, self.intensity)
        return read_image(path, shape.size, shape.channels, self.intensity).transpose(2, 0, 1)


def read_image(path: Path, size: int, channels: int, intensity: Intensity = AUTOMATIC) -> npt.NDArray[np.uint8]:
    """Decode and resize one image.

    Grey of more than 8 bits becomes 8 bits as ``intensity`` says. Transparent pixels are black, as on a black screen;
    an alpha channel that hides everything is taken for a mistake and dropped. The aspect ratio is not kept, so that
    nothing at the border is lost.

    Returns:
        uint8, size x size x channels.

    Raises:
        ConfigError: the package that reads the format is not installed.
        DataError: the file is missing, truncated, not an image, or holds several.
    """
    try:
        if is_volume(path):
            raise DataError(f"{path}: a volume, and this model reads flat images; choose model.vision=vit3d")
        if is_dicom(path):
            return resized(Image.fromarray(read_flat(path, intensity)), size, channels)
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1) if image.format in ("TIFF", "GIF") else 1
            if pages > 1:
                raise DataError(
                    f"{path}: it holds {pages} pages, and one image a file is needed; save the pages as single files, "
                    "or set on_bad_image=skip to leave such files out"
                )
            image.draft(image.mode, (2 * size, 2 * size))  # JPEG only: decode at a reduced size, still twice ours
            return resized(ImageOps.exif_transpose(image), size, channels, intensity)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: unreadable image ({detail}); replace the file, or set on_bad_image=skip to leave such images out"
        ) from error


def resized(image: Image.Image, size: int, channels: int, intensity: Intensity = AUTOMATIC) -> npt.NDArray[np.uint8]:
    """An image as uint8, size x size x channels (1 grey, 3 colour)."""
    if image.mode in _WIDE_GREY or image.mode.startswith("I;16"):
        image = Image.fromarray(eight_bit(intensity.scaled(np.asarray(image, dtype=np.float64))))
    image = _on_black(image).convert("L" if channels == 1 else "RGB")
    image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def _on_black(image: Image.Image) -> Image.Image:
    """The image as it looks on a black screen, without transparency."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (0, 0):
        return image.convert("RGB")
    black = Image.new("RGB", image.size)
    black.paste(image.convert("RGB"), mask=alpha)
    return black


def _state(path: Path) -> str:
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return f"{status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256()
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            inside = entry.stat()
            digest.update(f"{entry.name} {inside.st_size} {inside.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return f"folder {digest.hexdigest()}"
