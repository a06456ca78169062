"""Pictures of every kind become upright RGB, masks keep their ids, and drawings are by the rule."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.tiny import orientation_tag
from tool.pictures import (
    heat,
    label_colours,
    label_drawing,
    label_overlay,
    overlay,
    read_mask,
    read_rgb,
    save_label,
    stored,
    voc_palette,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)

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


def rgb(path) -> np.ndarray:
    image = read_rgb(path)
    assert image.mode == "RGB"
    return np.array(image)


def palette_picture(ids: list[int], colours: list[int]) -> Image.Image:
    image = Image.fromarray(np.array([ids], np.uint8), "P")
    image.putpalette(colours)
    return image


THREE = palette_picture([0, 1, 2], [255, 0, 0, 0, 255, 0, 0, 0, 255])
RED, GREEN, WHITE, BLACK = [255, 0, 0], [0, 255, 0], [255] * 3, [0] * 3
DEEP = Image.fromarray(np.array([[0, 255, 25700, 65535]], np.uint16))
SCALED = [BLACK, BLACK, [100] * 3, WHITE]
GREY_ALPHA = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
TWO = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
ALPHA = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], np.uint8))


@pytest.mark.parametrize(
    ("name", "picture", "options", "expected"),
    [
        ("black_and_white.png", Image.fromarray(np.array([[True, False]])), {}, [WHITE, BLACK]),
        ("alpha.png", ALPHA, {}, [[200, 0, 0], WHITE, [227, 127, 127]]),
        ("grey_alpha.png", GREY_ALPHA, {}, [[10] * 3, WHITE]),
        ("one_clear.png", THREE, {"transparency": 2}, [RED, GREEN, WHITE]),
        ("colour_clear.png", TWO, {"transparency": (1, 2, 3)}, [WHITE, [4, 5, 6]]),
        ("deep.png", DEEP, {}, SCALED),
        ("deep.tif", DEEP, {}, SCALED),
    ],
)
def test_pixels(tmp_path, name, picture, options, expected):
    picture.save(tmp_path / name, **options)
    np.testing.assert_array_equal(rgb(tmp_path / name)[0], expected)


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)  # red
    assert np.abs(rgb(tmp_path / "a.jpg").astype(int) - RED).max() < 8


@pytest.mark.parametrize("ending", ["png", "webp"])
@pytest.mark.parametrize("orientation", [*range(10), 300])
def test_exif_orientation_is_applied_once(tmp_path, orientation, ending):
    path, tag = tmp_path / f"a.{ending}", orientation_tag(orientation)
    Image.fromarray(PIXELS).save(path, exif=tag, lossless=True)
    expected = UPRIGHT.get(orientation, UPRIGHT[1])(PIXELS)  # others do not exist
    np.testing.assert_array_equal(rgb(path), expected)
    assert stored(path).orientation == orientation
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "mask.png", exif=tag)
    mask = read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask, expected[..., 0])  # it stands as its picture


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("tags", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"x"])
def test_broken_exif_does_not_lose_the_picture(tmp_path, ending, tags):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(path, exif=tags)
    assert rgb(path).shape == PIXELS.shape


# ---------------------------------------------------------------------------- masks


def test_masks_give_ids_and_not_colours(tmp_path):
    path = tmp_path / "a.png"
    for ids, bits in (([0, 1], 1), ([0, 1, 2, 3], 2), ([*range(16)], 4), ([3, 255, 0], 8)):
        colours = RNG.integers(0, 256, 3 * 2**bits).tolist()
        palette_picture(ids, colours).save(path, bits=bits)
        mask = read_mask(path)
        assert mask.dtype == np.uint8
        assert mask.tolist() == [ids]
    Image.fromarray(np.array([[0, 80, 255]], np.uint8)).save(path)
    assert read_mask(path).tolist() == [[0, 80, 255]]


def test_palette_has_the_colours_of_the_devkit():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    # By hand: bit 3b + c of the id is bit 7 - b of channel c.
    by_hand = {0: [0, 0, 0], 1: [128, 0, 0], 15: [192, 128, 128], 20: [0, 64, 128]}
    by_hand |= {64: [32, 0, 0], 255: [224, 224, 192]}
    assert {i: palette[i].tolist() for i in by_hand} == by_hand


def test_label_roundtrip_shows_the_colours(tmp_path):
    path = tmp_path / "made" / "here" / "label.png"
    label = np.arange(256).reshape(8, 32)
    save_label(path, label)
    np.testing.assert_array_equal(read_mask(path), label)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (32, 8))
        np.testing.assert_array_equal(image.convert("RGB"), voc_palette()[label])


# ---------------------------------------------------------------------------- drawings


def test_heat_runs_from_blue_to_red():
    colours = heat(np.array([[0, 0.2, 1], [-1, 0.1, 2]], np.float16))
    blue, red = [0, 0, 128], [128, 0, 0]
    assert colours.dtype == np.uint8
    assert colours[:, 0].tolist() == [blue] * 2
    assert colours[:, 2].tolist() == [red] * 2
    assert (colours[:, 1, 2] > colours[:, 1, 0]).all()  # low values are blue


def test_overlay_mixes_picture_and_colours():
    picture, values = np.full((2, 3, 3), 200, np.uint8), np.array([[0, 0.2, 1], [0, 0.5, 1]])
    expected = 0.4 * picture + 0.6 * heat(values)
    assert np.abs(overlay(picture, values) - expected).max() < 1


def test_regions_have_a_tint_and_a_line_and_the_rest_is_grey():
    picture = np.full((9, 20, 3), 128, np.uint8)
    picture[:, 10:] = (200, 120, 64)  # of the same brightness
    label = np.zeros((9, 20), np.uint8)
    label[2:7, 2:8] = label[2:7, 12:18] = 1
    shown = label_overlay(picture, label).astype(int)
    np.testing.assert_array_equal(shown[:, :10], shown[:, 10:])  # the picture's colours are gone
    inside, line, outside = shown[4, 4], shown[2, 4], shown[1, 4]
    assert inside[0] > 2 * inside[1] == 2 * inside[2]  # red is the first
    assert (line > inside).all()
    assert np.ptp(outside) == 0
    assert outside[0] < 128  # dimmed


def test_classes_have_their_names_where_they_are_widest_and_tints_that_differ():
    label = np.zeros((60, 200), np.uint8)
    label[10:50, 10:90], label[10:50, 150:190], label[:5] = 1, 9, 255
    picture = np.full((60, 200, 3), 128, np.uint8)
    plain = label_overlay(picture, label)
    shown = label_drawing(picture, label, {1: "cat", 9: "chair, which is long"})
    changed = (shown != plain).any(2)
    assert changed[20:40, 40:60].any()
    assert changed[20:40, 110:150].any()  # a wide name moves, and stays in the picture
    assert not changed[:, :10].any() | changed[:10].any() | changed[50:].any()
    tints = cv2.cvtColor(label_colours()[None, :21].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    apart = np.linalg.norm(tints[0, :, None] - tints[0], axis=2)
    assert apart[np.triu_indices(21, 1)].min() > 20  # VOC's, made lighter, were 12 apart
