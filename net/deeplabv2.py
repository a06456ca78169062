"""DeepLab v2 on ResNet-101 at three scales, the first of the two networks of step 3.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", TPAMI 2018, as kazuto1011/deeplab-pytorch computes it; tensors carry that
project's names. Letters in shapes: B pictures, C classes with background at index 0, H x W the
picture, h x w the map at stride 8. ``net.deeplabv2_weights`` makes the network from files.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.resnet50 import EXPANSION, FixedBatchNorm
from net.segmentation import Blocks, SegmentationNetwork
from tool.constants import constant
from tool.errors import InputError

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
        self, inputs: int, channels: int, stride: int, dilation: int, stride_on: str
    ) -> None:
        super().__init__()
        strides = (stride, 1) if stride_on == "reduce" else (1, stride)
        outputs = channels * EXPANSION
        self.reduce = ConvBN(inputs, channels, 1, strides[0])
        self.conv3x3 = ConvBN(channels, channels, 3, strides[1], dilation)
        self.increase = ConvBN(channels, outputs, 1)
        self.shortcut = ConvBN(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.reduce(x), inplace=True)
        out = F.relu(self.conv3x3(out), inplace=True)
        return F.relu(self.increase(out).add_(self.shortcut(x)), inplace=True)


class Head(nn.Module):
    """Sum of four dilated 3x3 convolutions (atrous spatial pyramid pooling), c0..c3."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        for number, d in enumerate(HEAD_DILATIONS):
            setattr(self, f"c{number}", nn.Conv2d(inputs, num_classes, 3, padding=d, dilation=d))

    def forward(self, x: Tensor) -> Tensor:
        return sum(dilated_3x3(x, conv) for conv in self.children())


def dilated_3x3(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return ``conv(x)`` of a dilated 3x3 convolution, without the taps that see padding alone.

    Along a side no longer than the dilation, only the middle one sees more: on the half-size copy
    of a crop of 321, 21 cells wide, dilation 24 leaves one tap of nine.

    The convolution, from (B, I, h, w) to (B, O, h, w), has stride 1 and pads by its dilation.
    """
    taps, padding = [slice(None)] * 2, list(conv.padding)
    for axis, side in enumerate(x.shape[2:]):
        if conv.dilation[axis] >= side:
            taps[axis], padding[axis] = slice(1, 2), 0
    weight = conv.weight[:, :, taps[0], taps[1]]
    return F.conv2d(x, weight, conv.bias, 1, padding, conv.dilation)


class DeepLabV2(nn.Sequential):
    """The network at one scale: (B, 3, H, W) to logits (B, C, h, w) at stride 8."""

    def __init__(self, num_classes: int, width: int, blocks: Blocks, stride_on: str) -> None:
        super().__init__()
        conv1, pool = ConvBN(3, width, 7, 2), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.layer1 = nn.Sequential(OrderedDict(conv1=conv1, relu=nn.ReLU(inplace=True), pool=pool))
        inputs = width
        stages = zip(blocks, STRIDES, DILATIONS, strict=True)
        for number, (count, stride, dilation) in enumerate(stages):
            channels, layer = width * 2**number, nn.Sequential()
            for block in range(1, count + 1):
                bottleneck = Bottleneck(inputs, channels, stride, dilation, stride_on)
                layer.add_module(f"block{block}", bottleneck)
                inputs, stride = channels * EXPANSION, 1  # only the first block has the stride
            self.add_module(f"layer{number + 2}", layer)
        self.aspp = Head(inputs, num_classes)


class DeepLabV2_ResNet101_MSC(SegmentationNetwork):
    """DeepLab v2 on the picture and two smaller copies of it, fused by the maximum.

    Batch normalisation is frozen here and nowhere else: it always uses the stored statistics, and
    its scale and shift have ``requires_grad`` off. Every convolution learns.

    Args:
        num_classes, width, blocks: see the base class; blocks (3, 4, 6, 3) make it a ResNet-50.
        stride_on: ``"reduce"``, the published network, or ``"conv3x3"``, which computes what
            torchvision's weights were trained for.
    """

    align_corners = False
    head = ("base.aspp.",)
    prefix = "base."  # which files of one scale lack
    stem, classifier = "base.layer1.conv1.conv.weight", "base.aspp.c0.weight"
    block = r"base\.layer([2-5])\.block\d+\."
    other_heads = ("fc.", "base.fc.")  # the classifiers of a ResNet and of DeepLab v1

    def __init__(
        self, num_classes: int, width: int = 64, blocks: Blocks = BLOCKS, stride_on: str = "reduce"
    ) -> None:
        super().__init__(num_classes, width, blocks, stride_on=stride_on)
        if stride_on not in STRIDE_ON:
            raise InputError(f"stride_on is one of {STRIDE_ON}, not {stride_on!r}")
        self.base = DeepLabV2(**self.config)
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
        mean = constant(MEAN_BGR, pictures.device)
        return pictures.flip(-3).float() - mean[:, None, None]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits of (B, 3, H, W) from ``prepare``.

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


def shrink(x: Tensor, scale: float) -> Tensor:
    """Return (B, 3, floor(H * scale), floor(W * scale)), bilinear, no side below 1.

    Positions are mapped by ``scale`` itself and not by the ratio of the rounded sides, unless a
    side would be below 1.
    """
    to = {"scale_factor": scale}
    if min(x.shape[2:]) * scale < 1:
        to = {"size": [max(1, int(side * scale)) for side in x.shape[2:]]}
    return F.interpolate(x, **to, mode="bilinear", align_corners=False)
