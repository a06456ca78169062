"""Pairs of positions, the paths between them, and the random walk that both make.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN),
CVPR 2019, section 4 and 6, as its released code computes it.

Letters in shapes: B pictures, h x w a map at stride 4, N = h * w, r the radius, m = ceil(r) - 1,
O offsets, n = (h - m)(w - 2m) sources, P label maps.

The offsets (dy, dx) with dy² + dx² < r² cover every unordered pair once: dy = 0 and dx > 0, or
dy > 0. The path of an offset is every grid point of its bounding box that lies closer than 1 to the
straight line. The affinity of a pair is 1 minus the largest edge probability on its path.

No path is gathered. In each row (steep paths: column) the path is one straight run of cells, so its
maximum is that of a few entries of tables "largest edge in the next k cells": 3 or 4 slices of
tables instead of some 15 of the map at radius 10, and no index tensor.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tool.errors import InputError

STRIDE = 4  # of the maps below
WALK_RADIUS, WALK_BETA, WALK_EXP_TIMES = 5, 10, 8  # of the released code
MAP_POWER = 1.5  # the released code raises the maps to it before the walk
MAX_CLASSES = 255  # with background: a label picture has 8 bits, and 255 in it means unknown
# The Chebyshev series of x^n is cut where the coefficients left out sum to this.
SERIES_ERROR = 1e-6
# CUDA takes a product of the walk in few kernels while that unfolds at most so many entries, which
# is 0.25 GiB of float64; larger maps keep it busy with one kernel an offset.
WINDOW_LIMIT = 2**25
# Entries that the CPU takes at once: they stay in the cache, and PyTorch does not split so few over
# threads. Steps of the walk take some 10 microseconds, too short for threads to wait for each
# other: on a busy machine they made it 20 times slower, on an idle one 10 % faster.
BLOCK = 2**15 - 1

Area = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Path:
    """One offset and the cells between its ends.

    Attributes:
        dy, dx: the offset, in cells.
        cells: (y, x) relative to the source, both ends included.
        runs: the same cells as straight runs (axis, length, y, x): axis -1 goes right, -2 down.
    """

    dy: int
    dx: int
    cells: tuple[tuple[int, int], ...]
    runs: tuple[tuple[int, int, int, int], ...]

    def sources_inside(self, height: int, width: int) -> Area:
        """Return the rectangle of sources whose destination lies on the map too; may be empty."""
        size = max(0, height - self.dy), max(0, width - abs(self.dx))
        return 0, max(0, -self.dx), *size


def reach(radius: float) -> int:
    """Return m, the largest |dy| and |dx| of an offset."""
    return math.ceil(radius) - 1


@lru_cache(maxsize=8)
def search_paths(radius: float) -> tuple[Path, ...]:
    """Return the paths of all offsets, the shortest first, in the order of the released code."""
    m = reach(radius)
    offsets = [(0, dx) for dx in range(1, m + 1)]
    offsets += [
        (dy, dx)
        for dy in range(1, m + 1)
        for dx in range(-m, m + 1)
        if dy * dy + dx * dx < radius * radius
    ]
    return tuple(sorted((_path(*offset) for offset in offsets), key=lambda path: len(path.cells)))


def _path(dy: int, dx: int) -> Path:
    cells = [
        (y, x)
        for y in range(dy + 1)
        for x in range(min(0, dx), max(0, dx) + 1)
        if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    ]
    steep = dy > abs(dx)
    runs = []
    for line in sorted({cell[steep] for cell in cells}):  # a row, or a column of a steep path
        along = [cell[not steep] for cell in cells if cell[steep] == line]
        start = (along[0], line) if steep else (line, along[0])
        runs.append((-2 if steep else -1, len(along), *start))
    return Path(dy, dx, tuple(cells), tuple(runs))


def sources(height: int, width: int, radius: float) -> Area:
    """Return the rectangle of sources from which every offset stays on the map.

    Raises:
        InputError: the map is too small for a single one.
    """
    m = reach(radius)
    if height <= m or width <= 2 * m:
        raise InputError(
            f"A map of {height}x{width} holds no pairs of radius {radius}: {m + 1}x{2 * m + 1} is "
            f"the least, a picture of {STRIDE * m + 1}x{STRIDE * 2 * m + 1}. Take a larger window."
        )
    return 0, m, height - m, width - 2 * m


def window(maps: Tensor, area: Area, dy: int = 0, dx: int = 0) -> Tensor:
    """Return the view of (..., h, w) over an area moved by (dy, dx)."""
    top, left, height, width = area
    top, left = top + dy, left + dx
    return maps[..., top : top + height, left : left + width]


class PathIndex:
    """Offsets of a radius, and flat indices of the pairs on a map.

    Args:
        radius: r; 10 in training, 5 in the walk.
        default_size: (h, w) of the map at stride 4. The losses and the walk take maps of any size;
            it is what the indices refer to.

    Attributes:
        search_dst: int64 (O, 2), the offsets (dy, dx), in the order of every pair tensor.
        src_indices: int64 (n,), row-major positions of the sources on the map.
        dst_indices: int64 (O, n), their destinations.

    Raises:
        InputError: the map is too small for a pair (on use of the indices).
    """

    def __init__(self, radius: float, default_size: tuple[int, int]) -> None:
        self.radius = radius
        self.default_size = tuple(default_size)
        self.search_dst = torch.tensor([(path.dy, path.dx) for path in search_paths(radius)])

    @property
    def src_indices(self) -> Tensor:
        return _pair_indices(self.radius, self.default_size)[0]

    @property
    def dst_indices(self) -> Tensor:
        return _pair_indices(self.radius, self.default_size)[1]


@lru_cache(maxsize=4)  # radius 10 on 128x128 takes 16 MB
def _pair_indices(radius: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    positions = torch.arange(size[0] * size[1]).view(size)
    src = window(positions, sources(*size, radius)).reshape(-1)  # (n,)
    steps = torch.tensor([path.dy * size[1] + path.dx for path in search_paths(radius)])
    return src, src + steps[:, None]


class PathMaxima:
    """Largest edge on paths, and the way back of its gradient.

    Args:
        edge: (..., h, w); not changed.
        radius: of the paths that will be asked for.
    """

    def __init__(self, edge: Tensor, radius: float) -> None:
        # tables[axis, k][..., y, x] is the maximum over k cells from (y, x) along the axis.
        self.tables = {(axis, 1): edge for axis in (-1, -2)}
        for axis in (-1, -2):
            for length in range(2, min(reach(radius) + 1, edge.shape[axis]) + 1):
                starts = edge.shape[axis] - length + 1
                self.tables[axis, length] = torch.maximum(
                    self.tables[axis, length - 1].narrow(axis, 0, starts),
                    edge.narrow(axis, length - 1, starts),
                )
        self.grads: dict[tuple[int, int], Tensor] = {}

    def over(self, path: Path, area: Area) -> Tensor:
        """Return the maxima over the path from every source in an area, (..., height, width).

        It may be a view of the edge.
        """
        pieces = [window(self.tables[run[:2]], area, *run[2:]) for run in path.runs]
        best = pieces[0]
        for piece in pieces[1:]:
            best = torch.maximum(best, piece)
        return best

    def send_back(self, grad: Tensor, path: Path, area: Area) -> None:
        """Give the gradient of :meth:`over` to one largest cell of each path.

        Args:
            grad: (..., height, width); consumed.
        """
        best = self.over(path, area)
        for run in path.runs[:-1]:
            taken = grad * (window(self.tables[run[:2]], area, *run[2:]) == best)
            window(self._grad(run[:2]), area, *run[2:]).add_(taken)
            grad = grad.sub_(taken)  # a path that is level in two places counts once
        last = path.runs[-1]
        window(self._grad(last[:2]), area, *last[2:]).add_(grad)

    def gradient(self) -> Tensor:
        """Return the sum of all gradients sent back, of the edge's shape."""
        edge = self.tables[-1, 1]
        total = torch.zeros_like(edge)
        for axis in (-1, -2):
            longest = max(length for of, length in self.tables if of == axis)
            for length in range(longest, 1, -1):
                grad = self.grads.pop((axis, length), None)
                if grad is None:
                    continue
                starts = grad.shape[axis]
                before = self.tables[axis, length - 1].narrow(axis, 0, starts)
                new_cell = edge.narrow(axis, length - 1, starts)
                taken = grad * (before >= new_cell)
                self._grad((axis, length - 1)).narrow(axis, 0, starts).add_(taken)
                total.narrow(axis, length - 1, starts).add_(grad.sub_(taken))
            if (axis, 1) in self.grads:
                total += self.grads.pop((axis, 1))
        return total

    def _grad(self, table: tuple[int, int]) -> Tensor:
        if table not in self.grads:
            self.grads[table] = torch.zeros_like(self.tables[table])
        return self.grads[table]


class _PairMaxima(torch.autograd.Function):
    """Path maxima of every pair, with a gradient that needs no indices either."""

    @staticmethod
    def forward(ctx, edge: Tensor, radius: float) -> Tensor:
        ctx.save_for_backward(edge)
        ctx.radius = radius
        area = sources(*edge.shape[1:], radius)
        maxima = PathMaxima(edge, radius)
        paths = search_paths(radius)
        out = edge.new_empty(len(edge), len(paths), *area[2:])
        for number, path in enumerate(paths):
            out[:, number] = maxima.over(path, area)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (edge,) = ctx.saved_tensors
        area = sources(*edge.shape[1:], ctx.radius)
        maxima = PathMaxima(edge, ctx.radius)
        grad = grad.unflatten(2, area[2:])
        for number, path in enumerate(search_paths(ctx.radius)):
            maxima.send_back(grad[:, number].clone(), path, area)
        return maxima.gradient(), None


def pair_affinity(edge: Tensor, radius: float) -> Tensor:
    """Return 1 - the largest edge on the path of every pair, with gradient.

    Args:
        edge: (B, h, w) probabilities in [0, 1].
        radius: r.

    Returns:
        (B, O, n), offsets in the order of :attr:`PathIndex.search_dst`, sources row by row.
        Where several cells of a path are largest, one of them takes the gradient.

    Raises:
        InputError: the map holds no pairs.
    """
    return 1 - _PairMaxima.apply(edge, radius)


def reduce_label(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a label map at a smaller size, by Pillow's nearest rule: the centre of each cell.

    Args:
        label: (..., H, W) integer.
        size: (h, w).
    """
    rows, columns = (
        ((2 * torch.arange(new, device=label.device) + 1) * old).div(2 * new, rounding_mode="floor")
        for old, new in zip(label.shape[-2:], size, strict=True)
    )
    return label[..., rows[:, None], columns]


class LabelPairs:
    """Which of three kinds a pair of positions is.

    Same class and background; same class and not background; different classes. A pair with an end
    that is not known (a label of ``num_classes`` and above) is none of them.

    Args:
        label: uint8 (B, h, w) or another integer type, class ids and 255.
        num_classes: C with background, at most 255.
    """

    def __init__(self, label: Tensor, num_classes: int) -> None:
        if num_classes > MAX_CLASSES:
            raise ValueError(f"at most {MAX_CLASSES} classes fit an 8-bit label, not {num_classes}")
        self.known = (label >= 0) & (label < num_classes)
        self.background = label == 0
        # Two codes for unknown, at the source and at the destination, are never equal. With 255
        # classes they do not fit 8 bits.
        label = label.to(torch.uint8 if num_classes < MAX_CLASSES else torch.int16)
        self.source = torch.where(self.known, label, num_classes)
        self.destination = torch.where(self.known, label, num_classes + 1)

    def kinds(self, path: Path, area: Area) -> tuple[Tensor, Tensor, Tensor]:
        """Return bool (B, height, width) each: background, foreground, different."""
        end = path.dy, path.dx
        same = window(self.source, area) == window(self.destination, area, *end)
        background = same & window(self.background, area)
        different = (window(self.known, area) & window(self.known, area, *end)) ^ same
        return background, same ^ background, different


def affinity_labels(
    label: Tensor, num_classes: int, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kind of every pair: (bg_pos, fg_pos, neg), bool (B, O, n) each.

    Pairs and order are those of :func:`pair_affinity`. A loader had better hand over the label map:
    at radius 10 and 128x128 the three are 6 MB a picture instead of 16 kB, and the processor needs
    7 to 18 ms to make them (``python -m benchmarks.walk --part train``). The training loss
    (:func:`net.resnet50_irn.fused_loss_sums`) never holds them at all.

    Args:
        label: (B, h, w) class ids at stride 4, any integer type, 255 unknown.
        num_classes: C with background; labels of C and above are unknown.
        radius: r.

    Raises:
        InputError: the map holds no pairs.
    """
    area = sources(*label.shape[1:], radius)
    pairs = LabelPairs(label, num_classes)
    kinds = [pairs.kinds(path, area) for path in search_paths(radius)]
    return tuple(torch.stack(kind, 1).flatten(2) for kind in zip(*kinds, strict=True))


@lru_cache(maxsize=32)
def power_series(n: int, error: float = SERIES_ERROR) -> tuple[int, tuple[float, ...]]:
    """Return the Chebyshev series of x^n, cut: x^n = sum over k of c_k T_k(x).

    The coefficients of the whole series are 2^(1-n) C(n, (n-k)/2) for k of n's parity, halved at
    k = 0: positive, and 1 together. They are cut where the rest sums to at most ``error``, which
    happens at K <= sqrt(2 n log(2 / error)) (Hoeffding), and scaled to sum to 1 again.

    Returns:
        The parity of n, and (c_parity, c_parity+2, .., c_K). On [-1, 1] the result differs from
        x^n by at most twice ``error``.
    """
    parity = n % 2
    terms, k = [1.0 if parity else 0.5], parity
    while k < n and terms[-1] > 1e-25:  # up to a factor; what follows is below double precision
        ratio = (n - k) / (n + k + 2)
        terms.append((terms[-1] if k else 1.0) * ratio)
        k += 2
    left_out = error * math.fsum(terms)
    rest = 0.0
    while len(terms) > 1 and rest + terms[-1] <= left_out:
        rest += terms.pop()
    total = math.fsum(terms)
    return parity, tuple(term / total for term in terms)


class _Walk:
    """S = D^-1/2 W D^-1/2 of an edge map, and its powers, on the grid.

    A map is stored in rows of w + m cells, with zeros at the end of each row and before and behind
    the map. So an offset is one shift of the flat array, and a product with S is a multiply-add for
    each offset and direction: 68 at radius 5.

    Args:
        edge: float64 (h, w) in [0, 1]. In float32 the eigenvalue 1 of S is off by some 1e-6, its
            256th power by 2e-4.
        radius, beta: of the affinity W.
    """

    def __init__(self, edge: Tensor, radius: float, beta: float) -> None:
        self.size = h, w = edge.shape
        self.m = reach(radius)
        self.row = w + self.m
        self.cells = h * self.row
        self.margin = self.m * self.row + self.m
        paths = search_paths(radius)
        self.shifts = [path.dy * self.row + path.dx for path in paths]
        self.offsets = [(path.dy, path.dx) for path in paths]

        affinity = edge.new_zeros(len(paths), h, self.row)
        maxima = PathMaxima(edge, radius)
        for number, path in enumerate(paths):
            area = path.sources_inside(h, w)
            if area[2] and area[3]:
                window(affinity[number], area).copy_((1 - maxima.over(path, area)).pow_(beta))
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
        """(P, cells) -> (P, h, w), a view."""
        return values.unflatten(-1, (self.size[0], self.row))[..., : self.size[1]]

    def blocks(self, maps: Tensor) -> list[slice]:
        """Return slices of the cells of (P, ..) that are worked on one after the other."""
        size = self.cells if maps.is_cuda else max(1, BLOCK // len(maps))
        return [slice(start, start + size) for start in range(0, self.cells, size)]

    def shifting(self, source: Tensor, target: Tensor):
        """Return a function that sets target = 2 S source - target, by shifted multiply-adds."""
        inner, result = self._inner(source), self._inner(target)
        blocks = self.blocks(source)
        diagonal = [(result[:, b], self.diagonal[b], inner[:, b]) for b in blocks]
        both_ways = []
        for block in blocks:
            for weights, shift in zip(self.weights, self.shifts, strict=True):
                weight = weights[block]
                ahead, result_ahead = self._inner(source, shift), self._inner(target, shift)
                both_ways.append((result[:, block], weight, ahead[:, block]))
                both_ways.append((result_ahead[:, block], weight, inner[:, block]))

        def step() -> None:
            for out, weight, value in diagonal:
                out.neg_().addcmul_(weight, value)
            for out, weight, value in both_ways:
                out.addcmul_(weight, value)

        return step

    def windowed(self, source: Tensor, target: Tensor):
        """Return the same in a few large kernels, for devices where launches are what costs."""
        side = 2 * self.m + 1
        weights = self.diagonal.new_zeros(side, side, self.cells)
        weights[self.m, self.m] = self.diagonal
        for weight, shift, (dy, dx) in zip(self.weights, self.shifts, self.offsets, strict=True):
            if shift < self.cells:
                weights[self.m + dy, self.m + dx] = weight
                weights[self.m - dy, self.m - dx, shift:] = weight[: self.cells - shift]
        shape = (len(source), side, side, self.cells)
        around = source.as_strided(shape, (source.stride(0), self.row, 1, 1))
        result = self._inner(target)

        def step() -> None:
            result.neg_().add_((around * weights).sum((1, 2)))

        return step

    def power(self, maps: Tensor, n: int) -> Tensor:
        """Return maps T^n, where T = W D^-1 has columns that sum to 1.

        maps T^n = maps D^1/2 S^n D^-1/2, and S^n is the series of :func:`power_series`.

        Args:
            maps: float64 (P, h, w).
            n: at least 1.

        Returns:
            (P, h, w).
        """
        parity, coefficients = power_series(n)
        buffers = maps.new_zeros(2, len(maps), 2 * self.margin + self.cells)
        now, other = buffers
        self._on_grid(self._inner(now)).copy_(maps)
        self._inner(now).mul_(self.degree.sqrt())
        entries = len(maps) * (2 * self.m + 1) ** 2 * self.cells
        prepare = self.windowed if maps.is_cuda and entries <= WINDOW_LIMIT else self.shifting
        steps = prepare(now, other), prepare(other, now)

        total, blocks = torch.zeros_like(self._inner(now)), self.blocks(maps)
        for k in range(parity + 2 * len(coefficients) - 1):  # T_k(S) maps is in buffers[k % 2]
            if k:
                steps[(k + 1) % 2]()
            if k == 1:
                buffers[1].mul_(0.5)  # T_1 = S, not 2 S
            if k % 2 == parity:
                for block in blocks:
                    term = self._inner(buffers[k % 2])[:, block]
                    total[:, block].add_(term, alpha=coefficients[k // 2])
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

    T = W with columns that sum to 1, W_ij = (1 - largest edge on the path of i and j)^beta within
    the radius, 1 for i = j and 0 for other pairs.

    The released code squares the dense (N, N) matrix T: 16 N³ operations. Here T is similar to a
    symmetric matrix with eigenvalues in [-1, 1], where 2^t products become about 5 * 2^(t/2) (see
    :func:`power_series`): 78 instead of 256, of 69 entries a row each.

    Args:
        x: (P, 1, h, w) or (P, h, w) of any range.
        edge: (1, h, w) or (h, w), probabilities in [0, 1], on the same device.
        radius: r in cells.
        beta: above 0; higher values stop the walk at weaker edges.
        exp_times: t of at least 0; the walk takes 2^t steps.

    Returns:
        (P, 1, h, w) of the dtype of ``x`` (float32 for half precision), computed in float64. With
        norm(y)² = sum of y_i² / D_i, D the column sums of W, the result is off by at most 2e-6
        times norm(x (1 - edge)).
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
    radius: float = WALK_RADIUS,
    beta: float = WALK_BETA,
    exp_times: int = WALK_EXP_TIMES,
    power: float = MAP_POWER,
) -> tuple[Tensor, Tensor]:
    """Return the pseudo label of a picture and the walked maps it comes from.

    The maps are resized bilinearly to the edge map, raised to ``power``, walked, enlarged four
    times bilinearly, cut to the picture and divided by their overall maximum.

    Args:
        maps: (P, H', W') IS-CAM in [0, 1], background first.
        edge: (1, h, w) or (h, w) in [0, 1], at stride 4 of the picture.
        size: (H, W) of the picture.
        radius, beta, exp_times: see :func:`propagate_to_edge`.
        power: applied to the maps.

    Returns:
        index: int64 (H, W), the largest map, so ``keys[index]`` are class ids; 0 (background)
            where all are zero.
        scores: (P, H, W) in [0, 1].
    """
    small = F.interpolate(
        maps[None].float(), edge.shape[-2:], mode="bilinear", align_corners=False
    )[0]
    walked = propagate_to_edge(small**power, edge, radius, beta, exp_times)  # (P, 1, h, w)
    large = F.interpolate(walked, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    scores = large[:, 0, : size[0], : size[1]]
    scores = scores / scores.amax().clamp_min(torch.finfo(scores.dtype).tiny)
    return scores.argmax(0), scores
