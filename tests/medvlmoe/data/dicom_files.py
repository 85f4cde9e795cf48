"""Real DICOM files for tests, written by pydicom."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES = generate_uid()


def write_dicom(
    path: Path, pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, preamble: bool = True, **elements: Any
) -> Path:
    """One image; keyword arguments set elements, ``None`` removes one."""
    pixels = np.asarray(pixels)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for key, value in elements.items():
        if value is None:
            dataset.pop(key, None)
        else:
            setattr(dataset, key, value)
    if "BitsStored" in elements and "HighBit" not in elements:
        dataset.HighBit = elements["BitsStored"] - 1
    if "PixelData" not in elements and "FloatPixelData" not in elements:
        little = pixels.astype(
            pixels.dtype.newbyteorder("<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">")
        )
        content = little.tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    if preamble:
        dataset.save_as(path, enforce_file_format=True)
    else:
        uid = dataset.file_meta.TransferSyntaxUID
        del dataset.file_meta
        dataset.save_as(
            path, implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian, enforce_file_format=False
        )
    return path


def write_series(
    folder: Path, values_KJI: np.ndarray, *, spacing: float = 2.0, names: list[str] | None = None, **elements: Any
) -> Path:
    """Axial CT slices from the feet up with intercept -1024; names of files mean nothing."""
    names = names or [f"{(7 * place) % len(values_KJI):03d}.dcm" for place in range(len(values_KJI))]
    for place, values_JI in enumerate(values_KJI):
        geometry = {
            "SeriesInstanceUID": SERIES, "InstanceNumber": place + 1, "PixelSpacing": [0.8, 0.8],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [-100, -90, -50 + spacing * place],
            "RescaleSlope": 1, "RescaleIntercept": -1024,
        }  # fmt: skip
        write_dicom(folder / names[place], (values_JI + 1024).astype(np.uint16), **{**geometry, **elements})
    return folder
