"""Pairs of positions that IRN's loss looks at, offset by offset or some offsets at a time.

Both forms give the same pairs. Offset by offset, everything is a view of a map, which a processor
holds in its cache. A GPU would wait for thousands of such small kernels, so there GROUP offsets are
gathered by one.

Letters in shapes: B pictures, h x w the map at stride 4, N = h w positions, height x width = n the
sources of pairs, G offsets, L cells of the longest of their paths.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tool.indexing import LabelPairs, PathMaxima, on_area, search_paths, sources

LOSS_EPS = 1e-5  # added inside logarithms and to denominators
GROUP = 16  # offsets that a GPU takes at a time


class Pairs:
    """Pairs of one offset or of some, and what their losses are made of.

    Their shape S is (B, height, width) of one offset, and (B, G, n) of G.

    Attributes:
        bg, fg, neg: S, 1 for pairs of the kind and 0 for others, see :class:`LabelPairs`.
        probability: S, 1 + eps - p of a pair of different classes, p + eps of any other. Its -log
            is the affinity loss.
        difference: (B, 2, *S[1:]), D - (dy, dx) of a foreground pair, D of any other. Its absolute
            value is the displacement loss. None without displacements.
    """

    at_source: Callable[[Tensor], Tensor]  # the values of maps (.., h, w) at the sources
    at_end: Callable[[Tensor], Tensor]  # and at the destinations

    def describe(self, edge: Tensor, displacement: Tensor | None, labels, offset: Tensor) -> None:
        """Set the attributes from 1 - p and the maps; ``offset`` (dy, dx) fits (2, *S[1:])."""
        kinds = labels.kinds(self.at_source, self.at_end)
        self.bg, self.fg, self.neg = (kind.to(edge.dtype) for kind in kinds)
        self.probability = torch.where(kinds[2], edge, 1 - edge).add_(LOSS_EPS)
        self.difference = None
        if displacement is not None:
            difference = self.at_source(displacement) - self.at_end(displacement)
            self.difference = difference.addcmul_(self.fg[:, None], offset, value=-1)


class OffsetPairs(Pairs):
    """Pairs of one offset."""

    def __init__(self, maxima, displacement, labels, path, area) -> None:
        self.maxima, self.path, self.area = maxima, path, area
        edge = maxima.over(path, area)
        offset = edge.new_tensor([path.dy, path.dx])[:, None, None]
        self.describe(edge, displacement, labels, offset)

    def at_source(self, maps: Tensor) -> Tensor:
        """Return the values of maps (.., h, w) at the sources, a view."""
        return on_area(maps, self.area)

    def at_end(self, maps: Tensor) -> Tensor:
        """Return the values of maps (.., h, w) at the destinations, a view."""
        return on_area(maps, self.area, self.path.dy, self.path.dx)

    def send_edge(self, slope: Tensor) -> None:
        """Give the gradient of 1 - p, which is overwritten, to the largest cells of the paths."""
        self.maxima.send_back(slope, self.path, self.area)

    def send_displacement(self, grad: Tensor, slope: Tensor) -> None:
        """Add the gradient of D to that of the displacements, ``grad`` (B, 2, h, w)."""
        self.at_source(grad).add_(slope)
        self.at_end(grad).sub_(slope)

    def edge_gradient(self) -> Tensor:
        """Return the sum of what all pairs of these pictures sent, (B, h, w)."""
        return self.maxima.gradient()


def by_offset(edge, displacement, label, num_classes: int, radius: float) -> Iterator[OffsetPairs]:
    """Yield the pairs of some pictures, see :func:`net.irn_loss.loss_sums`, offset by offset."""
    area = sources(edge.shape[1], edge.shape[2], radius)
    maxima = PathMaxima(edge, radius)
    labels = LabelPairs(label, num_classes)
    for path in search_paths(radius):
        yield OffsetPairs(maxima, displacement, labels, path, area)


class Group(NamedTuple):
    """Some offsets, in positions of the map."""

    cells: Tensor  # int64 (G, L), of their paths relative to the source, which short ones repeat
    ends: Tensor  # int64 (G, 1), of their destinations relative to the source
    offset: Tensor  # float64 (2, G, 1), (dy, dx)


@lru_cache(maxsize=8)
def groups(height: int, width: int, radius: float, device: torch.device):
    """Return the sources, int64 (n,), and the offsets in groups, made once a device."""
    area = sources(height, width, radius)
    starts = on_area(torch.arange(height * width).view(height, width), area).flatten()
    paths, found = search_paths(radius), []
    for first in range(0, len(paths), GROUP):
        some = paths[first : first + GROUP]  # of similar lengths
        cells = [torch.tensor([y * width + x for y, x in path.cells]) for path in some]
        offset = torch.tensor([[path.dy, path.dx] for path in some])
        group = Group(
            pad_sequence(cells, batch_first=True),
            offset @ torch.tensor([[width], [1]]),
            offset.double().T[..., None],
        )
        found.append(Group(*(tensor.to(device) for tensor in group)))
    return starts.to(device), tuple(found)


class GroupPairs(Pairs):
    """Pairs of the offsets of a group; gradients of the edge are added to ``sent``, (B, h, w)."""

    def __init__(self, edge, displacement, labels, starts: Tensor, group: Group, sent) -> None:
        self.starts, self.ends, self.sent = starts, starts + group.ends, sent  # (n,), (G, n)
        self.cells = starts + group.cells[..., None]  # (G, L, n)
        largest, self.where = edge.flatten(1)[:, self.cells].max(2)  # (B, G, n)
        self.describe(largest, displacement, labels, group.offset.to(edge.dtype))

    def at_source(self, maps: Tensor) -> Tensor:
        """Return the values of maps (.., h, w) at the sources, (.., 1, n)."""
        return maps.flatten(-2)[..., None, self.starts]

    def at_end(self, maps: Tensor) -> Tensor:
        """Return the values of maps (.., h, w) at the destinations, (.., G, n)."""
        return maps.flatten(-2)[..., self.ends]

    def send_edge(self, slope: Tensor) -> None:
        """Give the gradient of 1 - p to one largest cell of every path."""
        cells = self.cells.expand(len(slope), *self.cells.shape)
        at = cells.gather(2, self.where[:, :, None])  # (B, G, 1, n)
        self.sent.view(len(slope), -1).scatter_add_(1, at.flatten(1), slope.flatten(1))

    def send_displacement(self, grad: Tensor, slope: Tensor) -> None:
        """Add the gradient of D to that of the displacements, ``grad`` (B, 2, h, w)."""
        flat = grad.view(*grad.shape[:2], -1)  # (B, 2, N)
        flat.index_add_(2, self.starts, slope.sum(2))
        flat.index_add_(2, self.ends.flatten(), slope.flatten(2), alpha=-1)

    def edge_gradient(self) -> Tensor:
        """Return the sum of what all pairs of these pictures sent, (B, h, w)."""
        return self.sent


def by_group(edge, displacement, label, num_classes: int, radius: float) -> Iterator[GroupPairs]:
    """Yield what :func:`by_offset` does, GROUP offsets at a time."""
    starts, some = groups(*edge.shape[1:], radius, edge.device)
    labels = LabelPairs(label, num_classes)
    sent = edge.new_zeros(edge.shape)
    for group in some:
        yield GroupPairs(edge, displacement, labels, starts, group, sent)
