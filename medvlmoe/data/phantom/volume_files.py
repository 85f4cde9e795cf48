"""Write phantom volumes as hospitals do: NIfTI files and folders of DICOM slices (extra ``volumes``)."""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvlmoe.data.phantom.mark import NOTICE
from medvlmoe.errors import ConfigError

Volume = npt.NDArray[np.int16]

_SPACING = (5.0, 3.0, 3.0)  # mm between slices, rows, columns


def write_nifti(path: Path, values_DHW: Volume, axes: str) -> None:
    """Write a ``.nii.gz`` whose axes point as ``axes`` says (such as ``RAS``); the same bytes on every run.

    Raises:
        ConfigError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError(_INSTALL) from error
    affine = np.diag([-_SPACING[2], -_SPACING[1], _SPACING[0], 1.0])  # columns to the left, rows to the back
    image = nibabel.Nifti1Image(values_DHW.transpose(2, 1, 0), affine)
    orientations = nibabel.orientations
    image = image.as_reoriented(
        orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(axes))
    )
    image.header["descrip"] = NOTICE.encode()[:79]
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def write_series(folder: Path, values_DHW: Volume, order: npt.NDArray[np.int64]) -> None:
    """Write a folder of CT slices whose file names are in ``order``, not in that of the body.

    Raises:
        ConfigError: pydicom is not installed.
    """
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
    except ImportError as error:
        raise ConfigError(_INSTALL) from error
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=[folder.name, "series"])
    for place, values_HW in enumerate(values_DHW):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[folder.name, str(place)])
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.Modality, dataset.PatientName, dataset.PatientIdentityRemoved = "CT", "PHANTOM", "YES"
        dataset.ImageComments = NOTICE
        dataset.SeriesInstanceUID, dataset.InstanceNumber = series, place + 1
        dataset.ImagePositionPatient = [0, 0, _SPACING[0] * place]
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], list(_SPACING[1:])
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = values_HW.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.WindowCenter, dataset.WindowWidth = -300, 1400
        dataset.PixelData = (values_HW + 1024).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"slice{int(order[place]):03d}.dcm", enforce_file_format=True)


_INSTALL = "phantom volumes are NIfTI and DICOM files: pip install 'medvlmoe[volumes]'"
