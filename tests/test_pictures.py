"""Pictures of every kind become upright RGB; masks keep their ids; damage is named."""

import numpy as np
import pytest
from PIL import Image

from tool.errors import InputError
from tool.picture_files import orientation_of
from tool.pictures import (
    border,
    heat,
    label_overlay,
    overlay,
    read_mask,
    read_rgb,
    save_label,
    save_rgb,
    voc_palette,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
ORIENTATION = 0x0112

# What a viewer must do with a picture of each EXIF orientation.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def rgb(path) -> np.ndarray:
    image = read_rgb(path)
    assert image.mode == "RGB"
    return np.array(image)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_rgb_stays_as_it_is(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(path)
    np.testing.assert_array_equal(rgb(path), PIXELS)
    np.testing.assert_array_equal(rgb(str(path)), PIXELS)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_grey_picture_has_three_equal_channels(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("L", (6, 4), 77).save(path)
    assert (rgb(path) == 77).all()


def test_black_and_white_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[True, False]])).save(path)
    assert rgb(path).tolist() == [[[255] * 3, [0] * 3]]


def test_cmyk_is_converted(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)  # red
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(rgb(path).astype(int) - [255, 0, 0]).max() < 8


def test_transparent_pixels_are_white_and_half_transparent_ones_are_mixed(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(path)
    result = rgb(path)[0].astype(int)
    assert result[0].tolist() == [200, 0, 0]
    assert result[1].tolist() == [255, 255, 255]
    assert np.abs(result[2] - [227, 127, 127]).max() <= 1


def test_grey_with_alpha(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(path)
    assert rgb(path)[0, :, 0].tolist() == [10, 255]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    plain, bytes_, index = (tmp_path / f"{name}.png" for name in ("plain", "bytes", "index"))
    image.save(plain)
    image.save(bytes_, transparency=b"\xff\x00\xff")
    image.save(index, transparency=2)
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert rgb(plain)[0].tolist() == colours
    assert rgb(bytes_)[0].tolist() == [colours[0], [255] * 3, colours[2]]
    assert rgb(index)[0].tolist() == [*colours[:2], [255] * 3]


def test_rgb_with_one_transparent_colour(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    Image.fromarray(pixels).save(path, transparency=(1, 2, 3))
    assert rgb(path)[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.array([[0, 255, 25700, 65535]], np.uint16)).save(path)
    assert rgb(path)[0, :, 0].tolist() == [0, 0, 100, 255]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_pixel(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new(mode, (1, 1), "white").save(path)
    assert rgb(path).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(PIXELS).save(path, exif=exif(orientation), **options)
    np.testing.assert_array_equal(rgb(path), UPRIGHT[orientation](PIXELS))


def test_photograph_from_a_telephone_stands_upright(tmp_path):
    path = tmp_path / "a.jpg"
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white; turned clockwise that is the upper half
    Image.fromarray(pixels).save(path, exif=exif(6))
    result = rgb(path)
    assert result.shape == (32, 16, 3)
    assert result[:14].min() > 200
    assert result[18:].max() < 50


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "tags", [b"Exif\0\0garbage garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"x"]
)
def test_broken_exif_does_not_lose_the_picture(tmp_path, ending, tags):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(path, exif=tags)
    assert rgb(path).shape == PIXELS.shape


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_orientation_that_does_not_exist_is_upright(tmp_path, orientation):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path, exif=exif(orientation))
    np.testing.assert_array_equal(rgb(path), PIXELS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("read", [read_rgb, read_mask])
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("kept", [0, 10, 40, 0.5, 0.9])
def test_truncated_picture_is_named(tmp_path, ending, kept, read):
    path = tmp_path / f"cut.{ending}"
    Image.fromarray(RNG.integers(0, 256, (40, 50), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(InputError, match=rf"cut\.{ending} is .*Replace it"):
        read(path)


@pytest.mark.parametrize("read", [read_rgb, read_mask])
def test_missing_foreign_and_directory(tmp_path, read):
    with pytest.raises(InputError, match=r"There is no picture .*gone\.jpg"):
        read(tmp_path / "gone.jpg")
    path = tmp_path / "page.jpg"
    path.write_text("<html>404 Not Found</html>")
    with pytest.raises(InputError, match=r"page\.jpg is not a picture"):
        read(path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png"):
        read(tmp_path / "folder.png")


def test_damage_in_the_middle_of_a_png_is_named(tmp_path):
    path = tmp_path / "flipped.png"
    Image.fromarray(RNG.integers(0, 256, (40, 50), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"flipped\.png"):
        read_rgb(path)


def test_palette_mask_gives_ids_and_not_colours(tmp_path):
    path = tmp_path / "a.png"
    image = Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8), "P")
    image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)
    mask = read_mask(path)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 3], [255, 1]]
    mask[0, 0] = 9  # the caller may write into it


def test_grey_mask_gives_ids(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 80, 255]], np.uint8)).save(path)
    assert read_mask(path).tolist() == [[0, 80, 255]]


@pytest.mark.parametrize("ids", [[0, 1], [0, 1, 2, 3], list(range(16))])
def test_palette_mask_of_few_colours_is_stored_in_fewer_bits(tmp_path, ids):
    path = tmp_path / "a.png"
    image = Image.fromarray(np.array([ids], np.uint8), "P")
    image.putpalette([0] * 3 * len(ids))
    image.save(path, bits={2: 1, 4: 2, 16: 4}[len(ids)])
    assert read_mask(path).tolist() == [ids]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_mask_with_colours_instead_of_ids_is_refused(tmp_path, mode):
    path = tmp_path / "coloured.png"
    Image.new(mode, (3, 2)).save(path)
    with pytest.raises(InputError, match=rf"coloured\.png is a {mode} picture; a mask is"):
        read_mask(path)


def test_palette_has_the_colours_of_the_devkit():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    # By hand: bit 3b + c of the id is bit 7 - b of channel c.
    by_hand = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        64: (32, 0, 0),
        255: (224, 224, 192),
    }
    assert {i: tuple(palette[i].tolist()) for i in by_hand} == by_hand
    assert len(np.unique(palette, axis=0)) == 256


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_label_roundtrip_shows_the_colours(tmp_path, dtype):
    path = tmp_path / "made" / "here" / "label.png"
    label = np.array([[0, 1, 2, 255], [20, 254, 0, 1]], dtype)
    save_label(path, label)
    np.testing.assert_array_equal(read_mask(path), label)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (4, 2))
        colours = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(colours, voc_palette()[label])
    assert colours[0].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]
    assert [p.name for p in path.parent.iterdir()] == ["label.png"]


def test_label_of_256_ids_and_of_one_pixel(tmp_path):
    for label in (np.arange(256, dtype=np.uint8).reshape(16, 16), np.zeros((1, 1), np.uint8)):
        save_label(tmp_path / "a.png", label)
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), label)


def test_saved_picture(tmp_path):
    save_rgb(tmp_path / "visual/a.png", PIXELS)
    np.testing.assert_array_equal(rgb(tmp_path / "visual/a.png"), PIXELS)
    save_rgb(tmp_path / "a.jpg", np.full((16, 16, 3), 90, np.uint8))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG"
    assert np.abs(rgb(tmp_path / "a.jpg").astype(int) - 90).max() <= 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_heat_runs_from_blue_to_red(dtype):
    colours = heat(np.array([[0, 0.2, 1], [-1, 0.1, 2]], dtype))
    assert colours.shape == (2, 3, 3)
    assert colours.dtype == np.uint8
    assert colours[0, 0].tolist() == colours[1, 0].tolist() == [0, 0, 140]
    assert colours[0, 2].tolist() == colours[1, 2].tolist() == [150, 0, 0]
    assert np.abs(colours[0, 1].astype(int) - [0, 110, 255]).max() <= 1
    assert np.abs(colours[1, 1].astype(int) - [0, 55, 197]).max() <= 1  # half-way between


def test_overlay_mixes_by_its_strength():
    picture = np.full((2, 3, 3), 200, np.uint8)
    colours = np.full((2, 3, 3), 100, np.uint8)
    assert overlay(picture, colours).shape == (2, 3, 3)
    assert overlay(picture, colours).dtype == np.uint8
    assert np.abs(overlay(picture, colours).astype(int) - 140).max() <= 1
    assert (overlay(picture, colours, 0.0) == 200).all()
    assert (overlay(picture, colours, 1.0) == 100).all()
    white = np.full((1, 1, 3), 255, np.uint8)
    assert overlay(white, white).min() >= 254  # no overflow
    assert (picture == 200).all()


def test_border_by_hand():
    label = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 2], [0, 0, 0, 2]])
    assert border(label).astype(int).tolist() == [
        [0, 1, 1, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [0, 1, 1, 1],
    ]
    assert not border(np.full((3, 2), 7)).any()
    assert not border(np.zeros((1, 1), np.uint8)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_regions_have_a_tint_and_a_line_and_the_rest_is_grey(dtype):
    picture = np.full((9, 20, 3), 128, np.uint8)
    picture[:, 10:] = (200, 120, 64)  # of the same brightness
    label = np.zeros((9, 20), dtype)
    label[2:7, 2:8] = label[2:7, 12:18] = 1
    shown = label_overlay(picture, label)
    assert shown.shape == picture.shape
    assert shown.dtype == np.uint8
    assert (np.ptp(shown[label == 0], axis=1) == 0).all()
    np.testing.assert_array_equal(shown[:, :10], shown[:, 10:])  # the picture's colours are gone
    inside, line, outside = shown[4, 4].astype(int), shown[2, 4].astype(int), shown[1, 4]
    assert inside[0] > 2 * inside[1] == 2 * inside[2]  # red, as class 1 of VOC
    assert (line > inside).all()
    assert line[0] > line[1]
    assert outside[0] < picture[1, 4, 0]  # dimmed


def test_tints_of_all_classes_of_voc_differ_and_unsure_is_nearly_white():
    picture = np.full((5, 5, 3), 255, np.uint8)
    tints = [tuple(label_overlay(picture, np.full((5, 5), k, np.uint8))[2, 2]) for k in range(21)]
    assert len(set(tints)) == 21
    assert label_overlay(picture, np.full((5, 5), 255, np.uint8)).min() >= 250
    black = label_overlay(np.zeros_like(picture), np.full((5, 5), 5, np.uint8))
    assert black.max() > 50  # the tint shows on black as well


def test_orientation_of_a_picture(tmp_path):
    image = Image.fromarray(PIXELS)
    for name, tags in (("six", exif(6)), ("none", Image.Exif())):
        image.save(tmp_path / f"{name}.jpg", exif=tags)
    with Image.open(tmp_path / "six.jpg") as six, Image.open(tmp_path / "none.jpg") as none:
        assert (orientation_of(six), orientation_of(none)) == (6, 1)
