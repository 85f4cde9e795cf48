"""Volumes from real files written by nibabel and pydicom. Shapes: K slices, J rows, I columns; D H W on a screen."""

import gzip
import itertools
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import RLELossless, generate_uid

from medvlmoe.data.dicom_series import read_series
from medvlmoe.data.image_shape import ImageShape
from medvlmoe.data.images import ImageFiles, read_image
from medvlmoe.data.intensity import Intensity
from medvlmoe.data.nifti import as_on_screen, read_nifti
from medvlmoe.data.volumes import read_volume, resample
from medvlmoe.errors import ConfigError, DataError
from tests.medvlmoe.data.dicom_files import write_dicom, write_series

RANDOM = np.random.default_rng(1)
VALUES_DHW = RANDOM.integers(-1000, 2000, (6, 10, 8)).astype(np.int16)
AS_IS = ImageShape(1, 10, 6)  # square pictures below: 10 x 10
SQUARE_DHW = RANDOM.integers(-1000, 2000, (6, 10, 10)).astype(np.int16)
SCREEN_AFFINE = np.diag([-0.8, -0.8, 2.0, 1.0])  # columns to the left, rows to the back, slices to the head


def write_nifti(path, values_DHW, axes="LPS", **header):
    image = nibabel.Nifti1Image(values_DHW.transpose(2, 1, 0), SCREEN_AFFINE)
    stored = nibabel.orientations.io_orientation(SCREEN_AFFINE)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(stored, nibabel.orientations.axcodes2ornt(axes)))
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def stretched(values):
    low, high = np.percentile(values, [0.5, 99.5])
    return np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def refused(path, message, kind=DataError, shape=AS_IS):
    with pytest.raises(kind, match=message) as caught:
        read_volume(path, shape, Intensity())
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_without_resampling(tmp_path, suffix):
    path = write_nifti(tmp_path / f"a{suffix}", SQUARE_DHW)
    np.testing.assert_allclose(read_volume(path, AS_IS, Intensity())[0], stretched(SQUARE_DHW), atol=1)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIL", "SRA", "ASL", "IPR"])
def test_orientation_does_not_depend_on_how_it_is_stored(tmp_path, axes):
    values, affine = read_nifti(write_nifti(tmp_path / "a.nii.gz", VALUES_DHW, axes))
    assert "".join(nibabel.aff2axcodes(affine)) == axes
    np.testing.assert_array_equal(as_on_screen(values, affine), VALUES_DHW)


def test_an_oblique_volume_goes_to_the_nearest_axes(tmp_path):
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nibabel.save(nibabel.Nifti1Image(VALUES_DHW.transpose(2, 1, 0), turn @ SCREEN_AFFINE), tmp_path / "a.nii")
    np.testing.assert_array_equal(as_on_screen(*read_nifti(tmp_path / "a.nii")), VALUES_DHW)


def test_a_series_and_a_nifti_file_of_one_patient_are_equal(tmp_path):
    series = write_series(tmp_path / "series", SQUARE_DHW)
    window = Intensity(window=(-300, 1400))
    ours = read_volume(series, ImageShape(1, 7, 5), window)
    np.testing.assert_array_equal(
        ours, read_volume(write_nifti(tmp_path / "a.nii", SQUARE_DHW, "RAS"), ImageShape(1, 7, 5), window)
    )
    plain = np.round(np.clip((SQUARE_DHW + 1000) / 1400, 0, 1) * 255)
    np.testing.assert_allclose(read_volume(series, AS_IS, window)[0], plain, atol=1)


def test_slope_and_intercept_of_nifti(tmp_path):
    image = nibabel.Nifti1Image(SQUARE_DHW.transpose(2, 1, 0), SCREEN_AFFINE)
    image.header.set_slope_inter(0.5, -20)
    nibabel.save(image, tmp_path / "a.nii")
    values, _ = read_nifti(tmp_path / "a.nii")
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled())
    np.testing.assert_allclose(values, stored * 0.5 - 20)


def test_voxels_without_a_value_are_black_and_do_not_count(tmp_path):
    values = SQUARE_DHW.astype(np.float32)
    values[0, :5], values[1, 0, 0], values[1, 0, 1] = np.nan, np.inf, -np.inf
    found = read_volume(write_nifti(tmp_path / "a.nii.gz", values), AS_IS, Intensity())[0]
    finite = np.isfinite(values)
    assert (found[~finite] == 0).all()
    np.testing.assert_allclose(found[finite], stretched(values[finite]), atol=1)
    refused(write_nifti(tmp_path / "b.nii", np.full((3, 4, 5), np.nan, np.float32)), "no finite value")


def test_resampling_of_a_ramp_is_linear_and_keeps_the_mean():
    ramp = np.tile(np.linspace(0, 1, 40), (20, 1))
    small = resample(ramp, (10, 20))
    np.testing.assert_allclose(
        small[:, 2:-2], np.tile(ramp[0].reshape(20, 2).mean(axis=1), (10, 1))[:, 2:-2], atol=1e-5
    )
    fine = RANDOM.random((64, 64))
    assert abs(resample(fine, (8, 8)).mean() - fine.mean()) < 0.02
    assert resample(fine, (8, 8)).std() < 0.1  # every value counts: noise averages out instead of being picked
    np.testing.assert_allclose(resample(fine, (64, 64)), fine, atol=1e-6)


@pytest.mark.parametrize("shape", [ImageShape(1, 16, 4), ImageShape(3, 8, 12)])
def test_the_outcome_has_the_wanted_shape(tmp_path, shape):
    found = read_volume(write_nifti(tmp_path / "a.nii", VALUES_DHW), shape, Intensity())
    assert found.shape == shape.dimensions
    assert found.dtype == np.uint8
    assert (found == found[:1]).all()


def test_percentiles_of_the_hospital(tmp_path):
    path = write_nifti(tmp_path / "a.nii", SQUARE_DHW)
    low, high = np.percentile(SQUARE_DHW, [20, 60])
    expected = np.round(np.clip((SQUARE_DHW - low) / (high - low), 0, 1) * 255)
    np.testing.assert_allclose(read_volume(path, AS_IS, Intensity(percentiles=(20, 60)))[0], expected, atol=1)


def test_four_axes(tmp_path):
    four = np.repeat(VALUES_DHW.transpose(2, 1, 0)[..., None], 3, axis=3)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "four.nii.gz")
    refused(tmp_path / "four.nii.gz", r"4 axes \(8 x 10 x 6 x 3\).*on_bad_image=skip")
    nibabel.save(nibabel.Nifti1Image(four[..., :1], SCREEN_AFFINE), tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(as_on_screen(*read_nifti(tmp_path / "one.nii.gz")), VALUES_DHW)
    nibabel.save(nibabel.Nifti1Image(four[:, :, 0, 0], np.eye(4)), tmp_path / "two.nii.gz")
    refused(tmp_path / "two.nii.gz", "2 axes")
    nibabel.save(nibabel.Nifti1Image(four[:, :, :1, 0], np.eye(4)), tmp_path / "flat.nii.gz")
    refused(tmp_path / "flat.nii.gz", "it is flat")


def test_damaged_nifti(tmp_path):
    whole = write_nifti(tmp_path / "whole.nii.gz", VALUES_DHW).read_bytes()
    plain = gzip.decompress(whole)
    contents = {"cut.nii.gz": whole[: len(whole) // 2], "cut.nii": plain[: len(plain) // 2], "empty.nii": b"",
                "text.nii.gz": b"not a volume" * 50, "head.nii": plain[:100]}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "unreadable volume.*on_bad_image=skip")
    refused(tmp_path / "absent.nii.gz", "absent")
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "colour.nii")
    refused(tmp_path / "colour.nii", "colours")


def test_flat_files_and_volumes_are_told_apart(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "not a volume.*flat images choose another")
    refused(write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint16)), "name the folder")
    for path in (write_nifti(tmp_path / "a.nii.gz", VALUES_DHW), write_series(tmp_path / "series", VALUES_DHW)):
        with pytest.raises(DataError, match=r"a volume, and this model reads flat images; choose model\.vision=vit3d"):
            read_image(path, 8, 1)


# --- DICOM series ---


@pytest.mark.parametrize("seed", range(3))
def test_slices_are_ordered_by_position_whatever_their_names_and_numbers(tmp_path, seed):
    random = np.random.default_rng(seed)
    folder = write_series(tmp_path / "s", VALUES_DHW, names=[f"{place}.dcm" for place in random.permutation(6)])
    for file, number in zip(sorted(folder.iterdir()), random.permutation(6), strict=True):
        dataset = dcmread(file)
        dataset.InstanceNumber = int(number)
        dataset.save_as(file)
    values, affine, _ = read_series(folder)
    np.testing.assert_array_equal(as_on_screen(values, affine), VALUES_DHW)


@pytest.mark.parametrize(("rows", "columns"), list(itertools.permutations(np.eye(3).astype(int).tolist(), 2)))
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1)])
def test_every_plane_and_direction_gives_the_same_patient(tmp_path, rows, columns, signs):
    """Cut a known body into slices along any axes: what is read must be the body again."""
    body_XYZ = RANDOM.integers(0, 1000, (5, 6, 7)).astype(np.int16)  # to the left, to the back, to the head
    right, down = np.array(rows) * signs[0], np.array(columns) * signs[1]
    normal = np.cross(right, down)
    axes = [int(np.abs(v).argmax()) for v in (normal, down, right)]
    slices_KJI = body_XYZ.transpose(axes)
    for axis, vector in enumerate((normal, down, right)):
        if vector.sum() < 0:
            slices_KJI = np.flip(slices_KJI, axis)
    for place, values_JI in enumerate(slices_KJI):
        file = tmp_path / "s" / f"{(3 * place) % 7}x{place}"
        write_dicom(file, values_JI.astype(np.uint16), SeriesInstanceUID="1.2.3",
                    ImageOrientationPatient=[*right.tolist(), *down.tolist()], PixelSpacing=[1, 1],
                    ImagePositionPatient=(normal * 2 * place).tolist())  # fmt: skip
    values, affine, _ = read_series(tmp_path / "s")
    np.testing.assert_array_equal(as_on_screen(values, affine), body_XYZ.transpose(2, 1, 0))


def test_slices_without_positions_are_ordered_by_number(tmp_path):
    folder = write_series(tmp_path / "s", VALUES_DHW, ImagePositionPatient=None)
    values, affine, _ = read_series(folder)
    np.testing.assert_array_equal(as_on_screen(values, affine), VALUES_DHW)
    next(file for file in folder.iterdir() if dcmread(file).InstanceNumber == 3).unlink()
    refused(folder, r"have the numbers 2 and 4: slices are double or missing")
    refused(write_series(tmp_path / "t", VALUES_DHW, ImagePositionPatient=None, InstanceNumber=4), "the same number")
    refused(write_series(tmp_path / "u", VALUES_DHW, ImagePositionPatient=None, InstanceNumber=None),
            "neither a position nor a number")  # fmt: skip


@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_missing_slice_is_found_between_its_neighbours(tmp_path, count):
    values = RANDOM.integers(0, 9, (count + 1, 4, 4))
    for missing in range(1, count):
        folder = write_series(tmp_path / str(missing), values, names=[f"{place}.dcm" for place in range(count + 1)])
        (folder / f"{missing}.dcm").unlink()
        refused(folder, rf"missing between {missing - 1}\.dcm and {missing + 1}\.dcm \(a gap of 4 mm, usually 2 mm\)")


def test_small_jitter_of_positions_is_allowed(tmp_path):
    folder = write_series(tmp_path / "s", VALUES_DHW)
    for file in folder.iterdir():
        dataset = dcmread(file)
        dataset.ImagePositionPatient = [-100, -90, float(dataset.ImagePositionPatient[2]) + RANDOM.uniform(-0.1, 0.1)]
        dataset.save_as(file)
    values, affine, _ = read_series(folder)
    np.testing.assert_array_equal(as_on_screen(values, affine), VALUES_DHW)


def test_two_slices_at_one_place(tmp_path):
    folder = write_series(tmp_path / "s", VALUES_DHW)
    write_series(folder, VALUES_DHW, names=[f"second{place}" for place in range(6)])
    refused(folder, "lie at the same place: a copy, or several phases")


def test_two_series_in_one_folder(tmp_path):
    folder = write_series(tmp_path / "s", VALUES_DHW)
    write_series(folder, VALUES_DHW[:2], names=["x", "y"], SeriesInstanceUID=generate_uid())
    refused(folder, r"2 series \((6 and 2|2 and 6) slices\); give each a folder of its own")


@pytest.mark.parametrize(("elements", "message"), [
    ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "differ in orientation"),
    ({"PixelSpacing": [1, 0.8]}, "differ in pixel spacing"),
    ({"PhotometricInterpretation": "MONOCHROME1"}, "differ in photometric interpretation"),
])  # fmt: skip
def test_slices_that_do_not_fit(tmp_path, elements, message):
    folder = write_series(tmp_path / "s", VALUES_DHW[1:])
    write_series(folder, VALUES_DHW[:1], names=["scout.dcm"], **elements)
    refused(folder, message)
    (folder / "scout.dcm").unlink()
    write_series(folder, VALUES_DHW[:1, :5], names=["small.dcm"])
    refused(folder, "differ in size")


def test_what_is_no_slice(tmp_path):
    folder = write_series(tmp_path / "s", SQUARE_DHW)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "LICENSE").write_text("terms")
    (folder / "more").mkdir()
    assert read_volume(folder, AS_IS, Intensity()).shape == (1, 6, 10, 10)
    (folder / "notes.txt").write_text("patient moved")
    refused(folder, r"notes\.txt: not a DICOM file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "DICOM slices in it: 0")
    refused(write_series(tmp_path / "one", SQUARE_DHW[:1]), "DICOM slices in it: 1")


def test_a_damaged_slice_is_named(tmp_path):
    folder = write_series(tmp_path / "s", SQUARE_DHW)
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-60])
    refused(folder, rf"{file.name}: unreadable DICOM slice .*on_bad_image=skip")


def test_each_slice_has_its_own_rescale_and_padding(tmp_path):
    folder = write_series(tmp_path / "s", VALUES_DHW)
    expected = VALUES_DHW.astype(np.float32)
    for place, file in enumerate(sorted(folder.iterdir(), key=lambda file: dcmread(file).ImagePositionPatient[2])):
        dataset = dcmread(file)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + place, -1024 * (1 + place)
        dataset.add_new("PixelPaddingValue", "US", int(VALUES_DHW[0, 0, 0]) + 1024)
        dataset.save_as(file)
        expected[place] *= 1 + place
    expected[VALUES_DHW[0, 0, 0] == VALUES_DHW] = np.nan
    values, affine, _ = read_series(folder)
    np.testing.assert_allclose(as_on_screen(values, affine), expected)


def test_a_compressed_and_an_inverted_series(tmp_path):
    plain = write_series(tmp_path / "plain", SQUARE_DHW)
    packed = write_series(tmp_path / "packed", SQUARE_DHW)
    for file in packed.iterdir():
        dataset = dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    expected = read_volume(plain, AS_IS, Intensity())
    np.testing.assert_array_equal(read_volume(packed, AS_IS, Intensity()), expected)
    inverted = write_series(tmp_path / "inverted", SQUARE_DHW, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_volume(inverted, AS_IS, Intensity()), 255 - expected, atol=1)


def test_the_fingerprint_changes_with_any_slice_and_with_the_window(tmp_path):
    folder = write_series(tmp_path / "s", VALUES_DHW)
    states = [next(ImageFiles([folder]).fingerprints())]
    assert states == list(ImageFiles([folder]).fingerprints())
    file = sorted(folder.iterdir())[3]
    content = file.read_bytes()
    file.write_bytes(content + b"\0")
    states.append(next(ImageFiles([folder]).fingerprints()))
    file.rename(folder / "other.dcm")
    states.append(next(ImageFiles([folder]).fingerprints()))
    (folder / "other.dcm").unlink()
    states.append(next(ImageFiles([folder]).fingerprints()))
    states.append(next(ImageFiles([folder], Intensity(window=(40, 400))).fingerprints()))
    states.append(next(ImageFiles([folder], Intensity(window=(40, 401))).fingerprints()))
    assert len(set(states)) == len(states)


def test_without_nibabel_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", VALUES_DHW)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    refused(path, r"pip install 'medvlmoe\[volumes\]'$", ConfigError)
