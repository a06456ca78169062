"""Pairs of positions on a map, and the paths between them.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN),
CVPR 2019, section 4, as its released code computes it.

Letters in shapes: B pictures, h x w a map at stride 4, r the radius, m = ceil(r) - 1, O offsets,
n = (h - m)(w - 2m) sources.

The offsets (dy, dx) with dy² + dx² < r² cover every unordered pair once: dy = 0 and dx > 0, or
dy > 0. The path of an offset is every grid point of its bounding box that lies closer than 1 to the
straight line. The affinity of a pair is 1 minus the largest edge probability on its path.

The cells of a path are never gathered. A path is one straight run of cells in each row (in each
column where it is steep), so its maximum is that of a few entries of tables that hold the largest
edge in the next k cells: 3 or 4 views of tables instead of some 15 of the map at radius 10, and no
index tensor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
from torch import Tensor

from tool.errors import InputError

STRIDE = 4  # pixels of the picture to a cell of a map

Area = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Path:
    """One offset and the cells between its ends."""

    dy: int  # from the source to the destination, in cells
    dx: int
    cells: tuple[tuple[int, int], ...]  # (y, x) relative to the source, both ends included
    # The same cells as straight runs (axis, length, y, x): axis -1 goes right, -2 down.
    runs: tuple[tuple[int, int, int, int], ...]


def reach(radius: float) -> int:
    """Return m, the largest |dy| and |dx| of an offset."""
    return math.ceil(radius) - 1


@lru_cache(maxsize=8)
def search_paths(radius: float) -> tuple[Path, ...]:
    """Return the paths of all offsets, the shortest first, in the order of the released code."""
    m = reach(radius)
    box = [(dy, dx) for dy in range(m + 1) for dx in range(-m, m + 1) if (dy, dx) > (0, 0)]
    paths = [_path(dy, dx) for dy, dx in box if dy * dy + dx * dx < radius * radius]
    return tuple(sorted(paths, key=lambda path: len(path.cells)))


def _path(dy: int, dx: int) -> Path:
    box = [(y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1)]
    cells = [(y, x) for y, x in box if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
    steep = dy > abs(dx)
    runs = []
    for line in sorted({cell[steep] for cell in cells}):  # a row, or a column of a steep path
        along = [cell[not steep] for cell in cells if cell[steep] == line]
        start = (along[0], line) if steep else (line, along[0])
        runs.append((-2 if steep else -1, len(along), *start))
    return Path(dy, dx, tuple(cells), tuple(runs))


def sources(height: int, width: int, radius: float) -> Area:
    """Return the rectangle of sources from which every offset stays on the map.

    A map that is too small for a single one raises an InputError.
    """
    m = reach(radius)
    if height <= m or width <= 2 * m:
        raise InputError(
            f"A map of {height}x{width} holds no pairs of radius {radius}: {m + 1}x{2 * m + 1} is "
            f"the least, a picture of {STRIDE * m + 1}x{STRIDE * 2 * m + 1}. Take a larger window."
        )
    return 0, m, height - m, width - 2 * m


def on_area(maps: Tensor, area: Area, dy: int = 0, dx: int = 0) -> Tensor:
    """Return the part of (..., h, w) that lies in an area moved by (dy, dx), a view."""
    top, left, height, width = area
    return maps[..., top + dy : top + dy + height, left + dx : left + dx + width]


class PathMaxima:
    """Largest edge on paths, and the way back of its gradient.

    ``edge``, (..., h, w), is not changed; ``radius`` is that of the paths that are asked for, which
    both sides of the map exceed.
    """

    def __init__(self, edge: Tensor, radius: float) -> None:
        # tables[axis, k][..., y, x] is the maximum over k cells from (y, x) along the axis.
        self.tables = {(axis, 1): edge for axis in (-1, -2)}
        for axis in (-1, -2):
            for length in range(2, reach(radius) + 2):
                starts = edge.shape[axis] - length + 1
                before = self.tables[axis, length - 1].narrow(axis, 0, starts)
                last_cell = edge.narrow(axis, length - 1, starts)
                self.tables[axis, length] = torch.maximum(before, last_cell)
        self.grads: dict[tuple[int, int], Tensor] = {}

    def over(self, path: Path, area: Area) -> Tensor:
        """Return the maxima over the path from every source in an area, (..., height, width).

        The result may be a view of the edge.
        """
        pieces = (on_area(self.tables[run[:2]], area, *run[2:]) for run in path.runs)
        return reduce(torch.maximum, pieces)

    def send_back(self, grad: Tensor, path: Path, area: Area) -> None:
        """Give the gradient of :meth:`over` to one largest cell of each path.

        ``grad``, (..., height, width), is overwritten; path and area are those of :meth:`over`.
        """
        best = self.over(path, area)
        for run in path.runs[:-1]:
            taken = grad * (on_area(self.tables[run[:2]], area, *run[2:]) == best)
            on_area(self._grad(run[:2]), area, *run[2:]).add_(taken)
            grad = grad.sub_(taken)  # of several largest cells, the first takes all of it
        last = path.runs[-1]
        on_area(self._grad(last[:2]), area, *last[2:]).add_(grad)

    def gradient(self) -> Tensor:
        """Return the sum of all gradients sent back, of the edge's shape."""
        edge = self.tables[-1, 1]
        total = torch.zeros_like(edge)
        for axis, length in sorted(self.tables, reverse=True):  # long runs before short ones
            grad = self.grads.pop((axis, length), None)
            if grad is None:
                continue
            starts = grad.shape[axis]
            if length > 1:
                before = self.tables[axis, length - 1].narrow(axis, 0, starts)
                taken = grad * (before >= edge.narrow(axis, length - 1, starts))
                self._grad((axis, length - 1)).narrow(axis, 0, starts).add_(taken)
                grad.sub_(taken)
            total.narrow(axis, length - 1, starts).add_(grad)
        return total

    def _grad(self, table: tuple[int, int]) -> Tensor:
        if table not in self.grads:
            self.grads[table] = torch.zeros_like(self.tables[table])
        return self.grads[table]


class LabelPairs:
    """Pairs of positions of a label map, integer (B, h, w) class ids, by what they are.

    Labels of ``num_classes``, which counts background, and above are unknown, as is 255.
    """

    def __init__(self, label: Tensor, num_classes: int) -> None:
        self.label, self.background = label, label == 0
        self.known = (label >= 0) & (label < num_classes)

    def kinds(
        self, at_source: Callable[[Tensor], Tensor], at_end: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return bool tensors of some pairs: both background, both of one other class, different.

        Both functions take a map (B, h, w) to its values at one end of the pairs.
        """
        known = at_source(self.known) & at_end(self.known)
        same = known & (at_source(self.label) == at_end(self.label))
        background = same & at_source(self.background)
        return background, same ^ background, known ^ same
