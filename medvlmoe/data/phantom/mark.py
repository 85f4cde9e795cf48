"""How every phantom image says that it is one: a corner mark and a text inside the file."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

NOTICE = "PHANTOM: synthetic image drawn by medvlmoe; shows no person; not for diagnosis"

# Beside the folders of the layouts, and the first also inside each of them.
LABEL_FILE, RECORD_FILE = "PHANTOM.md", "PHANTOM.json"

# A letter P, the same in the same corner of every image, so that it tells nothing about the class.
_LETTER = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=bool)


def is_phantom(folder: Path) -> bool:
    """Whether the folder of a site was written by ``medvlmoe phantom``."""
    labels = [place / LABEL_FILE for place in (folder.resolve(), folder.resolve().parent)]
    return any(
        label.is_file() and label.read_text(encoding="utf-8", errors="replace").startswith(f"# {NOTICE}")
        for label in labels
    )


def stamp(pixels: np.ndarray) -> np.ndarray:
    """Draw the mark into the lower right corner of a uint8 H x W or H x W x 3 image; returns the same array."""
    height, width = pixels.shape[:2]
    letter = np.kron(_LETTER, np.ones((max(1, height // 64), max(1, width // 64)), dtype=bool))
    margin = max(1, height // 64)
    rows, columns = letter.shape
    corner = pixels[height - margin - rows : height - margin, width - margin - columns : width - margin]
    corner[letter] = 200
    return pixels


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write a marked uint8 image as PNG or JPEG (by the suffix), with the notice inside the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(stamp(pixels))
    if path.suffix == ".png":
        text = PngInfo()
        text.add_text("Comment", NOTICE)
        image.save(path, pnginfo=text)
    else:
        image.save(path, quality=92, comment=NOTICE)
