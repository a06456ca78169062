"""ResNet-50 at output stride 16: the backbone that every step shares.

Layers carry torchvision's names, so ImageNet files load as they are. Three things differ from
torchvision's network, all of them from the released SIPE code:

* strides are 2 (conv1), 2 (max pool), 2 (layer2), 2 (layer3) and 1 (layer4), without dilation;
* batch normalisation always uses the stored mean and variance, in training too;
* the first stages are frozen, and run without gradients or stored activations.
"""

from itertools import chain, pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck

from net.inputs import IMAGENET_MEAN, IMAGENET_STD
from net.weights import Pretrained, read_pretrained, restore
from tool.errors import naming

BLOCKS = (3, 4, 6, 3)
STRIDES = (1, 2, 2, 1)  # of layer1..layer4; torchvision has 2 in layer4
EXPANSION = Bottleneck.expansion  # a bottleneck widens its output four times
# Released files name a backbone as ``resnet50``, as the list ``backbone`` of its stages, and as the
# stages, which the networks count from 0 or from 1; torchvision's have none of these names.
ALIASES = (
    (r"^backbone\.0\.0\.", "conv1."),
    (r"^backbone\.0\.1\.", "bn1."),
    (r"^backbone\.([1-4])\.(?:0\.)?(?=\d+\.(conv|bn|downsample))", r"layer\1."),
    (r"^(?=(conv1|bn1|layer[1-4])\.)", "resnet50."),
)


class FixedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the stored mean and variance, whatever the mode.

    Scale and shift learn unless their stage is frozen; the running statistics never change.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def bottleneck(in_channels: int, channels: int, stride: int) -> Bottleneck:
    """Return torchvision's block: 1x1 reduce, 3x3 with the stride, 1x1 expand, and a shortcut."""
    out_channels = channels * EXPANSION
    downsample = None
    if stride != 1 or in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        downsample = nn.Sequential(conv, FixedBatchNorm(out_channels))
    return Bottleneck(in_channels, channels, stride, downsample, norm_layer=FixedBatchNorm)


class ResNet50(nn.Module):
    """The five stages of ResNet-50: stem, layer1, .. layer4.

    ``width`` is the channels after conv1: 64 is ResNet-50, the demo uses 16. ``frozen_stages`` is
    the index of the last stage that does not learn (0 the stem, 4 everything); frozen stages have
    ``requires_grad`` off, and so build no graph.
    """

    ignored = ("fc.",)  # torchvision's last layer
    in_order = True  # see fold_batch_norm
    strides = (4, 4, 8, 16, 16)
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, width: int = 64, frozen_stages: int = 2) -> None:
        super().__init__()
        self.width = width
        self.config = {"width": width}
        self.channels = [width * factor for factor in (1, 4, 8, 16, 32)]
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = FixedBatchNorm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        in_channels = width
        for number, (blocks, stride) in enumerate(zip(BLOCKS, STRIDES, strict=True), start=1):
            channels = width * 2 ** (number - 1)
            layer = [bottleneck(in_channels, channels, stride)]
            in_channels = channels * EXPANSION
            layer += [bottleneck(in_channels, channels, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*layer))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for stage in self.stages()[: frozen_stages + 1]:
            stage.requires_grad_(False)

    @staticmethod
    def config_of(state: dict[str, Tensor]) -> dict[str, Any]:
        """Return the ``width`` of any state dict that holds this backbone, by any of its names."""
        for name, value in state.items():
            if name.endswith(("conv1.weight", "stage0.0.weight")) and value.shape[1:] == (3, 7, 7):
                return {"width": len(value)}
        return {}

    def stages(self) -> list[nn.Module]:
        """Return the stem (conv1, bn1, ReLU, max pool) and the four layers, in order."""
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool)
        return [stem, *(self.get_submodule(f"layer{number}") for number in range(1, 5))]

    def forward(self, img: Tensor) -> list[Tensor]:
        """Return [x0, x1, x2, x3, x4], what the stages give for (B, 3, H, W) floats, normalised.

        Their widths are ``channels``, their strides ``strides``.
        """
        outputs = []
        for stage in self.stages():
            img = stage(img)
            outputs.append(img)
        return outputs


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Put batch normalisation into the convolution that it follows, in place.

    By stored statistics, a convolution by w and the normalisation after it are one by w * scale /
    deviation, with a bias. Saves some 7 % of inference on a CPU. The network, in evaluation mode,
    can neither learn nor be saved under its names afterwards, and is returned. What has an
    attribute ``in_order`` calls its children in the order in which they are registered.
    """
    ordered = [module for module in net.modules() if getattr(module, "in_order", False)]
    for module in chain.from_iterable(list(one.modules()) for one in ordered):
        for (before, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d):
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, name, nn.Identity())
    return net


def build_backbone(pretrained: Pretrained, width: int | None, frozen_stages: int) -> ResNet50:
    """Return a backbone; weights that do not fit, or contradict ``width``, raise an InputError.

    Args:
        pretrained: see :func:`net.weights.read_pretrained`.
        width: channels after conv1; ``None`` reads it off the weights (64 without any).
        frozen_stages: as in :class:`ResNet50`.
    """
    options = {"frozen_stages": frozen_stages}
    if width is not None:
        options["width"] = width
    state = read_pretrained(pretrained)
    if state is None:
        return ResNet50(**options)
    with naming(pretrained):
        return restore(ResNet50, state, **options).train()
