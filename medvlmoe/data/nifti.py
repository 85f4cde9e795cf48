"""NIfTI volumes (extra ``volumes``) and the orientation of volumes. Shapes: I J K axes of a file; D H W on a screen."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvlmoe.errors import ConfigError

NIFTI_SUFFIXES = (".nii", ".nii.gz")

Volume = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]


def read_nifti(path: Path) -> tuple[Volume, Affine]:
    """The values of a volume, scaled as its header says (``scl_slope``, ``scl_inter``), and its affine (RAS+, mm).

    Raises:
        ConfigError: nibabel is not installed.
        ValueError: it is not one grey volume of at least two voxels along each axis; nibabel's own errors if damaged.
    """
    nibabel = _nibabel(path)
    image = nibabel.load(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ValueError(f"it has {len(shape)} axes ({' x '.join(map(str, shape))}), and one volume of three is needed")
    if min(shape) < 2:
        raise ValueError(f"it is flat ({' x '.join(map(str, shape))})")
    if image.get_data_dtype().fields is not None or np.issubdtype(image.get_data_dtype(), np.complexfloating):
        raise ValueError("it holds colours or complex numbers, not grey values")
    return np.asarray(image.dataobj, dtype=np.float32).reshape(shape), np.asarray(image.affine, dtype=np.float64)


def as_on_screen(values_IJK: Volume, affine: Affine) -> Volume:
    """The volume turned by quarter turns and mirrored to D H W: feet to head, front to back, right to left.

    Args:
        values_IJK: the volume as stored.
        affine: 4 x 4, from voxel numbers to millimetres to the patient's right, front and head (RAS+).

    Raises:
        ConfigError: nibabel is not installed.
        ValueError: the affine does not tell the three axes apart.
    """
    orientations = _nibabel(None).orientations
    if not np.isfinite(affine).all():
        raise ValueError("its affine is not finite")
    stored = orientations.io_orientation(affine)
    if np.isnan(stored).any():
        raise ValueError("its affine does not say where the axes point")
    turned = orientations.apply_orientation(
        values_IJK, orientations.ornt_transform(stored, orientations.axcodes2ornt("LPS"))
    )
    return turned.transpose(2, 1, 0)


def _nibabel(path: Path | None) -> Any:
    try:
        return importlib.import_module("nibabel")
    except ImportError as error:
        raise ConfigError(f"{path or 'volumes'}: to read volumes: pip install 'medvlmoe[volumes]'") from error
