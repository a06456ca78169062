"""Files that are no pictures, or pictures that would be misread: each ends in one sentence."""

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

from tool.errors import InputError
from tool.pictures import read_mask, read_rgb, stored_size

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 200, (40, 50), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 50, 3), np.uint8)
UNIT = np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50)
HUGE = 1 << 16  # side of a picture that is only announced


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


def bmp(width: int, height: int, bits: int, levels: int, rows: bytes) -> bytes:
    """Return a BMP with a palette of ``levels`` greys 0, 1, 2, .."""
    palette = b"".join(bytes([level, level, level, 0]) for level in range(levels))
    start = 54 + len(palette)
    sizes = (40, width, height, 1, bits, 0, len(rows), 0, 0, levels, 0)
    head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + palette + rows


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with another value of a tag of its first page."""
    start = struct.unpack("<I", content[4:8])[0]
    changed = bytearray(content)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<I", changed, entry + 8, value)
    return bytes(changed)


def two_bytes(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values.astype(np.uint16))[1].tobytes()


DARK = GREY.astype(np.uint16) * 20  # 12 bits
BANDS = RNG.integers(0, 256, (40, 50, 5), np.uint8)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
DDS = b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 16, 0, 0) + bytes(96) + bytes(64)
RANGE, CHOOSE, NOT_READ = "--value_range LOW HIGH", "--bands 3 2 1", "is not a picture that can be"
NO_MASK = "a mask is an 8-bit palette or grey PNG"

# name: (content, what read_rgb says of it, what read_mask says); None: it reads.
KINDS = {
    "float01.tif": (tiff(UNIT), RANGE, NO_MASK),
    "float255.tif": (tiff(UNIT * 255), RANGE, NO_MASK),
    "float16.tif": (tiff(UNIT.astype(np.float16)), RANGE, NO_MASK),
    "float64.tif": (tiff(UNIT.astype(np.float64)), RANGE, NO_MASK),
    "float_nan.tif": (tiff(np.where(UNIT > 0.5, np.nan, UNIT)), RANGE, NO_MASK),
    "float_rgb.tif": (tiff(UNIT[..., None] * [1.0, 1, 1], photometric="rgb"), RANGE, NO_MASK),
    "complex.tif": (tiff(UNIT.astype(np.complex64)), RANGE, NO_MASK),
    "int8.tif": (tiff(GREY.astype(np.int8)), RANGE, None),
    "int16.tif": (tiff(DARK.astype(np.int16)), RANGE, NO_MASK),
    "int32.tif": (tiff(DARK.astype(np.int32)), RANGE, NO_MASK),
    "uint32.tif": (tiff(DARK.astype(np.uint32)), RANGE, NO_MASK),
    "uint64.tif": (tiff(DARK.astype(np.uint64)), RANGE, NO_MASK),
    "12_bits.tif": (tiff(DARK), RANGE, NO_MASK),
    "12_bits.png": (two_bytes(DARK), RANGE, NO_MASK),
    "12_bits_rgb.tif": (tiff(np.stack([DARK] * 3, -1), photometric="rgb"), RANGE, NO_MASK),
    "12_bits_rgb.png": (two_bytes(np.stack([DARK] * 3, -1)), RANGE, NO_MASK),
    "12_bits_rgba.png": (
        two_bytes(np.concatenate([np.stack([DARK] * 3, -1), np.full((40, 50, 1), 65535)], -1)),
        RANGE,
        NO_MASK,
    ),
    "float.ppm": (b"Pf\n50 40\n-1.0\n" + UNIT.tobytes(), RANGE, NOT_READ),
    "4_bands.tif": (tiff(BANDS[..., :4], photometric="rgb", extrasamples=[0]), CHOOSE, NO_MASK),
    "2_bands.tif": (tiff(BANDS[..., :2], planarconfig="contig"), CHOOSE, NO_MASK),
    "5_bands.tif": (tiff(BANDS, planarconfig="contig"), CHOOSE, NO_MASK),
    "5_planes.tif": (
        tiff(BANDS.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack"),
        CHOOSE,
        NO_MASK,
    ),
    "5_float_bands.tif": (
        tiff(BANDS.astype(np.float32), planarconfig="contig"),
        f"{CHOOSE}, and say which values are black and white with {RANGE}",
        NO_MASK,
    ),
    "postscript.eps": (POSTSCRIPT, NOT_READ, NOT_READ),
    "postscript.png": (POSTSCRIPT, NOT_READ, NOT_READ),
    "surface.dds": (DDS, NOT_READ, NOT_READ),
    "page.jpg": (b"<html>404</html>", NOT_READ, NOT_READ),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NOT_READ, NOT_READ),
    "empty.png": (b"", NOT_READ, NOT_READ),
    "zeros.tif": (bytes(4096), NOT_READ, NOT_READ),
    "icon.ico": (encoded("ICO", COLOUR), NOT_READ, NOT_READ),
    "huge.png": (png(HUGE, HUGE, 8, 0, b""), "65536 x 65536 pixels", "65536 x 65536 pixels"),
    "huge.bmp": (bmp(HUGE, HUGE, 8, 256, b""), "65536 x 65536 pixels", "65536 x 65536 pixels"),
    "huge.ppm": (b"P5 65536 65536 255\n", "65536 x 65536 pixels", NOT_READ),
    "huge.gif": (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHBB", 0, 0, 1, 1, 0, 8),
        "65535 x 65535 pixels",
        "65535 x 65535 pixels",
    ),
    "huge.jp2": (
        encoded("JPEG2000").replace(struct.pack(">II", 40, 50), struct.pack(">II", HUGE, HUGE)),
        "65536 x 65536 pixels",
        NOT_READ,
    ),
    "huge.tif": (
        with_tag(with_tag(tiff(GREY), 256, HUGE), 257, HUGE),
        "65536 x 65536 pixels",
        "65536 x 65536 pixels",
    ),
    "huge_float.tif": (
        with_tag(with_tag(tiff(UNIT), 256, HUGE), 257, HUGE),
        "65536 x 65536 pixels",
        NO_MASK,
    ),
    "no_pixels.tif": (with_tag(tiff(GREY), 256, 0), "no_pixels.tif", "no_pixels.tif"),
    "odd_bits.tif": (with_tag(tiff(GREY), 258, 77), "odd_bits.tif", "odd_bits.tif"),
    "odd_compression.tif": (with_tag(tiff(GREY), 259, 60000), "odd_comp", "odd_comp"),
    "odd_photometric.tif": (with_tag(tiff(GREY), 262, 999), "odd_photo", "odd_photo"),
    "odd_offset.tif": (with_tag(tiff(GREY), 273, 1 << 30), "is damaged", "is damaged"),
    "4_bit_grey.png": (png(4, 1, 4, 0, b"\0\x01\x23"), None, NO_MASK),
    "2_bit_grey.png": (png(4, 1, 2, 0, b"\0\x1b"), None, NO_MASK),
    "4_bit_grey.bmp": (bmp(4, 1, 4, 16, b"\x01\x23\0\0"), "grey BMP of 4 bits", "grey BMP of 4"),
    "white_is_zero.tif": (tiff(GREY, photometric="miniswhite"), None, NO_MASK),
    "lossy.jpg": (encoded("JPEG", GREY), None, NOT_READ),
    "lossy.webp": (encoded("WEBP", GREY), None, NOT_READ),
    "colours.bmp": (encoded("BMP"), None, NO_MASK),
    "colours.png": (encoded("PNG"), None, NO_MASK),
    "alpha.png": (encoded("PNG", np.zeros((4, 4, 4), np.uint8)), None, NO_MASK),
    "16_bits.png": (two_bytes(GREY * np.uint16(300)), None, NO_MASK),
    "rgba.tif": (tiff(BANDS[..., :4], photometric="rgb", extrasamples=[2]), None, NO_MASK),
}
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


@pytest.mark.parametrize("read", [read_rgb, read_mask])
@pytest.mark.parametrize("name", KINDS)
def test_kind(tmp_path, monkeypatch, name, read):
    def no_program(*_, **__):
        raise AssertionError("a program is started")

    monkeypatch.setattr("subprocess.Popen", no_program)
    content, *expected = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    sentence, expected = said(read, path), expected[read is read_mask]
    assert (sentence is None) == (expected is None), sentence
    assert expected is None or expected in sentence


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("read", [read_rgb, read_mask])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("format_name", FORMATS)
def test_truncated_file_of_every_format(tmp_path, format_name, share, read):
    content = encoded(format_name)
    path = tmp_path / "cut.bin"
    path.write_bytes(content[: int(share * len(content))])
    assert said(read, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_name", FORMATS)
def test_changed_bytes_end_in_a_sentence_or_a_picture(tmp_path, format_name):
    content, path = encoded(format_name), tmp_path / "changed.bin"
    for _ in range(60):
        changed = bytearray(content)
        for place in RNG.integers(0, min(len(content), 400), 3):
            changed[place] = RNG.integers(0, 256)
        path.write_bytes(changed)
        for read in (read_rgb, read_mask, stored_size, lambda p: read_rgb(p, [3, 2, 1], (0, 99))):
            said(read, path)


@pytest.mark.parametrize("read", [read_rgb, read_mask, stored_size])
def test_what_is_no_file(tmp_path, monkeypatch, read):
    folder, loop, pipe, gone = (tmp_path / f"{x}.png" for x in ("folder", "loop", "pipe", "gone"))
    folder.mkdir()
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    assert "is no file" in said(read, folder)
    assert "is no file" in said(read, pipe)
    assert "symbolic links" in said(read, loop)
    assert "There is no picture" in said(read, gone)
    with pytest.raises(InputError, match="embedded null byte"):
        read("a\0b")


@pytest.mark.parametrize("read", [read_rgb, read_mask, stored_size])
def test_right_to_read_is_named(tmp_path, monkeypatch, read):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded("PNG", GREY))

    def refuse(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("builtins.open", refuse)
    sentence = said(read, path)
    assert "Permission denied" in sentence
    assert "damaged" not in sentence


@pytest.mark.parametrize("read", [read_rgb, read_mask])
def test_memory_that_ends_names_the_picture(tmp_path, monkeypatch, read):
    path = tmp_path / "large.png"
    path.write_bytes(encoded("PNG", GREY))

    def exhaust(_):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhaust)
    assert "memory does not suffice" in said(read, path)


# ------------------------------------------------------------------- what the flags make readable


def rgb(tmp_path, content: bytes, *flags) -> np.ndarray:
    path = tmp_path / "picture.bin"
    path.write_bytes(content)
    return np.array(read_rgb(path, *flags))


GREYS = np.rint(UNIT * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int16, np.int32, np.uint16, np.uint32]
)
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_range_maps_every_dtype(tmp_path, dtype, options):
    values = (GREYS.astype(np.int64) * 4).astype(dtype)
    found = rgb(tmp_path, tiff(values, **options), None, (0, 1020))
    np.testing.assert_array_equal(found, np.stack([GREYS] * 3, -1))


def test_range_is_linear_and_cuts_off(tmp_path):
    values = np.array([[-9, 10, 12.5, 15, 20, 99, np.inf, -np.inf]], np.float32)
    found = rgb(tmp_path, tiff(values), None, (10, 20))
    assert found[0, :, 0].tolist() == [0, 0, 64, 128, 255, 255, 255, 0]


def test_nan_is_refused_with_a_range(tmp_path):
    path = tmp_path / "holes.tif"
    path.write_bytes(tiff(np.where(UNIT > 0.5, np.nan, UNIT)))
    assert "(NaN)" in said(lambda p: read_rgb(p, None, (0, 1)), path)


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_16_bit_png_keeps_all_bits_with_a_range(tmp_path, bands):
    values = RNG.integers(0, 4096, (9, 11, bands)).astype(np.uint16)
    if bands == 2:
        content = png(1, 1, 16, 4, b"\0\1\2\3\4")
        path = tmp_path / "grey_alpha.png"
        path.write_bytes(content)
        assert "16-bit grey PNG" in said(lambda p: read_rgb(p, None, (0, 4095)), path)
        return
    order = [2, 1, 0, 3][:bands]  # OpenCV's
    expected = np.rint(values[..., :3] / 4095 * 255)
    if bands == 4:
        alpha = values[..., 3:] / 65535
        expected = np.rint(expected * alpha + 255 * (1 - alpha))
    found = rgb(tmp_path, two_bytes(values[..., order]), None, (0, 4095))
    np.testing.assert_array_equal(found, expected)


def test_16_bit_grey_png_with_a_range(tmp_path):
    found = rgb(tmp_path, two_bytes(GREYS.astype(np.uint16) * 16), None, (0, 4080))
    np.testing.assert_array_equal(found[..., 0], GREYS)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_white_is_zero_is_turned_round(tmp_path, photometric):
    content = tiff(GREYS.astype(np.uint16) * 257, photometric=photometric)
    expected = GREYS if photometric == "minisblack" else 255 - GREYS
    np.testing.assert_array_equal(rgb(tmp_path, content)[..., 0], expected)
    np.testing.assert_array_equal(rgb(tmp_path, content, None, (0, 65535))[..., 0], expected)


@pytest.mark.parametrize(
    "content",
    [
        tiff(BANDS, planarconfig="contig"),
        tiff(BANDS.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack"),
        tiff(BANDS.transpose(2, 0, 1), photometric="minisblack"),  # a page a band
        tiff(BANDS[:, :, :4], photometric="rgb", extrasamples=[0]),
        tiff(BANDS[:, :, :4], photometric="rgb", extrasamples=[2]),
        tiff(BANDS, planarconfig="contig", compression="zlib", predictor=True),
        tiff(BANDS, planarconfig="contig", bigtiff=True, byteorder=">"),
        encoded("PNG", np.ascontiguousarray(BANDS[..., :3])),
    ],
)
@pytest.mark.parametrize("bands", [(3, 2, 1), (1, 1, 2)])
def test_bands(tmp_path, content, bands):
    expected = BANDS[..., [band - 1 for band in bands]]
    np.testing.assert_array_equal(rgb(tmp_path, content, bands), expected)
    np.testing.assert_array_equal(rgb(tmp_path, content, bands, (0, 255)), expected)


def test_bands_that_are_not_there(tmp_path):
    path = tmp_path / "few.tif"
    path.write_bytes(tiff(BANDS, planarconfig="contig"))
    assert "has 5 bands; --bands names band 6" in said(lambda p: read_rgb(p, (6, 1, 1)), path)
    path.write_bytes(encoded("JPEG"))
    assert "has 3 bands; --bands names band 4" in said(lambda p: read_rgb(p, (4, 3, 2)), path)


def test_deep_bands_without_a_range(tmp_path):
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(BANDS.astype(np.float32), planarconfig="contig"))
    assert RANGE in said(lambda p: read_rgb(p, (3, 2, 1)), path)
    path.write_bytes(tiff(BANDS.astype(np.uint16), planarconfig="contig"))
    assert RANGE in said(lambda p: read_rgb(p, (3, 2, 1)), path)
    path.write_bytes(tiff(BANDS.astype(np.uint16) * 257, planarconfig="contig"))
    np.testing.assert_array_equal(np.array(read_rgb(path, (3, 2, 1))), BANDS[..., 2::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiff_stands_upright(tmp_path, orientation):
    deep = tiff(UNIT, extratags=[(274, 3, 1, orientation, True)])
    plain = encoded("TIFF", GREYS, exif=tags(orientation))
    expected = rgb(tmp_path, plain)
    np.testing.assert_array_equal(rgb(tmp_path, deep, None, (0, 1)), expected)
    np.testing.assert_array_equal(rgb(tmp_path, plain, None, (0, 255)), expected)


def tags(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_mask_stands_as_its_picture(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(encoded("PNG", GREY, exif=tags(6)))
    np.testing.assert_array_equal(read_mask(path), np.rot90(GREY, -1))


def test_lzw_of_one_band_needs_no_package_and_of_more_names_it(tmp_path):
    path = tmp_path / "lzw.tif"
    Image.fromarray(UNIT).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(np.array(read_rgb(path, None, (0, 1)))[..., 0], GREYS)
    Image.fromarray(COLOUR).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(np.array(read_rgb(path)), COLOUR)
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        assert "pip install imagecodecs" in said(lambda p: read_rgb(p, (3, 2, 1)), path)


def test_jpeg2000_of_16_bits(tmp_path):
    path = tmp_path / "deep.jp2"
    Image.fromarray(GREYS.astype(np.uint16) * 257).save(path)
    assert np.array(read_rgb(path))[..., 0].tolist() == GREYS.tolist()
    assert "JPEG2000 of 16 bits" in said(lambda p: read_rgb(p, None, (0, 4095)), path)


def test_8_bit_picture_is_mapped_too(tmp_path):
    found = rgb(tmp_path, encoded("PNG", GREY), None, (0, 100))
    np.testing.assert_array_equal(found[..., 0], np.rint((GREY / 100).clip(0, 1) * 255))
    np.testing.assert_array_equal(rgb(tmp_path, encoded("PNG"), None, (0, 255)), COLOUR)


@pytest.mark.parametrize(("kind", "bands"), [(b"P5", 1), (b"P6", 3)])
def test_ppm_of_12_bits_says_its_range(tmp_path, kind, bands):
    path = tmp_path / "deep.ppm"
    values = np.repeat(GREYS[..., None] * np.uint16(16), bands, -1).astype(">u2")
    path.write_bytes(kind + b" # 12 bits\n50 40\n4080\n" + values.tobytes())
    np.testing.assert_array_equal(np.array(read_rgb(path))[..., 0], GREYS)
    assert "PPM of 12 bits" in said(lambda p: read_rgb(p, None, (0, 4095)), path)
    path.write_bytes(kind + b" 50 40 65535\n" + values.tobytes())
    assert RANGE in said(read_rgb, path)


@pytest.mark.parametrize("content", ["float01.tif", "5_bands.tif", "5_float_bands.tif"])
def test_size_of_what_pillow_does_not_open(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(KINDS[content][0])
    assert stored_size(path) == (50, 40)


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_of_the_list_is_read(tmp_path, format_name):
    found = rgb(tmp_path, encoded(format_name, np.full((16, 16, 3), 200, np.uint8)))
    assert np.abs(found.astype(int) - 200).max() <= 2
