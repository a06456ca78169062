"""Reading pictures and masks of any kind, writing palette labels, drawing maps."""

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tool.errors import InputError
from tool.picture_files import MASK_FORMATS, PictureFile, picture_file
from tool.writer import write_atomic

UNSURE = 255  # the label of a pixel that no one judges
STRENGTH = 0.6  # of the colours of a map over a picture
GOLDEN = 0.618034  # of the circle of hues, from a class to the next
LIGHTNESS, SATURATION = (0.8, 0.6, 0.45), (0.6, 1)  # in turn
LETTERS = 12  # pixels of the height of a name, at least
GREY = 140  # a white pixel without a label, beside regions in their colours


def read_rgb(
    path: str | Path,
    bands: Sequence[int] | None = None,
    value_range: Sequence[float] | str | None = None,
) -> Image.Image:
    """Read the first frame of a picture in one of FORMATS as RGB, upright as viewers show it.

    Grey, palette and CMYK pictures are converted, transparent ones laid on white, and more bits
    reduced to 8. An InputError says that the file is missing, is not a whole picture, or has more
    than MOST_PIXELS, or that its samples are no colours and no argument says how to make some.

    Args:
        path: of the file.
        bands: the three bands of a TIFF, counted from 1, that are red, green and blue; of another
            picture those of its RGB. Where a page has one band, the pages are the bands.
        value_range: (low, high), samples that become 0 and 255, linearly, rounded to the nearest;
            others are cut off. None takes what their bits can hold.
    """
    with picture_file(path) as file:
        return file.rgb(bands, value_range)


def stored(path: str | Path) -> PictureFile:
    """Return what the header of a picture says; a file that is none raises an InputError."""
    with picture_file(path) as file:
        return file


def read_mask(path: str | Path) -> np.ndarray:
    """Read a label picture in one of MASK_FORMATS: uint8 (H, W) of class ids, 255 where unknown.

    Its EXIF orientation is applied, as to the picture that it belongs to. A file that is missing or
    broken, or holds colours or other numbers instead of ids, raises an InputError.
    """
    with picture_file(path, MASK_FORMATS) as file:
        return file.ids().astype(np.uint8)


def check_label(
    path: str | Path, label: np.ndarray, num_classes: int, size: tuple[int, int] | None = None
) -> None:
    """Raise an InputError of a label, uint8 (H, W), that does not fit.

    Its ids must be below C or 255, and where the ``size`` of its picture, (W, H), is given, it must
    be the label's too.
    """
    found, largest = label.shape[::-1], label[label != UNSURE].max(initial=0)
    if found != (size or found) or largest >= num_classes:
        raise InputError(
            f"{path} does not fit: its (width, height) is {found} and its largest class {largest}, "
            f"where {size or found} and 0 to {num_classes - 1} are expected. Make it again, or "
            "check --dataset and the folder it is in."
        )


def voc_palette() -> np.ndarray:
    """Return the colour map of PASCAL VOC, uint8 (256, 3) RGB: bits of the id spread over RGB."""
    ids = np.arange(256, dtype=np.uint8)[:, None]
    bits = np.unpackbits(ids, axis=1, count=9, bitorder="little")  # 0 is the last
    return np.packbits(bits.reshape(256, 3, 3), axis=1)[:, 0]  # the first is the highest


def reduced_size(size: Sequence[int], max_pixels: float) -> tuple[int, int]:
    """Return (H, W) of a picture, reduced to so many pixels if it has more, rounded."""
    factor = min(1, math.sqrt(max_pixels / (size[0] * size[1])))
    return tuple(max(1, round(side * factor)) for side in size)


def save_label(path: str | Path, label: np.ndarray, size: Sequence[int] | None = None) -> None:
    """Write uint8 (H, W) class ids as an 8-bit palette PNG with the VOC colours, atomically.

    A label of a reduced picture is enlarged by the nearest pixel to ``size``, (H, W) of the
    picture.
    """
    image = Image.fromarray(label.astype(np.uint8), "P")
    image = image.resize(size[::-1], Image.Resampling.NEAREST) if size else image
    image.putpalette(voc_palette().tobytes())
    write_atomic(path, lambda file: image.save(file, "PNG"))


def save_rgb(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as PNG, atomically."""
    image = Image.fromarray(picture)
    # Level 1 packs a photograph nearly as well as 6, in a fraction of the time.
    write_atomic(path, lambda file: image.save(file, "PNG", compress_level=1))


def heat(values: np.ndarray) -> np.ndarray:
    """Colour a map: float (H, W) in [0, 1] -> uint8 (H, W, 3), blue for 0 and red for 1."""
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]


def overlay(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Blend the colours of a map, see :func:`heat`, over a picture, uint8 (H, W, 3) as both."""
    return (picture * (1 - STRENGTH) + heat(values) * STRENGTH).astype(np.uint8)


def label_overlay(picture: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W, 3): a grey picture, every region in a clear tint with a line around it.

    Only the brightness of the picture, uint8 (H, W, 3), shows, under the colour of the class, see
    :func:`label_colours`. The line is one pixel wide, on the region's own side of its border. Of
    the label, uint8 (H, W), 0 has no tint, and 255 (unsure) is nearly white.
    """
    tints = label_colours()[label]  # (H, W, 3)
    shaded = tints * (0.4 + 0.6 * picture.mean(2, keepdims=True) / 255)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    line = (cv2.morphologyEx(label, cv2.MORPH_GRADIENT, cross) > 0) & (label != 0)
    return np.where(line[..., None], (tints + 255) / 2, shaded).astype(np.uint8)


def label_colours() -> np.ndarray:
    """Return the tints of :func:`label_overlay`, float (256, 3).

    Those of the first twenty classes differ twice as much as VOC's colours, made lighter, do.
    """
    tints = [
        colorsys.hls_to_rgb((key - 1) * GOLDEN % 1, LIGHTNESS[key % 3], SATURATION[key % 2])
        for key in range(256)
    ]
    colours = 255 * np.array(tints)
    colours[0] = GREY
    colours[UNSURE] = 255
    return colours


def label_drawing(
    picture: np.ndarray, label: np.ndarray, names: Mapping[int, str] | Sequence[str]
) -> np.ndarray:
    """Return what :func:`label_overlay` does, with the name of every class where it is widest.

    ``names`` are by class id, background first.
    """
    image = Image.fromarray(label_overlay(picture, label))
    pen, width = ImageDraw.Draw(image), image.width
    size = max(LETTERS, width // 20)
    font = ImageFont.load_default(size)
    for key in np.unique(label[(label != 0) & (label != UNSURE)]).tolist():
        region = np.pad((label == key).astype(np.uint8), 1)
        inside = cv2.distanceTransform(region, cv2.DIST_L2, 3)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        half = pen.textlength(names[key], font) / 2
        x = max(half, min(x, width - half))
        pen.text(
            (x, y),
            names[key],
            "white",
            font,
            "mm",
            stroke_width=1 + size // 12,
            stroke_fill="black",
        )
    return np.array(image)
