"""Picture files, which may be anything: of which format, how large, of how many bits, damaged.

Pillow reads 8-bit colours, OpenCV more bits of PNG, PPM and JPEG 2000, and tifffile more bits, real
numbers and many bands of TIFFs.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tool.errors import InputError
from tool.reader import Damaged, check, decoding, regular

Image.MAX_IMAGE_PIXELS = None  # MOST_PIXELS counts instead, whose message names the file
MOST_PIXELS = 1 << 28  # a picture whose header announces more is not decoded
Image.init()  # makes the table of all formats that this Pillow has
with suppress(ImportError):  # of a package that need not be there, for what phones write
    from pillow_heif import register_heif_opener

    register_heif_opener()
# Pillow knows more formats. One of them starts a program (Ghostscript, for PostScript).
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
    if name in Image.OPEN
)
MASK_FORMATS = ("PNG", "BMP", "GIF", "TIFF")  # those that keep ids as they are
HEADER = 4096  # bytes in which PNG, BMP, PPM and JPEG 2000 say how large a sample may be
CODESTREAM, BITS_AT = b"\xff\x4f\xff\x51", 42  # of JPEG 2000: its begin, and bytes to the bits
TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TAGS = {  # of a TIFF's page, as tifffile calls them
    "imagewidth": int,
    "imagelength": int,
    "samplesperpixel": int,
    "extrasamples": [int],
    "bitspersample": int,
    "photometric": int,
    "dtype": np.dtype,
}
# TIFF's PhotometricInterpretation -> colours; all others are inks, indices, or of a camera.
COLOURS = {0: 1, 1: 1, 2: 3}
WHITE_IS_ZERO = 0
ALPHAS = ((1,), (2,))  # of TIFF's ExtraSamples; 0 is a band that is no transparency
SHALLOW = ("bool", "uint8")  # dtypes of whole numbers from 0 to 255
PILLOW_READS = ("uint16", "int16", "int32", "float32")  # of TIFFs of one band
DARK = 16  # of 255: a deep picture without a lighter sample was scaled otherwise
BLACK_AND_WHITE = "say which values are black and white with --value_range LOW HIGH (or auto)"

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a fault becomes one sentence of ours


def rgb_on_white(image: Image.Image) -> Image.Image:
    """Return an image of 8-bit samples as RGB; what is transparent is laid on white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


class PictureFile:
    """A picture file, of which the header is read; see :func:`picture_file`.

    Attributes:
        path: of the file.
        formats: those that it may have.
        page: the first one of a TIFF, as tifffile reads it; None of other formats.
        size: (width, height) as stored.
        white: the largest value of a whole number of its samples.

    Raises:
        InputError: it is of another format, has more than MOST_PIXELS or none, or is damaged.
    """

    def __init__(self, path: str | Path, formats: tuple[str, ...]) -> None:
        self.path, self.formats, self.page = path, formats, None
        with open(path, "rb") as file:
            header = file.read(HEADER)
        if header.startswith(TIFF_BEGINS):
            from tifffile import TiffFile  # slow to import, and only needed here

            with TiffFile(path) as tiff:
                page = self.page = tiff.pages[0]
            check({name: getattr(page, name) for name in TAGS}, TAGS)
            self.size = page.imagewidth, page.imagelength
            self.orientation = page.tags.valueof(ExifTags.Base.Orientation, 1)
            self.white = 2**page.bitspersample - 1
            self._check_size(self.size)
        else:
            self.size = self.image.size
            self.white = _white_of(header, self.image.format)
            if (self.image.format, self.image.mode, self.bits) == ("BMP", "L", 4):
                raise InputError(
                    f"{path} is a grey BMP of 4 bits, which is misread. Save it as PNG."
                )

    @property
    def bits(self) -> int:
        """Bits of a sample."""
        return self.white.bit_length()

    @cached_property
    def image(self) -> Image.Image:
        """The picture as Pillow opens it, whose pixels are decoded when they are asked for."""
        try:
            image = Image.open(self.path, formats=self.formats)
        except UnidentifiedImageError as error:
            kinds = ", ".join(self.formats)
            raise InputError(
                f"{self.path} is not a picture of the kinds {kinds}. Replace it; for HEIC, call "
                "pip install pillow-heif."
            ) from error
        image.filename = ""  # makes Pillow read the file: it maps turned TIFFs at the wrong size
        self._check_size(image.size)
        if self.page:
            del self.orientation  # Pillow turns it while it decodes
        return image

    @cached_property
    def orientation(self) -> int:
        """Of EXIF; 1 (upright) where it is missing or the tags are broken."""
        with suppress(InputError), decoding("EXIF", "Remove it."):
            return self.image.getexif().get(ExifTags.Base.Orientation, 1)
        return 1

    def _check_size(self, size: tuple[int, int]) -> None:
        width, height = size
        if not 0 < width * height <= MOST_PIXELS:
            raise InputError(
                f"{self.path} has {width} x {height} pixels; from 1 to {MOST_PIXELS:,} can be "
                "read. Replace or reduce it."
            )

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels, as they are stored, turned as viewers turn the picture."""
        image = Image.fromarray(pixels)
        image.getexif()[ExifTags.Base.Orientation] = self.orientation
        return np.array(ImageOps.exif_transpose(image))

    def ids(self) -> np.ndarray:
        """Return the class ids of a label picture, upright; another one raises an InputError."""
        page = self.page
        keeps_ids = page is None or (
            page.samplesperpixel == 1 and self.bits <= 8 and page.photometric != WHITE_IS_ZERO
        )
        if keeps_ids:  # grey levels of fewer bits are stretched to 8
            keeps_ids = (self.image.mode, self.bits) == ("L", 8) or self.image.mode in ("P", "1")
        if not keeps_ids:
            raise InputError(
                f"{self.path} has colours, or numbers of {self.bits} bits; a mask is an 8-bit "
                "palette or grey PNG whose pixel values are class ids."
            )
        return self.upright(np.asarray(self.image))

    def rgb(self, bands: Sequence[int] | None, value_range: Sequence[float] | None) -> Image.Image:
        """Return the upright RGB of :func:`tool.pictures.read_rgb`."""
        values, alpha = self.samples(bands, value_range)
        if value_range is not None:
            if np.isnan(values).any():
                raise InputError(f"{self.path} holds values that are no numbers (NaN). Fill them.")
            low, high = value_range
            shares = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
            values = np.rint(shares * 255)
        elif values.dtype == np.uint16 and int(values.max()) * 255 > DARK * self.white:
            values = values.astype(np.float64) / self.white * 255
        elif values.dtype != np.uint8:
            largest = f"{values.dtype} numbers up to {values.max()}"
            raise InputError(f"{self.path} holds {largest}, which may be black; {BLACK_AND_WHITE}.")
        colours = values.astype(np.uint8, copy=False)
        if self.page and self.page.photometric == WHITE_IS_ZERO and self.page.dtype not in SHALLOW:
            colours = 255 - colours  # Pillow turns 8-bit ones itself
        if alpha is not None:
            colours = np.rint(colours * alpha + 255 * (1 - alpha)).astype(np.uint8)
        colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
        return Image.fromarray(self.upright(colours))

    def samples(
        self, bands: Sequence[int] | None, value_range: Sequence[float] | str | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return samples, (H, W, 3) or of grey (H, W, 1), and transparency, (H, W, 1) in [0, 1].

        Samples are of the file's dtype, or those of its RGB, laid on white.

        Args:
            bands: counted from 1, those that are red, green and blue; None are the colours.
            value_range: says that samples are to be as they are stored.

        Raises:
            InputError: the flags do not suffice to tell colours.
        """
        page, colours, has_alpha = self.page, 3, False
        if page and self._is_scientific(bands, value_range):
            values, colours = self._read_tiff(bands), COLOURS[page.photometric]
            has_alpha = page.extrasamples[:1] in ALPHAS
        elif self.bits > 8 and not page:
            values = cv2.imread(str(self.path), cv2.IMREAD_UNCHANGED)
            if values is None:
                raise Damaged(f"its {self.bits} bits cannot be read")
            values = np.atleast_3d(values)  # (H, W, 1, 3 or 4), blue first and transparency last
            values = np.concatenate([values[..., 2::-1], values[..., 3:]], -1)
            has_alpha = values.shape[2] == 4
        elif self.image.mode == "F":
            values = np.asarray(self.image)[..., None]
        else:
            values = np.asarray(rgb_on_white(self.image))
        if bands:
            number = values.shape[2]
            if max(bands) > number:
                raise InputError(
                    f"{self.path} has {number} bands; --bands names band {max(bands)}."
                )
            return values[..., [band - 1 for band in bands]], None
        if not has_alpha:
            return values[..., :colours], None
        whole = 1 if values.dtype.kind == "f" else self.white
        return values[..., :colours], (values[..., colours, None] / whole).clip(0, 1)

    def _is_scientific(self, bands, value_range) -> bool:
        """Tell whether a TIFF has more than 8-bit colours, or other bands are asked for.

        Raises:
            InputError: its colours cannot be told without flags.
        """
        page = self.page
        number, kind = page.samplesperpixel, page.photometric
        has_alpha = page.extrasamples[:1] in ALPHAS
        unclear = not bands and number > COLOURS.get(kind, number) + has_alpha
        if unclear or (not value_range and page.dtype not in (*SHALLOW, "uint16")):
            raise InputError(
                f"{self.path} is a TIFF of {page.dtype} numbers, {number} a pixel; choose the "
                f"bands of red, green and blue with --bands 3 2 1, or {BLACK_AND_WHITE}."
            )
        return kind in COLOURS and bool(bands or page.dtype not in SHALLOW)

    def _read_tiff(self, bands: Sequence[int] | None) -> np.ndarray:
        """Return all samples of the first page; where that has one band, the pages are the bands.

        A missing package that decompresses the file raises an InputError.
        """
        from tifffile import TiffFile  # slow to import, and only needed here

        page = self.page
        has_one = page.samplesperpixel == 1
        with TiffFile(self.path) as tiff:
            pages = tiff.pages[: max(bands)] if bands and has_one else tiff.pages[:1]
            try:
                return np.concatenate([_pixels(one) for one in pages], -1)
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                if bands or not has_one or page.dtype not in PILLOW_READS:
                    raise InputError(
                        f"{self.path}: {error}. Call pip install imagecodecs."
                    ) from error
        return np.asarray(self.image).astype(page.dtype)[..., None]


@contextmanager
def picture_file(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Iterator[PictureFile]:
    """Open a picture, and name it in whatever is wrong with it."""
    regular(path, f"There is no picture {path}.")
    with decoding(path, "Replace it."):
        yield PictureFile(path, formats)


def _pixels(page) -> np.ndarray:
    """Return the samples of a TIFF's page, (H, W, S) of its dtype."""
    values = page.asarray(squeeze=False)  # (bands or 1, 1, H, W, 1 or bands)
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    return np.moveaxis(values, 0, -1).reshape(shape)


def _white_of(header: bytes, kind: str) -> int:
    """Return the largest value that a sample of PNG, BMP, PPM or JPEG 2000 may have; else 255."""
    bits = 8
    if kind == "PNG":
        bits = header[24]
    elif kind == "BMP":
        pixel = header[24 if header[14] == 12 else 28]  # the older and shorter kind, and the other
        bits = min(pixel, 8)
    elif kind == "PPM":  # of which only four kinds say their largest value
        words = re.sub(rb"#[^\n]*", b"", header).split(maxsplit=4)
        return int(words[3]) if words[0] in (b"P2", b"P3", b"P5", b"P6") else 255
    elif kind == "JPEG2000" and CODESTREAM in header:
        bits = (header[header.find(CODESTREAM) + BITS_AT] & 127) + 1
    return 2**bits - 1
