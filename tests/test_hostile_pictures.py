"""Files that are no pictures, or pictures that would be misread: each ends in one sentence."""

import importlib.util
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from tests.tiny import orientation_tag
from tool.errors import InputError
from tool.pictures import read_mask, read_rgb, stored_size

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 200, (40, 50), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 50, 3), np.uint8)
UNIT = np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50)
HUGE = 1 << 16  # side of a picture that is only announced
READERS = (read_rgb, read_mask, stored_size)


def encoded(format_name: str, pixels: np.ndarray = COLOUR, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_name, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """Return a PNG of samples (``kind`` 0: grey), each row after its filter byte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """Return a TIFF with another value of a tag of its first page."""
    buffer = io.BytesIO(content)
    with tifffile.TiffFile(buffer) as file:
        file.pages.first.tags[tag].overwrite(value, dtype="I")
        return buffer.getvalue()


def two_bytes(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values.astype(np.uint16))[1].tobytes()


DARK = GREY.astype(np.uint16) * 20  # 12 bits
DARK_COLOUR = np.stack([DARK] * 3, -1)
BANDS = RNG.integers(0, 256, (40, 50, 5), np.uint8)
CLEAR = np.full((40, 50, 1), 65535)
GREYS = np.rint(UNIT * 255).astype(np.uint8)
# A grey BMP of 4 x 1 pixels, 4 bits and a palette of 16 levels.
BMP = b"BM" + struct.pack("<IHHI", 122, 0, 0, 118)
BMP += struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 4, 0, 4, 0, 0, 16, 0)
BMP += (np.arange(16, dtype="<u4") * 0x010101).tobytes() + b"\x01\x23\0\0"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
# width, bits, compression, photometric, offset
ODD_TAGS = {256: 0, 258: 77, 259: 60000, 262: 999, 273: 1 << 30}
ANNOUNCED = struct.pack(">II", 40, 50), struct.pack(">II", HUGE, HUGE)
RANGE, CHOOSE, NOT_READ = "--value_range LOW HIGH", "--bands 3 2 1", "not a picture"
NO_MASK, MANY = "a mask is", "65536 x 65536 pixels"

# What read_rgb says, what read_mask says (None: it reads), and the files of which they say it.
KINDS = [
    (
        RANGE,
        NO_MASK,
        {
            "float.tif": tiff(UNIT),
            "complex.tif": tiff(UNIT.astype(np.complex64)),
            "12_bits.png": two_bytes(DARK),
            "12_bits_rgb.tif": tiff(DARK_COLOUR, photometric="rgb"),
            "12_bits_rgba.png": two_bytes(np.concatenate([DARK_COLOUR, CLEAR], -1)),
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
    (
        NOT_READ,
        NOT_READ,
        {
            "postscript.png": POSTSCRIPT,
            "zeros.tif": bytes(4096),
        },
    ),
    (
        MANY,
        MANY,
        {
            "huge.png": png(HUGE, HUGE, 8, 0, b""),
            "huge.tif": with_tag(with_tag(tiff(GREY), 256, HUGE), 257, HUGE),
        },
    ),
    (
        MANY,
        NOT_READ,
        {
            "huge.ppm": b"P5 65536 65536 255\n",
            "huge.jp2": encoded("JPEG2000").replace(*ANNOUNCED),
        },
    ),
    ("", "", {f"odd_{t}.tif": with_tag(tiff(GREY), t, value) for t, value in ODD_TAGS.items()}),
    ("4 bits", "4 bits", {"4_bit_grey.bmp": BMP}),
    (None, NOT_READ, {"lossy.jpg": encoded("JPEG", GREY)}),
    (
        None,
        NO_MASK,
        {
            "4_bit_grey.png": png(4, 1, 4, 0, b"\0\x01\x23"),
            "white_is_zero.tif": tiff(GREY, photometric="miniswhite"),
            "16_bits.png": two_bytes(GREY * np.uint16(300)),
            "rgba.tif": tiff(BANDS[..., :4], photometric="rgb", extrasamples=[2]),
        },
    ),
]
FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000"]
FORMATS += ["AVIF"] if features.check("avif") else []


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
        for read in (*READERS, lambda p: read_rgb(p, [3, 2, 1], (0, 99))):
            said(read, path)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file(tmp_path, read):
    path = tmp_path / "pipe.png"
    assert "There is no picture" in said(read, path)
    os.mkfifo(path)
    assert "pipe" in said(read, path).replace(str(path), "")
    with pytest.raises(TypeError):  # a mistake of the caller's, and no damage
        read(Image.new("RGB", (2, 2)))


def test_a_picture_beyond_the_memory_is_named(tmp_path, monkeypatch):
    def exhaust(_):
        raise MemoryError

    (tmp_path / "a.png").write_bytes(encoded("PNG", GREY))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhaust)
    for read in (read_rgb, read_mask):
        assert "memory does not suffice" in said(read, tmp_path / "a.png")


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
    np.testing.assert_array_equal(rgb(encoded("PNG"), None, (0, 255)), COLOUR)


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_16_bit_png_keeps_all_bits_with_a_range(rgb, bands):
    values = RNG.integers(0, 4096, (9, 11, bands)).astype(np.uint16)
    expected = np.rint(values[..., :3] / 4095 * 255)
    if bands == 4:
        alpha = values[..., 3:] / 65535
        expected = np.rint(expected * alpha + 255 * (1 - alpha))
    order = [2, 1, 0, 3][:bands] if bands > 1 else [0]  # OpenCV's
    found = rgb(two_bytes(values[..., order]), None, (0, 4095))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_16_bit_grey_png_with_transparency_is_laid_on_white(rgb):
    found = rgb(png(1, 1, 16, 4, b"\0\1\2\3\4"), None, (0, 4095))
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
        tiff(BANDS, planarconfig="contig", bigtiff=True, byteorder=">"),
        encoded("PNG", np.ascontiguousarray(BANDS[..., :3])),
    ],
)
@pytest.mark.parametrize("bands", [(3, 2, 1), (1, 1, 2)])
def test_bands(rgb, content, bands):
    expected = BANDS[..., [band - 1 for band in bands]]
    np.testing.assert_array_equal(rgb(content, bands), expected)
    np.testing.assert_array_equal(rgb(content, bands, (0, 255)), expected)


def deep_ppm(kind: bytes, largest: int) -> bytes:
    values = np.repeat(GREYS[..., None] * np.uint16(16), 3 if kind == b"P6" else 1, -1)
    return kind + b" # deep\n50 40\n%d\n" % largest + values.astype(">u2").tobytes()


DEEP_JP2 = encoded("JPEG2000", GREYS.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        (tiff(BANDS, planarconfig="contig"), [(6, 1, 1)], "5 bands; --bands names band 6"),
        (encoded("JPEG"), [(4, 3, 2)], "3 bands; --bands names band 4"),
        (DEEP_JP2, [None, (0, 4095)], "JPEG2000 of 16 bits"),
        (deep_ppm(b"P5", 4080), [None, (0, 4095)], "PPM of 12 bits"),
        (deep_ppm(b"P5", 65535), [], RANGE),
        (tiff(BANDS * 1.0, planarconfig="contig"), [], RANGE),
    ],
)
def test_flags_that_do_not_suffice(rgb, content, flags, words):
    assert words in rgb(content, *flags)


def test_deep_pictures_without_a_range_are_scaled_by_their_own(rgb):
    for content in (DEEP_JP2, deep_ppm(b"P5", 4080), deep_ppm(b"P6", 4080)):
        np.testing.assert_array_equal(rgb(content)[..., 0], GREYS)
    content = tiff(BANDS.astype(np.uint16) * 257, planarconfig="contig")
    np.testing.assert_array_equal(rgb(content, (3, 2, 1)), BANDS[..., 2::-1])


@pytest.mark.parametrize("orientation", [2, 6])
def test_deep_tiff_stands_upright(rgb, orientation):
    deep = tiff(UNIT, extratags=[(274, 3, 1, orientation, True)])
    plain = encoded("TIFF", GREYS, exif=orientation_tag(orientation))
    expected = rgb(plain)
    np.testing.assert_array_equal(rgb(deep, None, (0, 1)), expected)
    np.testing.assert_array_equal(rgb(plain, None, (0, 255)), expected)


def test_lzw_of_one_band_needs_no_package_and_of_more_names_it(rgb):
    lzw = {"compression": "tiff_lzw"}
    found = rgb(encoded("TIFF", UNIT, **lzw), None, (0, 1))
    np.testing.assert_array_equal(found[..., 0], GREYS)
    np.testing.assert_array_equal(rgb(encoded("TIFF", COLOUR, **lzw)), COLOUR)
    if importlib.util.find_spec("imagecodecs") is None:
        sentence = rgb(encoded("TIFF", COLOUR, **lzw), (3, 2, 1))
        assert "pip install imagecodecs" in sentence
