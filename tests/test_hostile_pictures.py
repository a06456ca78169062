"""Files that are no pictures, or pictures that would be misread: each ends in one sentence."""

import importlib.util
import io
from base64 import b64decode
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.tiny import orientation_tag
from tool.errors import InputError
from tool.picture_files import FORMATS
from tool.pictures import read_mask, read_rgb, stored

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 200, (40, 50), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 50, 3), np.uint8)
UNIT = np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50)


def encoded(format_name: str, pixels: np.ndarray = COLOUR, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_name, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def wide(content: bytes, width: bytes) -> bytes:
    """Return a picture of 50 columns, whose header announces 2^30 of them."""
    return content.replace(width, (1 << 30).to_bytes(4, "little" if width[0] else "big"))


def deep(ending: str, values: np.ndarray, largest: bytes = b"65535") -> bytes:
    """Return a picture of 16 bits, and of another largest value if its format says so."""
    content = cv2.imencode(ending, values.astype(np.uint16))[1].tobytes()
    return content.replace(b"65535", largest)


DARK = GREY.astype(np.uint16) * 20  # 12 bits
BANDS = RNG.integers(0, 256, (40, 50, 5), np.uint8)
GREYS = np.rint(UNIT * 255).astype(np.uint8)
# Files that no library here writes: grey of 4 bits, and a pixel of 16 bits with alpha.
FOUR_BITS = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAABBAAAAAAZp70QAAAAC0lEQVR4nGNgVAYAACgAJTrDFe8AAAAASUVORK5CYII="
)
GREY_ALPHA = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABEAQAAADljNBBAAAADUlEQVR4nGNgZGJmAQAAGQAL51pGpAAAAABJRU5ErkJggg=="
)
BMP = b64decode(
    "Qk16AAAAAAAAAHYAAAAoAAAABAAAAAEAAAABAAQAAAAAAAQAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAEBAQACAgIAAwMD"
    "AAQEBAAFBQUABgYGAAcHBwAICAgACQkJAAoKCgALCwsADAwMAA0NDQAODg4ADw8PAAEjAAA="
)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
RANGE, CHOOSE, NOT_READ = "--value_range LOW HIGH", "--bands 3 2 1", "not a picture"
NO_MASK, MANY = "a mask is", "1073741824 x 40 pixels"

# What read_rgb says, what read_mask says (None: it reads), and the files of which they say it.
KINDS = [
    (
        RANGE,
        NO_MASK,
        {
            "float.tif": tiff(UNIT),
            "complex.tif": tiff(UNIT.astype(np.complex64)),
            "12_bits.png": deep(".png", DARK),
            "12_bits_rgb.tif": tiff(np.stack([DARK] * 3, -1), photometric="rgb"),
        },
    ),
    (RANGE, None, {"int8.tif": tiff(GREY.astype(np.int8))}),
    (RANGE, NOT_READ, {"float.ppm": b"Pf\n50 40\n-1.0\n" + UNIT.tobytes()}),
    (
        CHOOSE,
        NO_MASK,
        {
            "4_bands.tif": tiff(BANDS[..., :4], photometric="rgb", extrasamples=[0]),
            "5_bands.tif": tiff(BANDS, planarconfig="contig"),
        },
    ),
    (NOT_READ, NOT_READ, {"postscript.png": POSTSCRIPT}),
    (
        MANY,
        MANY,
        {
            "huge.bmp": wide(encoded("BMP"), b"2\0\0\0"),
            "huge.tif": wide(tiff(GREY), b"2\0\0\0"),
        },
    ),
    (MANY, NOT_READ, {"huge.jp2": wide(encoded("JPEG2000"), b"\0\0\x002")}),
    ("4 bits", "4 bits", {"4_bit_grey.bmp": BMP}),
    (None, NOT_READ, {"lossy.jpg": encoded("JPEG", GREY)}),
    (
        None,
        NO_MASK,
        {
            "4_bit_grey.png": FOUR_BITS,
            "white_is_zero.tif": tiff(GREY, photometric="miniswhite"),
            "16_bits.png": deep(".png", GREY * np.uint16(300)),
            "rgba.tif": tiff(BANDS[..., :4], photometric="rgb", extrasamples=[2]),
        },
    ),
]


def said(read, path: Path) -> str | None:
    """Return the sentence in which reading ends; None where it does not."""
    try:
        read(path)
    except InputError as error:
        sentence = str(error)
        assert path.name in sentence
        assert "\n" not in sentence
        assert sentence.endswith(".")
        return sentence
    return None


@pytest.mark.parametrize(("of_picture", "of_mask", "files"), KINDS)
def test_kind(tmp_path, monkeypatch, of_picture, of_mask, files):
    def no_program(*_, **__):
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.Popen", no_program)
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        for read, part in ((read_rgb, of_picture), (read_mask, of_mask)):
            sentence = said(read, path)
            assert (sentence is None) == (part is None), sentence
            assert part is None or part in sentence


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_name", FORMATS)
def test_truncated_and_changed_files(tmp_path, format_name):
    """Cut files end in a sentence, changed bytes in none or one."""
    content, path = encoded(format_name), tmp_path / "changed.bin"
    for share in (0, 0.01, 0.3, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        for read in (read_rgb, read_mask):
            assert said(read, path)
    for _ in range(60):
        changed = bytearray(content)
        for place in RNG.integers(0, min(len(content), 400), 3):
            changed[place] = RNG.integers(0, 256)
        path.write_bytes(changed)
        for read in (read_rgb, read_mask, stored, lambda p: read_rgb(p, [3, 2, 1], (0, 99))):
            said(read, path)


# ------------------------------------------------------------------- what the flags make readable


@pytest.fixture
def rgb(tmp_path):
    """Read a content with some flags; ``said`` by the flags where it cannot be read."""

    def read(content: bytes, *flags) -> np.ndarray | str:
        path = tmp_path / "picture.bin"
        path.write_bytes(content)
        found = []
        sentence = said(lambda p: found.append(read_rgb(p, *flags)), path)
        return sentence or np.array(found[0])

    return read


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16, np.uint32])
def test_range_maps_every_dtype(rgb, dtype):
    values = (GREYS.astype(np.int64) * 4).astype(dtype)
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}):
        found = rgb(tiff(values, **options), None, (0, 1020))
        np.testing.assert_array_equal(found, np.stack([GREYS] * 3, -1))


def test_range_is_linear_and_cuts_off(rgb):
    values = np.array([[-9, 10, 12.5, 15, 20, 99, np.inf, -np.inf]], np.float32)
    found = rgb(tiff(values), None, (10, 20))
    assert found[0, :, 0].tolist() == [0, 0, 64, 128, 255, 255, 255, 0]
    assert "(NaN)" in rgb(tiff(values * np.nan), None, (0, 1))


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_16_bit_png_keeps_all_bits_with_a_range(rgb, bands):
    values = RNG.integers(0, 4096, (9, 11, bands)).astype(np.uint16)
    expected = np.rint(values[..., :3] / 4095 * 255)
    if bands == 4:
        alpha = values[..., 3:] / 65535
        expected = np.rint(expected * alpha + 255 * (1 - alpha))
    order = [2, 1, 0, 3][:bands] if bands > 1 else [0]  # OpenCV's
    found = rgb(deep(".png", values[..., order]), None, (0, 4095))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_16_bit_grey_png_with_transparency_is_laid_on_white(rgb):
    found = rgb(GREY_ALPHA, None, (0, 4095))
    assert found.tolist() == [[[252] * 3]]  # 258 / 4095 * 255 is 16; alpha is 772 / 65535


def test_white_is_zero_is_turned_round(rgb):
    content = tiff(GREYS.astype(np.uint16) * 257, photometric="miniswhite")
    np.testing.assert_array_equal(rgb(content)[..., 0], 255 - GREYS)
    np.testing.assert_array_equal(rgb(content, None, (0, 65535))[..., 0], 255 - GREYS)


@pytest.mark.parametrize(
    "content",
    [
        tiff(BANDS, planarconfig="contig"),
        tiff(BANDS.transpose(2, 0, 1), photometric="minisblack"),  # a page a band
        tiff(BANDS, planarconfig="contig", compression="zlib", predictor=True),
        encoded("PNG", np.ascontiguousarray(BANDS[..., :3])),
    ],
)
@pytest.mark.parametrize("bands", [(3, 2, 1), (1, 1, 2)])
def test_bands(rgb, content, bands):
    expected = BANDS[..., [band - 1 for band in bands]]
    np.testing.assert_array_equal(rgb(content, bands), expected)
    np.testing.assert_array_equal(rgb(content, bands, (0, 255)), expected)


DEEP_JP2 = encoded("JPEG2000", GREYS.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        (tiff(BANDS, planarconfig="contig"), [(6, 1, 1)], "5 bands; --bands names band 6"),
        (deep(".pgm", GREYS * np.uint16(16)), [], RANGE),
    ],
)
def test_flags_that_do_not_suffice(rgb, content, flags, words):
    assert words in rgb(content, *flags)


def test_deep_pictures_without_a_range_are_scaled_by_their_own(rgb):
    values = np.stack([GREYS * np.uint16(16)] * 3, -1)
    for content, white in ((DEEP_JP2, 65535), (deep(".ppm", values, b"4080"), 4080)):
        np.testing.assert_array_equal(rgb(content)[..., 0], GREYS)
        found = rgb(content, None, (0, white / 2))
        np.testing.assert_array_equal(found[..., 0], np.minimum(GREYS * 2.0, 255))
    content = tiff(BANDS.astype(np.uint16) * 257, planarconfig="contig")
    np.testing.assert_array_equal(rgb(content, (3, 2, 1)), BANDS[..., 2::-1])


@pytest.mark.parametrize("orientation", [2, 6])
def test_deep_tiff_stands_upright(rgb, orientation):
    deep = tiff(UNIT, extratags=[(274, 3, 1, orientation, True)])
    plain = encoded("TIFF", GREYS, exif=orientation_tag(orientation))
    expected = rgb(plain)
    np.testing.assert_array_equal(rgb(deep, None, (0, 1)), expected)


def test_lzw_of_one_band_needs_no_package_and_of_more_names_it(rgb):
    lzw = {"compression": "tiff_lzw"}
    found = rgb(encoded("TIFF", UNIT, **lzw), None, (0, 1))
    np.testing.assert_array_equal(found[..., 0], GREYS)
    if importlib.util.find_spec("imagecodecs") is None:
        sentence = rgb(encoded("TIFF", COLOUR, **lzw), (3, 2, 1))
        assert "pip install imagecodecs" in sentence
