"""Pixels of DICOM files (extra ``dicom``). Only the elements that describe pixels are ever read: no name, no number.

Shapes: H rows, W columns. Grey values go through the steps of DICOM PS3.4 N.2: stored values, modality (rescale or
LUT), values of interest (LUT or window), and are inverted for MONOCHROME1.
"""

import importlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medvlmoe.data.dicom_helper import decoded_apart
from medvlmoe.data.dicom_lookup import LookupTable
from medvlmoe.data.dicom_pixels import decoded_pixels, wrapped
from medvlmoe.data.intensity import Intensity, Values, between, eight_bit
from medvlmoe.errors import ConfigError, DataError

Grey = npt.NDArray[np.float64]

_PALETTES = ("Red", "Green", "Blue")
PIXEL_ELEMENTS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in _PALETTES),
    *(f"{colour}PaletteColorLookupTableData" for colour in _PALETTES),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in _PALETTES),
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
)  # fmt: skip
_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
# Files without the preamble start with an element of the file's meta group (0002) or of the first group (0008).
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its content, with or without the 128-byte preamble, or by its suffix.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM" or path.suffix.lower() in _SUFFIXES:
        return True
    # Group and element, then either the two letters of a value type or a length below 64 KiB.
    plausible = start[:2] in _FIRST_GROUPS and start[3:4] in (b"\x00", b"\x01")
    return plausible and len(start) > 8 and (start[4:6].isalpha() or start[6:8] == b"\x00\x00")


def import_pydicom(path: Path) -> Any:
    """The ``pydicom`` package, made quiet: its warnings quote values of the header.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        pydicom = importlib.import_module("pydicom")
        importlib.import_module("pydicom.pixels")
    except ImportError as error:
        raise ConfigError(f"{path} is a DICOM file; to read it: pip install 'medvlmoe[dicom]'") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
    return pydicom


def open_dicom(path: Path, further: tuple[str, ...] = ()) -> Any:
    """The pixel elements of one file, and ``further`` ones by keyword, as a ``pydicom.Dataset``.

    Raises:
        ConfigError: pydicom, or the decoder of the file's transfer syntax, is not installed.
        DataError: it is not one single image.
    """
    pydicom = import_pydicom(path)
    try:
        dataset = pydicom.dcmread(path, force=True, specific_tags=[*PIXEL_ELEMENTS, *further])
        if not dataset.file_meta.get("TransferSyntaxUID"):  # written without preamble and meta group
            dataset.file_meta.TransferSyntaxUID = _syntax(pydicom, *dataset.original_encoding)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # pydicom raises almost anything on damaged files
        raise DataError(f"{path}: not a DICOM file ({_words(error)}); {_MEND}") from error
    _refuse(path, dataset)
    _refuse_unknown_syntax(path, pydicom, dataset.file_meta.TransferSyntaxUID)
    return dataset


def read_flat(path: Path, intensity: Intensity) -> npt.NDArray[np.uint8]:
    """One flat image.

    Args:
        path: a DICOM file with one frame.
        intensity: a window or percentiles instead of what the file says.

    Returns:
        uint8, H x W (grey) or H x W x 3 (red, green, blue).

    Raises:
        ConfigError: a package is missing.
        DataError: the file holds no image, or several, or is damaged.
    """
    dataset = open_dicom(path)
    try:
        stored, interpretation = stored_values(path, dataset)
        if interpretation == "PALETTE COLOR":
            return _with_palette(dataset, stored)
        if not interpretation.startswith("MONOCHROME"):
            return _colours(dataset, stored, interpretation)
        scaled = _shown(dataset, stored, modality_values(dataset, stored), intensity)
        return eight_bit(scaled)
    except (MemoryError, ConfigError):
        raise
    except Exception as error:
        raise DataError(f"{path}: unreadable DICOM image ({_words(error)}); {_MEND}") from error


def stored_values(path: Path, dataset: Any) -> tuple[npt.NDArray[Any], str]:
    """The decoded pixels as they are stored, H x W or H x W x 3, and their photometric interpretation.

    Colours come as RGB, whichever way they were stored. Compressed pixels are decoded in another process, which a
    damaged file may crash.
    """
    meant = str(dataset.PhotometricInterpretation)
    if meant.startswith("YBR_PARTIAL"):
        raise ValueError(f"the retired photometric interpretation {meant}; convert it to RGB")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax.name != "RLE Lossless":  # that is undone in Python
        return decoded_apart(path, PIXEL_ELEMENTS)
    return decoded_pixels(dataset)


def modality_values(dataset: Any, stored: npt.NDArray[Any]) -> Grey:
    """Grey values in the modality's unit (Hounsfield units for CT), NaN where the header says padding."""
    if dataset.get("ModalityLUTSequence"):
        table = _table(dataset, dataset.ModalityLUTSequence[0], bool(dataset.PixelRepresentation))
        values = table.apply(stored).astype(np.float64)
    else:
        slope, intercept = (
            default if dataset.get(key) is None else float(dataset[key].value)
            for key, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )
        if slope == 0 or not np.isfinite([slope, intercept]).all():
            raise ValueError(f"its rescale slope is {slope:g} and its intercept {intercept:g}")
        values = stored.astype(np.float64) * slope + intercept
    values[_padding(dataset, stored)] = np.nan
    return values


def is_inverted(dataset: Any) -> bool:
    """Whether low values are shown white."""
    return dataset.PhotometricInterpretation == "MONOCHROME1"


@dataclass(frozen=True)
class _Window:
    center: float
    width: float
    function: str

    @classmethod
    def of(cls, dataset: Any) -> "_Window | None":
        """The first window of the header, if it has a usable one."""
        center, width = (_first_number(dataset, key) for key in ("WindowCenter", "WindowWidth"))
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        if center is None or width is None or width < (1 if function == "LINEAR" else 1e-9):
            return None
        return cls(center, width, function)

    def apply(self, values: Grey) -> Values:
        """0 to 1 (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
        center, width = self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:
            return np.where(values <= center, 0.0, 1.0)
        return between(values, center - width / 2, center + width / 2)


def _shown(dataset: Any, stored: npt.NDArray[Any], values: Grey, intensity: Intensity) -> Values:
    """0 (black) to 1 (white); padding is black."""
    padded = np.isnan(values)
    window = _Window.of(dataset)
    whole = np.where(padded, 0, values)
    if not intensity.automatic or padded.all():
        scaled: Values = np.zeros_like(values) if padded.all() else intensity.scaled(values)
    elif dataset.get("VOILUTSequence"):
        table = _table(dataset, dataset.VOILUTSequence[0], bool(np.nanmin(values) < 0))
        scaled = table.apply(whole) / (2**table.bits - 1)
    elif window is not None:
        scaled = window.apply(whole)
    elif stored.dtype == np.uint8 and dataset.BitsStored == 8 and np.array_equal(whole, np.where(padded, 0, stored)):
        scaled = whole / 255  # a picture of 8 bits, such as a photograph of a screen, is shown as it is
    else:
        scaled = intensity.scaled(values)
    if is_inverted(dataset):
        scaled = 1 - scaled
    return np.where(padded, 0, scaled)


def _padding(dataset: Any, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    low = dataset.get("PixelPaddingValue")
    if low is None or not np.issubdtype(stored.dtype, np.integer):
        return np.zeros(stored.shape, dtype=bool)
    limits = [low, dataset.get("PixelPaddingRangeLimit", low)]
    # Some writers put the bits of a negative number into an unsigned one.
    first, last = sorted(wrapped(np.array(limits, dtype=np.int64), dataset).tolist())
    return (stored >= first) & (stored <= last)


def _table(dataset: Any, item: Any, signed: bool) -> LookupTable:
    return LookupTable.read(
        item.LUTDescriptor,
        item.LUTData,
        little_endian=dataset.file_meta.TransferSyntaxUID.is_little_endian,
        signed=signed,
    )


def _with_palette(dataset: Any, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        from pydicom.pixels import apply_color_lut

        coloured = apply_color_lut(stored, dataset)[..., :3]
        return coloured if coloured.dtype == np.uint8 else (coloured >> 8).astype(np.uint8)
    tables = [
        LookupTable.read(
            dataset[f"{colour}PaletteColorLookupTableDescriptor"].value,
            dataset[f"{colour}PaletteColorLookupTableData"].value,
            little_endian=dataset.file_meta.TransferSyntaxUID.is_little_endian,
            signed=bool(dataset.PixelRepresentation),
        )
        for colour in _PALETTES
    ]
    # Entries declared as 16 bits often hold 8; whether they do shows in the table as a whole.
    wide = max(int(table.entries.max()) for table in tables) > 255
    coloured = np.stack([table.apply(stored) for table in tables], axis=-1)
    return (coloured >> 8 if wide else coloured).astype(np.uint8)


def _colours(dataset: Any, pixels: npt.NDArray[Any], interpretation: str) -> npt.NDArray[np.uint8]:
    if interpretation in ("YBR_ICT", "YBR_RCT") and pixels.shape[-1:] == (3,):
        interpretation = "RGB"  # the decoder of JPEG 2000 has undone it
    if interpretation != "RGB" or pixels.shape[-1:] != (3,):
        raise ValueError(f"the photometric interpretation {interpretation} is not supported; convert it to RGB")
    bits = int(dataset.BitsStored)
    return pixels if bits == 8 else eight_bit(np.clip(pixels / (2**bits - 1), 0, 1))


def _first_number(dataset: Any, key: str) -> float | None:
    """A finite number of the header, the first if it has several."""
    value = dataset.get(key)
    if value is not None and not isinstance(value, str | int | float) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    try:
        number = float(value) if value is not None else np.nan
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _refuse(path: Path, dataset: Any) -> None:
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        why = "its pixel data are missing or cut off" if "Rows" in dataset else "it holds no image (no pixel data)"
        raise DataError(f"{path}: {why}; {_MEND}")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(
            f"{path}: it holds {frames} frames, and one image a file is needed; export the frames as single files, or "
            "set on_bad_image=skip to leave such files out"
        )


def _refuse_unknown_syntax(path: Path, pydicom: Any, syntax: Any) -> None:
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError as error:
        raise DataError(f"{path}: the transfer syntax {_printable(syntax.name)} is not supported; {_MEND}") from error
    if not decoder.is_available:
        needed = " or ".join(decoder.missing_dependencies)
        raise ConfigError(
            f"{path}: its transfer syntax {_printable(syntax.name)} needs a decoder ({needed}): "
            "pip install 'medvlmoe[dicom]'"
        )


def _syntax(pydicom: Any, implicit: bool | None, little_endian: bool | None) -> Any:
    if implicit or implicit is None:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little_endian else pydicom.uid.ExplicitVRBigEndian


def _words(error: Exception) -> str:
    return _printable(str(error)) or type(error).__name__


def _printable(text: str) -> str:
    """In one line, without control characters: a damaged header may hold any."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


_MEND = "replace the file, or set on_bad_image=skip to leave such files out"
