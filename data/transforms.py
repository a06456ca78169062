"""From a picture to what a network takes: pure functions of their arguments.

The loader hands over uint8 pictures and the box they fill; floating point starts on the device.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tool.errors import InputError
from tool.pictures import reduced_size

LARGEST_SIDE = 65535  # pixels of a picture that is resized
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
HUES, PILLOW_HUES = 180, 255  # units of a full turn: in OpenCV, whose units recipes use; in Pillow


def resize(image: Image.Image, height: int, width: int, resample: str = "bicubic") -> Image.Image:
    """Resize with one of Pillow's filters in RESAMPLE; sides below 1 become 1.

    Raises:
        InputError: a side would exceed LARGEST_SIDE.
    """
    if max(height, width) > LARGEST_SIDE:
        raise InputError(
            f"A picture of {image.width}x{image.height} pixels would become {width}x{height}. Take "
            "smaller scales."
        )
    return image.resize((max(1, width), max(1, height)), RESAMPLE[resample])


def rescale(image: Image.Image, scale: float, resample: str = "bicubic") -> Image.Image:
    """Resize both sides by a factor, rounded half to even."""
    return resize(image, round(image.height * scale), round(image.width * scale), resample)


def reduce(image: Image.Image, max_pixels: float) -> Image.Image:
    """Return a picture, reduced to so many pixels by the bicubic filter if it has more."""
    size = (image.height, image.width)
    smaller = reduced_size(size, max_pixels)
    return image if smaller == size else resize(image, *smaller)


def random_view(
    image: Image.Image, rng: np.random.Generator, smallest: int, largest: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what :func:`random_pair` returns of a picture without a label: window and box.

    The long side becomes an integer drawn uniformly from ``smallest`` to ``largest`` pixels, both
    included. The resize is bicubic.
    """
    long_side = int(rng.integers(smallest, largest, endpoint=True))
    return random_pair(image, None, rng, long_side / max(image.size), size)[:2]


def random_scale(rng: np.random.Generator, scales: Sequence[float], draw: str) -> float:
    """Return one of ``scales`` (draw "choice"), or a number between the extremes ("uniform")."""
    if draw == "choice":
        return float(rng.choice(scales))
    return float(rng.uniform(min(scales), max(scales)))


def shift_hsv(image: Image.Image, shift: np.ndarray) -> Image.Image:
    """Return an RGB picture with other hue, saturation and value.

    ``shift`` is (3,) in OpenCV's units: hue in steps of 2 degrees, the others of 0..255, where they
    are cut off. A grey pixel counts as red of saturation 0, so more saturation reddens it.
    """
    hue, saturation, value = image.convert("HSV").split()
    turn = round(int(shift[0]) * PILLOW_HUES / HUES)
    hue = hue.point([(level + turn) % PILLOW_HUES for level in range(256)])
    saturation, value = (
        channel.point([min(max(level + int(by), 0), 255) for level in range(256)])
        for channel, by in zip((saturation, value), shift[1:], strict=True)
    )
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def random_pair(
    image: Image.Image,
    label: np.ndarray | None,
    rng: np.random.Generator,
    scale: float,
    size: int,
    resample: str = "bicubic",
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return a resized, randomly mirrored and cropped or padded square of a picture and its label.

    Where a side exceeds the window it is cropped at a random place, where it falls short it is put
    at one.

    Args:
        image: RGB.
        label: uint8 (H, W), resized to the nearest, or None.
        rng: the only source of chance; the number of draws does not depend on the picture.
        scale: factor of both sides.
        size: side of the window in pixels.
        resample: filter of the picture, one of RESAMPLE.

    Returns:
        window: uint8 (3, size, size); zeros outside the picture, which the box tells apart.
        box: int64 (4,) top, left, bottom, right of the picture in the window, end exclusive.
        label: uint8 (size, size), 255 outside the picture, or None.
    """
    turn = -1 if rng.random() < 0.5 else 1  # mirrored, or as it is
    place = rng.random(2)
    image = rescale(image, scale, resample)
    window, box = cut_window(np.asarray(image)[:, ::turn], place, size, fill=0)
    if label is not None:
        label = np.asarray(Image.fromarray(label).resize(image.size, Image.Resampling.NEAREST))
        label, _ = cut_window(label[:, ::turn], place, size, fill=255)
    return window.transpose(2, 0, 1), box, label


def cut_window(
    pixels: np.ndarray, place: np.ndarray, size: int, fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a square out of a picture, or around it where the picture is smaller.

    Args:
        pixels: uint8 (H, W, ...).
        place: two numbers in [0, 1), of the window in the picture or of the picture in the window,
            vertically and horizontally; 0 is top left.
        size: side of the window in pixels.
        fill: value outside the picture.

    Returns:
        window uint8 (size, size, ...) and box int64 (4,), see :func:`random_pair`.
    """
    sides = np.array(pixels.shape[:2])
    slack = size - sides
    offset = np.minimum((np.asarray(place) * (abs(slack) + 1)).astype(np.int64), abs(slack))
    (y, x), (top, left) = np.where(slack < 0, offset, 0), np.where(slack < 0, 0, offset)
    height, width = np.minimum(size, sides)
    window = np.full((size, size, *pixels.shape[2:]), fill, dtype=np.uint8)
    window[top : top + height, left : left + width] = pixels[y : y + height, x : x + width]
    return window, np.array([top, left, top + height, left + width])
