"""From a picture to what a network takes: pure functions of their arguments.

Steps 1 and 2 resize with Pillow, as the SIPE and IRN releases do; their loaders hand over uint8
pictures and the box that they fill, and floating point starts on the device. Step 3 resizes with
OpenCV, as the published recipes of its two networks do, and what comes out is float32.
"""

from collections.abc import Callable, Sequence

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
V2 = "deeplabv2_resnet101"

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
    slacks = abs(size - np.array(image.size[::-1]))
    offsets = np.minimum(place * (slacks + 1), slacks).astype(int)
    window, box = cut_window(np.asarray(image)[:, ::turn], offsets, size, fill=0)
    if label is not None:
        label = np.asarray(Image.fromarray(label).resize(image.size, Image.Resampling.NEAREST))
        label, _ = cut_window(label[:, ::turn], offsets, size, fill=UNSURE)
    return window.transpose(2, 0, 1), box, label


def cut_window(
    pixels: np.ndarray, offsets: Sequence[int], size: int, fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a square out of a picture, or around it where the picture is smaller, and its box.

    Args:
        pixels: (H, W, ...).
        offsets: vertical and horizontal: where the picture is larger, of the first row or column
            that is taken, and where it is smaller, of the one at which it is put.
        size: side of the window in pixels.
        fill: value outside the picture.

    The window is (size, size, ...) of the dtype of ``pixels``, the box that of :func:`random_pair`.
    """
    sides = pixels.shape[:2]
    # Where the picture begins in the window, or before it.
    top, left = (-at if side > size else at for at, side in zip(offsets, sides, strict=True))
    box = np.clip([top, left, top + sides[0], left + sides[1]], 0, size)
    window = np.full((size, size, *pixels.shape[2:]), fill, dtype=pixels.dtype)
    first, before, last, behind = box
    window[first:last, before:behind] = pixels[
        first - top : last - top, before - left : behind - left
    ]
    return window, box


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


def sides_of(pixels: np.ndarray, scale: float, truncated: bool) -> tuple[int, int]:
    """Return (h, w) of a picture (H, W, ..) times a factor; sides below 1 become 1.

    Whole pixels are truncated for DeepLab v2, and rounded half to even by OpenCV.
    """
    whole = int if truncated else round
    height, width = (max(1, whole(side * scale)) for side in pixels.shape[:2])
    check_sides(pixels.shape[1], pixels.shape[0], width, height)
    return height, width


def resize_opencv(
    pixels: np.ndarray, scale: float, resample: int, truncated: bool = False
) -> np.ndarray:
    """Return (h, w, ..) of :func:`sides_of` by a filter of OpenCV; no memory is a MemoryError.

    Positions are mapped by the ratio of ``truncated`` sides, and else by the factor itself.
    """
    height, width = sides_of(pixels, scale, truncated)
    size, factor = (width, height), 0.0
    # OpenCV refuses a factor by which a side would be rounded to 0.
    if not truncated and min(pixels.shape[:2]) * scale > 0.5:
        size, factor = None, scale
    try:
        return cv2.resize(pixels, size, fx=factor, fy=factor, interpolation=resample)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        raise


def prepared(prepare: Callable[[Tensor], Tensor], pixels: np.ndarray) -> np.ndarray:
    """Return what ``prepare`` makes of RGB pixels of 0..255, (H, W, 3) in and out."""
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    return prepare(channels_first).permute(1, 2, 0).numpy()


def deeplabv2_view(picture: np.ndarray, scale: float, resample: str = "bilinear") -> np.ndarray:
    """Return a picture as DeepLab v2 takes it: BGR, the mean subtracted, float32 (3, h, w).

    Args:
        picture: uint8 (H, W, 3) RGB.
        scale: factor of both sides, which are truncated to whole pixels.
        resample: filter, one of RESAMPLE; without antialiasing, on float32, not rounded.
    """
    pixels = resize_opencv(picture.astype(np.float32), scale, RESAMPLE[resample], truncated=True)
    return prepared(DeepLabV2_ResNet101_MSC.normalise, pixels).transpose(2, 0, 1)


def deeplabv1_view(picture: np.ndarray, scale: float) -> np.ndarray:
    """Return a picture as DeepLab v1 takes it for a test: normalised, then resized (bicubic).

    The picture is uint8 (H, W, 3) RGB, the result float32 (3, h, w) of sides that OpenCV rounds to
    whole pixels.
    """
    pixels = prepared(normalise, picture)
    return resize_opencv(pixels, scale, cv2.INTER_CUBIC).transpose(2, 0, 1)


# How --model takes its pictures to test.
VIEWS = {V2: deeplabv2_view, "deeplabv1_resnet38": deeplabv1_view}


def random_window(
    model: str,
    picture: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    scale: float,
    size: int,
    resample: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a training sample of a model, a resized, mirrored and cropped or padded square.

    That of DeepLab v2 is mirrored at last, and its label resized by Pillow's nearest filter; that
    of v1 is mirrored at first, uint8 while it is resized, and its label by OpenCV's nearest filter.
    DeepLab v2 pads a short picture at its end; v1 puts it anywhere.

    Args:
        model: a key of VIEWS.
        picture: uint8 (H, W, 3) RGB.
        label: uint8 (H, W).
        rng: says whether the sample is mirrored, and then its place, vertically and horizontally.
        scale: factor of both sides, see :func:`sides_of`.
        size: side S of the window in pixels.
        resample: filter of the picture, one of RESAMPLE.

    Returns:
        window: float32 (3, S, S), as the network takes it; zeros in the padding.
        label: uint8 (S, S), 255 in the padding.
    """
    turn = -1 if rng.random() < 0.5 else 1
    excess = np.subtract(sides_of(picture, scale, model == V2), size)
    if model == V2:
        slacks = excess.clip(0)
        pixels = deeplabv2_view(picture, scale, resample).transpose(1, 2, 0)
        sides = pixels.shape[1::-1]  # width, height
        label = np.asarray(Image.fromarray(label).resize(sides, Image.Resampling.NEAREST))
    else:
        slacks = abs(excess)
        picture, label = picture[:, ::turn], label[:, ::turn]
        pixels = prepared(normalise, resize_opencv(picture, scale, RESAMPLE[resample]))
        label = resize_opencv(label, scale, cv2.INTER_NEAREST)
    place = [int(rng.integers(slack, endpoint=True)) for slack in slacks]
    window, _ = cut_window(pixels, place, size, 0)
    label, _ = cut_window(label, place, size, UNSURE)
    if model == V2:
        window, label = window[:, ::turn], label[:, ::turn]
    return window.transpose(2, 0, 1), label
