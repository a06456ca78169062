"""Pictures whose samples are not 8-bit colours: more bits, real numbers, many bands."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from tool.errors import InputError
from tool.picture_files import bits_of, check_pixels, open_picture, orientation_of
from tool.reader import check, decoding

TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF's PhotometricInterpretation -> colours; all others are inks, indices, or of a camera.
COLOURS = {0: 1, 1: 1, 2: 3}
WHITE_IS_ZERO = 0
ALPHAS = (1, 2)  # of TIFF's ExtraSamples; 0 is a band that is no transparency
KINDS = {1: "unsigned", 2: "signed", 3: "float", 4: "unsigned", 5: "complex", 6: "complex"}
ORIENTATION = 274  # a tag of TIFF
HIGH_BYTES = 16  # a 16-bit colour below this in its high bytes is below LEAST
FULL_SCALE = 65535  # white of a 16-bit picture
LEAST = 4096  # a 16-bit picture without such a value holds 12 bits or fewer: it would be black
BLACK_AND_WHITE = "say which values are black and white with --value_range LOW HIGH (or auto)"
PILLOW_READS = (("unsigned", 16), ("signed", 16), ("signed", 32), ("float", 32))  # of one band

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a fault becomes one sentence of ours


@dataclass(frozen=True)
class Layout:
    """What the header of a TIFF's first page says, in tags of TIFF."""

    size: tuple[int, int]  # (width, height) as stored
    bands: int  # samples a pixel, transparency included
    extra: list[int]  # what bands that are no colours mean
    sample_format: int
    bits: int  # of a sample
    photometric: int
    orientation: int
    pages: int  # of the file, which may be the bands of one picture

    @property
    def colours(self) -> int:
        """The bands that a viewer shows."""
        return COLOURS.get(self.photometric, self.bands)

    @property
    def has_alpha(self) -> bool:
        """Whether the band after the colours is transparency."""
        return bool(self.extra) and self.extra[0] in ALPHAS

    @property
    def kind(self) -> str:
        """What a sample is, one of KINDS."""
        return KINDS.get(self.sample_format, "mixed")

    @property
    def is_deep(self) -> bool:
        """Whether samples are anything but whole numbers from 0 to 255."""
        return self.kind != "unsigned" or self.bits > 8

    @property
    def is_read_by_pillow(self) -> bool:
        """Whether Pillow decodes the samples as they are; it needs no package for LZW."""
        return not self.is_deep or (self.bands == 1 and (self.kind, self.bits) in PILLOW_READS)

    @property
    def inverts(self) -> bool:
        """Whether deep samples are dark where they are large; Pillow turns 8-bit ones itself."""
        return self.is_deep and self.photometric == WHITE_IS_ZERO

    def __str__(self) -> str:
        bands = f"{self.bands} bands" if self.bands > 1 else "one band"
        return f"a TIFF of {bands} of {self.bits}-bit {self.kind} numbers"

    def check(self, path: str | Path, bands, value_range) -> None:
        """Raise an InputError where the colours of a picture cannot be told without flags."""
        check_pixels(path, *self.size)
        mends = []
        if not bands and self.bands > self.colours + self.has_alpha:
            mends.append("choose the bands of red, green and blue with --bands 3 2 1")
        if not value_range and (self.kind != "unsigned" or self.bits > 16):
            mends.append(BLACK_AND_WHITE)
        if mends:
            raise InputError(f"{path} is {self}; {', and '.join(mends)}.")


def tiff_layout(path: str | Path) -> Layout | None:
    """Return what a TIFF's header says; None of other formats, and of a header that is broken.

    A file that cannot be read raises an OSError.
    """
    with open(path, "rb") as file:
        if file.read(4) not in TIFF_BEGINS:
            return None
    from tifffile import TiffFile  # slow to import, and only needed here

    # Of a broken header Pillow says what it thinks.
    with suppress(InputError), decoding(path, "Replace it."), TiffFile(path) as file:
        page = file.pages[0]
        turned = page.tags.get(ORIENTATION)
        found = {
            "size": (page.imagewidth, page.imagelength),
            "bands": page.samplesperpixel,
            "extra": page.extrasamples,
            "sample_format": page.sampleformat,
            "bits": page.bitspersample,
            "photometric": page.photometric,
            "orientation": turned.value if turned else 1,
            "pages": len(file.pages),
        }
        check(found, {**dict.fromkeys(found, int), "size": (int, int), "extra": [int]})
        return Layout(**found)
    return None


def check_bands(path: str | Path, bands: tuple[int, ...], number: int) -> list[int]:
    """Return ``--bands`` counted from 0; an InputError says that a picture has fewer bands."""
    if max(bands) > number:
        raise InputError(f"{path} has {number} bands; --bands names band {max(bands)}.")
    return [band - 1 for band in bands]


def read_tiff(path: str | Path, layout: Layout, bands: tuple[int, ...] | None) -> np.ndarray:
    """Return the samples of the first page as they are stored, (H, W, S) of the file's dtype.

    ``bands`` count from 1; None are the colours, and transparency behind them. Where a page has one
    band, the pages are the bands. Fewer bands, or a missing package that decompresses the file,
    raise an InputError.
    """
    from tifffile import TiffFile  # slow to import, and only needed here

    pages = layout.bands == 1 and layout.pages > 1 and bands is not None
    chosen = list(range(layout.colours + layout.has_alpha))
    if bands is not None:
        chosen = check_bands(path, bands, layout.pages if pages else layout.bands)
    try:
        with TiffFile(path) as file:
            if pages:
                return np.stack([file.pages[page].asarray() for page in chosen], -1)
            values = file.pages[0].asarray(squeeze=False)  # (bands or 1, 1, H, W, 1 or bands)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise InputError(f"{path}: {error}. Call pip install imagecodecs.") from error
    width, height = layout.size
    return np.moveaxis(values, 0, -1).reshape(height, width, layout.bands)[..., chosen]


class Samples(NamedTuple):
    """A picture as it is stored, before its samples become 8-bit colours."""

    values: np.ndarray  # (H, W, 3), or (H, W, 1) of grey, of the file's dtype
    orientation: int  # of EXIF
    alpha: np.ndarray | None = None  # float64 (H, W, 1) in [0, 1]
    inverts: bool = False  # samples are dark where they are large

    def to_rgb(self, path: str | Path, value_range: tuple[float, float] | None) -> Image.Image:
        """Return RGB as stored, laid on white; see :func:`to_eight_bits` for the range."""
        colours = to_eight_bits(path, self.values, value_range)
        colours = 255 - colours if self.inverts else colours
        if self.alpha is not None:
            colours = np.rint(colours * self.alpha + 255 * (1 - self.alpha)).astype(np.uint8)
        colours = colours[..., 0] if colours.shape[2] == 1 else np.ascontiguousarray(colours)
        return Image.fromarray(colours).convert("RGB")


def read_samples(path: str | Path, bands: tuple[int, ...] | None) -> Samples:
    """Return the samples of a picture whose ``bands``, counted from 1, are red, green and blue.

    Samples of 8 bits are those of its RGB. None as ``bands`` takes the colours of the file. It
    raises what :func:`tool.pictures.read_rgb` does.
    """
    layout = tiff_layout(path)
    if layout:
        layout.check(path, bands, value_range=True)
        is_plain = layout.photometric in COLOURS  # brightnesses, not inks or indices
        if is_plain and (bands or not layout.is_read_by_pillow):
            values, alpha = read_tiff(path, layout, bands), None
            if layout.has_alpha and not bands:
                values, alpha = values[..., :-1], values[..., -1:]
                whole = 1 if layout.kind == "float" else 2**layout.bits - 1
                alpha = (alpha / whole).clip(0, 1)
            return Samples(values, layout.orientation, alpha, layout.inverts)
    image = open_picture(path)
    bits, alpha = bits_of(path, image), None
    if image.format in ("JPEG2000", "PPM") and bits > 8:
        raise InputError(
            f"{path} is a {image.format} of {bits} bits, whose values Pillow stretches. Save it as "
            "TIFF for --value_range and --bands."
        )
    if is_deep_grey(image):
        values = np.asarray(image)[..., None]
    elif image.format == "PNG" and bits == 16:
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # Pillow keeps the high bytes alone
        values = stored[..., 2::-1]  # OpenCV has blue first, and transparency last
        alpha = stored[..., 3:] / FULL_SCALE if stored.shape[2] == 4 else None
    else:
        values = np.asarray(to_rgb(path, image, layout))
    if bands:
        values, alpha = values[..., check_bands(path, bands, values.shape[2])], None
    return Samples(values, orientation_of(image), alpha, bool(layout and layout.inverts))


def to_rgb(path: str | Path, image: Image.Image, layout: Layout | None) -> Image.Image:
    """Return RGB, as stored, of what Pillow decoded; 16 bits count from 0 to 65535.

    Where they hold no more than 12, it raises an InputError.
    """
    if is_deep_grey(image):
        grey = np.asarray(image)[..., None]
        if image.mode == "I" and image.format != "TIFF":  # 16 bits, which Pillow may hold in 32
            grey = grey.astype(np.uint16)
        return Samples(grey, 1, inverts=bool(layout and layout.inverts)).to_rgb(path, None)
    if (layout.bits if layout else bits_of(path, image)) > 8:
        bands = (image.getchannel(name) for name in image.getbands() if name != "A")
        largest = max(band.getextrema()[1] for band in bands)
        # Pillow keeps the highest 8 bits of colours; those of PPM it rounds.
        if largest < HIGH_BYTES + (image.format == "PPM"):
            raise too_dark(path)
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def is_deep_grey(image: Image.Image) -> bool:
    """Tell whether samples are grey of more than 8 bits, which ``convert`` would clip at 255."""
    return image.mode.startswith("I") or image.mode == "F"


def to_eight_bits(
    path: str | Path, values: np.ndarray, value_range: tuple[float, float] | None
) -> np.ndarray:
    """Return samples, of any shape and dtype, as uint8.

    The ``value_range`` (low, high) becomes 0 and 255, linearly, rounded to the nearest, and what
    lies outside is cut off. None leaves 8 bits as they are and takes 16 bits from 0 to 65535. An
    InputError, which names the file ``path``, says that there is a NaN, or that only a range could
    tell what is black and white.
    """
    if value_range is not None:
        if np.isnan(values).any():
            raise InputError(f"{path} holds values that are no numbers (NaN). Fill them.")
        low, high = value_range
        shares = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
        return np.rint(shares * 255).astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.dtype != np.uint16:
        raise InputError(f"{path} holds {values.dtype} numbers; {BLACK_AND_WHITE}.")
    if values.max() < LEAST:
        raise too_dark(path)
    return (values.astype(np.float64) / FULL_SCALE * 255).astype(np.uint8)


def too_dark(path: str | Path) -> InputError:
    """Return what to raise of a 16-bit picture without a value of LEAST or above."""
    return InputError(
        f"{path} has more than 8 bits but uses only a sixteenth of their range, as 12 bits in 16 "
        f"do, so it would be black; {BLACK_AND_WHITE}."
    )
