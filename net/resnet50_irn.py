"""IRN: class boundaries and displacements to instance centres, learnt from confident areas.

Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
2019, as SIPE uses it and as the released code computes it. The loss is :mod:`net.irn_loss`.

Letters in shapes: B pictures, H x W pixels, h x w the map at stride 4.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import prepare
from net.resnet50 import ALIASES, ResNet50, build_backbone
from net.weights import Pretrained
from tool.indexing import STRIDE
from tool.optimizer import parameter_group

DISPLACEMENT_LR = 10  # the displacement branches learn ten times faster than the edge branches
MULTIPLE = 16  # the output stride of the backbone; larger pictures are padded to a multiple of it


def branch(in_channels: int, out_channels: int, groups: int, upsample: int = 1) -> nn.Sequential:
    """Return 1x1 convolution, group normalisation, bilinear upsampling when above 1, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    layers = nn.Sequential(conv, nn.GroupNorm(groups, out_channels))
    if upsample > 1:
        layers.append(nn.Upsample(scale_factor=upsample, mode="bilinear", align_corners=False))
    return layers.append(nn.ReLU(inplace=True))


def cut(x: Tensor, like: Tensor) -> Tensor:
    """Return the top left of a map, of another map's size."""
    return x[..., : like.shape[-2], : like.shape[-1]]


class MeanShift(nn.Module):
    """Subtract a mean, in evaluation mode only; the training program measures it at its end."""

    running_mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x - self.running_mean[:, None, None]


class Net(nn.Module):
    """Edge and displacement branches on a backbone that does not learn.

    For the arguments see :func:`net.resnet50.build_backbone`; ``config`` holds those that make the
    network again, see :func:`net.weights.restore`.
    """

    # The released network registers its branches twice, and the mean shift as part of fc_dp7 too.
    aliases = (
        (r"^stage(\d)\.", lambda match: f"backbone.{int(match[1]) - 1}."),
        (r"^(edge|dp)_layers\.(\d)\.", lambda match: f"fc_{match[1]}{int(match[2]) + 1}."),
        (r"^fc_dp7\.\d+\.running_mean$", "mean_shift.running_mean"),
        *ALIASES,
    )
    # Index tensors, and torchvision's last layer.
    ignored = ("path_indices", "indices_", "disp_target", "fc.", "resnet50.fc.")
    config_of = staticmethod(ResNet50.config_of)

    def __init__(self, pretrained: Pretrained, width: int | None) -> None:
        super().__init__()
        self.resnet50 = build_backbone(pretrained, width, frozen_stages=4)
        self.config = self.resnet50.config
        width = self.resnet50.width
        self.fc_edge1 = branch(width, 32, 4)
        self.fc_edge2 = branch(4 * width, 32, 4)
        self.fc_edge3 = branch(8 * width, 32, 4, upsample=2)
        self.fc_edge4 = branch(16 * width, 32, 4, upsample=4)
        self.fc_edge5 = branch(32 * width, 32, 4, upsample=4)
        self.fc_edge6 = nn.Conv2d(5 * 32, 1, 1)  # of branches 1 to 5
        self.fc_dp1 = branch(width, 64, 8)
        self.fc_dp2 = branch(4 * width, 128, 16)
        self.fc_dp3 = branch(8 * width, 256, 16)
        self.fc_dp4 = branch(16 * width, 256, 16, upsample=2)
        self.fc_dp5 = branch(32 * width, 256, 16, upsample=2)
        self.fc_dp6 = branch(3 * 256, 256, 16, upsample=2)  # of branches 3 to 5
        self.fc_dp7 = branch(64 + 128 + 256, 256, 16)  # of branches 1, 2 and 6
        self.fc_dp7.append(nn.Conv2d(256, 2, 1, bias=False))
        self.mean_shift = MeanShift(2)

    prepare = staticmethod(prepare)

    def branch_parameters(self, prefix: str) -> list[nn.Parameter]:
        """Return the weights of all ``fc_edge`` or ``fc_dp`` branches."""
        return [weight for name, weight in self.named_parameters() if name.startswith(prefix)]

    def trainable_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups: edges, and displacements at ten times their rate."""
        edge, displacement = self.branch_parameters("fc_edge"), self.branch_parameters("fc_dp")
        return [
            parameter_group("edges", edge, lr, 1, weight_decay),
            parameter_group("displacements", displacement, lr, DISPLACEMENT_LR, weight_decay),
        ]

    def stage_outputs(self, prefix: str, features: list[Tensor]) -> list[Tensor]:
        """Return what the branches 1 to 5 make of the backbone's five outputs."""
        return [self.get_submodule(f"{prefix}{n}")(x) for n, x in enumerate(features, start=1)]

    def edge_logits(self, features: list[Tensor]) -> Tensor:
        """Return the edge map from the backbone's five outputs: logits (B, 1, h, w)."""
        edges = self.stage_outputs("fc_edge", features)
        return self.fc_edge6(torch.cat([cut(x, edges[1]) for x in edges], 1))

    def displacements(self, features: list[Tensor]) -> Tensor:
        """Return (B, 2, h, w), (dy, dx) in cells; in evaluation mode less the stored mean."""
        dp = self.stage_outputs("fc_dp", features)
        deep = self.fc_dp6(torch.cat([cut(x, dp[2]) for x in dp[2:]], 1))  # (B, 256, h', w')
        return self.mean_shift(self.fc_dp7(torch.cat([dp[0], dp[1], cut(deep, dp[1])], 1)))


class AffinityDisplacementLoss(Net):
    """The network in training; :func:`net.irn_loss.loss_sums` takes its maps.

    With ``edge_only``, the displacement branches stay as they start; the two kinds of branches
    share nothing that learns, so edges come out the same.
    """

    def __init__(
        self,
        pretrained: Pretrained = "imagenet",
        width: int | None = None,
        edge_only: bool = False,
    ) -> None:
        super().__init__(pretrained, width)
        self.edge_only = edge_only
        for parameter in self.branch_parameters("fc_dp"):
            parameter.requires_grad_(not edge_only)

    def forward(self, img: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return edge logits (B, 1, h, w) and displacements (B, 2, h, w) in cells.

        The pictures are (B, 3, H, W) from :meth:`Net.prepare`. Where only edges learn, None stands
        for the displacements.
        """
        features = self.resnet50(img)
        edge = self.edge_logits(features)
        return edge, None if self.edge_only else self.displacements(features)


class EdgeDisplacement(Net):
    """The network at inference: a picture and its mirror image.

    Pictures are zero-padded right and below to at least ``crop_size`` pixels a side, since the
    group statistics were learnt on such windows. Larger sides go to the next multiple of 16;
    nothing is ever cut off.
    """

    def __init__(
        self, crop_size: int = 512, pretrained: Pretrained = None, width: int | None = None
    ) -> None:
        super().__init__(pretrained, width)
        self.crop_size = crop_size

    def edge(self, pair: Tensor) -> Tensor:
        """Return the edge map alone, which is all that the walk needs: (1, h, w) in [0, 1]."""
        return self(pair, edge_only=True)[0]

    def forward(self, pair: Tensor, edge_only: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return edges (1, h, w) in [0, 1], sigmoid of the mean logit, and displacements (2, h, w).

        The pair (2, 3, H, W) from :meth:`Net.prepare` is a picture and its mirror image; the
        displacements are those of the picture; h = (H - 1) // 4 + 1. Where only edges are asked
        for, None stands for the displacements.
        """
        height, width = (max(self.crop_size, side + -side % MULTIPLE) for side in pair.shape[2:])
        padding = (0, width - pair.shape[3], 0, height - pair.shape[2])
        features = self.resnet50(F.pad(pair, padding))
        h, w = ((side - 1) // STRIDE + 1 for side in pair.shape[2:])
        logits = self.edge_logits(features)[..., :h, :w].float()
        edge = torch.sigmoid(logits[0] / 2 + logits[1].flip(2) / 2)
        if edge_only:
            return edge, None
        displacement = self.displacements([x[:1] for x in features])
        return edge, displacement[0, :, :h, :w].float()
