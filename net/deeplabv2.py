"""DeepLab v2 on ResNet-101 at three scales, the first of the two networks of step 3.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", TPAMI 2018, as kazuto1011/deeplab-pytorch computes it; tensors carry that
project's names. Letters in shapes: B pictures, C classes with background at index 0, H x W the
picture, h x w the map at stride 8.

``net.deeplabv2_weights`` makes the network from files: ``build`` to train it, ``restore`` where it
has been trained.
"""

import importlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.resnet50 import EXPANSION, FixedBatchNorm
from net.segmentation import SegmentationNetwork
from tool.aliases import also_accept

BLOCKS = (3, 4, 23, 3)
STRIDES = (1, 2, 1, 1)  # of layer2..layer5, which torchvision calls layer1..layer4
DILATIONS = (1, 1, 2, 4)
HEAD_DILATIONS = (6, 12, 18, 24)
HEAD_DEVIATION = 0.01  # of the head's first weights; its biases start at zero
SCALES = (0.5, 0.75)  # of the picture, beside its own size
MEAN_BGR = (104.008, 116.669, 122.675)  # grey levels 0..255
# Which convolution of a block has the stride: the 1x1 in the published network, the 3x3 in
# torchvision's. The tensors are the same, what they were trained to see is not.
STRIDE_ON = ("reduce", "conv3x3")


class ConvBN(nn.Sequential):
    """Convolution and batch normalisation by the stored statistics, named ``conv`` and ``bn``."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = dilation * (size // 2)
        conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=FixedBatchNorm(outputs)))


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 dilated, 1x1 increase; the first of a layer has a convolved shortcut."""

    def __init__(
        self, inputs: int, channels: int, stride: int, dilation: int, first: bool, stride_on: str
    ) -> None:
        super().__init__()
        strides = (stride, 1) if stride_on == "reduce" else (1, stride)
        outputs = channels * EXPANSION
        self.reduce = ConvBN(inputs, channels, 1, strides[0])
        self.conv3x3 = ConvBN(channels, channels, 3, strides[1], dilation)
        self.increase = ConvBN(channels, outputs, 1)
        self.shortcut = ConvBN(inputs, outputs, 1, stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.reduce(x), inplace=True)
        out = F.relu(self.conv3x3(out), inplace=True)
        return F.relu(self.increase(out).add_(self.shortcut(x)), inplace=True)


class Head(nn.Module):
    """Sum of four dilated 3x3 convolutions (atrous spatial pyramid pooling), c0..c3."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        for number, dilation in enumerate(HEAD_DILATIONS):
            conv = nn.Conv2d(inputs, num_classes, 3, padding=dilation, dilation=dilation)
            self.add_module(f"c{number}", conv)

    def forward(self, x: Tensor) -> Tensor:
        return sum(dilated_3x3(x, conv) for conv in self.children())


def dilated_3x3(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return ``conv(x)`` of a dilated 3x3 convolution, without the taps that see padding alone.

    Along a side no longer than the dilation, only the middle one sees more: on the half-size copy
    of a crop of 321, 21 cells wide, dilation 24 leaves one tap of nine.

    Args:
        x: (B, I, h, w).
        conv: 3x3 from I to O channels, stride 1, padding equal to its dilation.

    Returns:
        (B, O, h, w).
    """
    taps, padding = [slice(None)] * 2, list(conv.padding)
    for axis, side in enumerate(x.shape[2:]):
        if conv.dilation[axis] >= side:
            taps[axis], padding[axis] = slice(1, 2), 0
    weight = conv.weight[:, :, taps[0], taps[1]]
    return F.conv2d(x, weight, conv.bias, 1, padding, conv.dilation)


class DeepLabV2(nn.Sequential):
    """The network at one scale: (B, 3, H, W) to logits (B, C, h, w) at stride 8."""

    def __init__(
        self, num_classes: int, width: int, blocks: tuple[int, int, int, int], stride_on: str
    ) -> None:
        stem = OrderedDict(
            conv1=ConvBN(3, width, 7, 2),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        )
        layers = OrderedDict(layer1=nn.Sequential(stem))
        inputs, channels = width, width
        for number, count in enumerate(blocks):
            stride, dilation = STRIDES[number], DILATIONS[number]
            layer = OrderedDict()
            for block in range(count):
                first = block == 0
                layer[f"block{block + 1}"] = Bottleneck(
                    inputs, channels, stride if first else 1, dilation, first, stride_on
                )
                inputs = channels * EXPANSION
            layers[f"layer{number + 2}"] = nn.Sequential(layer)
            channels *= 2
        super().__init__(layers)
        self.add_module("aspp", Head(inputs, num_classes))


class DeepLabV2_ResNet101_MSC(SegmentationNetwork):
    """DeepLab v2 on the picture and two smaller copies of it, fused by the maximum.

    Batch normalisation is frozen here and nowhere else: it always uses the stored statistics, and
    its scale and shift have ``requires_grad`` off. Every convolution learns.

    Args:
        num_classes: with background, C.
        width: channels after the first convolution; 64 is the published network.
        blocks: bottlenecks of the four layers; (3, 4, 6, 3) makes it a ResNet-50.
        stride_on: ``"reduce"``, the published network, or ``"conv3x3"``, which computes what
            torchvision's weights were trained for.
    """

    align_corners = False
    head = ("base.aspp.",)

    @also_accept(n_classes="num_classes")
    def __init__(
        self,
        num_classes: int,
        width: int = 64,
        blocks: Iterable[int] = BLOCKS,
        stride_on: str = "reduce",
    ) -> None:
        super().__init__()
        blocks = tuple(blocks)
        if stride_on not in STRIDE_ON:
            raise ValueError(f"stride_on is one of {STRIDE_ON}, not {stride_on!r}")
        if len(blocks) != len(BLOCKS) or min(blocks) < 1:
            raise ValueError(f"blocks are {len(BLOCKS)} counts of at least 1, not {blocks}")
        self.config = {
            "num_classes": num_classes,
            "width": width,
            "blocks": list(blocks),
            "stride_on": stride_on,
        }
        self.base = DeepLabV2(num_classes, width, blocks, stride_on)
        for name, module in self.named_modules():
            if self.is_head(name) and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=HEAD_DEVIATION)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, FixedBatchNorm):
                module.requires_grad_(False)

    @staticmethod
    def normalise(pictures: Tensor) -> Tensor:
        """Return BGR minus the mean, float32, of RGB pictures (.., 3, H, W) of 0..255."""
        mean = torch.tensor(MEAN_BGR, device=pictures.device)[:, None, None]
        return pictures.flip(-3).float() - mean

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits.

        Args:
            x: (B, 3, H, W) from ``prepare``.

        Returns:
            Evaluation: (B, C, h, w), the maximum over the scales.
            Training: [own size, half, three quarters, maximum], each (B, C, its h, its w).
        """
        logits = self.base(x)
        fused, outputs = logits, [logits]
        for scale in SCALES:
            smaller = self.base(shrink(x, scale))
            fused = torch.maximum(fused, self.resize(smaller, logits.shape[2:]))
            if self.training:
                outputs.append(smaller)
        return [*outputs, fused] if self.training else fused

    @staticmethod
    def canonical_name(name: str, shape: tuple[int, ...]) -> str:
        """Return our name of a tensor of deeplab-pytorch, whose one-scale files lack ``base.``."""
        return name if name.startswith("base.") else f"base.{name}"


def shrink(x: Tensor, scale: float) -> Tensor:
    """Return (B, 3, floor(H * scale), floor(W * scale)), bilinear, no side below 1.

    Positions are mapped by ``scale`` itself and not by the ratio of the rounded sides, unless a
    side would be below 1.
    """
    if min(x.shape[2:]) * scale < 1:
        size = tuple(max(1, int(side * scale)) for side in x.shape[2:])
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def __getattr__(name: str) -> Any:
    """Return ``build`` or ``restore``, which other code also looks for here."""
    if name not in ("build", "restore"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("net.deeplabv2_weights"), name)
