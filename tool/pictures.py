"""Reading pictures and masks of any kind, writing palette labels, drawing maps."""

import math
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tool.errors import InputError
from tool.files import write_atomic

UNSURE = 255  # the label of a pixel that no one judges
HEAT_STOPS = np.array(  # blue, cyan, yellow, red: what readers of CAM papers are used to
    [[0, 0, 140], [0, 110, 255], [60, 235, 200], [255, 235, 60], [255, 80, 0], [150, 0, 0]]
)

LIGHTER = 70  # what is added to the VOC colours, many of which are dark
GREY = 140  # a white pixel without a label, beside regions in their colours
TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Image.MAX_IMAGE_PIXELS = None  # a large picture of the user's own is no attack


def read_rgb(path: str | Path) -> Image.Image:
    """Read any picture as RGB, upright as viewers show it.

    Grey, 16-bit, palette and CMYK pictures are converted, transparent ones laid on white, and the
    EXIF orientation is applied.

    Raises:
        InputError: the file is missing or is not a whole picture.
    """
    image = _open(path)
    turn = TURNS.get(orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey; Pillow would clip it at 255
        grey = np.asarray(image, dtype=np.float64)
        return Image.fromarray((grey / 65535 * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def stored_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of a picture as stored, from its header alone.

    Raises:
        InputError: the file is missing or is not a picture.
    """
    return _open(path, decode=False).size


def read_mask(path: str | Path) -> np.ndarray:
    """Read a label picture: uint8 (H, W) of class ids, 255 where unknown.

    Raises:
        InputError: the file is missing, broken, or holds colours instead of ids.
    """
    image = _open(path)
    if image.mode not in ("P", "L", "1"):
        raise InputError(
            f"{path} is a {image.mode} picture; a mask is an 8-bit palette or grey PNG whose pixel "
            "values are class ids."
        )
    return np.array(image, dtype=np.uint8)


def _open(path: str | Path, decode: bool = True) -> Image.Image:
    """Open and decode; every failure becomes a sentence that names the file."""
    try:
        image = Image.open(path)
        if decode:
            image.load()
    except FileNotFoundError as error:
        raise InputError(f"There is no picture {path}.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read. Replace it.") from error
    except (OSError, SyntaxError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise InputError(f"{path} is damaged ({error}). Replace it.") from error
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 (upright) where it is missing or the tags are broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):
        return 1


def voc_palette() -> np.ndarray:
    """Return the colour map of PASCAL VOC, uint8 (256, 3) RGB: bits of the id spread over RGB."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def reduced_size(size: Sequence[int], max_pixels: float) -> tuple[int, int]:
    """Return (H, W) of a picture, reduced to so many pixels if it has more, rounded."""
    factor = min(1, math.sqrt(max_pixels / (size[0] * size[1])))
    return tuple(max(1, round(side * factor)) for side in size)


def save_label(path: str | Path, label: np.ndarray, size: Sequence[int] | None = None) -> None:
    """Write uint8 (H, W) class ids as an 8-bit palette PNG with the VOC colours, atomically.

    Args:
        path: of the file.
        label: of the picture, or of a reduced one.
        size: (H, W) of the picture, to which the label is enlarged by the nearest pixel.
    """
    image = Image.fromarray(label.astype(np.uint8), "P")
    image = image.resize(size[::-1], Image.Resampling.NEAREST) if size else image
    image.putpalette(voc_palette().tobytes())
    write_atomic(path, lambda file: image.save(file, "PNG"))


def save_rgb(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the name's ending, atomically."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, Path(path).suffix.lstrip(".").replace("jpg", "jpeg"))
    write_atomic(path, lambda file: file.write(buffer.getbuffer()))


def heat(values: np.ndarray) -> np.ndarray:
    """Colour a map: float (H, W) in [0, 1] -> uint8 (H, W, 3), blue for 0 and red for 1."""
    stops = np.linspace(0, 1, len(HEAT_STOPS))
    channels = [np.interp(values, stops, HEAT_STOPS[:, c]) for c in range(3)]
    return np.stack(channels, -1).astype(np.uint8)


def overlay(picture: np.ndarray, colours: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Blend uint8 (H, W, 3) ``colours`` over a picture of that shape."""
    return (picture * (1 - strength) + colours * strength).astype(np.uint8)


def label_overlay(picture: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W, 3): a grey picture, every region in a clear tint with a line around it.

    Only the brightness of the picture shows, under the VOC colour of the class, made lighter. The
    line is one pixel wide, on the region's own side of its border.

    Args:
        picture: uint8 (H, W, 3).
        label: uint8 (H, W); 0 has no tint, 255 (unsure) is nearly white.
    """
    colours = np.minimum(LIGHTER + 1.2 * voc_palette(), 255)  # (256, 3)
    colours[0] = GREY
    tints = colours[label]  # (H, W, 3)
    shaded = tints * (0.4 + 0.6 * picture.mean(2, keepdims=True) / 255)
    line = border(label) & (label != 0)
    return np.where(line[..., None], (tints + 255) / 2, shaded).astype(np.uint8)


def border(label: np.ndarray) -> np.ndarray:
    """Return bool (H, W): pixels that have another label than one of their 4 neighbours."""
    padded = np.pad(label, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.any([label != neighbours for neighbours in around], axis=0)
