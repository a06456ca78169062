"""Fully connected conditional random field, in torch alone, on CPU and CUDA.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011. Mean field: with unary energies U, Gaussian kernels K_m and their weights w_m (Potts
compatibility),

    Q <- softmax(-U + sum_m w_m K_m Q),   starting from softmax(-U).

K_m is a Gaussian filter over all pairs of pixels, n^-1/2 F n^-1/2 with n = F 1. F filters on the
permutohedral lattice (Adams et al., "Fast High-Dimensional Filtering Using the Permutohedral
Lattice", 2010): splat to the d + 1 corners of the enclosing simplex, blur with (1/2, 1, 1/2) along
each of the d + 1 directions, slice. Positions are rounded to float32 step by step as in the C++
package ``pydensecrf2``, so that both find the same vertices.

Letters in shapes: V label maps (views) of one picture, C labels, N = H * W pixels, d feature
dimensions (2: position, 5: position and colour), M vertices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The label CRF of the IRN and SIPE releases; standard deviations in pixels and in grey levels.
GAUSSIAN_SXY, GAUSSIAN_COMPAT = 3, 3
BILATERAL_SXY, BILATERAL_SRGB, BILATERAL_COMPAT = 50, 5, 10
# The one on the scores of DeepLab v2.
SCORE_GAUSSIAN_SXY, SCORE_GAUSSIAN_COMPAT = 1, 3
SCORE_BILATERAL_SXY, SCORE_BILATERAL_SRGB, SCORE_BILATERAL_COMPAT = 67, 3, 4

PROB_MIN = 1e-5  # probabilities are clipped there before the logarithm, as pydensecrf does
NORM_EPS = 1e-20  # added to n before n^-1/2
KEY_LIMIT = 2**62  # keys are int64, with a step to be added
POSITION_LIMIT = 2**15  # pydensecrf counts in int16; float32 resolves 1/256 there
# Lattices of picture sizes kept: 8 spared 61 % of the builds on 700 VOC pictures, in their order
# (16: 69 %, all: 78 %). One takes 48 bytes a pixel, 9 MB at 375x500.
CACHED_SIZES = 8
TOO_WIDE = "The features span too many lattice cells; take larger standard deviations."


@dataclass(frozen=True)
class Lattice:
    """Permutohedral lattice of N points in d dimensions, with M vertices.

    Vertex M stands for every neighbour that does not exist; its value is always zero.

    Attributes:
        vertices: (N, d + 1) int32, corners of the simplex that holds a point.
        slice_weights: (N, d + 1) float32, what a point takes from them.
        points: (N * (d + 1),) int32, the points of vertex 0, of vertex 1, and so on.
        splat_weights: (N * (d + 1),) float32, what a vertex takes from them.
        starts: (M + 1,) int32, where a vertex begins in ``points``.
        neighbours: (d + 1, M + 1, 2) int32, both neighbours along each direction.
    """

    vertices: Tensor
    slice_weights: Tensor
    points: Tensor
    splat_weights: Tensor
    starts: Tensor
    neighbours: Tensor

    def filter(self, values: Tensor) -> Tensor:
        """Return the points' values, each channel filtered on its own.

        Args:
            values: (N, channels) float32.

        Returns:
            (N, channels) float32.
        """
        cells = F.embedding_bag(
            self.points, values, self.starts, mode="sum", per_sample_weights=self.splat_weights
        )  # (M + 1, channels)
        for pair in self.neighbours:
            cells.add_(F.embedding_bag(pair, cells, mode="sum"), alpha=0.5)
        return F.embedding_bag(
            self.vertices, cells, mode="sum", per_sample_weights=self.slice_weights
        )


@torch.no_grad()
def build_lattice(features: Tensor) -> Lattice:
    """Return the lattice whose ``filter`` is F, a Gaussian of standard deviation 1 over features.

    F is not normalised: F 1 is n. A feature's position is y = E f, E's rows scaled by
    sqrt(2/3) (d + 1) / sqrt((i + 1) (i + 2)) for dimension i = 0..d-1.

    Args:
        features: (d, N) float32, N > 0, divided by their standard deviations.

    Raises:
        ValueError: the features are not finite, or span too many cells: beyond +-2^15 along an axis
            of the lattice, or more than 62 bits can number.
    """
    remainder, rank, weights = _simplices(features)
    keys, steps, period = _vertex_keys(remainder, rank)
    corners, n = keys.shape

    order = torch.empty_like(keys)
    for r in range(corners):  # row by row: ascending through all rows, and torch sorts rows faster
        keys[r], order[r] = keys[r].sort()
    keys = keys.flatten()
    first = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    vertex = (first.cumsum(0, dtype=torch.int32) - 1).view(corners, n)  # of each sorted key
    alpha = 1 / (1 + 2.0 ** (1 - corners))
    return Lattice(
        vertices=torch.empty_like(vertex).scatter_(1, order, vertex).t().contiguous(),
        slice_weights=(weights * alpha).t().contiguous(),
        points=order.flatten().int(),
        splat_weights=weights.gather(1, order).flatten(),
        starts=F.pad(starts, (0, 1), value=len(keys)).int(),  # vertex M has no point
        neighbours=_neighbours(keys.index_select(0, starts), steps, period),
    )


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the corner of remainder 0, ranks and barycentric weights of (d, N) features.

    Returns:
        remainder: (d + 1, N) float32, multiples of d + 1 that sum to 0.
        rank: (d + 1, N) int64, place 0..d of a coordinate by falling distance from that corner.
        weights: (d + 1, N) float32 in [0, 1] up to rounding, of the corners 0..d; they sum to 1.
    """
    d, n = features.shape
    # pydensecrf has these two constants in float32, and multiplies them in double precision.
    spread = float(np.float32(math.sqrt(2 / 3) * (d + 1)))
    down = float(np.float32(1 / (d + 1)))
    position = features.new_empty(d + 1, n)
    total = features.new_zeros(n)
    for j in range(d, 0, -1):
        scaled = features[j - 1] * (spread / math.sqrt(j * (j + 1)))
        position[j] = total - scaled * j
        total = total + scaled
    position[0] = total
    if not position.abs().max() < POSITION_LIMIT:  # or NaN
        raise ValueError(TOO_WIDE)

    nearest = (position * down).round()
    excess = nearest.sum(0).to(torch.int8)  # of the rounded corner over the plane of sum 0
    remainder = nearest * (d + 1)
    distance = position - remainder
    rank = torch.arange(d + 1, dtype=torch.int8, device=features.device)[:, None].repeat(1, n)
    for i in range(d):  # of a pair, the first goes before the second unless that is farther
        behind = (distance[i] < distance[i + 1 :]).view(torch.int8)
        rank[i] += behind.sum(0, dtype=torch.int8)
        rank[i + 1 :] -= behind
    rank += excess
    turn = (rank < 0).to(torch.int8) - (rank > d).to(torch.int8)
    remainder += turn * (d + 1)
    rank = (rank + turn * (d + 1)).long()

    distance = (position - remainder) * down
    rising = torch.empty_like(distance).scatter_(0, d - rank, distance)
    weights = torch.empty_like(distance)
    weights[0] = rising[0] + (1 - rising[d])
    torch.sub(rising[1:], rising[:-1], out=weights[1:])
    return remainder, rank, weights


def _vertex_keys(remainder: Tensor, rank: Tensor) -> tuple[Tensor, list[int], int]:
    """Return one int64 for each corner, equal for equal corners only, and its change by a step.

    A key is r * B plus the sum of the first d coordinates times fixed strides, B the number of
    such sums. So all keys of row r come before those of row r + 1, and the neighbour along
    direction j, which is -1 away in every coordinate but +d in coordinate j and belongs to
    remainder r - 1, has its key at a fixed offset modulo (d + 1) * B.

    Returns:
        keys: (d + 1, N) int64 of the corners 0..d.
        steps: d + 1 offsets.
        period: (d + 1) * B.

    Raises:
        ValueError: see ``build_lattice``.
    """
    d = len(remainder) - 1
    # Corners and their neighbours are at most 2 d away from the corner 0 in each coordinate.
    low, high = (remainder[:d].amin(1) - 2 * d).tolist(), (remainder[:d].amax(1) + 2 * d).tolist()
    strides = [1]
    for lowest, highest in zip(low, high, strict=True):
        strides.append(strides[-1] * int(highest - lowest + 1))
    block = strides.pop()
    if (d + 1) * block > KEY_LIMIT:
        raise ValueError(TOO_WIDE)
    keys = remainder.new_empty(remainder.shape, dtype=torch.int64)
    keys[0] = sum(
        (coordinate - lowest).long() * stride
        for coordinate, lowest, stride in zip(remainder, low, strides, strict=False)
    )
    # From corner r - 1 to r every coordinate grows by 1, but that of rank d + 1 - r falls by d.
    ones = sum(strides) + block
    steps = [(d + 1) * stride - ones for stride in (*strides, 0)]
    step_of_rank = torch.empty_like(keys).scatter_(
        0, rank, torch.tensor(steps, device=keys.device)[:, None].expand_as(keys)
    )
    for r in range(1, d + 1):
        torch.sub(keys[r - 1], step_of_rank[d + 1 - r], out=keys[r])
    return keys, steps, (d + 1) * block


def _neighbours(keys: Tensor, steps: list[int], period: int) -> Tensor:
    """Return (d + 1, M + 1, 2) int32, see ``Lattice``, of M sorted, distinct int64 keys."""
    m = len(keys)
    neighbours = torch.full((len(steps), m + 1, 2), m, dtype=torch.int32, device=keys.device)
    for pairs, step in zip(neighbours, steps, strict=True):
        wanted = (keys + step) % period
        found = torch.searchsorted(keys, wanted).clamp_(max=m - 1)
        here = (keys.index_select(0, found) == wanted).nonzero().squeeze(1)
        there = found.index_select(0, here)
        pairs[:, 0].scatter_(0, here, there.int())
        pairs[:, 1].scatter_(0, there, here.int())
    return neighbours


def normalize(lattice: Lattice) -> Lattice:
    """Return the lattice of K = n^-1/2 F n^-1/2, n = F 1 + 1e-20."""
    ones = lattice.slice_weights.new_ones(len(lattice.vertices), 1)
    scale = (lattice.filter(ones) + NORM_EPS).rsqrt()  # (N, 1)
    return replace(
        lattice,
        slice_weights=lattice.slice_weights * scale,
        splat_weights=lattice.splat_weights * scale.squeeze(1).index_select(0, lattice.points),
    )


def _grid(height: int, width: int, sxy: float, device: torch.device) -> Tensor:
    """Return (2, H * W) float32: x / sxy and y / sxy of every pixel."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return _divide(torch.stack([x, y]).flatten(1), sxy)


def _divide(values: Tensor, by: float) -> Tensor:
    # By a tensor: CUDA multiplies by the reciprocal of a plain number, which rounds otherwise.
    return values / torch.tensor(by, dtype=torch.float32, device=values.device)


@lru_cache(CACHED_SIZES)
def gaussian_kernel(height: int, width: int, sxy: float, device: torch.device) -> Lattice:
    """Return K of the features (x, y) / sxy, from a cache of ``CACHED_SIZES`` sizes.

    Raises:
        ValueError: sxy is not positive, or see ``build_lattice``.
    """
    _check_positive(sxy=sxy)
    return normalize(build_lattice(_grid(height, width, sxy, device)))


@torch.no_grad()
def bilateral_kernel(img: np.ndarray, sxy: float, srgb: float, device: torch.device) -> Lattice:
    """Return K of the features (x / sxy, y / sxy, R / srgb, G / srgb, B / srgb).

    Args:
        img: (H, W, 3) uint8 RGB.
        sxy: standard deviation in pixels.
        srgb: standard deviation in grey levels.
        device: where the kernel shall be.

    Raises:
        ValueError: the picture is something else, a standard deviation is not positive, or see
            ``build_lattice``.
    """
    height, width = _check_picture(img)
    _check_positive(sxy=sxy, srgb=srgb)
    colour = (
        torch.tensor(np.ascontiguousarray(img), device=device).permute(2, 0, 1).flatten(1).float()
    )  # (3, N)
    features = torch.cat([_grid(height, width, sxy, device), _divide(colour, srgb)])
    return normalize(build_lattice(features))


@torch.no_grad()
def mean_field(unary: Tensor, kernels: Sequence[tuple[float, Lattice]], t: int) -> Tensor:
    """Return Q after t times Q <- softmax(-U + sum_m w_m K_m Q), from softmax(-U).

    Args:
        unary: (V, C, N) float32 energies U.
        kernels: pairs of w_m and K_m, shared by all views.
        t: number of iterations, 0 or more.

    Returns:
        (V, C, N) float32 that sums to 1 over C.
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
    n_labels: int = 21,
    gt_prob: float = 0.7,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return the label map, refined by the CRF; no label is taken as "unsure".

    U = -log(gt_prob) for a pixel's own label, -log((1 - gt_prob) / (n_labels - 1)) for the others;
    a Gaussian kernel (3 pixels, weight 3) and a bilateral one (50 pixels, 5 grey levels, weight
    10); the result is the argmax of Q.

    Args:
        img: (H, W, 3) uint8 RGB.
        labels: (H, W) integers in 0..n_labels - 1.
        t: number of iterations, 0 or more.
        n_labels: C. Time grows with it: number the labels that occur, without gaps.
        gt_prob: in (0, 1), the trust in ``labels``.
        device: where to compute.

    Returns:
        (H, W) int64 in 0..n_labels - 1. The arguments stay as they are.

    Raises:
        ValueError: an argument is not as above.
    """
    _check_labels(labels, 2, "(H, W)", n_labels)
    return crf_inference_views(img, labels[None], t, n_labels, gt_prob, device)[0]


def crf_inference_views(
    img: np.ndarray,
    labels: np.ndarray,
    t: int = 10,
    n_labels: int = 21,
    gt_prob: float = 0.7,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return several label maps of one picture, each refined as by ``crf_inference_label``.

    They share one lattice and are filtered side by side, which is faster than one by one.

    Args:
        img: (H, W, 3) uint8 RGB.
        labels: (V, H, W) integers in 0..n_labels - 1, V > 0.
        t, n_labels, gt_prob, device: see ``crf_inference_label``.

    Returns:
        (V, H, W) int64 in 0..n_labels - 1.

    Raises:
        ValueError: an argument is not as above.
    """
    size = _check_picture(img)
    _check_labels(labels, 3, "(V, H, W)", n_labels)
    _check_size(labels.shape[1:], size, "label map")
    _check_iterations(t)
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must be between 0 and 1, not {gt_prob}.")
    if n_labels == 1:
        return np.zeros(labels.shape, np.int64)  # the others' energy would be -log(0.3 / 0)

    device = torch.device(device)
    own, other = -math.log(gt_prob), -math.log((1 - gt_prob) / (n_labels - 1))
    index = (
        torch.tensor(np.ascontiguousarray(labels, np.int64), device=device).flatten(1).unsqueeze(1)
    )
    unary = torch.full((len(labels), n_labels, index.shape[2]), other, device=device)
    unary.scatter_(1, index, own)  # (V, C, N)
    kernels = (
        (GAUSSIAN_COMPAT, gaussian_kernel(*size, GAUSSIAN_SXY, device)),
        (BILATERAL_COMPAT, bilateral_kernel(img, BILATERAL_SXY, BILATERAL_SRGB, device)),
    )
    q = mean_field(unary, kernels, t)
    return q.max(1).indices.view(labels.shape).cpu().numpy()  # argmax is far slower on a CPU


def crf_inference(
    img: np.ndarray,
    probs: Tensor,
    t: int = 10,
    gaussian_sxy: float = SCORE_GAUSSIAN_SXY,
    gaussian_compat: float = SCORE_GAUSSIAN_COMPAT,
    bilateral_sxy: float = SCORE_BILATERAL_SXY,
    bilateral_srgb: float = SCORE_BILATERAL_SRGB,
    bilateral_compat: float = SCORE_BILATERAL_COMPAT,
) -> Tensor:
    """Return class probabilities, refined by the CRF with U = -log(max(probs, 1e-5)).

    Defaults are those of DeepLab v2. Computes on the device of ``probs``.

    Args:
        img: (H, W, 3) uint8 RGB.
        probs: (C, H, W) floating, in [0, 1]: softmax over C.
        t: number of iterations, 0 or more.
        gaussian_sxy, gaussian_compat: standard deviation in pixels and weight of the kernel over
            position.
        bilateral_sxy, bilateral_srgb, bilateral_compat: standard deviations in pixels and in grey
            levels, and weight, of the kernel over position and colour.

    Returns:
        (C, H, W) float32 that sums to 1 over C.

    Raises:
        ValueError: an argument is not as above.
    """
    size = _check_picture(img)
    if probs.ndim != 3 or not len(probs) or not probs.is_floating_point():
        raise ValueError(
            f"Expected probabilities (C, H, W) of a floating dtype, got {tuple(probs.shape)} "
            f"{probs.dtype}."
        )
    _check_size(probs.shape[1:], size, "probability map")
    _check_iterations(t)
    if probs.isnan().any():
        raise ValueError("The probabilities contain NaN.")
    unary = -probs.detach().float().clamp(PROB_MIN, 1).log()
    device = probs.device
    kernels = (
        (gaussian_compat, gaussian_kernel(*size, gaussian_sxy, device)),
        (bilateral_compat, bilateral_kernel(img, bilateral_sxy, bilateral_srgb, device)),
    )
    return mean_field(unary.flatten(1)[None], kernels, t).view(probs.shape)


def _check_picture(img: np.ndarray) -> tuple[int, int]:
    """Return (H, W) of a uint8 RGB picture; anything else is a ValueError."""
    if img.ndim != 3 or img.shape[2] != 3 or not img.size or img.dtype != np.uint8:
        raise ValueError(f"Expected a picture (H, W, 3) uint8, got {img.shape} {img.dtype}.")
    return img.shape[:2]


def _check_labels(labels: np.ndarray, ndim: int, axes: str, n_labels: int) -> None:
    if n_labels < 1:
        raise ValueError(f"n_labels must be at least 1, not {n_labels}.")
    if labels.ndim != ndim or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected integer labels {axes}, got {labels.shape} {labels.dtype}.")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= n_labels:
        raise ValueError(f"Labels must be in 0..{n_labels - 1}, they are in {low}..{high}.")


def _check_size(size: tuple[int, ...], picture: tuple[int, int], what: str) -> None:
    if tuple(size) != picture:
        raise ValueError(f"The {what} is {tuple(size)}, but the picture is {picture} (H, W).")


def _check_iterations(t: int) -> None:
    if t < 0:
        raise ValueError(f"The number of iterations must be 0 or more, not {t}.")


def _check_positive(**deviations: float) -> None:
    for name, value in deviations.items():
        if not value > 0 or math.isinf(value):
            raise ValueError(f"The standard deviation {name} must be positive, not {value}.")
