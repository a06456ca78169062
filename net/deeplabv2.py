"""DeepLab v2 on ResNet-101 at three scales, the first of the two networks of step 3.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", TPAMI 2018, as kazuto1011/deeplab-pytorch computes it; tensors carry that
project's names. Letters in shapes: B pictures, C classes with background at index 0, H x W the
picture, h x w the map at stride 8 or 16.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import IMAGENET_MEAN, IMAGENET_STD
from net.resnet50 import BLOCKS as RESNET50
from net.resnet50 import EXPANSION, FixedBatchNorm
from net.resnet50_SIPE import Net
from net.segmentation import Blocks, SegmentationNetwork, conv
from tool.checkpoint import renamed
from tool.constants import constant
from tool.errors import InputError

BLOCKS = (3, 4, 23, 3)
# Strides and dilations of layer2..layer5, which torchvision calls layer1..layer4, by the stride of
# the logits: those of the published network, and those of the classifier of step 1.
STAGES = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 1))}
HEAD_DILATIONS = (6, 12, 18, 24)
# Of a head that starts from a classifier of step 1: what the classifier's logits are divided by,
# and the first logit of background.
TEMPERATURE, FIRST_BACKGROUND = 4.0, 4.0
POOL = "base.aspp.pool."  # how the names of the convolution of image pooling begin
HEAD_DEVIATION = 0.01  # of the head's first weights; its biases start at zero
MSC_SCALES = (0.5, 0.75)  # of the picture, beside its own size, as published
# Bytes that a training pass keeps of a pixel of a window, float32: 13,100 to 14,100.
PIXEL_BYTES = 14_100
MEAN_BGR = (104.008, 116.669, 122.675)  # grey levels 0..255
# Which convolution of a block has the stride: the 1x1 in the published network, the 3x3 in
# torchvision's. The tensors are the same, what they were trained to see is not.
STRIDE_ON = ("reduce", "conv3x3")
STEM = "conv1.weight"  # in files of torchvision, and in no others
BACKBONE, CLASSIFIER = "backbone.", "classifier.weight"  # our names in files of step 1


class ConvBN(nn.Sequential):
    """Convolution and batch normalisation by the stored statistics, which learns nothing."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, size, stride, dilation)
        self.bn = FixedBatchNorm(outputs).requires_grad_(False)


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
    """Sum of four dilated 3x3 convolutions (atrous spatial pyramid pooling), c0..c3.

    Image pooling adds a 1x1 convolution of the mean over all positions, ``pool``, as in DeepLab v3
    (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017).
    """

    def __init__(self, inputs: int, num_classes: int, image_pooling: bool) -> None:
        super().__init__()
        for number, d in enumerate(HEAD_DILATIONS):
            setattr(self, f"c{number}", nn.Conv2d(inputs, num_classes, 3, padding=d, dilation=d))
        self.pool = nn.Conv2d(inputs, num_classes, 1) if image_pooling else None

    def forward(self, x: Tensor) -> Tensor:
        convs: list[Any] = [self.get_submodule(f"c{n}") for n in range(len(HEAD_DILATIONS))]
        first, *others = (dilated_3x3(x, conv) for conv in convs)
        logits = sum(others, first)
        return logits if self.pool is None else logits + self.pool(x.mean((2, 3), keepdim=True))


def dilated_3x3(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return ``conv(x)`` of a dilated 3x3 convolution, without the taps that see padding alone.

    Along a side no longer than the dilation, only the middle one sees more: on the half-size copy
    of a crop of 321, 21 cells wide, dilation 24 leaves one tap of nine.

    The convolution, from (B, I, h, w) to (B, O, h, w), has stride 1 and pads by its dilation.
    """
    taps, padding = [slice(None)] * 2, list(conv.dilation)
    for axis, side in enumerate(x.shape[2:]):
        if conv.dilation[axis] >= side:
            taps[axis], padding[axis] = slice(1, 2), 0
    weight = conv.weight[:, :, taps[0], taps[1]]
    return F.conv2d(x, weight, conv.bias, 1, padding, conv.dilation)


class DeepLabV2(nn.Sequential):
    """The network at one scale: (B, 3, H, W) to logits (B, C, h, w) at the stride."""

    def __init__(
        self,
        num_classes: int,
        width: int,
        blocks: Blocks,
        stride_on: str,
        stride: int,
        image_pooling: bool,
    ) -> None:
        super().__init__()
        conv1, pool = ConvBN(3, width, 7, 2), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.layer1 = nn.Sequential(OrderedDict(conv1=conv1, relu=nn.ReLU(inplace=True), pool=pool))
        inputs = width
        stages = zip(blocks, *STAGES[stride], strict=True)
        for number, (count, stride, dilation) in enumerate(stages):
            channels, layer = width * 2**number, nn.Sequential()
            for block in range(1, count + 1):
                bottleneck = Bottleneck(inputs, channels, stride, dilation, stride_on)
                layer.add_module(f"block{block}", bottleneck)
                inputs, stride = channels * EXPANSION, 1  # only the first block has the stride
            self.add_module(f"layer{number + 2}", layer)
        self.aspp = Head(inputs, num_classes, image_pooling)


class DeepLabV2_ResNet101_MSC(SegmentationNetwork):
    """DeepLab v2 on the picture and smaller copies of it, fused by the maximum.

    Every convolution learns, but of :meth:`freeze`; batch normalisation is frozen, see
    :class:`ConvBN`.

    Args:
        num_classes, width, blocks: see the base class; blocks (3, 4, 6, 3) make it a ResNet-50.
        stride_on: ``"reduce"``, the published network, or ``"conv3x3"``, which computes what
            torchvision's weights were trained for.
        stride: of the logits, 8 as published, or 16.
        msc_scales: of the copies; without any, the network sees the picture alone.
        image_pooling: whether the head sees the whole picture too, see :class:`Head`.
    """

    align_corners = False
    head = ("base.aspp.",)
    # Of torchvision, and of files of one scale, which lack the first part.
    aliases = (
        (r"^(conv|bn)1\.", r"layer1.conv1.\1."),
        (
            r"^layer(\d)\.(\d+)\.",
            lambda match: f"layer{int(match[1]) + 1}.block{int(match[2]) + 1}.",
        ),
        (r"(block\d+)\.(conv|bn)1\.", r"\1.reduce.\2."),
        (r"(block\d+)\.(conv|bn)2\.", r"\1.conv3x3.\2."),
        (r"(block\d+)\.(conv|bn)3\.", r"\1.increase.\2."),
        (r"\.downsample\.0\.", ".shortcut.conv."),
        (r"\.downsample\.1\.", ".shortcut.bn."),
        (r"^(?!base\.)", "base."),
    )
    # The classifiers of a ResNet and of DeepLab v1, and what a start from a classifier has for a
    # network with image pooling.
    ignored = ("fc.", "base.fc.", POOL)
    stem, classifier = "base.layer1.conv1.conv.weight", "base.aspp.c0.weight"
    block = r"base\.layer([2-5])\.block\d+\."

    def __init__(
        self,
        num_classes: int = 21,
        width: int = 64,
        blocks: Blocks = BLOCKS,
        stride_on: str = "reduce",
        stride: int = 8,
        msc_scales: Iterable[float] = MSC_SCALES,
        image_pooling: bool = False,
    ) -> None:
        more = {"stride_on": stride_on, "stride": stride, "image_pooling": image_pooling}
        more["msc_scales"] = list(msc_scales)
        super().__init__(num_classes, width, blocks, **more)
        if stride_on not in STRIDE_ON:
            raise InputError(f"stride_on is one of {STRIDE_ON}, not {stride_on!r}")
        if stride not in STAGES:
            raise InputError(f"stride is one of {tuple(STAGES)}, not {stride!r}")
        self.msc_scales = self.config["msc_scales"]
        size = (num_classes, width, self.config["blocks"])
        self.base = DeepLabV2(*size, stride_on, stride, image_pooling)
        for name, module in self.named_modules():
            if self.is_head(name) and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=HEAD_DEVIATION)
                nn.init.zeros_(module.get_parameter("bias"))
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def config_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments of the network of a file; torchvision's has another stride."""
        stride_on = "conv3x3" if STEM in state else "reduce"
        # Nothing but a start from a classifier has torchvision's names and a head.
        stride = 16 if STEM in state and cls.classifier in state else 8
        more = {"stride_on": stride_on, "stride": stride, "image_pooling": f"{POOL}weight" in state}
        return {**super().config_of(state), **more}

    @classmethod
    def first_weights(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file; those of a classifier of step 1 become a network's.

        At stride 16 its first logits are those of the class activation maps over TEMPERATURE, and
        that of background is FIRST_BACKGROUND: the middles of the four kernels of the head, and
        their biases, share them. Image pooling adds the scores of the whole picture over
        TEMPERATURE.
        """
        named = {renamed(name, Net.aliases): value for name, value in state.items()}
        if CLASSIFIER not in named:
            return state
        parts = len(HEAD_DILATIONS)
        kernel = F.pad(named[CLASSIFIER] / TEMPERATURE / parts, (1, 1, 1, 1, 0, 0, 1, 0))
        bias = kernel.new_zeros(len(kernel))
        bias[0] = FIRST_BACKGROUND / parts
        weights = {n.removeprefix(BACKBONE): v for n, v in named.items() if n.startswith(BACKBONE)}
        weights[f"{POOL}weight"] = F.pad(named[CLASSIFIER], (0, 0, 0, 0, 0, 0, 1, 0)) / TEMPERATURE
        weights[f"{POOL}bias"] = torch.zeros_like(bias)
        for number in range(parts):
            weights[f"base.aspp.c{number}.weight"] = kernel
            weights[f"base.aspp.c{number}.bias"] = bias
        return weights

    def freeze(self, stages: int) -> None:
        """Let the stem (0) and the stages after it up to number ``stages`` learn no more."""
        for stage in list(self.base.children())[: stages + 1]:
            stage.requires_grad_(False)

    @staticmethod
    def architecture(blocks: Blocks | None) -> str:
        """Return whose ImageNet weights a network of so many blocks starts from."""
        return "resnet50" if blocks and tuple(blocks) == RESNET50 else "resnet101"

    @torch.no_grad()
    def adapt(self, state: dict[str, Tensor]) -> None:
        """Make the first convolution of torchvision take our input.

        Its weights w expect RGB, (x / 255 - mean) / std; ours get BGR, x - m with m = ``MEAN_BGR``.
        The weights w' = w s / (255 std), channels reversed, give s times the same, but for a
        constant: the sum of w' (m - 255 mean). The batch normalisation that follows takes up both:
        its mean is multiplied by s and loses the constant; its variance, epsilon included, is
        multiplied by s^2. The result is exact wherever the 7x7 window lies inside the picture; in
        the padding, zero stands for a mean that differs by less than 1.1 grey levels.

        The factor s = 255 times the mean of std leaves the size of w as it is. With s = 1 the
        weights would be 58 times smaller and their gradients 58 times larger, and the first step of
        a training would destroy them.
        """
        if STEM not in state:
            return
        stem: Any = self.base.layer1
        conv, bn = stem.conv1
        std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
        s = 255 * std.mean()
        weight = (conv.weight.double() * (s / (255 * std))[:, None, None]).flip(1)
        offset = torch.tensor(MEAN_BGR, dtype=torch.float64)
        offset -= 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64).flip(0)
        conv.weight.copy_(weight)
        bn.running_mean.copy_(s * bn.running_mean.double() - (weight.sum((2, 3)) * offset).sum(1))
        bn.running_var.copy_(s**2 * (bn.running_var.double() + bn.eps) - bn.eps)

    @staticmethod
    def normalise(pictures: Tensor) -> Tensor:
        """Return BGR minus the mean, float32, of RGB pictures (.., 3, H, W) of 0..255."""
        mean = constant(MEAN_BGR, pictures.device)
        return pictures.flip(-3).float() - mean[:, None, None]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits of (B, 3, H, W) from ``prepare``.

        Returns:
            Evaluation: (B, C, h, w), the maximum over the scales.
            Training: [own size, a copy each, maximum], each (B, C, its h, its w); of the picture
                alone its logits.
        """
        logits = self.base(x)
        fused, outputs = logits, [logits]
        for scale in self.msc_scales:
            smaller = self.base(shrink(x, scale))
            fused = torch.maximum(fused, self.resize(smaller, logits.shape[2:]))
            outputs.append(smaller)
        return [*outputs, fused] if self.training and self.msc_scales else fused


def shrink(x: Tensor, scale: float) -> Tensor:
    """Return (B, 3, floor(H * scale), floor(W * scale)), bilinear, no side below 1.

    Positions are mapped by ``scale`` itself and not by the ratio of the rounded sides, unless a
    side would be below 1.
    """
    to: dict[str, Any] = {"scale_factor": scale}
    if min(x.shape[2:]) * scale < 1:
        to = {"size": [max(1, int(side * scale)) for side in x.shape[2:]]}
    return F.interpolate(x, **to, mode="bilinear", align_corners=False)
