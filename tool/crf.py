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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tool.constants import constant
from tool.lattice import Lattice, build_lattice, normalise

PROB_MIN = 1e-5  # probabilities are clipped there before the logarithm, as pydensecrf does
CACHED_SIZES = 8  # picture sizes whose Gaussian lattice is kept, each 48 bytes a pixel


class Kernels(NamedTuple):
    """A Gaussian kernel over position and one over position and colour.

    Standard deviations, above 0, are in pixels, and of colours in grey levels.
    """

    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float


LABEL_KERNELS = Kernels(3, 3, 50, 5, 10)  # of the IRN and SIPE releases
SCORE_KERNELS = Kernels(1, 3, 67, 3, 4)  # of DeepLab v2


def _grid(height: int, width: int, sxy: float, device: torch.device) -> Tensor:
    """Return (2, H * W) float32: x / sxy and y / sxy of every pixel."""
    sides = (torch.arange(n, dtype=torch.float32, device=device) for n in (height, width))
    y, x = torch.meshgrid(*sides, indexing="ij")
    # CUDA multiplies by the reciprocal of a plain number, which rounds differently.
    return torch.stack([x, y]).flatten(1) / constant(sxy, device)


@lru_cache(CACHED_SIZES)
def gaussian_kernel(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """Return K of (x, y) / sxy from a cache."""
    return normalise(build_lattice(_grid(height, width, sxy, device)))


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
        labels: (H, W) integers in 0..num_classes - 1. Or (V, H, W), and so is the result: the maps
            share one lattice and are filtered side by side, which is faster than one by one.
        t: number of iterations, 0 or more.
        num_classes: C. Time grows with C: number the labels that occur, without gaps.
        gt_prob: in (0, 1), the trust in ``labels``.
        device: where to compute.
    """
    is_whole = labels.size > 0 and np.issubdtype(labels.dtype, np.integer)
    if not is_whole or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"Labels must be in 0..{num_classes - 1}, got {labels.dtype}.")
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, not {gt_prob}.")
    if num_classes == 1:
        return np.zeros(labels.shape, np.int64)  # no other label has an energy

    own, other = -math.log(gt_prob), -math.log((1 - gt_prob) / (num_classes - 1))
    size = labels.shape[-2:]
    index = torch.tensor(np.ascontiguousarray(labels, np.int64), device=device).view(-1, 1, *size)
    unary = torch.full((len(index), num_classes, *size), other, device=device)
    unary.scatter_(1, index, own)  # (V, C, H, W)
    q = _refine(img, unary, t, LABEL_KERNELS)
    best = q.max(1).indices  # on a CPU far faster than argmax
    return best.view(labels.shape).cpu().numpy()


def crf_inference(
    img: np.ndarray,
    probs: Tensor,
    t: int = 10,
    kernels: Kernels = SCORE_KERNELS,
) -> Tensor:
    """Return class probabilities, refined by the CRF with U = -log(max(probs, 1e-5)).

    They are (C, H, W) float32 that sums to 1 over C. The defaults are those of DeepLab v2. The CRF
    is computed on the device of ``probs``. Arguments that are not as below raise a ValueError.

    Args:
        img: (H, W, 3) uint8 RGB.
        probs: (C, H, W) floating, in [0, 1]: softmax over C.
        t: number of iterations, 0 or more.
        kernels: of any type with these attributes.
    """
    if not probs.numel() or not probs.is_floating_point() or probs.isnan().any():
        raise ValueError(f"Expected probabilities (C, H, W), got {probs.dtype} or NaN.")
    unary = -probs.detach().float().clamp(PROB_MIN, 1).log()
    return _refine(img, unary[None], t, kernels)[0]


@torch.no_grad()
def _refine(img: np.ndarray, unary: Tensor, t: int, how: Kernels) -> Tensor:
    """Return Q of energies (V, C, H, W) on the device where they lie.

    The features of the bilateral kernel are x / sxy, y / sxy, R / srgb, G / srgb and B / srgb. What
    :func:`tool.lattice.build_lattice` refuses raises a ValueError.
    """
    size, device = tuple(unary.shape[2:]), unary.device
    if img.shape != (*size, 3) or img.dtype != np.uint8 or t < 0:
        got = f"{img.shape} {img.dtype} and {t}"
        raise ValueError(f"Expected a picture ({size}, 3) uint8 and t of 0 or more, got {got}.")
    pixels = torch.tensor(np.ascontiguousarray(img), device=device)
    colour = pixels.view(-1, 3).t().float() / constant(how.bilateral_srgb, device)
    features = torch.cat([_grid(*size, how.bilateral_sxy, device), colour])
    kernels = (
        (how.gaussian_weight, gaussian_kernel(*size, how.gaussian_sxy, device)),
        (how.bilateral_weight, normalise(build_lattice(features))),
    )
    return mean_field(unary.flatten(2), kernels, t).view(unary.shape)
