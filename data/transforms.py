"""From a picture to what a network takes: pure functions of their arguments.

Steps 1 and 2 resize with Pillow, as the SIPE and IRN releases do; their loaders hand over uint8
pictures and the box that they fill, and floating point starts on the device. Step 3 resizes with
OpenCV, as the published recipes of its two networks do, and what comes out is float32.
"""

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.inputs import normalise
from tool.errors import InputError
from tool.pictures import UNSURE, reduced_size

LARGEST_SIDE = 65535  # pixels of a picture that is resized
RESAMPLE = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}  # of step 3
HUES = 180  # OpenCV's units of a full turn

cv2.setNumThreads(0)  # loaders are processes of their own; each imports or inherits this


def check_sides(width: int, height: int, new_width: int, new_height: int) -> None:
    """Raise an InputError where a resized picture would be larger than a picture can be."""
    if max(new_height, new_width) > LARGEST_SIDE:
        raise InputError(
            f"A picture of {width}x{height} pixels would become {new_width}x{new_height}. Take "
            "smaller scales."
        )


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize with Pillow's bicubic filter; sides below 1 become 1."""
    check_sides(*image.size, width, height)
    return image.resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)


def rescale(image: Image.Image, scale: float) -> Image.Image:
    """Resize both sides by a factor, rounded half to even."""
    return resize(image, round(image.height * scale), round(image.width * scale))


def reduce(image: Image.Image, max_pixels: float) -> Image.Image:
    """Return a picture, reduced to so many pixels by the bicubic filter if it has more."""
    smaller = reduced_size((image.height, image.width), max_pixels)
    return image if smaller[::-1] == image.size else resize(image, *smaller)


def random_view(
    image: Image.Image, rng: np.random.Generator, smallest: int, largest: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what :func:`random_pair` returns of a picture without a label: window and box.

    The long side becomes an integer drawn uniformly from ``smallest`` to ``largest`` pixels, both
    included.
    """
    long_side = int(rng.integers(smallest, largest, endpoint=True))
    return random_pair(image, None, rng, long_side / max(image.size), size)[:2]


def random_scale(rng: np.random.Generator, scales: Sequence[float], draw: str) -> float:
    """Return one of ``scales`` (draw "choice"), or a number between the extremes ("uniform")."""
    if draw == "choice":
        return float(rng.choice(scales))
    return float(rng.uniform(min(scales), max(scales)))


def random_pair(
    image: Image.Image, label: np.ndarray | None, rng: np.random.Generator, scale: float, size: int
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

    Returns:
        window: uint8 (3, size, size); zeros outside the picture, which the box tells apart.
        box: int64 (4,) top, left, bottom, right of the picture in the window, end exclusive.
        label: uint8 (size, size), 255 outside the picture, or None.
    """
    turn = -1 if rng.random() < 0.5 else 1  # mirrored, or as it is
    place = rng.random(2)
    image = rescale(image, scale)
    window, box = cut_window(np.asarray(image)[:, ::turn], place, size, fill=0)
    if label is not None:
        label = np.asarray(Image.fromarray(label).resize(image.size, Image.Resampling.NEAREST))
        label, _ = cut_window(label[:, ::turn], place, size, fill=UNSURE)
    return window.transpose(2, 0, 1), box, label


def cut_window(
    pixels: np.ndarray, place: np.ndarray, size: int, fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a square out of a picture, or around it where the picture is smaller, and its box.

    Args:
        pixels: (H, W, ...).
        place: two numbers in [0, 1), of the window in the picture or of the picture in the window,
            vertically and horizontally; 0 is top left.
        size: side of the window in pixels.
        fill: value outside the picture.

    The window is (size, size, ...) of the dtype of ``pixels``, the box that of :func:`random_pair`.
    """
    slacks = [abs(size - side) for side in pixels.shape[:2]]
    offsets = [min(int(at * (slack + 1)), slack) for at, slack in zip(place, slacks, strict=True)]
    return cut_at(pixels, offsets, size, fill)


def cut_at(
    pixels: np.ndarray, offsets: Sequence[int], size: int, fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what :func:`cut_window` does, for a known place.

    ``offsets`` are vertical and horizontal: where the picture is larger, of the first row or column
    that is taken, and where it is smaller, of the one at which it is put.
    """
    sides = np.array(pixels.shape[:2])
    offset, larger = np.asarray(offsets).astype(np.int64), sides > size
    (y, x), (top, left) = np.where(larger, offset, 0), np.where(larger, 0, offset)
    height, width = np.minimum(size, sides)
    window = np.full((size, size, *pixels.shape[2:]), fill, dtype=pixels.dtype)
    window[top : top + height, left : left + width] = pixels[y : y + height, x : x + width]
    return window, np.array([top, left, top + height, left + width])


# ---------------------------------------------------------------------------- step 3


def shift_hsv(picture: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3) RGB, with other colours, by OpenCV's 8-bit HSV.

    The hue, in steps of 2 degrees, wraps; saturation and value are cut off at 0 and 255. A grey
    pixel counts as red of saturation 0, so more saturation reddens it. ``shift`` are three
    integers.
    """
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.int64) + np.asarray(shift, np.int64)
    hsv[..., 0] %= HUES
    return cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)


def sides_of(pixels: np.ndarray, scale: float, whole: Callable[[float], int]) -> tuple[int, int]:
    """Return (h, w) of a picture (H, W, ..) times a factor; sides below 1 become 1.

    ``whole`` makes whole pixels: ``int`` for DeepLab v2, and ``round`` is OpenCV's rule.
    """
    height, width = (max(1, whole(side * scale)) for side in pixels.shape[:2])
    check_sides(pixels.shape[1], pixels.shape[0], width, height)
    return height, width


def resize_by_factor(pixels: np.ndarray, scale: float, resample: int) -> np.ndarray:
    """Return (h, w, ..) by a filter of OpenCV; positions are mapped by the factor itself."""
    sides = sides_of(pixels, scale, round)
    if min(pixels.shape[:2]) * scale <= 0.5:  # a side would round to 0, which OpenCV refuses
        return opencv_resize(pixels, sides[::-1], resample)
    return opencv_resize(pixels, None, resample, scale)


def opencv_resize(
    pixels: np.ndarray, size: tuple[int, int] | None, resample: int, scale: float = 0
) -> np.ndarray:
    """Return (h, w, ..) of ``size`` (w, h), or times ``scale``; no memory is a MemoryError."""
    try:
        return cv2.resize(pixels, size, fx=scale, fy=scale, interpolation=resample)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        raise


def prepared(prepare: Callable[[Tensor], Tensor], pixels: np.ndarray) -> np.ndarray:
    """Return what ``prepare`` makes of RGB pixels of 0..255, (H, W, 3) in and out."""
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    return np.ascontiguousarray(prepare(channels_first).permute(1, 2, 0).numpy())


def deeplabv2_view(picture: np.ndarray, scale: float, resample: str = "bilinear") -> np.ndarray:
    """Return a picture as DeepLab v2 takes it: BGR, the mean subtracted, float32 (3, h, w).

    Args:
        picture: uint8 (H, W, 3) RGB.
        scale: factor of both sides, which are truncated to whole pixels.
        resample: filter, one of RESAMPLE; without antialiasing, on float32, not rounded.
    """
    height, width = sides_of(picture, scale, int)
    pixels = opencv_resize(picture.astype(np.float32), (width, height), RESAMPLE[resample])
    return prepared(DeepLabV2_ResNet101_MSC.normalise, pixels).transpose(2, 0, 1)


def deeplabv1_view(picture: np.ndarray, scale: float) -> np.ndarray:
    """Return a picture as DeepLab v1 takes it for a test: normalised, then resized (bicubic).

    The picture is uint8 (H, W, 3) RGB, the result float32 (3, h, w) of sides that OpenCV rounds to
    whole pixels.
    """
    pixels = prepared(normalise, picture)
    return resize_by_factor(pixels, scale, cv2.INTER_CUBIC).transpose(2, 0, 1)


def deeplabv2_window(
    picture: np.ndarray,
    label: np.ndarray,
    scale: float,
    top: int,
    left: int,
    mirrored: bool,
    size: int,
    resample: str = "bilinear",
) -> tuple[np.ndarray, np.ndarray]:
    """Return a training sample of DeepLab v2: resized, padded, cropped, and mirrored at last.

    Args:
        picture: uint8 (H, W, 3) RGB.
        label: uint8 (H, W), resized by Pillow's nearest filter.
        scale, resample: see :func:`deeplabv2_view`.
        top, left: first row and column that are taken from the resized picture; a side that is
            shorter than the window is padded at its end, and its offset is 0.
        mirrored: from left to right.
        size: side S of the window in pixels.

    Returns:
        window: float32 (3, S, S), as the network takes it; zeros in the padding.
        label: uint8 (S, S), 255 in the padding.
    """
    pixels = deeplabv2_view(picture, scale, resample).transpose(1, 2, 0)
    sides = pixels.shape[1::-1]  # width, height
    ids = np.asarray(Image.fromarray(label).resize(sides, Image.Resampling.NEAREST))
    return _sample(pixels, ids, (top, left), size, mirrored)


def deeplabv1_window(
    picture: np.ndarray,
    label: np.ndarray,
    scale: float,
    top: int,
    left: int,
    mirrored: bool,
    size: int,
    resample: str = "bicubic",
) -> tuple[np.ndarray, np.ndarray]:
    """Return a training sample of DeepLab v1: mirrored, resized, cropped or padded.

    The picture is uint8 while it is resized, the label is resized by OpenCV's nearest filter, and
    OpenCV rounds the sides to whole pixels. For ``top`` and ``left`` see :func:`cut_at`; for the
    rest, and for what is returned, :func:`deeplabv2_window`.
    """
    if mirrored:
        picture, label = (np.ascontiguousarray(array[:, ::-1]) for array in (picture, label))
    pixels = prepared(normalise, resize_by_factor(picture, scale, RESAMPLE[resample]))
    ids = resize_by_factor(label, scale, cv2.INTER_NEAREST)
    return _sample(pixels, ids, (top, left), size)


def _sample(
    pixels: np.ndarray, ids: np.ndarray, place: tuple[int, int], size: int, mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of a picture, channels first, and its label, see :func:`cut_at`."""
    turn = -1 if mirrored else 1
    window, _ = cut_at(pixels, place, size, 0)
    ids, _ = cut_at(ids, place, size, UNSURE)
    window = window[:, ::turn].transpose(2, 0, 1)
    return np.ascontiguousarray(window), np.ascontiguousarray(ids[:, ::turn])


def random_window(
    model: str,
    picture: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    scale: float,
    hsv_shift: np.ndarray | None,
    size: int,
    resample: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training sample of a model at a random place, mirrored or not.

    It is :func:`deeplabv1_window`, or :func:`deeplabv2_window` of the padded picture. Colours are
    shifted first where ``hsv_shift`` is given, see :func:`shift_hsv`; the published recipe of v2
    shifts none.
    """
    is_v2 = model == "deeplabv2_resnet101"
    if hsv_shift is not None:
        picture = shift_hsv(picture, hsv_shift)
    mirrored = rng.random() < 0.5
    differences = [side - size for side in sides_of(picture, scale, int if is_v2 else round)]
    slacks = [max(0, difference) if is_v2 else abs(difference) for difference in differences]
    top, left = (int(rng.integers(slack, endpoint=True)) for slack in slacks)
    window = deeplabv2_window if is_v2 else deeplabv1_window
    return window(picture, label, scale, top, left, mirrored, size, resample)


# How --model takes its pictures: views to test, and random windows to learn from.
VIEWS = {"deeplabv2_resnet101": deeplabv2_view, "deeplabv1_resnet38": deeplabv1_view}
WINDOWS = {model: partial(random_window, model) for model in VIEWS}
