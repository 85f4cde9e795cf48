"""Write the phantoms of a configuration to disk, once."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlmoe.data.phantom.chestxray14 import write_chestxray14
from medvlmoe.data.phantom.chexpert import write_chexpert
from medvlmoe.data.phantom.config import VOLUMES, PhantomConfig
from medvlmoe.data.phantom.mark import LABEL_FILE, NOTICE, RECORD_FILE
from medvlmoe.data.phantom.medmnist_files import write_pathmnist, write_retinamnist
from medvlmoe.data.phantom.mimic_cxr import write_mimic_cxr
from medvlmoe.data.phantom.volumes import write_volumes
from medvlmoe.errors import ConfigError, DataError
from medvlmoe.files import write_json
from medvlmoe.seeds import derive_seed

# Raise whenever a drawing or a layout changes: older folders are then drawn again.
GENERATOR_VERSION = 1

# (root, images, image size, seed) -> images written
_WRITERS: dict[str, Callable[[Path, int, int, int], int]] = {
    "chestxray14": write_chestxray14,
    "chexpert": write_chexpert,
    "mimic_cxr": write_mimic_cxr,
    "pathmnist": write_pathmnist,
    "retinamnist": write_retinamnist,
    VOLUMES: write_volumes,
}
_FOLDERS = ("chestxray14", "chexpert", "mimic_cxr", "medmnist", "volumes")

_LABEL = f"""# {NOTICE}

Every image, table and report below this folder was drawn or written by `medvlmoe phantom` from a formula and a seed.
Nothing here was taken from a patient. The folders follow the official layouts of ChestX-ray14, CheXpert, MIMIC-CXR,
PathMNIST and RetinaMNIST, or a hospital's own manifest (volumes), so that software can be tried out; results on them
say nothing about medicine.
"""


def generate_phantoms(config: PhantomConfig) -> dict[str, int]:
    """Write the benchmarks of ``config`` below ``config.root`` in their official layouts.

    Does nothing if the folder already holds exactly these phantoms; replaces the phantoms of another configuration.
    ``PHANTOM.json`` is removed first and written last, so an interrupted run is never taken for a complete one.

    Returns:
        Number of images of each benchmark.

    Raises:
        ConfigError: the folder holds something else than phantoms.
        DataError: the folder cannot be written.
    """
    root = Path(config.root).expanduser()
    wanted = _record(config)
    try:
        recorded = _read_record(root)
        recorded_images = recorded.get("images")
        if {key: recorded.get(key) for key in wanted} == wanted and isinstance(recorded_images, dict):
            return {name: int(recorded_images[name]) for name in config.benchmarks}
        _clear(root)
        (root / LABEL_FILE).write_text(_LABEL)
        images = {
            name: _WRITERS[name](
                root, config.images_per_site, config.image_size, derive_seed(config.seed, "phantom", name)
            )
            for name in config.benchmarks
        }
        for folder in _FOLDERS:
            if (root / folder).is_dir():  # a folder that is moved elsewhere still says what it is
                (root / folder / LABEL_FILE).write_text(_LABEL)
    except OSError as error:
        raise DataError(f"cannot write phantoms to {root}: {error}; free space or choose another root") from error
    write_json(root / RECORD_FILE, {**wanted, "notice": NOTICE, "images": images}, key="root")
    return images


def _record(config: PhantomConfig) -> dict[str, Any]:
    """What decides the content of the folder: not where it lies, nor the order of the benchmarks."""
    values = dataclasses.asdict(config)
    del values["root"]
    return {"generator_version": GENERATOR_VERSION, "config": {**values, "benchmarks": sorted(config.benchmarks)}}


def _read_record(root: Path) -> dict[str, Any]:
    try:
        record = json.loads((root / RECORD_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _clear(root: Path) -> None:
    """Make ``root`` an empty phantom folder, deleting nothing that the generator did not write."""
    if root.exists() and not root.is_dir():
        raise ConfigError(f"root={root} is a file; name a folder")
    root.mkdir(parents=True, exist_ok=True)
    label = root / LABEL_FILE
    is_ours = label.is_file() and label.read_text(encoding="utf-8", errors="replace").startswith(f"# {NOTICE}")
    if any(root.iterdir()) and not is_ours:
        raise ConfigError(f"root={root} is not empty and holds no phantoms; choose another folder, so nothing is lost")
    (root / RECORD_FILE).unlink(missing_ok=True)
    for folder in _FOLDERS:
        if (root / folder).exists():
            shutil.rmtree(root / folder)
