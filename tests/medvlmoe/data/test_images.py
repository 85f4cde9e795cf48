import numpy as np
import pytest
from PIL import Image

from medvlmoe.data.images import ImageFiles, read_image
from medvlmoe.errors import DataError

RAMP = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (32, 1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK", "1"])
def test_grey_pictures_read_alike_in_every_mode(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    black_white = np.where(RAMP > 127, 255, 0).astype(np.uint8)
    Image.fromarray(black_white).convert(mode).save(path)
    for channels in (1, 3):
        pixels = read_image(path, 32, channels)
        assert pixels.shape == (32, 32, channels)
        np.testing.assert_array_equal(pixels, np.repeat(black_white[:, :, None], channels, axis=2))


def test_palette(tmp_path):
    Image.fromarray(RAMP).convert("P").save(tmp_path / "image.png")
    assert Image.open(tmp_path / "image.png").mode == "P"
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 32, 1)[:, :, 0], RAMP)


def test_transparency_does_not_hide_the_picture(tmp_path):
    image = Image.fromarray(RAMP).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 32, 1)[:, :, 0], RAMP)


@pytest.mark.parametrize("offset", [0, 1000])
def test_sixteen_bits_are_stretched_from_their_own_range(tmp_path, offset):
    twelve_bits = (RAMP.astype(np.uint16) * 16 + offset).astype(np.uint16)
    Image.fromarray(twelve_bits).save(tmp_path / "image.png")
    assert Image.open(tmp_path / "image.png").mode.startswith("I")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 32, 1)[:, :, 0], RAMP)


def test_a_constant_sixteen_bit_image_is_black(tmp_path):
    Image.fromarray(np.full((8, 8), 700, dtype=np.uint16)).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", 8, 3).max() == 0


def test_colour_is_kept_in_three_channels_and_order(tmp_path):
    Image.new("RGB", (10, 30), (250, 20, 60)).save(tmp_path / "image.png")
    assert read_image(tmp_path / "image.png", 4, 3)[2, 2].tolist() == [250, 20, 60]


def test_a_large_jpeg_keeps_its_left_and_right(tmp_path):
    wide = np.repeat(np.repeat(RAMP, 40, axis=0), 60, axis=1)
    Image.fromarray(wide).save(tmp_path / "image.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "image.jpg", 32, 1)[:, :, 0].astype(int) - RAMP).max() < 12


def test_camera_orientation_is_undone(tmp_path):
    image = Image.fromarray(RAMP)
    exif = image.getexif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 32, 1)[:, :, 0], RAMP)


def test_damage_names_the_file_and_the_mend(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    Image.fromarray(noise).save(tmp_path / "whole.png")
    contents = {"truncated.jpg": (tmp_path / "whole.jpg").read_bytes()[:900], "empty.png": b"", "text.png": b"no image",
                "truncated.png": (tmp_path / "whole.png").read_bytes()[:900]}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: unreadable image.*on_bad_image=skip") as caught:
            read_image(tmp_path / name, 16, 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png", 16, 1)


def test_fingerprint_changes_with_the_file(tmp_path, draw):
    files = ImageFiles([draw(tmp_path / "a.png"), draw(tmp_path / "b.png")])
    before = list(files.fingerprints())
    draw(tmp_path / "b.png", 7, size=21)
    after = list(files.fingerprints())
    assert before[0] == after[0]
    assert before[1] != after[1]
