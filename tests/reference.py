"""Seeds and IS-CAM, IRN's losses, the walk and the CRF's kernel as they are defined.

Tests compare the production forms with these, and ``benchmarks.walk`` measures against them. The
parity numbers of the released code are read here too.

Letters in shapes: B pictures, h x w a map at stride 4, N = h * w, O offsets of a radius, n sources
(see :mod:`tool.indexing`), d feature dimensions.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from net.irn_loss import LOSS_EPS
from tool.indexing import LabelPairs, on_area, reach, search_paths, sources

PARITY = Path(__file__).with_name("parity")


def parity(name: str) -> dict[str, Tensor]:
    """Return the arrays of a file of numbers of the released code; text stays NumPy's."""
    with np.load(PARITY / f"{name}.npz") as file:
        arrays = dict(file)
    texts = {key: array for key, array in arrays.items() if array.dtype.kind == "U"}
    return {key: torch.from_numpy(a) for key, a in arrays.items() if key not in texts} | texts


def relative(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value."""
    expected = expected.detach().double().reshape(value.shape)
    return float((value.detach().double() - expected).abs().max() / expected.abs().max())


def plain_seeds(cam: Tensor, label: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Return seeds and probabilities position by position, as the equations stand, in float64."""
    cam, feature = cam.double().numpy(), feature.double().numpy()
    b, c, h, w = cam.shape
    seeds, probs = np.zeros(cam.shape), np.zeros(cam.shape)
    for n in range(b):
        f = feature[n].reshape(len(feature[n]), -1)
        f = f / (np.sqrt((f**2).sum(0)) + 1e-5)
        s = np.maximum(f.T @ f, 0)
        a = np.zeros((c, h * w))
        for k in range(c):
            m = cam[n, k].ravel()
            for i in range(h * w):
                inter = (s[i] * m).sum()
                union = s[i].sum() + m.sum() - inter
                a[k, i] = inter / union if union > 0 else 0
        a[0] *= 0.5
        for i in range(h * w):
            seeds[n, a[:, i].argmax(), i // w, i % w] = 1
        e = np.exp(a)
        probs[n] = (e / e.sum(0)).reshape(c, h, w)
    return torch.from_numpy(seeds) * label.double(), torch.from_numpy(probs)


def plain_reactivation(seeds: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Return prototypes and IS-CAM as (B, C, D, h, w) products, in the dtype of the arguments."""
    prototype = (seeds[:, :, None] * feature[:, None]).mean((3, 4))  # (B, C, D)
    dot = (prototype[..., None, None] * feature[:, None]).sum(2)  # (B, C, h, w)
    norms = prototype.norm(dim=2).clamp_min(1e-8)[..., None, None]
    norms = norms * feature.norm(dim=1, keepdim=True).clamp_min(1e-8)
    return prototype, F.relu(dot / norms)


def pair_indices(radius: float, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets (dy, dx), int64 (O, 2), and flat sources (n,) and destinations (O, n)."""
    h, w = size
    offsets = torch.tensor([(path.dy, path.dx) for path in search_paths(radius)])
    starts = on_area(torch.arange(h * w).view(h, w), sources(h, w, radius)).flatten()
    return offsets, starts, starts + offsets @ torch.tensor([[w], [1]])


def gathered_maxima(edge: Tensor, radius: float) -> Tensor:
    """Return the largest edge on the path of every pair by gathering the cells of every path.

    Args:
        edge: (B, h, w).
        radius: r.

    Returns:
        (B, O, n).
    """
    width = edge.shape[2]
    _, src, _ = pair_indices(radius, edge.shape[1:])
    parts = []
    for _, paths in groupby(search_paths(radius), key=lambda path: len(path.cells)):
        steps = torch.tensor([[y * width + x for y, x in path.cells] for path in paths])
        cells = (src + steps[..., None]).to(edge.device)  # (offsets, length, n)
        parts.append(edge.flatten(1)[:, cells].amax(2))
    return torch.cat(parts, 1)


def affinity_labels(
    label: Tensor, num_classes: int, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kind of every pair: (bg_pos, fg_pos, neg), bool (B, O, n) each.

    Args:
        label: (B, h, w) class ids, any integer type.
        num_classes: C with background; labels of C and above are unknown.
        radius: r.
    """
    area = sources(*label.shape[1:], radius)
    pairs = LabelPairs(label, num_classes)
    kinds = []
    for path in search_paths(radius):
        at_end = partial(on_area, area=area, dy=path.dy, dx=path.dx)
        kinds.append(pairs.kinds(partial(on_area, area=area), at_end))
    return tuple(torch.stack(kind, 1).flatten(2) for kind in zip(*kinds, strict=True))


def loss_sums(
    edge: Tensor, displacement: Tensor, label: Tensor, num_classes: int, radius: float
) -> tuple[Tensor, Tensor]:
    """Return what ``net.irn_loss.loss_sums`` returns, from the losses of every pair.

    Args:
        edge: (B, 1, h, w) logits.
        displacement: (B, 2, h, w).
        label, num_classes, radius: see :func:`affinity_labels`.
    """
    affinity = 1 - gathered_maxima(edge[:, 0].sigmoid(), radius)  # (B, O, n)
    indices = pair_indices(radius, displacement.shape[2:])
    offsets, src, dst = (x.to(edge.device) for x in indices)
    flat = displacement.flatten(2)
    difference = flat[:, :, None, src] - flat[:, :, dst]  # (B, 2, O, n)
    to_target = difference - offsets.T[:, :, None]
    positive, negative = -torch.log(affinity + LOSS_EPS), -torch.log(1 + LOSS_EPS - affinity)
    bg, fg, neg = affinity_labels(label, num_classes, radius)
    numerators = [
        (bg * positive).sum(),
        (fg * positive).sum(),
        (neg * negative).sum(),
        (fg[:, None] * to_target.abs()).sum(),
        (bg[:, None] * difference.abs()).sum(),
    ]
    bg, fg, neg = bg.sum(), fg.sum(), neg.sum()
    denominators = torch.stack([bg, fg, neg, 2 * fg, 2 * bg])
    return torch.stack(numerators), denominators.to(edge.dtype)


def affinity_matrix(edge: Tensor, radius: float) -> Tensor:
    """Return the affinities of all positions as a dense matrix; edges are 1 outside the map.

    Args:
        edge: (1, h, w) in [0, 1].
        radius: r.

    Returns:
        (N, N): 1 on the diagonal, 0 for pairs farther apart than the radius.
    """
    h, w = edge.shape[1:]
    m = reach(radius)
    padded = F.pad(edge, (m, m, 0, m), value=1.0)  # so that all h x w positions are sources
    affinity = 1 - gathered_maxima(padded, radius)[0]  # (O, N)
    rows = torch.arange(h * w, device=edge.device).view(h, w)
    places = F.pad(rows, (m, m, 0, m), value=-1).flatten()
    matrix = torch.eye(h * w, dtype=edge.dtype, device=edge.device)
    dst = pair_indices(radius, padded.shape[1:])[2].to(edge.device)
    for values, ends in zip(affinity, dst, strict=True):
        inside = places[ends] >= 0
        i, j = rows.flatten()[inside], places[ends[inside]]
        matrix[i, j] = matrix[j, i] = values[inside]
    return matrix


def dense_walk(x: Tensor, edge: Tensor, radius: float, beta: float, exp_times: int) -> Tensor:
    """Return the walk as the released code does it, in the dtype of ``edge``.

    T is a dense (N, N) matrix, and squared ``exp_times`` times.

    Args:
        x: (P, 1, h, w) or (P, h, w).
        edge: (1, h, w).
        radius, beta, exp_times: see ``tool.walk.propagate_to_edge``.

    Returns:
        (P, 1, h, w).
    """
    h, w = edge.shape[1:]
    matrix = affinity_matrix(edge, radius) ** beta
    matrix = matrix / matrix.sum(0, keepdim=True)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    maps = x.to(edge.dtype).view(-1, h, w) * (1 - edge)
    return (maps.flatten(1) @ matrix).view(-1, 1, h, w)


def plain_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return F applied to values, on a permutohedral lattice whose vertices are in a dictionary.

    The enclosing simplex is found by sorting fractional parts: y / (d + 1) lies between its floor
    and the corners reached from there by adding 1 to one coordinate after the other, the largest
    fractional part first. A corner v stands for the lattice point (d + 1) v - sum(v).

    Args:
        features: (d, N) of N points.
        values: float64 (N, channels).

    Returns:
        float64 (N, channels).
    """
    d = len(features)
    size = d + 1
    alpha = 1 / (1 + 2.0**-d)
    corners = []  # per point: (vertex, weight), d + 1 of them
    for f in features.T.astype(np.float64):
        scaled = [f[j] * math.sqrt(2 / 3) * size / math.sqrt((j + 1) * (j + 2)) for j in range(d)]
        y = [sum(scaled[j:][::-1]) - (j * scaled[j - 1] if j else 0) for j in range(size)]
        corner = [math.floor(value / size) for value in y]
        fraction = [value / size - whole for value, whole in zip(y, corner, strict=True)]
        order = sorted(range(size), key=lambda i: -fraction[i])
        levels = [1 + fraction[order[-1]], *(fraction[i] for i in order)]
        point = []
        for k, i in enumerate(order):
            vertex = tuple(size * v - sum(corner) for v in corner)
            point.append((vertex, levels[k] - levels[k + 1]))
            corner[i] += 1
        corners.append(point)

    cells = {}
    for point, value in zip(corners, values, strict=True):
        for vertex, weight in point:
            cells[vertex] = cells.get(vertex, 0) + weight * value
    for j in range(size):
        step = np.array([d if i == j else -1 for i in range(size)])
        cells = {
            vertex: value
            + 0.5 * cells.get(tuple((vertex + step).tolist()), 0)
            + 0.5 * cells.get(tuple((vertex - step).tolist()), 0)
            for vertex, value in cells.items()
        }
    sliced = [sum(w * cells[vertex] for vertex, w in point) * alpha for point in corners]
    return np.stack(sliced)


def plain_kernel(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return n^-1/2 F n^-1/2 of features (d, N) as a function of float64 (N, channels)."""
    scale = (plain_filter(features, np.ones((features.shape[1], 1))) + 1e-20) ** -0.5
    return lambda values: scale * plain_filter(features, scale * values)
