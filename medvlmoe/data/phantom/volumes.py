"""Three phantom hospitals with chest CT, each in the layout of a hospital's own manifest (docs/manifest.md)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medvlmoe.data.phantom.mark import NOTICE
from medvlmoe.data.phantom.tables import write_table
from medvlmoe.data.phantom.volume_files import write_nifti, write_series
from medvlmoe.data.phantom.volume_image import Mass, Scanner, chest_volume
from medvlmoe.data.split import TEST, TRAIN, VALIDATION
from medvlmoe.seeds import derive_seed

FOLDER = "volumes"
_LABELS = {"mass": "Mass", "large": "Large Mass", "left": "Left-Sided Mass", "effusion": "Pleural Effusion"}
_PARTS = ((TRAIN, 0.6), (VALIDATION, 0.15), (TEST, 0.25))


@dataclass(frozen=True)
class _Hospital:
    """A site: its scanner, its files (``axes`` of NIfTI; ``None`` is DICOM) and how often patients have a mass."""

    name: str
    scanner: Scanner
    axes: str | None
    slices: float
    mass_rate: float
    tells_age: bool = True


_HOSPITALS = (
    _Hospital("north", Scanner(noise=45, girth=1.0, offset=0), "RAS", 0.5, 0.5),
    _Hospital("south", Scanner(noise=70, girth=0.94, offset=12), "PIL", 0.6, 0.6),
    _Hospital("east", Scanner(noise=55, girth=1.05, offset=-8), None, 0.5, 0.45, tells_age=False),
)


def write_volumes(root: Path, volumes: int, size: int, seed: int) -> int:
    """Write ``volumes`` for each of the hospitals ``north``, ``south`` (NIfTI) and ``east`` (DICOM series).

    Returns:
        Number of volumes.

    Raises:
        ConfigError: the extra ``volumes`` is not installed.
    """
    for hospital in _HOSPITALS:
        _write_hospital(root / FOLDER / hospital.name, hospital, volumes, size, derive_seed(seed, hospital.name))
    return volumes * len(_HOSPITALS)


def _write_hospital(folder: Path, hospital: _Hospital, volumes: int, size: int, seed: int) -> None:
    parts = _parts(volumes, np.random.default_rng(derive_seed(seed, "parts")))
    rows = [_write_patient(folder, hospital, number, part, size, seed) for number, part in enumerate(parts)]
    columns = ["volume", "patient", "part", *_LABELS, *(("age", "sex") if hospital.tells_age else ())]
    write_table(folder / "table.csv", columns, [[row[column] for column in columns] for row in rows])
    manifest: dict[str, Any] = {
        "table": "table.csv",
        "image": "volume",
        "patient": "patient",
        "split": "part",
        "task": "multilabel",
        "label_space": "phantom_chest_ct",
        "labels": _LABELS,
        "window": [-300, 1400],
        "prompt": "Phantom chest CT",
    }
    if hospital.tells_age:
        manifest["context"] = {"age": "age", "sex": "sex"}
    text = yaml.safe_dump(manifest, sort_keys=False)
    (folder / "manifest.yaml").write_text(f"# {NOTICE}\n{text}", encoding="utf-8")


def _parts(count: int, random: np.random.Generator) -> list[str]:
    parts = [part for part, share in _PARTS for _ in range(round(share * count))]
    parts = (parts + [TRAIN] * count)[:count]
    random.shuffle(parts)
    return parts


def _write_patient(
    folder: Path, hospital: _Hospital, number: int, part: str, size: int, seed: int
) -> dict[str, str | int]:
    random = np.random.default_rng(derive_seed(seed, "patient", number))
    mass = Mass.drawn_by(random) if random.random() < hospital.mass_rate else None
    effusion = bool(random.random() < 0.4)
    shape = (round(size * hospital.slices), size, size)
    values_DHW = chest_volume(mass, effusion, hospital.scanner, shape, random)
    patient = f"{hospital.name}-{number:04d}"
    if hospital.axes is None:
        name = f"series/{patient}"
        write_series(folder / name, values_DHW, random.permutation(shape[0]))
    else:
        name = f"volumes/{patient}.nii.gz"
        write_nifti(folder / name, values_DHW, hospital.axes)
    return {
        "volume": name,
        "patient": patient,
        "part": part,
        "mass": int(mass is not None),
        "large": int(mass is not None and mass.large),
        "left": int(mass is not None and mass.left),
        "effusion": int(effusion),
        "age": int(random.integers(25, 90)),
        "sex": "FM"[int(random.integers(2))],
    }
