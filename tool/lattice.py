"""Gaussian filtering of many points at once, on the permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. A filter F splats the values of points to the d + 1 corners of the simplex that
encloses each of them, blurs with (1/2, 1, 1/2) along each of the d + 1 directions, and slices.
Positions are rounded to float32 step by step as in the C++ package ``pydensecrf2``, so that both
find the same vertices.

Letters in shapes: N points, d feature dimensions, M vertices.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tool.errors import InputError

NORM_EPS = 1e-20  # added to n before n^-1/2
KEY_LIMIT = 2**62  # keys are int64, and a step is added to them
POSITION_LIMIT = 2**15  # pydensecrf counts cells in int16; float32 resolves 1/256 there
LONGEST = 128  # points that CUDA adds up one after the other; a sky has thousands at a vertex


class TooWideError(InputError, ValueError):
    """A picture is too large for the lattice of its standard deviations."""

    def __init__(self) -> None:
        super().__init__(
            "The picture spans too many cells of the CRF's lattice. Take larger standard "
            "deviations, or reduce the picture."
        )


@dataclass(frozen=True)
class Lattice:
    """Permutohedral lattice of N points in d dimensions, with M vertices.

    Vertex M stands for every neighbour that does not exist; its value is always zero. On CUDA the
    points of a vertex may be cut into pieces, which :func:`cut` makes; on the CPU they are one.
    """

    vertices: Tensor  # (N, d + 1) int32, corners of the simplex that holds a point
    slice_weights: Tensor  # (N, d + 1) float32, what a point takes from them
    points: Tensor  # (N * (d + 1),) int32, the points of vertex 0, of vertex 1, and so on
    splat_weights: Tensor  # (N * (d + 1),) float32, what a vertex takes from them
    starts: Tensor  # (M + 1,) int32, where a vertex begins in ``points``; or where a piece begins
    pieces: Tensor | None  # (M + 1,) int32, where a vertex begins among the pieces
    neighbours: Tensor  # (d + 1, M + 1, 2) int32, both neighbours along each direction

    def filter(self, values: Tensor) -> Tensor:
        """Return the points' values, (N, channels) float32 both, each channel filtered alone."""
        add_up = partial(F.embedding_bag, mode="sum")
        cells = add_up(self.points, values, self.starts, per_sample_weights=self.splat_weights)
        if self.pieces is not None:
            every = torch.arange(len(cells), dtype=torch.int32, device=cells.device)
            cells = add_up(every, cells, self.pieces)
        for pair in self.neighbours:
            cells.add_(add_up(pair, cells), alpha=0.5)  # (M + 1, channels)
        return add_up(self.vertices, cells, per_sample_weights=self.slice_weights)


@torch.no_grad()
def build_lattice(features: Tensor) -> Lattice:
    """Return the lattice whose ``filter`` is F, a Gaussian of standard deviation 1 over features.

    F is not normalised: F 1 is n. A feature's position is y = E f, E's rows scaled by sqrt(2/3) (d
    + 1) / sqrt((i + 1) (i + 2)) for dimension i = 0..d-1. The features are (d, N) float32, N > 0,
    divided by their standard deviations. A TooWideError says that they are not finite, or span too
    many cells: beyond +-2^15 along an axis of the lattice, or more than 62 bits can number.
    """
    remainder, rank, weights = _simplices(features)
    keys, steps, period = _vertex_keys(remainder, rank)
    corners, n = keys.shape

    order = torch.empty_like(keys)
    for r in range(corners):  # sorts all keys: those of a row come before those of the next
        keys[r], order[r] = keys[r].sort()
    keys = keys.flatten()
    first = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    vertex = (first.cumsum(0, dtype=torch.int32) - 1).view(corners, n)  # of each sorted key
    alpha = 1 / (1 + 2.0 ** (1 - corners))
    bags, pieces = F.pad(starts, (0, 1), value=len(keys)).int(), None  # vertex M has no point
    if features.is_cuda:
        bags, pieces = cut(bags, len(keys))
    return Lattice(
        vertices=torch.empty_like(vertex).scatter_(1, order, vertex).t().contiguous(),
        slice_weights=(weights * alpha).t().contiguous(),
        points=order.flatten().int(),
        splat_weights=weights.gather(1, order).flatten(),
        starts=bags,
        pieces=pieces,
        neighbours=_neighbours(keys.index_select(0, starts), steps, period),
    )


def cut(starts: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Cut rows of points, of which a warp adds up one, where one would be longer than LONGEST.

    Args:
        starts: (K,) int32, rising, where a row begins.
        number: of points in all rows.

    Returns:
        Where a piece begins, (K + number / LONGEST,) int32, and where a row begins among the
        pieces, (K,) int32. Their number does not depend on the rows, so that nothing waits for it;
        a row that begins at a multiple of LONGEST also has an empty piece.
    """
    marks = torch.arange(0, number, LONGEST, dtype=torch.int32, device=starts.device)
    pieces = torch.cat([starts, marks]).sort().values
    return pieces, torch.searchsorted(pieces, starts, out_int32=True)


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
        raise TooWideError

    nearest = (position * down).round()
    excess = nearest.sum(0).to(torch.int8)  # 0 where the corner lies on the plane of sum 0
    remainder = nearest * (d + 1)
    distance = position - remainder
    rank = torch.arange(d + 1, dtype=torch.int8, device=features.device)[:, None].repeat(1, n)
    for i in range(d):  # of a pair, the first goes before the second unless that is farther
        behind = (distance[i] < distance[i + 1 :]).view(torch.int8)  # (d - i, N)
        rank[i] += behind.sum(0, dtype=torch.int8)
        rank[i + 1 :] -= behind
    rank += excess  # coordinates whose rank leaves 0..d step back, until the corner is on the plane
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

    Returned are keys, (d + 1, N) int64 of the corners 0..d; the d + 1 offsets; and (d + 1) * B.
    """
    d = len(remainder) - 1
    # Corners and their neighbours are at most 2 d away from the corner 0 in each coordinate.
    low, high = (remainder[:d].amin(1) - 2 * d).tolist(), (remainder[:d].amax(1) + 2 * d).tolist()
    strides = [1]
    for lowest, highest in zip(low, high, strict=True):
        strides.append(strides[-1] * int(highest - lowest + 1))
    block = strides.pop()
    if (d + 1) * block > KEY_LIMIT:
        raise TooWideError
    keys = remainder.new_empty(remainder.shape, dtype=torch.int64)
    axes = zip(remainder[:d], low, strides, strict=True)
    keys[0] = sum((coordinate - lowest).long() * stride for coordinate, lowest, stride in axes)
    # From corner r - 1 to r every coordinate grows by 1, but that of rank d + 1 - r falls by d.
    ones = sum(strides) + block
    steps = [(d + 1) * stride - ones for stride in (*strides, 0)]
    step_of = torch.tensor(steps, device=keys.device)[:, None].expand_as(keys)
    step_of_rank = torch.empty_like(keys).scatter_(0, rank, step_of)
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


def normalise(lattice: Lattice) -> Lattice:
    """Return the lattice of K = n^-1/2 F n^-1/2, n = F 1 + 1e-20."""
    ones = lattice.slice_weights.new_ones(len(lattice.vertices), 1)
    scale = (lattice.filter(ones) + NORM_EPS).rsqrt()  # (N, 1)
    return replace(
        lattice,
        slice_weights=lattice.slice_weights * scale,
        splat_weights=lattice.splat_weights * scale.squeeze(1).index_select(0, lattice.points),
    )
