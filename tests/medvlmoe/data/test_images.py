import numpy as np
import pytest
from PIL import Image

from medvlmoe.data.images import ImageFiles, read_image
from medvlmoe.data.intensity import Intensity
from medvlmoe.errors import ConfigError, DataError

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


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_transparent_pixels_look_as_on_a_black_screen(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    alpha = np.zeros((16, 16), dtype=np.uint8)
    alpha[4:], alpha[12:] = 255, 128
    image = Image.fromarray(np.dstack([colours, alpha]))
    found = read_image(save(tmp_path / "a.png", image), 16, 3)
    expected = colours * (alpha[:, :, None] / 255)
    assert np.abs(found - expected).max() <= 1
    grey = Image.fromarray(np.dstack([RAMP, np.where(RAMP > 100, 255, 0).astype(np.uint8)]), mode="LA")
    np.testing.assert_array_equal(
        read_image(save(tmp_path / "b.png", grey), 32, 1)[:, :, 0], np.where(RAMP > 100, RAMP, 0)
    )


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 4, mode="P")
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250, 90, 90, 90])
    found = read_image(save(tmp_path / "a.png", image, transparency=0), 8, 3)
    assert found[0, :4].tolist() == [[0, 0, 0], [0, 250, 0], [0, 0, 250], [90, 90, 90]]
    found = read_image(save(tmp_path / "b.gif", image, transparency=1), 8, 3)
    assert found[0, :2].tolist() == [[250, 0, 0], [0, 0, 0]]


def test_sixteen_bits_with_hot_pixels_keep_their_contrast(tmp_path):
    values = (np.tile(np.linspace(1000, 3000, 200), (200, 1))).astype(np.uint16)
    values[0, :20] = 65535  # a marker of lead, half a per mille of the image
    found = read_image(save(tmp_path / "a.png", Image.fromarray(values)), 200, 1)[:, :, 0]
    assert found[100].min() == 0
    assert found[100].max() == 255
    low, high = np.percentile(values, [0.5, 99.5])
    np.testing.assert_array_equal(found, np.round(np.clip((values - low) / (high - low), 0, 1) * 255))


@pytest.mark.parametrize("dtype", [">u2", "<u2", "<i4", "<f4"])
def test_tiff_of_every_depth(tmp_path, dtype):
    values = (RAMP.astype(np.int64) * 12 - (300 if dtype in ("<i4", "<f4") else 0)).astype(dtype)
    if dtype == ">u2":
        image = Image.frombytes("I;16B", values.shape[::-1], values.tobytes())
    else:
        image = Image.fromarray(values)
    path = save(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read_image(path, 32, 1)[:, :, 0], RAMP)


def test_values_that_are_no_number_are_black(tmp_path):
    values = RAMP.astype(np.float32)
    values[:4], values[4:6] = np.nan, np.inf
    found = read_image(save(tmp_path / "a.tif", Image.fromarray(values)), 32, 1)[:, :, 0]
    assert (found[:6] == 0).all()
    np.testing.assert_array_equal(found[6:], RAMP[6:])
    path = save(tmp_path / "b.tif", Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)))
    with pytest.raises(DataError, match=r"b\.tif: unreadable image \(it has no finite value\)"):
        read_image(path, 8, 1)


def test_a_chosen_window_is_for_more_than_eight_bits(tmp_path):
    wide = save(tmp_path / "a.png", Image.fromarray(RAMP.astype(np.uint16) * 10))
    expected = np.round(np.clip((RAMP * 10.0 - 1000) / 1000 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(read_image(wide, 32, 1, Intensity(window=(1000, 1000)))[:, :, 0], expected)
    narrow = save(tmp_path / "b.png", Image.fromarray(RAMP))
    np.testing.assert_array_equal(read_image(narrow, 32, 1, Intensity(window=(1000, 1000)))[:, :, 0], RAMP)


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    grey = np.tile(np.linspace(20, 235, 32).astype(np.uint8), (32, 1))
    path = save(tmp_path / "a.jpg", Image.fromarray(grey).convert("RGB").convert("CMYK"), quality=98)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(read_image(path, 32, 3).astype(int) - grey[:, :, None]).max() <= 6


def test_a_camera_jpeg_is_turned_upright(tmp_path):
    image = Image.fromarray(np.repeat(np.repeat(RAMP, 8, axis=0), 8, axis=1))
    exif = image.getexif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.jpg", image.rotate(90, expand=True), exif=exif, quality=95)
    assert np.abs(read_image(path, 32, 1)[:, :, 0].astype(int) - RAMP).max() <= 6


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_several_pages_are_refused(tmp_path, suffix):
    pages = [Image.fromarray(np.roll(RAMP, step, axis=1)) for step in range(3)]
    path = save(tmp_path / f"a.{suffix}", pages[0], save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"it holds 3 pages.*single files.*on_bad_image=skip"):
        read_image(path, 8, 1)


@pytest.mark.parametrize("values", [{"window": (40, 0)}, {"window": (40, -3)}, {"window": (float("nan"), 3)},
                                    {"percentiles": (5, 5)}, {"percentiles": (-1, 50)}, {"percentiles": (1, 101)},
                                    {"window": (0, 1), "percentiles": (1, 2)}])  # fmt: skip
def test_intensities_that_make_no_sense(values):
    with pytest.raises(ConfigError, match=r"window|percentiles"):
        Intensity(**values)
