"""The random walk of IRN, which spreads maps over the picture until an edge stops it.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN),
CVPR 2019, as its released code computes it.

With W_ij = (1 - largest edge on the path of i and j)^beta and D the column sums of W, a walk of n
steps is maps T^n, T = W D^-1. The released code squares the dense (N, N) matrix T, 16 N³
operations. Here T is similar to the symmetric S = D^-1/2 W D^-1/2, whose eigenvalues lie in
[-1, 1]; there x^n is a short Chebyshev series, and the walk becomes some 5 sqrt(n) products with
S: 78 instead of 256, of 69 entries a row each.

Letters in shapes: P maps, h x w cells at stride 4, N = h * w; others as in :mod:`tool.indexing`.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tool.indexing import STRIDE, PathMaxima, reach, search_paths

WALK_RADIUS, WALK_BETA, WALK_EXP_TIMES = 5, 10, 8  # of the released code
MAP_POWER = 1.5  # the released code raises the maps to it before the walk
SERIES_ERROR = 1e-6  # what the coefficients that the series leaves out sum to, at most
# CUDA takes a product in few kernels where that unfolds at most so many entries, which is 0.25 GiB
# of float64. A larger map keeps CUDA busy with one kernel an offset.
UNFOLDED_LIMIT = 2**25
# The CPU takes so many entries at once: they stay in the cache, and PyTorch does not split them
# over threads, which would wait for each other longer than a step takes.
BLOCK = 2**15 - 1


@lru_cache(maxsize=32)
def power_series(n: int) -> tuple[int, tuple[float, ...]]:
    """Return the Chebyshev series of x^n, cut: x^n = sum over k of c_k T_k(x).

    For n > 0, the coefficients of the whole series are c_k = 2^(1-n) C(n, (n-k)/2) for k of n's
    parity, and half of that at k = 0. They are positive and sum to 1. The series is cut at the
    first K whose rest sums to at most e = SERIES_ERROR, where K <= sqrt(2 n log(2 / e))
    (Hoeffding), and what remains is scaled to sum to 1 again. On [-1, 1] it differs from x^n by at
    most 2 e. Returned are the parity of n, and (c_parity, c_parity+2, .., c_K).
    """
    parity = n % 2
    terms, k = [1.0 if parity else 0.5], parity
    while k < n and terms[-1] > 1e-25:  # terms that follow are below double precision
        terms.append((terms[-1] if k else 1.0) * ((n - k) / (n + k + 2)))
        k += 2
    left_out = SERIES_ERROR * math.fsum(terms)
    rest = 0.0
    while len(terms) > 1 and rest + terms[-1] <= left_out:
        rest += terms.pop()
    total = math.fsum(terms)
    return parity, tuple(term / total for term in terms)


class _Walk:
    """The symmetric matrix S of an edge map, and its powers, on the grid.

    A map is stored in rows of w + m cells, with zeros at the end of each row and before and behind
    the map. An offset is therefore one shift of the flat array, and a product with S is a
    multiply-add for each offset and direction: 68 at radius 5.

    Args:
        edge: float64 (h, w) in [0, 1]. In float32 the eigenvalue 1 of S would be off by some 1e-6,
            and its 256th power by 2e-4.
        radius, beta: of the affinity W.
    """

    def __init__(self, edge: Tensor, radius: float, beta: float) -> None:
        self.size = h, w = edge.shape
        self.m = reach(radius)
        self.row = w + self.m
        self.cells = h * self.row
        self.margin = self.m * self.row + self.m
        self.paths = search_paths(radius)
        self.shifts = [path.dy * self.row + path.dx for path in self.paths]

        around = F.pad(edge, (self.m, self.m, 0, self.m), value=1)  # nothing leaves the map
        maxima = PathMaxima(around, radius)
        affinity = edge.new_zeros(len(self.paths), h, self.row)
        for one, path in zip(affinity, self.paths, strict=True):
            one[:, :w] = (1 - maxima.over(path, (0, self.m, h, w))).pow_(beta)
        weights = affinity.flatten(1)  # (O, cells); 0 where an end is off the map

        degree = edge.new_ones(2 * self.margin + self.cells)  # 1: a position's affinity with itself
        for weight, shift in zip(weights, self.shifts, strict=True):
            self._inner(degree).add_(weight)
            self._inner(degree, shift).add_(weight)
        root = degree.rsqrt()  # D^-1/2
        twice = 2 * self._inner(root)
        for weight, shift in zip(weights, self.shifts, strict=True):
            weight.mul_(twice).mul_(self._inner(root, shift))
        self.degree = self._inner(degree)  # (cells,)
        self.weights = weights  # of 2 S, which is what the recurrence asks for
        self.diagonal = 2 / self.degree

    def _inner(self, buffer: Tensor, shift: int = 0) -> Tensor:
        """Return the map inside a buffer with margins, seen ``shift`` cells further on."""
        start = self.margin + shift
        return buffer[..., start : start + self.cells]

    def _on_grid(self, values: Tensor) -> Tensor:
        """Return the view (P, h, w) of (P, cells)."""
        return values.unflatten(-1, (self.size[0], self.row))[..., : self.size[1]]

    def blocks(self, maps: Tensor) -> list[slice]:
        """Return slices of the cells of (P, cells) that are worked on one after the other."""
        size = self.cells if maps.is_cuda else max(1, BLOCK // len(maps))
        return [slice(start, start + size) for start in range(0, self.cells, size)]

    def shifting(self, source: Tensor, target: Tensor) -> Callable[[], None]:
        """Return a function that sets target = 2 S source - target, by shifted multiply-adds."""
        inner, result = self._inner(source), self._inner(target)
        diagonal, both_ways = [], []  # (where to add, weight, what to add)
        for block in self.blocks(source):
            diagonal.append((result[:, block], self.diagonal[block], inner[:, block]))
            for weights, shift in zip(self.weights, self.shifts, strict=True):
                ahead, result_ahead = self._inner(source, shift), self._inner(target, shift)
                both_ways.append((result[:, block], weights[block], ahead[:, block]))
                both_ways.append((result_ahead[:, block], weights[block], inner[:, block]))

        def step() -> None:
            for out, weight, value in diagonal:
                out.neg_().addcmul_(weight, value)
            for out, weight, value in both_ways:
                out.addcmul_(weight, value)

        return step

    def unfolding(self, source: Tensor, target: Tensor) -> Callable[[], None]:
        """Return what :meth:`shifting` returns, in few kernels: CUDA's time goes in launches."""
        side = 2 * self.m + 1
        weights = self.diagonal.new_zeros(side, side, self.cells)
        weights[self.m, self.m] = self.diagonal
        for weight, shift, path in zip(self.weights, self.shifts, self.paths, strict=True):
            if shift < self.cells:
                weights[self.m + path.dy, self.m + path.dx] = weight
                weights[self.m - path.dy, self.m - path.dx, shift:] = weight[: self.cells - shift]
        shape = (len(source), side, side, self.cells)
        around = source.as_strided(shape, (source.stride(0), self.row, 1, 1))
        result = self._inner(target)

        def step() -> None:
            result.neg_().add_((around * weights).sum((1, 2)))

        return step

    def power(self, maps: Tensor, n: int) -> Tensor:
        """Return maps T^n, float64 (P, h, w) both, n at least 1.

        maps T^n = maps D^1/2 S^n D^-1/2, and S^n is the series of :func:`power_series`.
        """
        parity, coefficients = power_series(n)
        buffers = maps.new_zeros(2, len(maps), 2 * self.margin + self.cells)
        now, other = buffers
        self._on_grid(self._inner(now)).copy_(maps)
        self._inner(now).mul_(self.degree.sqrt())
        entries = len(maps) * (2 * self.m + 1) ** 2 * self.cells
        unfolds = maps.is_cuda and entries <= UNFOLDED_LIMIT
        product = self.unfolding if unfolds else self.shifting
        steps = product(other, now), product(now, other)

        total, blocks = torch.zeros_like(self._inner(now)), self.blocks(maps)
        for k in range(parity + 2 * len(coefficients) - 1):  # T_k(S) maps is in buffers[k % 2]
            if k:
                steps[k % 2]()
            if k == 1:
                other.mul_(0.5)  # T_1 = S, not 2 S
            if k % 2 == parity:
                term = self._inner(buffers[k % 2])
                for block in blocks:
                    total[:, block].add_(term[:, block], alpha=coefficients[k // 2])
        return self._on_grid(total.div_(self.degree.sqrt()))


@torch.no_grad()
def propagate_to_edge(
    x: Tensor,
    edge: Tensor,
    radius: float = WALK_RADIUS,
    beta: float = WALK_BETA,
    exp_times: int = WALK_EXP_TIMES,
) -> Tensor:
    """Spread maps by a random walk that edges stop: (x (1 - edge)) T^(2^exp_times).

    T is that of the module's docstring; W_ij is 1 for i = j and 0 for pairs beyond the radius. The
    result is (P, 1, h, w) of the dtype of ``x`` (float32 for half precision), computed in float64.
    With norm(y)² = sum of y_i² / D_i, D the column sums of W, it is off by at most 2e-6 times
    norm(x (1 - edge)).

    Args:
        x: (P, 1, h, w) or (P, h, w) of any range.
        edge: (1, h, w) or (h, w), probabilities in [0, 1], on the same device.
        radius: r in cells.
        beta: above 0; higher values stop the walk at weaker edges. Others raise a ValueError.
        exp_times: t of at least 0; the walk takes 2^t steps. Others raise a ValueError.
    """
    if beta <= 0 or exp_times < 0:
        raise ValueError(f"beta is above 0 and exp_times at least 0, not {beta} and {exp_times}")
    h, w = edge.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    edge = edge.double().reshape(h, w).clamp(0, 1)
    maps = x.double().reshape(-1, h, w) * (1 - edge)
    return _Walk(edge, radius, beta).power(maps, 2**exp_times)[:, None].to(dtype)


@torch.no_grad()
def refine_by_walk(
    maps: Tensor,
    edge: Tensor,
    size: tuple[int, int],
    beta: float = WALK_BETA,
    exp_times: int = WALK_EXP_TIMES,
) -> tuple[Tensor, Tensor]:
    """Return the pseudo label of a picture and the walked maps it comes from.

    The maps are resized bilinearly to the edge map, raised to MAP_POWER, walked, enlarged four
    times bilinearly, cut to the picture and divided by their overall maximum.

    Args:
        maps: (P, H', W') IS-CAM in [0, 1], background first.
        edge: (1, h, w) or (h, w) in [0, 1], at stride 4 of the picture.
        size: (H, W) of the picture.
        beta, exp_times: see :func:`propagate_to_edge`.

    Returns:
        index, int64 (H, W), of the largest map, so ``keys[index]`` are class ids; 0 (background)
        where all maps are zero. And the walked maps, (P, H, W) in [0, 1].
    """
    small = F.interpolate(maps[None].float(), edge.shape[-2:], mode="bilinear")[0]
    walked = propagate_to_edge(small**MAP_POWER, edge, WALK_RADIUS, beta, exp_times)
    large = F.interpolate(walked, scale_factor=STRIDE, mode="bilinear")
    scores = large[:, 0, : size[0], : size[1]]
    scores = scores / scores.amax().clamp_min(torch.finfo(scores.dtype).tiny)
    return scores.argmax(0), scores
