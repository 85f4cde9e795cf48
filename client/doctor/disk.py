"""Room for decoded images and for what a site keeps between rounds."""

import os
import shutil
from pathlib import Path

from client.doctor.finding import Findings, fail, ok, warn
from client.doctor.patient import Patient
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.errors import UserError

_STATES_KEPT = 3  # two rounds, and the one that is being written
_REPLIES_KEPT = 2  # likewise one
_MOMENTS = 2  # AdamW keeps two numbers a parameter
_FLOAT = 4
_SPARE = 1.2


def check_disk(patient: Patient) -> Findings:
    """Free bytes where the cache and the site's folder are, against what they will take."""
    size = patient.model_size
    numbers = _MOMENTS + (1 if patient.run.strategy.upload_codec == "int8" else 0)
    kept = _STATES_KEPT * numbers * size.exchanged * _FLOAT
    if patient.site.keep_reply:
        kept += _REPLIES_KEPT * size.upload_bytes
    wanted = {Path(patient.site.folder): kept}
    wanted[patient.cache] = wanted.get(patient.cache, 0) + _cache_bytes(patient)
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, count in wanted.items():
        there = _nearest_folder(folder)
        if not os.access(there, os.W_OK):
            yield fail("disk", f"{there} cannot be written", "give this account the folder, or change folder or cache")
            return
        first, sum_of_bytes = by_disk.get(there.stat().st_dev, (there, 0))
        by_disk[there.stat().st_dev] = (first, sum_of_bytes + count)
    for folder, count in by_disk.values():
        free = shutil.disk_usage(folder).free
        text = f"{folder}: {free / 1e9:.1f} GB free, about {count / 1e9:.2f} GB wanted for images, optimizer, reply"
        if free < count:
            yield fail("disk", text, "free space, or put cache: and folder: on another disk")
        elif free < _SPARE * count:
            yield warn("disk", text, "that is tight: free space")
        else:
            yield ok("disk", text)


def _cache_bytes(patient: Patient) -> int:
    try:
        index = patient.index
    except UserError:
        return 0  # told by the check of the data
    vision = patient.run.model.vision
    shape = ImageShape(1 if index.grayscale else vision.channels, vision.image_size, vision.depth)
    image = 1
    for side in shape.dimensions:
        image *= side
    decoded = sum(file.stat().st_size for file in patient.cache.glob("images-*.npy"))
    return max(0, len(index) * image - decoded)


def _nearest_folder(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
