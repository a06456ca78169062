"""Pictures of every kind become upright RGB, masks keep their ids, and drawings are by the rule."""

import numpy as np
import pytest
from PIL import Image

from tests.tiny import orientation_tag
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
    with_legend,
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


ROW = Image.fromarray(PIXELS[:1])
THREE = palette_picture([0, 1, 2], [255, 0, 0, 0, 255, 0, 0, 0, 255])
RED, GREEN, BLUE, WHITE, BLACK = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [0] * 3
DEEP = Image.fromarray(np.array([[0, 255, 25700, 65535]], np.uint16))
SCALED = [BLACK, BLACK, [100] * 3, WHITE]
GREY_ALPHA = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
TWO = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
ALPHA = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], np.uint8))


@pytest.mark.parametrize(
    ("name", "picture", "options", "expected"),
    [
        ("rgb.png", ROW, {}, PIXELS[0]),
        ("rgb.tif", ROW, {}, PIXELS[0]),
        ("grey.png", Image.new("L", (2, 1), 77), {}, [[77] * 3] * 2),
        ("black_and_white.png", Image.fromarray(np.array([[True, False]])), {}, [WHITE, BLACK]),
        ("alpha.png", ALPHA, {}, [[200, 0, 0], WHITE, [227, 127, 127]]),
        ("grey_alpha.png", GREY_ALPHA, {}, [[10] * 3, WHITE]),
        ("palette.png", THREE, {}, [RED, GREEN, BLUE]),
        ("alphas.png", THREE, {"transparency": b"\xff\x00\xff"}, [RED, WHITE, BLUE]),
        ("one_clear.png", THREE, {"transparency": 2}, [RED, GREEN, WHITE]),
        ("colour_clear.png", TWO, {"transparency": (1, 2, 3)}, [WHITE, [4, 5, 6]]),
        ("deep.png", DEEP, {}, SCALED),
        ("deep.tif", DEEP, {}, SCALED),
        ("one.png", Image.new("RGB", (1, 1), "white"), {}, [WHITE]),
    ],
)
def test_pixels(tmp_path, name, picture, options, expected):
    picture.save(tmp_path / name, **options)
    np.testing.assert_array_equal(rgb(tmp_path / name)[0], expected)
    np.testing.assert_array_equal(rgb(str(tmp_path / name))[0], expected)


def test_cmyk_is_converted(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)  # red
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(rgb(path).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [*range(10), 300])
def test_exif_orientation_is_applied_once(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(PIXELS).save(path, exif=orientation_tag(orientation), **options)
    expected = UPRIGHT.get(orientation, UPRIGHT[1])(PIXELS)  # others do not exist
    np.testing.assert_array_equal(rgb(path), expected)
    grey = Image.fromarray(PIXELS[..., 0])
    grey.save(path, exif=orientation_tag(orientation), **options)
    if ending != "webp":  # a mask stands as its picture
        np.testing.assert_array_equal(read_mask(path), expected[..., 0])
    with Image.open(path) as image:
        assert orientation_of(image) == (orientation if orientation in UPRIGHT else 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_lose_the_picture(tmp_path):
    for ending in ("jpg", "png", "webp"):
        path = tmp_path / f"a.{ending}"
        for tags in (b"Exif\0\0garbage garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"x"):
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
        mask[0, 0] = 9  # the caller may write into it
    Image.fromarray(np.array([[0, 80, 255]], np.uint8)).save(path)
    assert read_mask(path).tolist() == [[0, 80, 255]]


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


def test_label_roundtrip_shows_the_colours(tmp_path):
    path = tmp_path / "made" / "here" / "label.png"
    for label in (
        np.array([[0, 1, 2, 255], [20, 254, 0, 1]], np.int64),
        np.arange(256, dtype=np.uint8).reshape(16, 16),
    ):
        save_label(path, label)
        np.testing.assert_array_equal(read_mask(path), label)
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "P", label.shape[::-1])
            colours = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(colours, voc_palette()[label])


# ---------------------------------------------------------------------------- drawings


def test_saved_picture(tmp_path):
    save_rgb(tmp_path / "visual/a.png", PIXELS)
    np.testing.assert_array_equal(rgb(tmp_path / "visual/a.png"), PIXELS)
    save_rgb(tmp_path / "a.jpg", np.full((16, 16, 3), 90, np.uint8))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG"
    assert np.abs(rgb(tmp_path / "a.jpg").astype(int) - 90).max() <= 2


def test_heat_runs_from_blue_to_red():
    colours = heat(np.array([[0, 0.2, 1], [-1, 0.1, 2]], np.float16))
    assert colours.dtype == np.uint8
    ends = [[0, 0, 140], [0, 110, 255], [150, 0, 0]]
    half_way = [ends[0], [0, 55, 197], ends[2]]
    assert np.abs(colours.astype(int) - [ends, half_way]).max() <= 1
    assert colours[:, ::2].tolist() == [ends[::2]] * 2


def test_overlay_mixes_by_its_strength():
    picture = np.full((2, 3, 3), 200, np.uint8)
    colours = np.full((2, 3, 3), 100, np.uint8)
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


def test_regions_have_a_tint_and_a_line_and_the_rest_is_grey():
    picture = np.full((9, 20, 3), 128, np.uint8)
    picture[:, 10:] = (200, 120, 64)  # of the same brightness
    label = np.zeros((9, 20), np.int64)
    label[2:7, 2:8] = label[2:7, 12:18] = 1
    shown = label_overlay(picture, label)
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


def test_a_legend_stands_below_the_drawing_and_changes_no_pixel_of_it():
    label = np.zeros((40, 90), np.uint8)
    label[5:20, 5:30], label[20:35, 40:80] = 1, 2
    drawing = label_overlay(np.full((40, 90, 3), 120, np.uint8), label)
    shown = with_legend(drawing, {1: "cat", 2: "a rather long name"})
    assert np.array_equal(shown[:40], drawing)
    assert shown.shape[1] == 90
    assert shown.shape[0] > 40 + 2 * 13  # two lines
    assert len({tuple(c) for c in shown[40:].reshape(-1, 3).tolist()}) > 3
    assert np.array_equal(with_legend(drawing, {}), drawing)
