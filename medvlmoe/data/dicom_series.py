"""A folder of DICOM slices as one volume (extra ``volumes``). Shapes: I columns, J rows, K slices."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvlmoe.data.dicom import is_dicom, is_inverted, modality_values, open_dicom, stored_values
from medvlmoe.errors import DataError, UserError

_GEOMETRY = ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber")
_NO_SLICES = ("dicomdir", "license", "license.txt")  # written beside the slices by archives
_MEND = "mend the folder, or set on_bad_image=skip to leave such volumes out"


@dataclass(frozen=True)
class _Slice:
    name: str
    series: str
    values_JI: npt.NDArray[np.float32]
    inverted: bool
    number: int | None
    position: npt.NDArray[np.float64] | None
    directions: npt.NDArray[np.float64] | None
    spacing: tuple[float, float]

    @property
    def has_place(self) -> bool:
        return self.position is not None and self.directions is not None


def slice_files(folder: Path) -> list[Path]:
    """The files of a folder that should be slices, by name; hidden files and an archive's lists are not.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in _NO_SLICES and path.is_file()
    )


def read_series(folder: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], bool]:
    """The slices of a folder, put in order along the direction in which they were taken.

    Slices are ordered by their position in the patient, or by their number where a position is missing. Names of
    files mean nothing.

    Returns:
        values_IJK: values in the modality's unit, NaN where the header says padding.
        affine: 4 x 4, from voxel numbers to millimetres (RAS+).
        inverted: whether low values are shown white.

    Raises:
        ConfigError: a package is missing.
        DataError: slices are missing, double or damaged, or of more than one series.
    """
    slices = [_read_slice(path) for path in slice_files(folder)]
    if len(slices) < 2:
        raise DataError(f"{folder}: DICOM slices in it: {len(slices)}, and a volume needs two or more; {_MEND}")
    _refuse_mixture(folder, slices)
    if all(one.has_place for one in slices):
        slices, step = _ordered_by_position(folder, slices)
    else:
        slices = _ordered_by_number(folder, slices)
        step = np.cross(*_directions(slices[0]))
    values_IJK = np.stack([one.values_JI.T for one in slices], axis=2)
    return values_IJK, _affine(slices[0], step), slices[0].inverted


def _read_slice(path: Path) -> _Slice:
    if not is_dicom(path):
        raise DataError(f"{path}: not a DICOM file, in a folder of DICOM slices; {_MEND}")
    dataset = open_dicom(path, _GEOMETRY)
    try:
        stored, interpretation = stored_values(path, dataset)
        if not interpretation.startswith("MONOCHROME"):
            raise ValueError(f"a slice of a volume must be grey, not {interpretation}")
        orientation = _numbers(dataset, "ImageOrientationPatient", 6)
        rows, columns = _numbers(dataset, "PixelSpacing", 2, above=0) or (1.0, 1.0)
        position = _numbers(dataset, "ImagePositionPatient", 3)
        number = dataset.get("InstanceNumber")
        return _Slice(
            name=path.name,
            series=str(dataset.get("SeriesInstanceUID") or ""),
            values_JI=modality_values(dataset, stored).astype(np.float32),
            inverted=is_inverted(dataset),
            number=None if number is None else int(number),
            position=None if position is None else np.array(position),
            directions=None if orientation is None else np.array(orientation).reshape(2, 3),
            spacing=(rows, columns),
        )
    except (MemoryError, UserError):
        raise
    except Exception as error:  # decoders raise almost anything on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: unreadable DICOM slice ({detail}); {_MEND}") from error


def _numbers(dataset: Any, key: str, count: int, above: float = -np.inf) -> tuple[float, ...] | None:
    value = dataset.get(key)
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    numbers = tuple(float(part) for part in value)
    return numbers if all(np.isfinite(part) and part > above for part in numbers) else None


def _refuse_mixture(folder: Path, slices: list[_Slice]) -> None:
    """A volume is one series of slices that fit onto each other."""
    series = list(dict.fromkeys(one.series for one in slices))
    if len(series) > 1:
        counts = " and ".join(str(sum(one.series == each for one in slices)) for each in series)
        raise DataError(f"{folder}: it holds {len(series)} series ({counts} slices); give each a folder of its own")
    first = slices[0]
    for other in slices[1:]:
        kinds = {
            "size": first.values_JI.shape == other.values_JI.shape,
            "photometric interpretation": first.inverted == other.inverted,
            "pixel spacing": bool(np.allclose(first.spacing, other.spacing, rtol=1e-3)),
            "orientation": first.directions is None
            or other.directions is None
            or bool(np.allclose(first.directions, other.directions, atol=1e-2)),
        }
        different = [kind for kind, same in kinds.items() if not same]
        if different:
            raise DataError(
                f"{folder}: {first.name} and {other.name} differ in {different[0]}, so they are not one volume; {_MEND}"
            )


def _ordered_by_position(folder: Path, slices: list[_Slice]) -> tuple[list[_Slice], npt.NDArray[np.float64]]:
    """In order along the normal of the slices, and the step from one slice to the next (mm)."""
    assert slices[0].directions is not None
    normal = np.cross(*slices[0].directions)
    if not np.isclose(np.linalg.norm(normal), 1, atol=0.05):
        raise DataError(f"{folder}: the orientation of {slices[0].name} is not two directions at right angles; {_MEND}")
    places = np.array([one.position @ normal for one in slices])
    order = np.argsort(places, kind="stable")
    slices, gaps = [slices[place] for place in order], np.diff(places[order])
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # of an even number the lower one: 1, 2 lacks a slice
    double = int(gaps.argmin())
    if gaps[double] < max(0.01 * usual, 1e-4):
        raise DataError(
            f"{folder}: {slices[double].name} and {slices[double + 1].name} lie at the same place: a copy, or several "
            f"phases in one folder; {_MEND}"
        )
    widest = int(gaps.argmax())
    if gaps[widest] > 1.5 * usual:
        raise DataError(
            f"{folder}: slices are missing between {slices[widest].name} and {slices[widest + 1].name} (a gap of "
            f"{gaps[widest]:.4g} mm, usually {usual:.4g} mm); {_MEND}"
        )
    if gaps[double] < usual / 1.5:
        raise DataError(
            f"{folder}: slices are unevenly spaced, {gaps[double]:.4g} mm between {slices[double].name} and "
            f"{slices[double + 1].name}, usually {usual:.4g} mm; {_MEND}"
        )
    first, last = slices[0].position, slices[-1].position
    assert first is not None and last is not None
    return slices, (last - first) / (len(slices) - 1)


def _ordered_by_number(folder: Path, slices: list[_Slice]) -> list[_Slice]:
    nameless = [one.name for one in slices if one.number is None]
    if nameless:
        raise DataError(
            f"{folder}: {nameless[0]} has neither a position nor a number, so its place is unknown; {_MEND}"
        )
    ordered = sorted(slices, key=lambda one: one.number or 0)
    for one, following in itertools.pairwise(ordered):
        assert one.number is not None and following.number is not None
        step = following.number - one.number
        if step != 1:
            what = "have the same number" if step == 0 else f"have the numbers {one.number} and {following.number}"
            raise DataError(f"{folder}: {one.name} and {following.name} {what}: slices are double or missing; {_MEND}")
    return ordered


def _directions(one: _Slice) -> npt.NDArray[np.float64]:
    """Along a row and down a column; a slice that does not say is taken for an axial one."""
    return np.eye(3)[:2] if one.directions is None else one.directions


def _affine(first: _Slice, step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    along_row, along_column = _directions(first)
    row_spacing, column_spacing = first.spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = along_row * column_spacing, along_column * row_spacing, step
    affine[:3, 3] = 0 if first.position is None else first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM counts to the left and to the back
