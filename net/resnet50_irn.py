"""IRN: class boundaries and displacements to instance centres, learnt from confident areas.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
2019, as SIPE uses it and as the released code computes it.

Letters in shapes: B pictures, H x W pixels, h x w the map at stride 4, r the radius, O offsets of a
radius, n sources (see :mod:`tool.indexing`), C classes with background at index 0.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from net.inputs import prepare
from net.resnet50 import build_backbone
from tool.indexing import (
    LabelPairs,
    PathIndex,
    PathMaxima,
    pair_affinity,
    search_paths,
    sources,
    window,
)
from tool.optimizer import parameter_group

CACHED = 1 << 14  # cells of edge maps, about one picture of the published setting
DISPLACEMENT_LR = 10  # the displacement branches learn ten times faster than the edge branches
LOSS_EPS = 1e-5  # added inside logarithms and to denominators
MULTIPLE = 16  # the output stride of the backbone; larger pictures are padded to a multiple of it
# Of every branch: input channels in widths of the backbone, output channels, groups, upsampling.
EDGE_BRANCHES = ((1, 32, 4, 1), (4, 32, 4, 1), (8, 32, 4, 2), (16, 32, 4, 4), (32, 32, 4, 4))
DP_BRANCHES = ((1, 64, 8, 1), (4, 128, 16, 1), (8, 256, 16, 1), (16, 256, 16, 2), (32, 256, 16, 2))
# What the released files hold beside weights: index tensors, and torchvision's last layer.
NO_WEIGHTS = re.compile(r"(path_indices\w*|indices_\w+|disp_target|(resnet50\.)?fc\.\w+)$")


def branch(in_channels: int, out_channels: int, groups: int, upsample: int) -> nn.Sequential:
    """Return 1x1 convolution, group normalisation, bilinear upsampling when above 1, ReLU."""
    layers = [
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.GroupNorm(groups, out_channels),
    ]
    if upsample > 1:
        layers.append(nn.Upsample(scale_factor=upsample, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def cut(x: Tensor, like: Tensor) -> Tensor:
    """Return the top left of a map, of another map's size."""
    return x[..., : like.shape[-2], : like.shape[-1]]


class MeanShift(nn.Module):
    """Subtract a stored mean, in evaluation mode only.

    Nothing here updates it: the training program measures the mean over the training pictures and
    fills ``running_mean`` at its end.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x - self.running_mean[:, None, None]


class Net(nn.Module):
    """Edge and displacement branches on a backbone that does not learn.

    Args:
        pretrained: ``"imagenet"``, a file, or ``None`` / ``"none"`` for random weights.
        width: channels after conv1; ``None`` reads it off the file (64 without one).
    """

    def __init__(self, pretrained: str | Path | bool | None, width: int | None) -> None:
        super().__init__()
        self.resnet50 = build_backbone(pretrained, width, frozen_stages=4)
        width = self.resnet50.width
        for number, (times, *shape) in enumerate(EDGE_BRANCHES, start=1):
            setattr(self, f"fc_edge{number}", branch(times * width, *shape))
        self.fc_edge6 = nn.Conv2d(sum(shape[1] for shape in EDGE_BRANCHES), 1, 1)
        for number, (times, *shape) in enumerate(DP_BRANCHES, start=1):
            setattr(self, f"fc_dp{number}", branch(times * width, *shape))
        deep = [shape[1] for shape in DP_BRANCHES]
        self.fc_dp6 = branch(sum(deep[2:]), 256, 16, 2)
        self.fc_dp7 = branch(deep[0] + deep[1] + 256, 256, 16, 1)
        self.fc_dp7.append(nn.Conv2d(256, 2, 1, bias=False))
        self.mean_shift = MeanShift(2)

    def branches(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Return fc_edge1..6 and fc_dp1..7."""
        edge = [self.get_submodule(f"fc_edge{number}") for number in range(1, 7)]
        return edge, [self.get_submodule(f"fc_dp{number}") for number in range(1, 8)]

    prepare = staticmethod(prepare)

    def trainable_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups: edges, and displacements at ten times their rate."""
        edge, displacement = (nn.ModuleList(part).parameters() for part in self.branches())
        return [
            parameter_group("edges", edge, lr, 1, weight_decay),
            parameter_group("displacements", displacement, lr, DISPLACEMENT_LR, weight_decay),
        ]

    def canonical_name(self, name: str, shape: tuple[int, ...]) -> str:
        """Return our name of a tensor that the released checkpoints or torchvision name otherwise.

        The released network registers its backbone three times (``resnet50``, ``stage1``..``5``,
        ``backbone``), its branches twice (``edge_layers``, ``dp_layers``), and the mean shift as
        part of ``fc_dp7`` too.
        """
        name = re.sub(r"^edge_layers\.(\d)\.", lambda m: f"fc_edge{int(m[1]) + 1}.", name)
        name = re.sub(r"^dp_layers\.(\d)\.", lambda m: f"fc_dp{int(m[1]) + 1}.", name)
        name = re.sub(r"^fc_dp7\.\d+\.running_mean$", "mean_shift.running_mean", name)
        name = re.sub(r"^backbone\.(\d)\.", lambda m: f"stage{int(m[1]) + 1}.", name)
        name = re.sub(r"^stage1\.([01])\.", lambda m: ("conv1.", "bn1.")[int(m[1])], name)
        name = re.sub(
            r"^stage([2-5])\.(?:0\.)?(?=\d+\.(conv|bn|downsample))",
            lambda m: f"layer{int(m[1]) - 1}.",
            name,
        )
        if re.match(r"(conv1|bn1|layer[1-4])\.", name):
            return "resnet50." + name
        return name

    def ignored_name(self, name: str) -> bool:
        """Tell whether a tensor of a released file is no weight: indices, torchvision's fc."""
        return NO_WEIGHTS.match(name) is not None

    def edge_logits(self, features: list[Tensor]) -> Tensor:
        """Return the edge map from the backbone's five outputs: logits (B, 1, h, w)."""
        edges = [module(x) for module, x in zip(self.branches()[0], features, strict=False)]
        return self.fc_edge6(torch.cat([cut(x, edges[1]) for x in edges], 1))

    def displacements(self, features: list[Tensor]) -> Tensor:
        """Return (B, 2, h, w), (dy, dx) in cells; in evaluation mode less the stored mean."""
        dp = [module(x) for module, x in zip(self.branches()[1], features, strict=False)]
        deep = self.fc_dp6(torch.cat([cut(x, dp[2]) for x in dp[2:]], 1))  # (B, 256, h, w)
        return self.mean_shift(self.fc_dp7(torch.cat([dp[0], dp[1], cut(deep, dp[1])], 1)))


class AffinityDisplacementLoss(Net):
    """The network in training.

    Args:
        path_index: the pairs; its radius and order of offsets count, maps may have any size.
        pretrained, width: as in :class:`Net`.
        edge_only: leave the displacement branches as they start. Branches have nothing in common
            that learns, so edges come out the same.
    """

    def __init__(
        self,
        path_index: PathIndex,
        pretrained: str | Path | bool | None = "imagenet",
        width: int | None = None,
        edge_only: bool = False,
    ) -> None:
        super().__init__(pretrained, width)
        self.path_index, self.edge_only = path_index, edge_only
        if edge_only:
            nn.ModuleList(self.branches()[1]).requires_grad_(False)
        # Not saved: it follows from the radius.
        self.register_buffer("disp_target", path_index.search_dst.T[:, :, None].float(), False)

    def forward(self, img: Tensor, return_loss: bool = False) -> tuple[Tensor, ...]:
        """Return edges and displacements, or the losses of every pair.

        Args:
            img: (B, 3, H, W), normalised.
            return_loss: the losses rather than the maps. Each of the four takes B * O * n floats
                or twice that, 250 MB and 500 MB at the published setting: train with
                :func:`fused_loss_sums` on the maps instead.

        Returns:
            Without: edge logits (B, 1, h, w) and displacement (B, 2, h, w), None where only edges
            learn.
            With: pos_aff_loss -log(p + 1e-5) and neg_aff_loss -log(1 + 1e-5 - p), (B, O, n), with
            p the affinity; dp_fg_loss |D - (dy, dx)| and dp_bg_loss |D|, (B, 2, O, n), with D the
            displacement of the source less that of the destination.
        """
        features = self.resnet50(img)
        edge = self.edge_logits(features)
        if self.edge_only and not return_loss:
            return edge, None
        displacement = self.displacements(features)
        if not return_loss:
            return edge, displacement
        radius = self.path_index.radius
        with torch.autocast(img.device.type, enabled=False):  # logarithms want float32
            affinity = pair_affinity(edge[:, 0].float().sigmoid(), radius)  # (B, O, n)
            displacement = displacement.float()
            area = sources(*displacement.shape[2:], radius)
            start = window(displacement, area)
            pairs = [start - window(displacement, area, p.dy, p.dx) for p in search_paths(radius)]
            pairs = torch.stack(pairs, 2).flatten(3)  # (B, 2, O, n)
            return (
                -torch.log(affinity + LOSS_EPS),
                -torch.log(1 + LOSS_EPS - affinity),
                (pairs - self.disp_target).abs(),
                pairs.abs(),
            )


class EdgeDisplacement(Net):
    """The network at inference: a picture and its mirror image.

    Args:
        crop_size: pictures are zero-padded right and below to at least this many pixels a side,
            since the group statistics were learnt on such windows. Larger sides go to the next
            multiple of 16; nothing is ever cut off.
        stride: of the result.
        pretrained, width: as in :class:`Net`.
    """

    def __init__(
        self,
        crop_size: int = 512,
        stride: int = 4,
        pretrained: str | Path | bool | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__(pretrained, width)
        self.crop_size = crop_size
        self.stride = stride

    def features(self, pair: Tensor) -> list[Tensor]:
        """Return the backbone's outputs for a padded pair."""
        down, right = (
            max(self.crop_size, -(-side // MULTIPLE) * MULTIPLE) - side for side in pair.shape[2:]
        )
        return self.resnet50(F.pad(pair, (0, right, 0, down)))

    def map_of(self, pair: Tensor, x: Tensor) -> Tensor:
        """Return the part of a padded map (.., h', w') that is picture, float32."""
        h, w = ((side - 1) // self.stride + 1 for side in pair.shape[2:])
        return x[..., :h, :w].float()

    def edge(self, pair: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """Return the edge map alone, which is all that the walk needs: (1, h, w) in [0, 1]."""
        features = self.features(pair) if features is None else features
        logits = self.map_of(pair, self.edge_logits(features))
        return torch.sigmoid(logits[0] / 2 + logits[1].flip(2) / 2)

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return the edge map of both, and the displacements of the picture.

        Args:
            pair: (2, 3, H, W), the normalised picture and its mirror image.

        Returns:
            edge: (1, h, w) in [0, 1], sigmoid of the mean logit; h = (H - 1) // 4 + 1.
            displacement: (2, h, w).
        """
        features = self.features(pair)
        displacement = self.displacements([x[:1] for x in features])
        return self.edge(pair, features), self.map_of(pair, displacement)[0]


def loss_sums(losses: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sums whose quotients are the losses of a batch.

    Args:
        losses: the four of :class:`AffinityDisplacementLoss`.
        labels: bg_pos, fg_pos, neg of :func:`tool.indexing.affinity_labels`, (B, O, n) each.

    Returns:
        numerators, denominators: (5,) each, see :func:`loss_terms`.
    """
    positive, negative, dp_fg, dp_bg = losses
    bg, fg, neg = (label.to(positive.dtype) for label in labels)
    numerators = (
        *((bg * positive).sum(), (fg * positive).sum(), (neg * negative).sum()),
        *((fg[:, None] * dp_fg).sum(), (bg[:, None] * dp_bg).sum()),
    )
    counts = [label.count_nonzero() for label in labels]
    return torch.stack(numerators), _denominators(*counts).to(positive.dtype)


def _denominators(bg: Tensor, fg: Tensor, neg: Tensor) -> Tensor:
    return torch.stack([bg, fg, neg, 2 * fg, 2 * bg])  # a displacement has two components


class _FusedLossSums(torch.autograd.Function):
    """Numerators and denominators of all losses, offset by offset; nothing of size O is kept.

    The backward pass computes the path maxima again, which is cheaper than to keep them.
    """

    @staticmethod
    def forward(ctx, edge, displacement, label, num_classes, radius):
        ctx.save_for_backward(edge, displacement, label)
        ctx.settings = num_classes, radius
        sums = edge.new_zeros(3, 3, dtype=torch.float64)  # kinds x (affinity, displacement, count)
        for part in _parts(edge):
            for pair in _pairs(part, edge, displacement, label, num_classes, radius):
                values = torch.stack(pair.losses()).flatten(1)  # (2 or 1, pairs)
                kinds = torch.stack([pair.bg, pair.fg, pair.neg]).flatten(1)  # (3, pairs)
                sums[:, : len(values)] += kinds @ values.T
                sums[:, 2] += kinds.sum(1)
        numerators = torch.cat([sums[:, 0], sums[1:2, 1], sums[:1, 1]])
        denominators = _denominators(*sums[:, 2]).to(edge.dtype)
        ctx.mark_non_differentiable(denominators)
        return numerators.to(edge.dtype), denominators

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        edge, displacement, label = ctx.saved_tensors
        bg, fg, neg, dp_fg, dp_bg = grad.unbind()
        edge_grad = torch.empty_like(edge)
        dp_grad = None if displacement is None else torch.zeros_like(displacement)
        for part in _parts(edge):
            for pair in _pairs(part, edge, displacement, label, *ctx.settings):
                share = pair.bg * bg + pair.fg * fg - pair.neg * neg
                pair.maxima.send_back(share.div_(pair.inside_log), pair.path, pair.area)
                if dp_grad is None:
                    continue
                share = (pair.fg * dp_fg + pair.bg * dp_bg)[:, None] * pair.difference.sign()
                window(dp_grad[part], pair.area).add_(share)
                window(dp_grad[part], pair.area, pair.path.dy, pair.path.dx).sub_(share)
            edge_grad[part] = pair.maxima.gradient()
        return edge_grad, dp_grad, None, None, None


class _Pair:
    """All pairs of one offset: kinds as floats (B, height, width), and what their losses need."""

    def __init__(self, maxima, displacement, labels, path, area) -> None:
        self.maxima, self.path, self.area = maxima, path, area
        best = maxima.over(path, area)  # 1 - affinity
        kinds = labels.kinds(path, area)
        self.bg, self.fg, self.neg = (kind.to(best.dtype) for kind in kinds)
        # -log(p + eps) of a pair that is the same, -log(1 + eps - p) of one that is not
        self.inside_log = torch.where(kinds[2], best, 1 - best).add_(LOSS_EPS)
        self.difference = None
        if displacement is None:
            return
        # The source's displacement less the destination's; less (dy, dx) for foreground.
        end = path.dy, path.dx
        self.difference = window(displacement, area) - window(displacement, area, *end)
        for axis, distance in enumerate(end):
            if distance:
                self.difference[:, axis].sub_(self.fg, alpha=distance)

    def losses(self) -> list[Tensor]:
        affinity = -self.inside_log.log()
        return [affinity] if self.difference is None else [affinity, self.difference.abs().sum(1)]


def _pairs(part, edge, displacement, label, num_classes, radius):
    area = sources(*edge.shape[1:], radius)
    maxima = PathMaxima(edge[part], radius)
    labels = LabelPairs(label[part], num_classes)
    displacement = None if displacement is None else displacement[part]
    for path in search_paths(radius):
        yield _Pair(maxima, displacement, labels, path, area)


def _parts(edge: Tensor) -> list[slice]:
    """CUDA takes the batch at once; the CPU as many pictures as have their numbers in the cache."""
    step = len(edge) if edge.is_cuda else max(1, CACHED // edge[0].numel())
    return [slice(start, start + step) for start in range(0, len(edge), step)]


def fused_loss_sums(
    edge: Tensor, displacement: Tensor | None, label: Tensor, num_classes: int, radius: float
) -> tuple[Tensor, Tensor]:
    """Return what :func:`loss_sums` returns, without the losses and labels of every pair.

    Args:
        edge: (B, 1, h, w) logits, with gradient.
        displacement: (B, 2, h, w), with gradient; None makes its losses 0.
        label: (B, h, w) class ids at stride 4 on the same device, 255 unknown; see
            :func:`tool.indexing.reduce_label`. uint8 (B, h, w) is the cheapest to hand over.
        num_classes: C with background; labels of C and above are unknown.
        radius: r of the pairs.

    Returns:
        numerators (5,) with gradient, denominators (5,), see :func:`loss_terms`.

    Raises:
        InputError: the map holds no pairs.
    """
    with torch.autocast(edge.device.type, enabled=False):  # logarithms want float32
        dtype = torch.promote_types(edge.dtype, torch.float32)
        edge = edge[:, 0].to(dtype).sigmoid()
        displacement = None if displacement is None else displacement.to(dtype)
        return _FusedLossSums.apply(edge, displacement, label, num_classes, radius)


def loss_terms(numerators: Tensor, denominators: Tensor) -> Tensor:
    """Return the four losses of a batch from its sums.

    Both have the entries bg_pos, fg_pos, neg, displacement of foreground, displacement of
    background; a quotient is numerator / (denominator + 1e-5).

    In a distributed run, add the denominators of all R processes first, then train on R times the
    local numerators over them: data parallel training averages gradients, so the result is that of
    the ratios of the whole batch. The sums of the numerators are what to log.

    Returns:
        (4,): positive affinity (bg_pos + fg_pos) / 2, negative affinity, displacement of
        foreground, of background. :func:`total_loss` weighs them.
    """
    bg, fg, *others = (numerators / (denominators + LOSS_EPS)).unbind()
    return torch.stack([(bg + fg) / 2, *others])


def total_loss(terms: Tensor) -> Tensor:
    """Return (pos + neg) / 2 + (dp_fg + dp_bg) / 2 of the terms of :func:`loss_terms`."""
    return terms.sum() / 2
