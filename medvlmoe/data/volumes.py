"""Open one volume, a NIfTI file or a folder of DICOM slices, as 8-bit voxels of one shape.

Shapes: I J K the axes of the file; D slices (from the feet up), H rows (from the front back), W columns (from the
patient's right to the left): an axial slice as it is shown on a screen, whichever way it was stored.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from medvlmoe.data.dicom import is_dicom
from medvlmoe.data.dicom_series import read_series
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.intensity import Intensity, between, eight_bit
from medvlmoe.data.nifti import NIFTI_SUFFIXES, Volume, as_on_screen, read_nifti
from medvlmoe.errors import DataError, UserError


def is_volume(path: Path) -> bool:
    """Whether a path is a folder or has a suffix of NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES) or path.is_dir()


def read_volume(path: Path, shape: ImageShape, intensity: Intensity) -> npt.NDArray[np.uint8]:
    """Read, window and resample one volume.

    Voxels without a value (NaN, DICOM padding) are black. The proportions are not kept: the whole volume fills the
    shape. Values become 8 bits before they are resampled, so that metal does not blur into its surroundings.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, or a folder with the slices of one DICOM series.
        shape: shape of the outcome; its depth is set.
        intensity: window or percentiles; without either, percentiles of the whole volume.

    Returns:
        uint8 of ``shape.dimensions``.

    Raises:
        ConfigError: the package that reads the format is not installed.
        DataError: the volume is missing, damaged, incomplete, flat, or more than one.
    """
    assert shape.depth is not None
    try:
        if path.is_dir():
            values_IJK, affine, inverted = read_series(path)
        elif is_volume(path):
            values_IJK, affine = read_nifti(path)
            inverted = False
        elif is_dicom(path):
            raise DataError(
                f"{path}: a single DICOM file, and this model reads volumes; name the folder that holds the slices "
                "of one series"
            )
        else:
            raise DataError(
                f"{path}: not a volume, and this model reads volumes: a .nii or .nii.gz file, or a folder of DICOM "
                "slices; for flat images choose another model.vision.backbone"
            )
        voxels_DHW = _as_eight_bit(as_on_screen(values_IJK, affine), inverted, shape, intensity)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # readers raise almost anything on damaged files
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: unreadable volume ({detail}); replace it, or set on_bad_image=skip to leave such volumes out"
        ) from error
    return np.repeat(voxels_DHW[None], shape.channels, axis=0)


def _as_eight_bit(values_DHW: Volume, inverted: bool, shape: ImageShape, intensity: Intensity) -> npt.NDArray[np.uint8]:
    assert shape.depth is not None
    low, high = intensity.bounds(values_DHW)
    planes = []
    for values_HW in values_DHW:  # slice by slice: a whole body in several copies would not fit into memory
        scaled_HW = between(values_HW, low, high)
        if inverted:
            scaled_HW = np.where(np.isfinite(values_HW), 1 - scaled_HW, 0)
        planes.append(resample(scaled_HW, (shape.size, shape.size)))
    along_DP = resample(np.stack(planes).reshape(len(planes), -1), (shape.depth, shape.size**2))
    return eight_bit(along_DP.reshape(shape.depth, shape.size, shape.size))


def resample(values_HW: npt.NDArray[np.floating], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Linear resampling of both axes, values 0 to 1; where an axis shrinks, every value counts (no aliasing)."""
    values = torch.from_numpy(np.ascontiguousarray(values_HW, dtype=np.float32))[None, None]
    found = functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
    return found[0, 0].clamp(0, 1).numpy()
