"""What networks take: pixels as floating point numbers, and zeros in the padding of a window.

A loader hands over uint8 pictures and the box that they fill; these are functions of tensors, on
the device of their arguments.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tool.constants import constant

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(
    pixels: Tensor,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """Return (x / 255 - mean) / std, float32, of uint8 RGB (..., 3, H, W)."""
    shift, scale = (constant(values, pixels.device).view(3, 1, 1) for values in (mean, std))
    return (pixels.float() / 255 - shift) / scale


def inside(box: Tensor, size: int, samples: int) -> Tensor:
    """Return 1 where a window is picture and 0 where it is padding, float32 (B, 1, s, s).

    Args:
        box: int64 (B, 4) top, left, bottom, right in pixels, end exclusive.
        size: side of the window in pixels.
        samples: side s of the result. Position i looks at pixel floor(i * size / samples), which is
            nearest sampling: the top-left pixel of each cell.
    """
    at = torch.arange(samples, device=box.device) * size // samples
    rows = (at >= box[:, 0:1]) & (at < box[:, 2:3])  # (B, samples)
    columns = (at >= box[:, 1:2]) & (at < box[:, 3:4])
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def prepare(
    pictures: Tensor, box: Tensor | None = None, normalise: Callable[[Tensor], Tensor] = normalise
) -> Tensor:
    """Return what a network takes, float32 (B, 3, H, W), normalised as on ImageNet by default.

    The pictures are (B, 3, H, W) RGB of 0..255. Where ``box`` says how they fill square windows,
    see :func:`inside`, the padding is zero, which is the mean colour.
    """
    img = normalise(pictures)
    return img if box is None else img * inside(box, img.shape[-1], img.shape[-1])
