"""Opening picture files that may be anything: of which format, how large, damaged or not."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

from tool.errors import InputError
from tool.reader import decoding, regular

Image.MAX_IMAGE_PIXELS = None  # MOST_PIXELS counts instead, whose message names the file
MOST_PIXELS = 1 << 28  # a picture whose header announces more is not decoded
Image.init()  # makes the table of all formats that this Pillow has
# Pillow knows more formats. One of them starts a program (Ghostscript, for PostScript).
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN
)
MASK_FORMATS = ("PNG", "BMP", "GIF", "TIFF")  # those that keep ids as they are
TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
HEADER = 4096  # bytes in which PNG, BMP, PPM and JPEG 2000 say how many bits a sample has
CODESTREAM, BITS_AT = b"\xff\x4f\xff\x51", 42  # of JPEG 2000: its begin, and bytes to the bits


@contextmanager
def picture_file(path: str | Path) -> Iterator[None]:
    """Name a picture in whatever is wrong with it; it is a file that opens without waiting."""
    regular(path, f"There is no picture {path}.")
    with decoding(path, "Replace it."):
        yield


def open_picture(
    path: str | Path, formats: tuple[str, ...] = FORMATS, decode: bool = True
) -> Image.Image:
    """Open a picture, and decode its first frame.

    An InputError says that the file is missing, may not be read, is of no format in ``formats``,
    has more than MOST_PIXELS or none, or is damaged.
    """
    with picture_file(path):
        try:
            image = Image.open(path, formats=formats)
        except UnidentifiedImageError as error:
            kinds = ", ".join(formats)
            raise InputError(
                f"{path} is not a picture of the kinds {kinds}. Replace it."
            ) from error
        image.filename = ""  # makes Pillow read the file: it maps turned TIFFs at the wrong size
        check_pixels(path, *image.size)
        if image.format == "BMP" and image.mode == "L" and bits_of(path, image) == 4:
            raise InputError(f"{path} is a grey BMP of 4 bits, which is misread. Save it as PNG.")
        if decode:
            image.load()
        return image


def check_pixels(path: str | Path, width: int, height: int) -> None:
    """Raise an InputError of a picture without pixels, or with too many for any memory."""
    if not 0 < width * height <= MOST_PIXELS:
        raise InputError(
            f"{path} has {width} x {height} pixels; from 1 to {MOST_PIXELS:,} can be read. Replace "
            "or reduce it."
        )


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 (upright) where it is missing or the tags are broken."""
    with suppress(InputError), decoding("EXIF", "Remove it."):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation in TURNS:
            return orientation
    return 1


def bits_of(path: str | Path, image: Image.Image) -> int:
    """Return the bits of a stored sample of PNG, BMP, PPM and JPEG 2000; of other formats 8."""
    if image.format not in ("PNG", "BMP", "PPM", "JPEG2000"):
        return 8
    with open(path, "rb") as file:
        header = file.read(HEADER)
    if image.format == "PNG":
        return header[24]
    if image.format == "BMP":
        pixel = header[24 if header[14] == 12 else 28]  # the older and shorter kind, and the other
        return min(pixel, 8)
    if image.format == "PPM":  # of which only four kinds say their largest value
        words = re.sub(rb"#[^\n]*", b"", header).split(maxsplit=4)
        return int(words[3]).bit_length() if words[0] in (b"P2", b"P3", b"P5", b"P6") else 8
    begin = header.find(CODESTREAM)
    return (header[begin + BITS_AT] & 127) + 1 if begin >= 0 else 8
