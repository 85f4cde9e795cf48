"""Decoding is held to a plain reference computed here; the files are written by pydicom."""

import io
import logging
import multiprocessing
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medvlmoe.data import dicom, dicom_helper
from medvlmoe.data.dicom import is_dicom, read_flat
from medvlmoe.data.images import read_image
from medvlmoe.data.intensity import Intensity
from medvlmoe.errors import ConfigError, DataError
from tests.medvlmoe.data.dicom_files import write_dicom

AUTOMATIC = Intensity()
RANDOM = np.random.default_rng(0)
TWELVE = RANDOM.integers(0, 4096, (40, 50)).astype(np.uint16)
EIGHT = RANDOM.integers(0, 256, (40, 50)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (40, 50, 3)).astype(np.uint8)


def window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """The standard's LINEAR function, pixel by pixel as it is written there."""
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    shown = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.round(np.where(values <= low, 0, np.where(values > high, 255, shown))).astype(np.uint8)


def stretch(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, [0.5, 99.5])
    return np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def equal(path, expected: np.ndarray, intensity: Intensity = AUTOMATIC) -> None:
    np.testing.assert_array_equal(read_flat(path, intensity), expected)


@pytest.mark.parametrize("syntax", [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
])  # fmt: skip
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_in_every_plain_transfer_syntax(tmp_path, syntax, interpretation):
    path = write_dicom(tmp_path / "a.dcm", TWELVE, syntax=syntax, BitsStored=12, WindowCenter=2000, WindowWidth=1500,
                       PhotometricInterpretation=interpretation)  # fmt: skip
    shown = window(TWELVE.astype(float), 2000, 1500)
    expected = np.round(255 - window_exactly(TWELVE, 2000, 1500)) if interpretation == "MONOCHROME1" else shown
    equal(path, expected)


def window_exactly(values: np.ndarray, center: float, width: float) -> np.ndarray:
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("name", ["a.dcm", "IM0001", "a.jpg"])
def test_files_are_known_by_their_content(tmp_path, preamble, syntax, name):
    path = write_dicom(tmp_path / name, TWELVE, syntax=syntax, preamble=preamble)
    assert is_dicom(path)
    equal(path, stretch(TWELVE))


def test_pictures_are_not_taken_for_dicom(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "a.webp"):
        Image.fromarray(EIGHT).save(tmp_path / name)
        assert not is_dicom(tmp_path / name)


def test_signed_values_with_rescale_and_window(tmp_path):
    stored = RANDOM.integers(-1000, 1000, (40, 50)).astype(np.int16)
    path = write_dicom(tmp_path / "a", stored, RescaleSlope="1.5", RescaleIntercept="-100", WindowCenter="40.5",
                       WindowWidth="399.5")  # fmt: skip
    equal(path, window(stored * 1.5 - 100, 40.5, 399.5))


def test_only_an_intercept(tmp_path):
    equal(write_dicom(tmp_path / "a", TWELVE, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=1000),
          window(TWELVE - 1024.0, 0, 1000))  # fmt: skip


@pytest.mark.parametrize("empty", [{"WindowCenter": ""}, {"WindowWidth": 0}, {"WindowWidth": ""}, {"WindowWidth": -5}])
def test_a_useless_window_is_as_none(tmp_path, empty):
    equal(write_dicom(tmp_path / "a", TWELVE, **{"WindowCenter": 100, "WindowWidth": 10, **empty}), stretch(TWELVE))


def test_several_windows_the_first_counts(tmp_path):
    path = write_dicom(tmp_path / "a", TWELVE, WindowCenter=[1000, 2000], WindowWidth=[500, 800])
    equal(path, window(TWELVE.astype(float), 1000, 500))


def test_a_window_of_width_one_is_a_threshold(tmp_path):
    path = write_dicom(tmp_path / "a", TWELVE, WindowCenter=2000.5, WindowWidth=1)
    equal(path, np.where(TWELVE > 2000, 255, 0))


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(tmp_path, function):
    path = write_dicom(tmp_path / "a", TWELVE, WindowCenter=2000, WindowWidth=1500, VOILUTFunction=function)
    exact = np.clip((TWELVE - 2000.0) / 1500 + 0.5, 0, 1)
    sigmoid = 1 / (1 + np.exp(-4 * (TWELVE - 2000.0) / 1500))
    expected = (exact if function == "LINEAR_EXACT" else sigmoid) * 255
    assert np.abs(read_flat(path, AUTOMATIC) - expected).max() < 0.5 + 1e-6


def test_what_the_hospital_chose_wins_over_the_file(tmp_path):
    path = write_dicom(tmp_path / "a", TWELVE, RescaleIntercept=-1024, WindowCenter=1, WindowWidth=2)
    exact = np.clip((TWELVE - 1024.0 - 40) / 400 + 0.5, 0, 1)
    equal(path, np.round(exact * 255), Intensity(window=(40, 400)))
    values = TWELVE - 1024.0
    low, high = np.percentile(values, [10, 90])
    equal(path, np.round(np.clip((values - low) / (high - low), 0, 1) * 255), Intensity(percentiles=(10, 90)))


def test_eight_bits_without_a_window_stay_as_they_are(tmp_path):
    equal(write_dicom(tmp_path / "a", EIGHT), EIGHT)
    equal(write_dicom(tmp_path / "b", EIGHT, PhotometricInterpretation="MONOCHROME1"), 255 - EIGHT)


def test_bits_above_the_stored_ones_mean_nothing(tmp_path):
    overlay = (RANDOM.integers(0, 16, TWELVE.shape) << 12).astype(np.uint16)
    equal(write_dicom(tmp_path / "a", TWELVE | overlay, BitsStored=12), stretch(TWELVE))
    signed = RANDOM.integers(-2048, 2048, (40, 50))
    path = write_dicom(tmp_path / "b", (signed & 0xFFF).astype(np.uint16), BitsStored=12, PixelRepresentation=1)
    equal(path, stretch(signed))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_a_high_bit_that_is_not_the_last_of_the_stored(tmp_path, syntax, signed):
    values = RANDOM.integers(-2048 if signed else 0, 2048 if signed else 4096, (40, 50))
    shifted = ((values & 0xFFF) << 4).astype(np.uint16)
    elements = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": int(signed)}
    path = write_dicom(tmp_path / "a", shifted, **elements)
    if syntax == RLELossless:
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    equal(path, stretch(values))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_every_width_and_sign(tmp_path, dtype):
    values = RANDOM.integers(0, 100, (31, 33)).astype(dtype) * (-1 if np.dtype(dtype).kind == "i" else 1)
    path = write_dicom(tmp_path / "a", values.astype(dtype), WindowCenter=0, WindowWidth=150)
    equal(path, window(values.astype(float), 0, 150))


def test_one_bit_and_floating_point(tmp_path):
    bits = RANDOM.integers(0, 2, (16, 16)).astype(np.uint8)
    path = write_dicom(tmp_path / "a", bits, BitsAllocated=1, BitsStored=1, HighBit=0,
                       PixelData=np.packbits(bits.reshape(-1), bitorder="little").tobytes())  # fmt: skip
    equal(path, bits * 255)
    real = RANDOM.normal(size=(16, 16)).astype(np.float32)
    path = write_dicom(tmp_path / "b", real, FloatPixelData=real.tobytes(), BitsStored=None, HighBit=None,
                       PixelRepresentation=None)  # fmt: skip
    equal(path, stretch(real.astype(float)))


def test_padding_is_black_and_does_not_count(tmp_path):
    stored = TWELVE.astype(np.int16)
    stored[:10] = -2000
    for name, interpretation in (("a", "MONOCHROME2"), ("b", "MONOCHROME1")):
        path = write_dicom(tmp_path / name, stored, PixelPaddingValue=-2000, PhotometricInterpretation=interpretation)
        low, high = np.percentile(stored[10:], [0.5, 99.5])
        scaled = np.clip((stored - low) / (high - low), 0, 1)
        expected = np.round((1 - scaled if interpretation == "MONOCHROME1" else scaled) * 255)
        expected[:10] = 0
        equal(path, expected)


def test_a_range_of_padding_and_padding_of_another_sign(tmp_path):
    stored = RANDOM.integers(100, 4000, (40, 50)).astype(np.uint16)
    stored[:5], stored[5:10] = 3, 9
    path = write_dicom(tmp_path / "a", stored, PixelPaddingValue=0, PixelPaddingRangeLimit=10)
    assert read_flat(path, AUTOMATIC)[:10].max() == 0
    np.testing.assert_array_equal(read_flat(path, AUTOMATIC)[10:], stretch(stored[10:]))
    signed = stored.astype(np.int16)
    signed[:5] = signed[5:10] = -2000
    path = write_dicom(tmp_path / "b", signed)
    content = dcmread(path)
    content.add_new("PixelPaddingValue", "US", 65536 - 2000)
    content.save_as(path)
    np.testing.assert_array_equal(read_flat(path, AUTOMATIC)[10:], stretch(signed[10:]))


def test_an_image_of_one_value_is_black(tmp_path):
    assert read_flat(write_dicom(tmp_path / "a", np.full((8, 8), 700, np.uint16)), AUTOMATIC).max() == 0
    path = write_dicom(tmp_path / "b", np.full((8, 8), 700, np.uint16), PixelPaddingValue=700)
    assert read_flat(path, AUTOMATIC).max() == 0


def lookup(entries: np.ndarray, first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("first", [0, 500])
def test_voi_table(tmp_path, bits, first):
    entries = np.sort(RANDOM.integers(0, 2**bits, 3000))
    entries[-1] = 2**bits - 1
    path = write_dicom(
        tmp_path / "a", TWELVE, VOILUTSequence=lookup(entries, first, bits), WindowCenter=1, WindowWidth=9
    )
    found = entries[np.clip(TWELVE.astype(int) - first, 0, 2999)]
    equal(path, np.round(found / (2**bits - 1) * 255))


def test_modality_table_then_window(tmp_path):
    entries = RANDOM.integers(0, 4096, 4096)
    path = write_dicom(tmp_path / "a", TWELVE, ModalityLUTSequence=lookup(entries, 0, 12), WindowCenter=2048,
                       WindowWidth=3000)  # fmt: skip
    equal(path, window(entries[TWELVE].astype(float), 2048, 3000))


def test_a_voi_table_for_negative_values(tmp_path):
    entries = np.linspace(0, 255, 2000).astype(int)
    path = write_dicom(tmp_path / "a", TWELVE, RescaleIntercept=-1024, VOILUTSequence=lookup(entries, -1000, 8))
    found = entries[np.clip(TWELVE.astype(int) - 1024 + 1000, 0, 1999)]
    equal(path, np.round(found / 255 * 255))


def palette(entries: np.ndarray, bits: int, first: int = 0) -> dict[str, object]:
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for place, colour in enumerate(("Red", "Green", "Blue")):
        content = entries[:, place].astype("<u2" if bits == 16 else "u1").tobytes()
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries) % 65536, first, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = content + b"\0" * (len(content) % 2)
    return elements


@pytest.mark.parametrize("count", [256, 255, 100])
@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path, count, bits):
    entries = RANDOM.integers(0, 2**bits, (count, 3))
    path = write_dicom(tmp_path / "a", EIGHT, **palette(entries, bits))
    equal(path, (entries >> (bits - 8))[np.clip(EIGHT, 0, count - 1)])


def test_a_palette_of_eight_bits_for_pixels_of_sixteen(tmp_path):
    entries = RANDOM.integers(0, 256, (4096, 3))
    equal(write_dicom(tmp_path / "a", TWELVE, **palette(entries, 8)), entries[TWELVE])
    entries16 = RANDOM.integers(0, 256, (4096, 3))  # declared as 16 bits, but 8 are used
    equal(write_dicom(tmp_path / "b", TWELVE, **palette(entries16, 16)), entries16[TWELVE])


@pytest.mark.parametrize("planar", [0, 1])
def test_red_green_blue(tmp_path, planar):
    content = (COLOUR.transpose(2, 0, 1) if planar else COLOUR).tobytes()
    path = write_dicom(tmp_path / "a", COLOUR, PlanarConfiguration=planar, PixelData=content)
    equal(path, COLOUR)
    np.testing.assert_array_equal(
        read_image(path, 24, 1)[:, :, 0],
        np.asarray(Image.fromarray(COLOUR).convert("L").resize((24, 24), Image.Resampling.BICUBIC, reducing_gap=2.0)),
    )


def test_colours_of_sixteen_bits(tmp_path):
    deep = COLOUR.astype(np.uint16) * 257
    equal(write_dicom(tmp_path / "a", deep), COLOUR)


def ybr(rgb: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, YBR_FULL."""
    matrix = np.array([[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5000], [0.5000, -0.4187, -0.0813]])
    return np.clip(np.round(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def test_ybr_full(tmp_path):
    path = write_dicom(tmp_path / "a", ybr(COLOUR), PhotometricInterpretation="YBR_FULL")
    inside = (COLOUR > 5).all(axis=2) & (COLOUR < 250).all(axis=2)
    assert np.abs(read_flat(path, AUTOMATIC).astype(int) - COLOUR)[inside].max() <= 2


def test_ybr_full_422(tmp_path):
    pairs = np.repeat(COLOUR[:, ::2], 2, axis=1)  # two neighbours share a colour, so that nothing is lost
    stored = ybr(pairs)
    packed = np.stack([stored[:, ::2, 0], stored[:, 1::2, 0], stored[:, ::2, 1], stored[:, ::2, 2]], axis=-1)
    path = write_dicom(tmp_path / "a", pairs, PhotometricInterpretation="YBR_FULL_422", PixelData=packed.tobytes())
    inside = (pairs > 5).all(axis=2) & (pairs < 250).all(axis=2)
    assert np.abs(read_flat(path, AUTOMATIC).astype(int) - pairs)[inside].max() <= 2


@pytest.mark.parametrize("interpretation", ["YBR_PARTIAL_422", "HSV", "CMYK", "NONSENSE"])
def test_retired_colours_are_named(tmp_path, interpretation):
    path = write_dicom(tmp_path / "a.dcm", COLOUR, PhotometricInterpretation=interpretation)
    with pytest.raises(DataError, match=rf"a\.dcm: unreadable DICOM image .*{interpretation}.*on_bad_image=skip"):
        read_flat(path, AUTOMATIC)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_compression_changes_nothing(tmp_path, syntax, signed):
    smooth = np.add.outer(np.arange(64), np.arange(48)) * 10
    values = (smooth - 500 if signed else smooth).astype(np.int16 if signed else np.uint16)
    plain = write_dicom(tmp_path / "plain", values, RescaleIntercept=-10)
    if syntax == RLELossless:
        dataset = dcmread(plain)
        dataset.compress(syntax)
    else:
        dataset = compressed_with_gdcm(plain, syntax)
    dataset.save_as(tmp_path / "packed")
    assert get_decoder(syntax).is_available
    assert dcmread(tmp_path / "packed").file_meta.TransferSyntaxUID == syntax
    equal(tmp_path / "packed", read_flat(plain, AUTOMATIC))


def compressed_with_gdcm(path, syntax):
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    kind = {JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless, JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless}
    change.SetTransferSyntax(gdcm.TransferSyntax(kind[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path) + ".gdcm")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return dcmread(str(path) + ".gdcm")


def packed_picture(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return encapsulate([buffer.getvalue()])


SMOOTH = np.stack([np.add.outer(np.arange(64), np.arange(48)), np.tile(np.arange(48) * 4, (64, 1)),
                   np.full((64, 48), 90)], axis=-1).astype(np.uint8)  # fmt: skip


@pytest.mark.parametrize(("syntax", "kind", "interpretation"), [
    (JPEGBaseline8Bit, "jpeg", "YBR_FULL_422"),
    (JPEG2000, "jpeg2000", "RGB"),
    (JPEG2000, "jpeg2000", "YBR_ICT"),
])  # fmt: skip
def test_compressed_colour(tmp_path, syntax, kind, interpretation):
    options = (
        {"quality": 98, "subsampling": "4:2:2"}
        if kind == "jpeg"
        else {"no_jp2": True, "mct": int("YBR" in interpretation)}
    )
    content = packed_picture(Image.fromarray(SMOOTH), kind, **options)
    path = write_dicom(
        tmp_path / "a", SMOOTH, syntax=syntax, PhotometricInterpretation=interpretation, PixelData=content
    )
    assert np.abs(read_flat(path, AUTOMATIC).astype(int) - SMOOTH).max() <= 8


def test_compressed_grey(tmp_path):
    content = packed_picture(Image.fromarray(SMOOTH[:, :, 0]), "jpeg", quality=98)
    path = write_dicom(tmp_path / "a", SMOOTH[:, :, 0], syntax=JPEGBaseline8Bit, PixelData=content)
    assert np.abs(read_flat(path, AUTOMATIC).astype(int) - SMOOTH[:, :, 0]).max() <= 6


def refused(path, message, kind=DataError):
    with pytest.raises(kind, match=message) as caught:
        read_image(path, 16, 1)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_several_frames(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", EIGHT, NumberOfFrames=3, PixelData=EIGHT.tobytes() * 3)
    refused(path, "holds 3 frames.*single files.*on_bad_image=skip")
    equal(write_dicom(tmp_path / "b.dcm", EIGHT, NumberOfFrames=1), EIGHT)


def test_files_without_an_image(tmp_path):
    path = write_dicom(tmp_path / "report.dcm", EIGHT, PixelData=b"", Rows=None, Columns=None)
    dataset = dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    refused(path, "holds no image")
    for name, content in (("empty.dcm", b""), ("text.dcm", b"not an image at all" * 40), ("zeros.dcm", bytes(500)),
                          ("short.dcm", bytes(128) + b"DICM"), ("noise.dcm", RANDOM.bytes(3000))):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "on_bad_image=skip")
    refused(tmp_path / "absent.dcm", "absent.dcm: ")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEG2000])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files(tmp_path, syntax, share):
    elements = {}
    if syntax in (JPEGBaseline8Bit, JPEG2000):
        content = packed_picture(Image.fromarray(EIGHT), "jpeg" if syntax == JPEGBaseline8Bit else "jpeg2000")
        elements = {"PixelData": content}
    path = write_dicom(tmp_path / "a.dcm", EIGHT, syntax=syntax if elements else ExplicitVRLittleEndian, **elements)
    if syntax == RLELossless:
        dataset = dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "on_bad_image=skip")


def test_a_picture_cut_off_inside_a_whole_file(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.tile(EIGHT, (6, 6))).save(whole, "jpeg")
    for share in (0.4, 0.8):
        part = whole.getvalue()[: int(len(whole.getvalue()) * share)]
        path = write_dicom(tmp_path / "a.dcm", np.tile(EIGHT, (6, 6)), syntax=JPEGBaseline8Bit,
                           PixelData=encapsulate([part]))  # fmt: skip
        refused(path, "on_bad_image=skip")


@pytest.mark.parametrize(("elements", "message"), [
    ({"Rows": 4000}, "less than expected"),
    ({"BitsAllocated": 12}, "Bits Allocated"),
    ({"RescaleSlope": 0}, "rescale slope is 0"),
    ({"PhotometricInterpretation": None}, "unreadable DICOM image"),
    ({"SamplesPerPixel": 3}, "unreadable DICOM image"),
])  # fmt: skip
def test_a_header_that_does_not_fit(tmp_path, elements, message):
    refused(write_dicom(tmp_path / "a.dcm", TWELVE, **elements), message)


def test_a_transfer_syntax_of_films(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", EIGHT, syntax=MPEG2MPML, PixelData=encapsulate([b"film"]))
    refused(path, "transfer syntax MPEG2 .* is not supported")


def test_a_missing_decoder_is_named_and_is_not_a_bad_image(tmp_path, monkeypatch):
    content = packed_picture(Image.fromarray(EIGHT), "jpeg2000", no_jp2=True)
    path = write_dicom(tmp_path / "a.dcm", EIGHT, syntax=JPEG2000, PixelData=content)
    decoder = get_decoder(JPEG2000)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"gdcm": ("gdcm>=3.0.10",)})
    refused(path, r"JPEG 2000.*gdcm>=3\.0\.10.*pip install 'medvlmoe\[dicom\]'", ConfigError)


def test_pydicom_is_loaded_for_dicom_only(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "b.png")
    program = f"""
import sys
from pathlib import Path
from medvlmoe.data.images import read_image
read_image(Path(r"{tmp_path / "b.png"}"), 8, 1)
sys.exit(len({{"pydicom", "nibabel", "gdcm"}} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_pydicom_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", EIGHT)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    refused(path, r"pip install 'medvlmoe\[dicom\]'$", ConfigError)


def test_no_header_text_in_messages_or_warnings(tmp_path, caplog, capsys):
    secret = "Mustermann^Erika"
    path = write_dicom(tmp_path / "a.dcm", EIGHT, PatientName=secret, PatientID=secret, Rows=4000)
    dataset = dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.add_new("PatientAge", "AS", secret)
        dataset.add_new("WindowCenter", "DS", None)
        dataset.save_as(path)
    with (
        caplog.at_level(logging.DEBUG),
        warnings.catch_warnings(record=True) as caught,
        pytest.raises(DataError) as error,
    ):
        read_flat(path, AUTOMATIC)
    everything = caplog.text + "".join(capsys.readouterr()) + str(error.value) + "".join(str(w.message) for w in caught)
    assert "Mustermann" not in everything


def test_a_file_that_crashes_its_decoder_is_named_and_the_next_is_read(tmp_path):
    """GDCM ends with a segmentation fault when a lossless JPEG says that its values have 149 bits."""
    whole = Path(pydicom.__file__).parent / "data" / "test_files" / "SC_rgb_jpeg_gdcm.dcm"
    content = bytearray(whole.read_bytes())
    content[1358] = 149
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"damaged\.dcm: unreadable DICOM image \(.*set on_bad_image=skip") as caught:
        read_flat(damaged, AUTOMATIC)
    assert "\n" not in str(caught.value)
    assert read_flat(whole, AUTOMATIC).shape == (100, 100, 3)


def test_helpers_are_used_again_by_several_threads_and_not_by_a_forked_process(tmp_path):
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    path = write_dicom(tmp_path / "a.dcm", pixels, BitsStored=12)
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(path)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: dicom_helper.decoded_apart(path, PIXELS)[0], range(12)))
    assert all(np.array_equal(one, pixels) for one in found)
    idle = list(dicom_helper._POOL._idle)
    assert 1 <= len(idle) <= 3
    with multiprocessing.get_context("fork").Pool(1) as processes:
        assert processes.apply(_mean_of, (path,)) == pixels.mean()
    assert not any(helper.ended for helper in idle), "a forked process has its own and leaves ours alone"


PIXELS = dicom.PIXEL_ELEMENTS


def _mean_of(path: Path) -> float:
    return float(dicom_helper.decoded_apart(path, PIXELS)[0].mean())
