"""The loss of IRN: pairs of positions agree in class, and displacements point at one centre.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
2019, section 4, as the released code computes it.

Take a pair of positions i and j that are (dy, dx) apart (see :mod:`tool.indexing`), the edge map e
and the displacements d. With

    p = 1 - max of e on the path from i to j        the affinity of the pair
    D = d(i) - d(j)                                 how far their displacements differ

and the pairs of each kind, bg (both background), fg (both of one other class) and neg (different
classes), the losses are

    bg_pos = sum over bg  of -log(p + eps)      / (count of bg + eps)
    fg_pos = sum over fg  of -log(p + eps)      / (count of fg + eps)
    neg    = sum over neg of -log(1 + eps - p)  / (count of neg + eps)
    dp_fg  = sum over fg  of |D - (dy, dx)|     / (2 count of fg + eps)
    dp_bg  = sum over bg  of |D|                / (2 count of bg + eps)

    total  = ((bg_pos + fg_pos) / 2 + neg) / 2 + (dp_fg + dp_bg) / 2

where |.| sums both components and eps = 1e-5.

Letters in shapes: B pictures, h x w the map at stride 4, height x width the sources of pairs.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from net.irn_pairs import LOSS_EPS, by_group, by_offset

CACHED = 1 << 14  # cells of edge maps, about one picture of the published setting
SMALL = 1 << 10  # cells of an edge map up to which groups take a CPU less time too


def loss_sums(
    edge: Tensor, displacement: Tensor | None, label: Tensor, num_classes: int, radius: float
) -> tuple[Tensor, Tensor]:
    """Return the numerators and denominators of the five losses of a batch.

    Both are (5,), float32 or wider, without eps, in the order bg_pos, fg_pos, neg, dp_fg, dp_bg,
    and the numerators have a gradient. The pairs are taken offset by offset, on CUDA and
    in small maps some offsets at a time, and nothing that has the size of all pairs is kept.

    Args:
        edge: (B, 1, h, w) logits, with gradient.
        displacement: (B, 2, h, w) in cells, with gradient; None makes its losses 0.
        label: (B, h, w) class ids at stride 4 on the same device, uint8 or another integer type,
            255 unknown.
        num_classes: C with background; labels of C and above are unknown.
        radius: r of the pairs; an InputError says that the map holds none.
    """
    with torch.autocast(edge.device.type, enabled=False):  # logarithms want float32
        dtype = torch.promote_types(edge.dtype, torch.float32)
        edge = edge[:, 0].to(dtype).sigmoid()
        displacement = None if displacement is None else displacement.to(dtype)
        return _LossSums.apply(edge, displacement, label, num_classes, radius)


def loss_terms(numerators: Tensor, denominators: Tensor) -> Tensor:
    """Return the four terms of the total (4,): (bg_pos + fg_pos) / 2, neg, dp_fg, dp_bg.

    In a distributed run, add the denominators of all R processes first, then train on R times the
    local numerators over them: data parallel training averages gradients, so the result is that of
    the ratios of the whole batch. The sums of the numerators are what to log.
    """
    bg_pos, fg_pos, neg, dp_fg, dp_bg = (numerators / (denominators + LOSS_EPS)).unbind()
    return torch.stack([(bg_pos + fg_pos) / 2, neg, dp_fg, dp_bg])


def total_loss(terms: Tensor) -> Tensor:
    """Return (pos + neg) / 2 + (dp_fg + dp_bg) / 2 of the terms of :func:`loss_terms`."""
    return terms.sum() / 2


def _parts(edge: Tensor, displacement: Tensor | None, label: Tensor, num_classes: int, radius):
    """Yield slices of the batch and their pairs: all at once on CUDA, where kernels should be few;
    on the CPU as many pictures as have their numbers in the cache."""
    on_cpu = edge.device.type == "cpu"
    step = max(1, CACHED // edge[0].numel()) if on_cpu else len(edge)
    pairs_of = by_offset if on_cpu and edge[0].numel() > SMALL else by_group
    for start in range(0, len(edge), step):
        some = slice(start, start + step)
        maps = edge[some], None if displacement is None else displacement[some], label[some]
        yield some, pairs_of(*maps, num_classes, radius)


class _LossSums(torch.autograd.Function):
    """The sums of :func:`loss_sums` from edge probabilities (B, h, w).

    The backward pass computes the path maxima again, which is cheaper than to keep them.
    """

    @staticmethod
    def forward(ctx, edge, displacement, label, num_classes, radius):
        ctx.save_for_backward(edge, displacement, label)
        ctx.settings = num_classes, radius
        sums = edge.new_zeros(3, 3, dtype=torch.float64)  # kinds x (affinity, displacement, count)
        for _, offsets in _parts(edge, displacement, label, num_classes, radius):
            for pairs in offsets:
                losses = [-pairs.probability.log()]
                if displacement is not None:
                    losses.append(pairs.difference.abs().sum(1))
                losses = torch.stack(losses).flatten(1)  # (2 or 1, number of pairs)
                kinds = torch.stack([pairs.bg, pairs.fg, pairs.neg]).flatten(1)  # (3, ..)
                sums[:, : len(losses)] += kinds @ losses.T
                sums[:, 2] += kinds.sum(1)
        affinity, (dp_bg, dp_fg, _), (bg, fg, neg) = sums.T
        numerators = torch.stack([*affinity, dp_fg, dp_bg])
        denominators = torch.stack([bg, fg, neg, 2 * fg, 2 * bg]).to(edge.dtype)
        ctx.mark_non_differentiable(denominators)
        return numerators.to(edge.dtype), denominators

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        edge, displacement, label = ctx.saved_tensors
        bg_pos, fg_pos, neg, dp_fg, dp_bg = grad.unbind()
        edge_grad = torch.empty_like(edge)
        dp_grad = None if displacement is None else torch.zeros_like(displacement)
        for pictures, offsets in _parts(edge, displacement, label, *ctx.settings):
            for pairs in offsets:
                # The edge is 1 - p, so that it raises the losses of bg and fg and lowers neg's.
                weight = pairs.bg * bg_pos + pairs.fg * fg_pos - pairs.neg * neg
                slope = weight.div_(pairs.probability)
                pairs.send_edge(slope)
                if dp_grad is not None:
                    weight = (pairs.fg * dp_fg + pairs.bg * dp_bg)[:, None]  # (B, 1, ...)
                    pairs.send_displacement(dp_grad[pictures], weight * pairs.difference.sign())
            edge_grad[pictures] = pairs.edge_gradient()
        return edge_grad, dp_grad, None, None, None
