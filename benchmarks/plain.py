"""SIPE written as its equations stand, with every intermediate tensor: what we measure against.

The results are those of ``net.resnet50_SIPE``. Products are materialised, (B, C, N, N) for the
seeds and (B, C, 768, h, w) for prototypes and cosines; gradients are computed for the frozen
stages too; masks are (B, C, S, S). So does the released code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from net import resnet50_SIPE as fast


@torch.no_grad()
def get_seed(norm_cam: Tensor, label: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Return seeds and probabilities, see ``net.resnet50_SIPE.get_seed``."""
    b, c, h, w = norm_cam.shape
    feature = feature.flatten(2)
    feature = feature / (feature.norm(dim=1, keepdim=True) + fast.CAM_EPS)
    similarity = F.relu(feature.transpose(1, 2) @ feature)[:, None]  # (B, 1, N, N)
    maps = norm_cam.flatten(2)[:, :, None]  # (B, C, 1, N)
    product = similarity * maps  # (B, C, N, N)
    intersection = product.sum(3)
    union = (similarity + maps - product).sum(3).clamp_min(fast.CAM_EPS)
    iou = (intersection / union).view(b, c, h, w)
    iou = torch.cat([iou[:, :1] * fast.BACKGROUND_WEIGHT, iou[:, 1:]], 1)
    seeds = F.one_hot(iou.argmax(1), c).permute(0, 3, 1, 2).to(iou.dtype)
    return seeds * label, iou.softmax(1)


def get_prototype(seeds: Tensor, feature: Tensor) -> Tensor:
    """Return prototypes, see ``net.resnet50_SIPE.get_prototype``."""
    return (seeds[:, :, None] * feature[:, None]).mean((3, 4), keepdim=True)  # (B, C, D, 1, 1)


def reactivate(prototype: Tensor, feature: Tensor) -> Tensor:
    """Return IS-CAM, see ``net.resnet50_SIPE.reactivate``."""
    many = feature[:, None].expand(-1, prototype.shape[1], -1, -1, -1)  # (B, C, D, h, w)
    return F.relu(F.cosine_similarity(many, prototype, dim=2, eps=fast.COSINE_EPS))


class Net(fast.Net):
    """The network of training and inference; gradients run through all that the loss reaches."""

    def __init__(self, *settings: int | None) -> None:
        super().__init__(*settings)
        self.backbone.requires_grad_(True)

    def explore(
        self, cam: Tensor, mask: Tensor, seed_feature: Tensor, feature: Tensor
    ) -> dict[str, Tensor]:
        """Return what the fast network explores, by the functions above."""
        seeds, probs = get_seed(cam, mask, seed_feature)
        prototypes = get_prototype(seeds, feature)
        is_cam = reactivate(prototypes, feature)
        return {"seeds": seeds, "probs": probs, "prototypes": prototypes, "IS_cam": is_cam}

    def forward(self, img: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return what the fast network returns in training, from a mask of full size."""
        whole = F.interpolate(mask, img.shape[2:])
        return fast.Net.forward(self, img, F.interpolate(whole, mask.shape[2:]))
