"""A hospital's table of DICOM files and of volumes, from the manifest to the batch."""

import nibabel
import numpy as np
import pytest
import torch

from medvlmoe.data import load_index
from medvlmoe.errors import ConfigError, DataError
from tests.medvlmoe.data.dicom_files import write_dicom, write_series

RANDOM = np.random.default_rng(0)


def rows_of(manifest_rows, name):
    rows = manifest_rows()
    for number, row in enumerate(rows):
        row["file"] = name(number)
        for fact in ("age", "sex", "view"):
            del row[fact]
    return rows


def test_dicom_in_a_table_without_age_sex_and_view(make_manifest, manifest_rows, build, tmp_path):
    rows = rows_of(manifest_rows, lambda number: f"scans/{number}")
    pixels = RANDOM.integers(0, 4096, (60, 16, 16)).astype(np.uint16)
    for row, image in zip(rows, pixels, strict=True):
        write_dicom(tmp_path / row["file"], image, RescaleIntercept=-1024)
    config = make_manifest(rows, context=None, window=[40, 400])
    assert load_index(config).texts[0] == "Medical image."
    image = build(config, mean=0.0, std=1.0, channels=1)[0].image_BCHW[0, 0]
    expected = np.round(np.clip((pixels[0] - 1024.0 - 40) / 400 + 0.5, 0, 1) * 255) / 255
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_a_bad_dicom_file_is_named_or_left_out(make_manifest, manifest_rows, build, tmp_path):
    rows = rows_of(manifest_rows, lambda number: f"scans/{number}.dcm")
    for row in rows:
        write_dicom(tmp_path / row["file"], RANDOM.integers(0, 99, (8, 8)).astype(np.uint16))
    content = (tmp_path / "scans/2.dcm").read_bytes()
    (tmp_path / "scans/2.dcm").write_bytes(content[:-50])
    with pytest.raises(DataError, match=r"2\.dcm: unreadable DICOM image"):
        build(make_manifest(rows, context=None))
    dataset = build(make_manifest(rows, context=None, config={"on_bad_image": "skip"}))
    assert dataset.left_out == {"unreadable image": 1}


def test_volumes_become_batches_with_a_depth(make_manifest, manifest_rows, build, tmp_path):
    rows = rows_of(manifest_rows, lambda number: f"ct/{number}" if number % 2 else f"ct/{number}.nii.gz")
    bodies = RANDOM.integers(-1000, 1000, (60, 4, 8, 8)).astype(np.int16)
    for row, body in zip(rows, bodies, strict=True):
        if row["file"].endswith(".gz"):
            (tmp_path / "ct").mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(body.transpose(2, 1, 0), np.diag([-1, -1, 2, 1])), tmp_path / row["file"])
        else:
            write_series(tmp_path / row["file"], body)
    config = make_manifest(rows, context=None, window=[0, 1000])
    dataset = build(config, image_size=8, image_depth=4, channels=1, mean=0.5, std=0.25)
    batch = dataset.__getitems__([0, 1, 5])
    assert batch.image_BCHW.shape == (3, 1, 4, 8, 8)
    expected = np.round(np.clip(bodies[[0, 1, 5]] / 1000 + 0.5, 0, 1) * 255)
    np.testing.assert_allclose(batch.image_BCHW[:, 0], (expected / 255 - 0.5) / 0.25, atol=0.02)
    assert torch.equal(dataset[5].image_BCHW, batch.image_BCHW[2:])
    colour = build(config, image_size=8, image_depth=4, channels=3, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    image = colour[0].image_BCHW[0]
    torch.testing.assert_close(image[2] * 3 + 0.3, image[0] + 0.1)
    with pytest.raises(DataError, match=r"choose model\.vision=vit3d"):
        build(config, image_size=8)


def test_a_changed_slice_or_window_is_decoded_anew(make_manifest, manifest_rows, build, tmp_path):
    rows = rows_of(manifest_rows, lambda number: f"ct/{number}")
    for row in rows:
        write_series(tmp_path / row["file"], RANDOM.integers(-500, 500, (2, 8, 8)))

    def first(**keys):
        config = make_manifest(rows, context=None, **keys)
        return build(config, image_size=8, image_depth=2, channels=1)[0].image_BCHW

    before = first(window=[0, 1000])
    assert torch.equal(first(window=[0, 1000]), before)
    assert not torch.equal(first(window=[0, 500]), before)
    assert not torch.equal(first(percentiles=[10, 90]), before)
    write_series(tmp_path / rows[0]["file"], RANDOM.integers(-500, 500, (2, 8, 8)))
    assert not torch.equal(first(window=[0, 1000]), before)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"window": 40}, "'window' must be two numbers"),
        ({"window": [40]}, "'window' must be two numbers"),
        ({"window": [40, "wide"]}, "'window' must be two numbers"),
        ({"window": [40, 0]}, "width above 0"),
        ({"percentiles": [99, 1]}, "two rising numbers"),
        ({"window": [40, 400], "percentiles": [1, 99]}, "exclude each other"),
    ],
)
def test_mistakes_in_the_intensity_are_named(make_manifest, keys, message):
    with pytest.raises(ConfigError, match=rf"manifest\.yaml: .*{message}"):
        load_index(make_manifest(**keys))
