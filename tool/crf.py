"""Fully connected conditional random field, in torch alone, on CPU and CUDA.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011. With unary energies U, Gaussian kernels K_m over all pairs of pixels, their weights w_m
and Potts compatibility, the mean field is

    Q <- softmax(-U + sum_m w_m K_m Q),   starting from softmax(-U).

K = n^-1/2 F n^-1/2 with n = F 1, where F filters on the lattice of :mod:`tool.lattice`.

Letters in shapes: V label maps (views) of one picture, C classes, N = H * W pixels.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tool.constants import constant
from tool.lattice import Lattice, build_lattice, normalise

# The label CRF of the IRN and SIPE releases; standard deviations in pixels and in grey levels.
GAUSSIAN_SXY, GAUSSIAN_WEIGHT = 3, 3
BILATERAL_SXY, BILATERAL_SRGB, BILATERAL_WEIGHT = 50, 5, 10
# The score CRF of DeepLab v2.
SCORE_GAUSSIAN_SXY, SCORE_GAUSSIAN_WEIGHT = 1, 3
SCORE_BILATERAL_SXY, SCORE_BILATERAL_SRGB, SCORE_BILATERAL_WEIGHT = 67, 3, 4

PROB_MIN = 1e-5  # probabilities are clipped there before the logarithm, as pydensecrf does
CACHED_SIZES = 8  # picture sizes whose Gaussian lattice is kept, each 48 bytes a pixel


def _grid(height: int, width: int, sxy: float, device: torch.device) -> Tensor:
    """Return (2, H * W) float32: x / sxy and y / sxy of every pixel."""
    sides = (torch.arange(n, dtype=torch.float32, device=device) for n in (height, width))
    y, x = torch.meshgrid(*sides, indexing="ij")
    return _divide(torch.stack([x, y]).flatten(1), sxy, "sxy")


def _divide(values: Tensor, by: float, name: str) -> Tensor:
    if not 0 < by < math.inf:
        raise ValueError(f"The standard deviation {name} must be positive, not {by}.")
    # CUDA multiplies by the reciprocal of a plain number, which rounds differently.
    return values / constant(by, values.device)


@lru_cache(CACHED_SIZES)
def gaussian_kernel(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """Return K of (x, y) / sxy from a cache; units and errors as in :func:`bilateral_kernel`."""
    return normalise(build_lattice(_grid(height, width, sxy, device)))


@torch.no_grad()
def bilateral_kernel(img: np.ndarray, sxy: float, srgb: float, device: torch.device) -> Lattice:
    """Return K of the features (x / sxy, y / sxy, R / srgb, G / srgb, B / srgb), on the device.

    The picture is (H, W, 3) uint8 RGB, the standard deviations are in pixels and in grey levels.
    One that is not positive raises a ValueError, and so does what
    :func:`tool.lattice.build_lattice` refuses.
    """
    height, width, _ = img.shape
    pixels = torch.tensor(np.ascontiguousarray(img), device=device)
    colour = _divide(pixels.view(-1, 3).t().float(), srgb, "srgb")
    return normalise(build_lattice(torch.cat([_grid(height, width, sxy, device), colour])))


@torch.no_grad()
def mean_field(unary: Tensor, kernels: Sequence[tuple[float, Lattice]], t: int) -> Tensor:
    """Return Q after t times Q <- softmax(-U + sum_m w_m K_m Q), from softmax(-U).

    The energies U are (V, C, N) float32, and so is Q, which sums to 1 over C. The kernels are pairs
    of w_m and K_m, shared by all views; t is 0 or more.
    """
    q = (-unary).softmax(1)
    rows = -unary.flatten(0, 1).t().contiguous()  # (N, V * C): a lattice moves whole rows
    for _ in range(t):
        values = q.flatten(0, 1).t().contiguous()
        logits = rows.clone()
        for weight, lattice in kernels:
            logits.add_(lattice.filter(values), alpha=weight)
        q = logits.t().reshape(unary.shape).softmax(1)
    return q


def crf_inference_label(
    img: np.ndarray,
    labels: np.ndarray,
    t: int = 10,
    num_classes: int = 21,
    gt_prob: float = 0.7,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return the label map, (H, W) int64, refined by the CRF; no label is taken as "unsure".

    U = -log(gt_prob) for a pixel's own label, -log((1 - gt_prob) / (num_classes - 1)) for the
    others; a Gaussian kernel (3 pixels, weight 3) and a bilateral one (50 pixels, 5 grey levels,
    weight 10); the result is the argmax of Q. Arguments that are not as below raise a ValueError.

    Args:
        img: (H, W, 3) uint8 RGB.
        labels: (H, W) integers in 0..num_classes - 1.
        t: number of iterations, 0 or more.
        num_classes: C. Time grows with C: number the labels that occur, without gaps.
        gt_prob: in (0, 1), the trust in ``labels``.
        device: where to compute.
    """
    return crf_inference_views(img, labels[None], t, num_classes, gt_prob, device)[0]


def crf_inference_views(
    img: np.ndarray,
    labels: np.ndarray,
    t: int = 10,
    num_classes: int = 21,
    gt_prob: float = 0.7,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return (V, H, W) maps of one picture, each refined as by :func:`crf_inference_label`.

    The V > 0 maps share one lattice and are filtered side by side, which is faster than one by one.
    Arguments, dtypes and errors are those of one map.
    """
    size = labels.shape[1:]
    _check(img, size, t)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected integer labels, got {labels.dtype}.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"Labels must be in 0..{num_classes - 1}, one of them is not.")
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, not {gt_prob}.")
    if num_classes == 1:
        return np.zeros(labels.shape, np.int64)  # no other label has an energy

    device = torch.device(device)
    own, other = -math.log(gt_prob), -math.log((1 - gt_prob) / (num_classes - 1))
    index = torch.tensor(np.ascontiguousarray(labels, np.int64), device=device).flatten(1)
    unary = torch.full((len(labels), num_classes, index.shape[1]), other, device=device)
    unary.scatter_(1, index[:, None], own)  # (V, C, N)
    kernels = (
        (GAUSSIAN_WEIGHT, gaussian_kernel(*size, GAUSSIAN_SXY, device)),
        (BILATERAL_WEIGHT, bilateral_kernel(img, BILATERAL_SXY, BILATERAL_SRGB, device)),
    )
    best = mean_field(unary, kernels, t).max(1).indices  # on a CPU far faster than argmax
    return best.view(labels.shape).cpu().numpy()


def crf_inference(
    img: np.ndarray,
    probs: Tensor,
    t: int = 10,
    gaussian_sxy: float = SCORE_GAUSSIAN_SXY,
    gaussian_weight: float = SCORE_GAUSSIAN_WEIGHT,
    bilateral_sxy: float = SCORE_BILATERAL_SXY,
    bilateral_srgb: float = SCORE_BILATERAL_SRGB,
    bilateral_weight: float = SCORE_BILATERAL_WEIGHT,
) -> Tensor:
    """Return class probabilities, refined by the CRF with U = -log(max(probs, 1e-5)).

    They are (C, H, W) float32 that sums to 1 over C. The defaults are those of DeepLab v2. The CRF
    is computed on the device of ``probs``. Arguments that are not as below raise a ValueError.

    Args:
        img: (H, W, 3) uint8 RGB.
        probs: (C, H, W) floating, in [0, 1]: softmax over C.
        t: number of iterations, 0 or more.
        gaussian_sxy, gaussian_weight: of the kernel over position; standard deviation in pixels.
        bilateral_sxy, bilateral_srgb, bilateral_weight: of the kernel over position and colour;
            standard deviations in pixels and in grey levels.
    """
    size = tuple(probs.shape[1:])
    _check(img, size, t)
    if not probs.numel() or not probs.is_floating_point() or probs.isnan().any():
        raise ValueError(f"Expected probabilities (C, H, W), got {probs.dtype} or NaN.")
    unary = -probs.detach().float().clamp(PROB_MIN, 1).log()
    kernels = (
        (gaussian_weight, gaussian_kernel(*size, gaussian_sxy, probs.device)),
        (bilateral_weight, bilateral_kernel(img, bilateral_sxy, bilateral_srgb, probs.device)),
    )
    return mean_field(unary.flatten(1)[None], kernels, t).view(probs.shape)


def _check(img: np.ndarray, size: tuple[int, ...], t: int) -> None:
    """Refuse anything but a uint8 RGB picture of the maps' size, and t of 0 or more."""
    if img.shape != (*size, 3) or not img.size or img.dtype != np.uint8:
        got = f"{img.shape} {img.dtype}"
        raise ValueError(f"Expected a picture (H, W, 3) uint8 and maps of {size}, got {got}.")
    if t < 0:
        raise ValueError(f"The number of iterations must be 0 or more, not {t}.")
