"""Pictures whose samples are not 8-bit colours: more bits, real numbers, many bands."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from tool.errors import InputError
from tool.picture_files import bits_of, check_pixels, open_picture, orientation_of
from tool.reader import Damaged, check, decoding

TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF's PhotometricInterpretation -> colours; all others are inks, indices, or of a camera.
COLOURS = {0: 1, 1: 1, 2: 3}
WHITE_IS_ZERO = 0
ALPHAS = ([1], [2])  # of TIFF's ExtraSamples; 0 is a band that is no transparency
SHALLOW = ("bool", "uint8")  # dtypes of whole numbers from 0 to 255
ORIENTATION = 274  # a tag of TIFF
FULL_SCALE = 65535  # white of a 16-bit picture
DARK = 4112  # a 16-bit picture without a larger value holds 12 bits or fewer: it would be black
BLACK_AND_WHITE = "say which values are black and white with --value_range LOW HIGH (or auto)"
PILLOW_READS = ("uint16", "int16", "int32", "float32")  # of one band

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a fault becomes one sentence of ours


@dataclass(frozen=True)
class Layout:
    """What the header of a TIFF's first page says, in tags of TIFF."""

    size: tuple[int, int]  # (width, height) as stored
    bands: int  # samples a pixel, transparency included
    extra: list[int]  # what bands that are no colours mean
    dtype: np.dtype  # of NumPy's, which holds a sample
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
        return self.extra[:1] in ALPHAS

    @property
    def is_deep(self) -> bool:
        """Whether samples are anything but whole numbers from 0 to 255."""
        return self.dtype not in SHALLOW

    @property
    def inverts(self) -> bool:
        """Whether deep samples are dark where they are large; Pillow turns 8-bit ones itself."""
        return self.is_deep and self.photometric == WHITE_IS_ZERO

    def __str__(self) -> str:
        return f"a TIFF of {self.bits}-bit {self.dtype} numbers, {self.bands} a pixel"

    def check(self, path: str | Path, bands, value_range) -> None:
        """Raise an InputError where the colours of a picture cannot be told without flags."""
        check_pixels(path, *self.size)
        unclear = not bands and self.bands > self.colours + self.has_alpha
        if unclear or (not value_range and self.dtype not in (*SHALLOW, "uint16")):
            raise InputError(
                f"{path} is {self}; choose the bands of red, green and blue with --bands 3 2 1, or "
                f"{BLACK_AND_WHITE}."
            )


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
            "extra": list(page.extrasamples),
            "dtype": page.dtype,
            "bits": page.bitspersample,
            "photometric": page.photometric,
            "orientation": turned.value if turned else 1,
            "pages": len(file.pages),
        }
        special = {"size": (int, int), "extra": [int], "dtype": np.dtype}
        check(found, {**dict.fromkeys(found, int), **special})
        return Layout(**found)
    return None


class Samples(NamedTuple):
    """A picture as it is stored, before its samples become 8-bit colours."""

    values: np.ndarray  # (H, W, 3), or (H, W, 1) of grey, of the file's dtype
    orientation: int  # of EXIF
    alpha: np.ndarray | None = None  # float64 (H, W, 1) in [0, 1]
    inverts: bool = False  # samples are dark where they are large

    def to_rgb(self, path: str | Path, value_range: tuple[float, float] | None) -> Image.Image:
        """Return RGB as stored, laid on white.

        The ``value_range`` (low, high) becomes 0 and 255, linearly, rounded to the nearest, and
        what lies outside is cut off. None leaves 8 bits as they are and takes 16 bits from 0 to
        65535.

        Raises:
            InputError: there is a NaN, or only a range could tell what is black and white.
        """
        values = self.values
        if value_range is not None:
            if np.isnan(values).any():
                raise InputError(f"{path} holds values that are no numbers (NaN). Fill them.")
            low, high = value_range
            shares = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
            values = np.rint(shares * 255)
        elif values.dtype == np.uint16 and values.max() > DARK:
            values = values.astype(np.float64) / FULL_SCALE * 255
        elif values.dtype != np.uint8:
            largest = f"{values.dtype} numbers up to {values.max()}"
            raise InputError(f"{path} holds {largest}, which may be black; {BLACK_AND_WHITE}.")
        colours = values.astype(np.uint8, copy=False)
        colours = 255 - colours if self.inverts else colours
        if self.alpha is not None:
            colours = np.rint(colours * self.alpha + 255 * (1 - self.alpha)).astype(np.uint8)
        colours = colours[..., 0] if colours.shape[2] == 1 else np.ascontiguousarray(colours)
        return Image.fromarray(colours).convert("RGB")


def read_samples(
    path: str | Path,
    bands: tuple[int, ...] | None,
    value_range: tuple[float, float] | str | None,
) -> Samples:
    """Return the samples of a picture whose ``bands``, counted from 1, are red, green and blue.

    Samples of 8 bits are those of its RGB. None as ``bands`` takes the colours of the file, and a
    ``value_range`` says that samples have to be as they are stored. It raises what
    :func:`tool.pictures.read_rgb` does.
    """
    layout, alpha = tiff_layout(path), None
    if layout:
        layout.check(path, bands, value_range)
        by_pillow = layout.bands == 1 and layout.bits % 16 == 0 and layout.dtype in PILLOW_READS
        is_plain = layout.photometric in COLOURS  # brightnesses, not inks or indices
        if is_plain and (bands or (layout.is_deep and not by_pillow)):
            return _read_tiff(path, layout, bands)
    image = open_picture(path)
    bits, orientation = bits_of(path, image), orientation_of(image)
    is_scaled = image.format in ("JPEG2000", "PPM") and bits > 8  # by Pillow
    if is_scaled and (bands or value_range):
        raise InputError(
            f"{path} is a {image.format} of {bits} bits, whose values Pillow stretches. Save it as "
            "TIFF for --value_range and --bands."
        )
    if image.mode.startswith("I") or image.mode == "F":  # which convert would clip at 255
        values = np.asarray(image)[..., None]
        if image.mode.startswith("I") and (image.format, image.mode) != ("TIFF", "I"):
            values = values.astype(np.uint16)  # which Pillow may hold in 32 bits
    elif image.format == "PNG" and bits == 16:
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # Pillow keeps the high bytes alone
        if stored is None:
            raise Damaged("its 16 bits cannot be read")
        values = stored[..., 2::-1]  # OpenCV has blue first, and transparency last
        alpha = stored[..., 3:] / FULL_SCALE if stored.shape[2] == 4 else None
    else:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        values = np.asarray(image.convert("RGB"))
        values = values * np.uint16(257) if is_scaled else values
    if bands:
        values, alpha = values[..., check_bands(path, bands, values.shape[2])], None
    return Samples(values, orientation, alpha, bool(layout and layout.inverts))


def _read_tiff(path: str | Path, layout: Layout, bands: tuple[int, ...] | None) -> Samples:
    """Return the samples of the first page; where that has one band, the pages are the bands.

    Fewer bands, or a missing package that decompresses the file, raise an InputError.
    """
    from tifffile import TiffFile  # slow to import, and only needed here

    shown, alpha = bands or range(1, layout.colours + 1), None
    by_page = bands and layout.bands == 1 and layout.pages > 1
    chosen = check_bands(path, shown, layout.pages if by_page else layout.bands)
    try:
        with TiffFile(path) as file:
            pages = [file.pages[page] for page in (chosen if by_page else [0])]
            values = np.concatenate([_pixels(page, layout) for page in pages], -1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise InputError(f"{path}: {error}. Call pip install imagecodecs.") from error
    if layout.has_alpha and not bands:
        whole = 1 if layout.dtype.kind == "f" else 2**layout.bits - 1
        alpha = (values[..., layout.colours, None] / whole).clip(0, 1)
    values = values if by_page else values[..., chosen]
    return Samples(values, layout.orientation, alpha, layout.inverts)


def _pixels(page, layout: Layout) -> np.ndarray:
    """Return the samples of a page, (H, W, S) of the file's dtype."""
    width, height = layout.size
    values = page.asarray(squeeze=False)  # (bands or 1, 1, H, W, 1 or bands)
    return np.moveaxis(values, 0, -1).reshape(height, width, layout.bands)


def check_bands(path: str | Path, bands: Sequence[int], number: int) -> list[int]:
    """Return ``--bands`` counted from 0; an InputError says that a picture has fewer bands."""
    if max(bands) > number:
        raise InputError(f"{path} has {number} bands; --bands names band {max(bands)}.")
    return [band - 1 for band in bands]
