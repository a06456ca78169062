"""SIPE: image-specific prototype exploration and general-specific consistency.

Chen et al., "Self-supervised Image-specific Prototype Exploration for Weakly Supervised Semantic
Segmentation", CVPR 2022, as its released code computes it.

Letters in shapes: B pictures, K foreground classes, C = K + 1 classes with background at index 0,
D feature channels, h x w the map (at stride 16 for ResNet-50), N = h * w positions. x1..x4 are the
last stages of the backbone, of which other networks than ResNet-50 may have less.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net import backbones
from net.method import Method
from net.resnet50 import ALIASES, ResNet50
from net.weights import Pretrained
from tool.errors import InputError

CAM_EPS = 1e-5  # added to maxima and norms before dividing
COSINE_EPS = 1e-8  # smallest norm in a cosine
BACKGROUND_WEIGHT = 0.5  # the released code halves the background's soft IoU before the argmax
SEED_FEATURES = ("hierarchical", "semantic")
COMPETITORS = ("all", "present")
SIDES = (128, 128, 256, 256)  # widths of the projections of x1..x4, together the 768 of F_h
BLOCK = 1024  # positions whose similarities with all others are held at once


def general_cam(logits: Tensor) -> Tensor:
    """Return class activation maps with a background map in front, (B, C, h, w) in [0, 1].

    M_k = relu(logits_k) / (max over positions + 1e-5); M_0 = 1 - max over k of M_k. The logits
    (B, K, h, w) are outputs of the 1x1 classifier. Absent classes have maps too.
    """
    cam = F.relu(logits)
    cam = cam / (cam.amax((2, 3), keepdim=True) + CAM_EPS)  # (B, K, h, w)
    background = 1 - cam.amax(1, keepdim=True)  # (B, 1, h, w)
    return torch.cat([background, cam], 1)


@torch.no_grad()
def get_seed(
    norm_cam: Tensor,
    label: Tensor,
    feature: Tensor,
    background_weight: float = BACKGROUND_WEIGHT,
) -> tuple[Tensor, Tensor]:
    """Return structure-aware seeds: positions that surely belong to a class.

    The positions similar to i form a soft region, S_ij = relu(cosine of the features of i and j).
    It is compared with every map M_c by the soft IoU A_c(i) = I / U, where I = sum_j S_ij M_c(j)
    and U = sum_j S_ij + sum_j M_c(j) - I, which is zero only where the feature of i and M_c are.
    A_0 is weighed, and i becomes a seed of the class of the largest A_c(i).

    Args:
        norm_cam: (B, C, h, w) maps M in [0, 1].
        label: broadcastable to (B, C, h, w); seeds are multiplied by it (valid mask or label).
        feature: (B, D, h, w) of any range.
        background_weight: the factor of A_0, 0.5 in the released code.

    Returns:
        seeds: (B, C, h, w) in {0, 1} times ``label``, at most one class a position.
        probs: (B, C, h, w), softmax of A over classes. Neither carries a gradient.
    """
    maps, feature = norm_cam.flatten(2), feature.flatten(2)  # (B, C, N), (B, D, N)
    feature = feature / (feature.norm(dim=1, keepdim=True) + CAM_EPS)
    parts = []
    # An ONNX file has no loop: it compares all positions at once, however many there are.
    blocks = feature.split(BLOCK, 2) if feature.shape[2] > BLOCK else (feature,)
    for some in blocks:
        similarity = (feature.transpose(1, 2) @ some).relu_()  # (B, N, n)
        intersection = maps @ similarity  # (B, C, n)
        union = similarity.sum(1, keepdim=True) + maps.sum(2, keepdim=True) - intersection
        parts.append(intersection / union.clamp_min(CAM_EPS))
    iou = torch.cat(parts, 2)  # (B, C, N)
    iou[:, 0] *= background_weight
    seeds = torch.zeros_like(iou).scatter_(1, iou.argmax(1, keepdim=True), 1)
    return seeds.view_as(norm_cam) * label, iou.softmax(1).view_as(norm_cam)


def get_prototype(seeds: Tensor, feature: Tensor) -> Tensor:
    """Return P_c (B, C, D, 1, 1), the mean over all h * w positions of seeds_c * feature.

    The seeds are (B, C, h, w); a class without any gets zero. The feature is (B, D, h, w), and the
    gradient flows through it.
    """
    n = seeds.shape[2] * seeds.shape[3]
    prototype = seeds.flatten(2) @ feature.flatten(2).transpose(1, 2) / n  # (B, C, D)
    return prototype[..., None, None]


def reactivate(prototype: Tensor, feature: Tensor) -> Tensor:
    """Return IS_c = relu(cosine(feature, P_c)), (B, C, h, w) in [0, 1]; norms are clamped at 1e-8.

    The prototype is (B, C, D, 1, 1), the feature (B, D, h, w). Where either is zero, so is IS.
    """
    prototype = F.normalize(prototype[..., 0, 0], dim=2, eps=COSINE_EPS)  # (B, C, D)
    direction = F.normalize(feature.flatten(2), dim=1, eps=COSINE_EPS)  # (B, D, N)
    return F.relu(prototype @ direction).unflatten(2, feature.shape[2:])


def consistency_loss(cam: Tensor, is_cam: Tensor) -> Tensor:
    """Return L_gsc, mean over B, C, h, w of |cam - IS / (max over h, w of IS + 1e-5)|.

    Absent classes count as zeros, as in the released code, so the term is about four times weaker
    with 81 classes than with 21. The gradient flows through both maps and their maxima. Both maps
    are (B, C, h, w), and ``cam`` is already times the valid mask.
    """
    return (cam - is_cam / (is_cam.amax((2, 3), keepdim=True) + CAM_EPS)).abs().mean()


def resized(x: Tensor, size: torch.Size) -> Tensor:
    """Return maps (B, D, h', w') of another size, resized bilinearly."""
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Net(Method):
    """Classifier, hierarchical feature and IPE.

    Args:
        num_classes: C, with background.
        pretrained, width, backbone: see :func:`net.backbones.build`.

    Attributes:
        stride: of the maps, that of the backbone's last stage but one.
        seed_feature: feature whose similarities make the seeds of :meth:`localize`:
            ``"hierarchical"`` (F_h, released code) or ``"semantic"`` (x4, as in training).
        competitors: classes that take part in the argmax of these seeds: ``"all"`` (released code;
            pixels that an absent class wins get no seed) or ``"present"``.
        background_weight: of the background's soft IoU in the seeds, in training too.
    """

    # The released network registers its heads twice.
    aliases = (
        (r"^stage", "backbone."),
        (r"^newly_added\.0\.", "classifier."),
        (r"^newly_added\.", "side"),
        *ALIASES,
        (r"^resnet50\.", "backbone."),
    )
    seed_feature, competitors = SEED_FEATURES[0], COMPETITORS[0]
    background_weight = BACKGROUND_WEIGHT

    def __init__(
        self,
        num_classes: int = 21,
        pretrained: Pretrained = "imagenet",
        width: int | None = None,
        backbone: str = backbones.RESNET50,
    ) -> None:
        built = backbones.build(backbone, pretrained, width)
        super().__init__(num_classes, **built.config)
        self.backbone = built
        self.stride, self.mean, self.std = built.strides[-2], built.mean, built.std
        conv = partial(nn.Conv2d, kernel_size=1, bias=False)
        self.classifier = conv(built.channels[-1], num_classes - 1)
        stages = zip(built.channels[-len(SIDES) :], SIDES, strict=False)
        for number, (channels, features) in enumerate(stages, start=1):
            self.add_module(f"side{number}", conv(channels, features))

    @staticmethod
    def config_of(state: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments that make the network of a published file, of its tensors.

        Where they hold no classifier, it raises an InputError.
        """
        for name, value in state.items():
            if name.endswith("classifier.weight") and value.ndim == 4:
                return {"num_classes": len(value) + 1, **ResNet50.config_of(state)}
        raise InputError(
            "It holds no classifier of step 1. A segmentation network of another project needs "
            "--model."
        )

    def forward_features(self, img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what one pass of the backbone gives for (B, 3, H, W), normalised.

        They are logits (B, K, h, w), hierarchical feature F_h (B, 768, h, w) and x4 (B, 2048, h,
        w); float32 also where autocast runs the convolutions in less. All have the size of x3: that
        of x4, where it is smaller, is resized.
        """
        stages = self.backbone(img)[-len(SIDES) :]  # x1..x4
        size = stages[-2].shape[2:]
        parts = []
        for number, x in enumerate(stages, start=1):
            side = self.get_submodule(f"side{number}")
            x = side(x.detach()).float()  # the side layers do not teach the backbone
            x = x / (x.norm(dim=1, keepdim=True) + CAM_EPS)
            parts.append(resized(x, size))
        last = resized(stages[-1], size)
        return self.classifier(last).float(), torch.cat(parts, 1), last.float()

    def explore(
        self, cam: Tensor, mask: Tensor, seed_feature: Tensor, feature: Tensor
    ) -> dict[str, Tensor]:
        """Return image-specific prototype exploration, the same in training and inference.

        Args:
            cam: (B, C, h, w) maps in [0, 1] that compete for seeds.
            mask: broadcastable to (B, C, h, w), where a class may have seeds.
            seed_feature: (B, D, h, w), whose similarities make the seeds.
            feature: (B, 768, h, w), F_h.

        Returns:
            seeds, probs, IS_cam (B, C, h, w); prototypes (B, C, 768, 1, 1). Autocast does not
            round them.
        """
        with torch.autocast(cam.device.type, enabled=False):
            seeds, probs = get_seed(cam, mask, seed_feature, self.background_weight)
            prototypes = get_prototype(seeds, feature)
            is_cam = reactivate(prototypes, feature)
        return {"seeds": seeds, "probs": probs, "prototypes": prototypes, "IS_cam": is_cam}

    def forward(self, img: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
        """Return scores and both maps of a training batch.

        Args:
            img: (B, 3, H, W), of :meth:`prepare`.
            valid_mask: (B, C, h, w), 1 inside the picture for background and the classes present,
                else 0.

        Returns:
            score (B, K, 1, 1); cam, IS_cam, seeds, probs (B, C, h, w); prototypes
            (B, C, 768, 1, 1). ``cam`` is already times the mask; ``IS_cam`` is not normalised.
        """
        logits, feature, x4 = self.forward_features(img)
        cam = general_cam(logits) * valid_mask
        score = logits.mean((2, 3), keepdim=True)
        return {"score": score, "cam": cam, **self.explore(cam, valid_mask, x4, feature)}

    def losses(self, out: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return CLS (classification) and GSC (general-specific consistency)."""
        return {
            **super().losses(out, label),
            "GSC": consistency_loss(out["cam"], out["IS_cam"]),
        }

    def scores(self, img: Tensor) -> Tensor:
        """Return logits (B, K) of whole pictures (B, 3, H, W)."""
        return self.forward_features(img)[0].mean((2, 3))

    def localize(self, pairs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return CAM and IS-CAM of pictures and their mirror images, (B, C, h, w) in [0, 1].

        CAM includes absent classes, of which IS-CAM is zero.
        """
        stages = self.stages(self.views(pairs), labels)
        return stages["cam"], stages["IS_cam"]

    def views(self, pairs: Tensor) -> tuple[Tensor, ...]:
        """Return what :meth:`forward_features` does, summed over a picture and its mirror image."""
        return tuple(x[::2] + x[1::2].flip(3) for x in self.forward_features(pairs))

    def stages(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        """Return what all steps of the method give, of :meth:`views` and labels (B, C, 1, 1).

        They are ``cam``, what :meth:`explore` returns, and ``feature`` (B, D, h, w), whose
        similarities make the seeds.
        """
        logits, feature, x4 = views
        cam = general_cam(logits)
        cam = {"all": cam, "present": cam * labels}[self.competitors]
        seed_feature = {"hierarchical": feature, "semantic": x4}[self.seed_feature]
        explored = self.explore(cam, labels, seed_feature, feature)
        return {"cam": cam, "feature": seed_feature, **explored}


class CAM(Net):
    """The network at inference under its published name: one picture, one scale."""

    def forward(self, pair, label):
        """Return both maps, (C, h, w), as :meth:`localize` does.

        The pair is (2, 3, H, W), the normalised picture and its mirror image; the label (C, 1, 1)
        in {0, 1}, background 1.
        """
        cam, is_cam = self.localize(pair, label[None])
        return cam[0], is_cam[0]
