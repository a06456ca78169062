"""DeepLab v2 on ResNet-101 at three scales, the first of the two networks of step 3.

Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", TPAMI 2018, as kazuto1011/deeplab-pytorch computes it; tensors carry that
project's names. Letters in shapes: B pictures, C classes with background at index 0, H x W the
picture, h x w the map at stride 8.

Where weights come from is an explicit choice, see ``build``: a file of deeplab-pytorch (ImageNet,
COCO or a trained network), torchvision's ResNet, or random numbers.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import IMAGENET_MEAN, IMAGENET_STD, within
from net.resnet50 import EXPANSION, IMAGENET_WEIGHTS, RANDOM_WEIGHTS, FixedBatchNorm
from tool import checkpoint
from tool.errors import InputError

BLOCKS = (3, 4, 23, 3)
STRIDES = (1, 2, 1, 1)  # of layer2..layer5, which torchvision calls layer1..layer4
DILATIONS = (1, 1, 2, 4)
HEAD_DILATIONS = (6, 12, 18, 24)
HEAD_DEVIATION = 0.01  # of the head's first weights; its biases start at zero
SCALES = (0.5, 0.75)  # of the picture, beside its own size
MEAN_BGR = (104.008, 116.669, 122.675)  # grey levels 0..255
UNSURE = 255  # label of pixels that teach nothing
STORED = ("mean", "var")  # statistics of a batch normalisation
EPSILON = 1e-5  # that torch.nn.BatchNorm2d adds to a variance
# Which convolution of a block has the stride: the 1x1 in the published network, the 3x3 in
# torchvision's. The tensors are the same, what they were trained to see is not.
STRIDE_ON = ("reduce", "conv3x3")
TORCHVISION_NAMES = {"conv1": "reduce", "conv2": "conv3x3", "conv3": "increase"}
IMAGENET_URL = "https://download.pytorch.org/models/resnet101-63fe2227.pth"


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

    def __init__(self, inputs: int, n_classes: int) -> None:
        super().__init__()
        for number, dilation in enumerate(HEAD_DILATIONS):
            conv = nn.Conv2d(inputs, n_classes, 3, padding=dilation, dilation=dilation)
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
        self, n_classes: int, width: int, blocks: tuple[int, int, int, int], stride_on: str
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
        self.add_module("aspp", Head(inputs, n_classes))


class DeepLabV2_ResNet101_MSC(nn.Module):
    """DeepLab v2 on the picture and two smaller copies of it, fused by the maximum.

    Batch normalisation is frozen here and nowhere else: it always uses the stored statistics, and
    its scale and shift have ``requires_grad`` off. Every convolution learns.

    Args:
        n_classes: with background, C.
        width: channels after the first convolution; 64 is the published network.
        blocks: bottlenecks of the four layers; (3, 4, 6, 3) makes it a ResNet-50.
        stride_on: ``"reduce"``, the published network, or ``"conv3x3"``, which computes what
            torchvision's weights were trained for.
    """

    def __init__(
        self,
        n_classes: int,
        width: int = 64,
        blocks: Iterable[int] = BLOCKS,
        stride_on: str = STRIDE_ON[0],
    ) -> None:
        super().__init__()
        blocks = tuple(blocks)
        if stride_on not in STRIDE_ON:
            raise ValueError(f"stride_on is one of {STRIDE_ON}, not {stride_on!r}")
        if len(blocks) != len(BLOCKS) or min(blocks) < 1:
            raise ValueError(f"blocks are {len(BLOCKS)} counts of at least 1, not {blocks}")
        # What rebuilds this network; a checkpoint should keep it, see ``restore``.
        self.config = {
            **{"n_classes": n_classes, "width": width},
            **{"blocks": list(blocks), "stride_on": stride_on},
        }
        self.base = DeepLabV2(n_classes, width, blocks, stride_on)
        for name, module in self.named_modules():
            if is_head(name) and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=HEAD_DEVIATION)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, FixedBatchNorm):
                module.requires_grad_(False)

    @staticmethod
    def prepare(pictures: Tensor, box: Tensor | None = None) -> Tensor:
        """Return what the network takes: BGR minus the mean, float32.

        Args:
            pictures: (B, 3, H, W) RGB of 0..255, any dtype.
        """
        mean = torch.tensor(MEAN_BGR, device=pictures.device)[:, None, None]
        img = pictures.flip(-3).float() - mean
        return img if box is None else within(img, box)

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
            fused = torch.maximum(fused, bilinear(smaller, logits.shape[2:]))
            if self.training:
                outputs.append(smaller)
        return [*outputs, fused] if self.training else fused

    def predict(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the fused logits at pixels, (B, C, *size); at the size of ``x`` by default.

        Raises:
            RuntimeError: the network is in training mode.
        """
        if self.training:
            raise RuntimeError("predict needs the evaluation mode: call eval() first")
        return bilinear(self(x), size or x.shape[2:])

    @staticmethod
    def loss_sums(outputs: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the four cross entropies as sums, each against labels of its own size.

        Args:
            outputs: of ``forward`` in training.
            labels: (B, H, W) integers, 255 where unsure.

        Returns:
            (4,) sums and (4,) numbers of pixels for :func:`mean_loss`.
        """
        pairs = [
            cross_entropy_sum(logits, resize_labels(labels, logits.shape[2:])) for logits in outputs
        ]
        sums, counts = zip(*pairs, strict=True)
        return torch.stack(sums), torch.stack(counts)

    def trainable_groups(
        self, lr: float, weight_decay: float, head_lr: float = 10
    ) -> list[dict[str, Any]]:
        """Return the optimiser's groups: backbone 1x, head ``head_lr`` x, its biases twice that.

        Each has ``name``, ``params``, ``lr_scale``, ``lr`` (times its scale) and ``weight_decay``;
        the biases do not decay.
        """
        convs = [(n, m) for n, m in self.named_modules() if isinstance(m, nn.Conv2d)]
        head = [module for name, module in convs if is_head(name)]
        backbone = [module.weight for name, module in convs if not is_head(name)]
        return [
            group("backbone", backbone, lr, 1, weight_decay),
            group("head weights", [module.weight for module in head], lr, head_lr, weight_decay),
            group("head biases", [module.bias for module in head], lr, 2 * head_lr, 0.0),
        ]

    @staticmethod
    def canonical_name(name: str, shape: tuple[int, ...]) -> str:
        """Return our name of a tensor of deeplab-pytorch, whose one-scale files lack ``base.``."""
        return name if name.startswith("base.") else f"base.{name}"


def is_head(name: str) -> bool:
    """Return whether a tensor or module belongs to the classifier head."""
    return name.startswith("base.aspp.")


def shrink(x: Tensor, scale: float) -> Tensor:
    """Return (B, 3, floor(H * scale), floor(W * scale)), bilinear, no side below 1.

    Positions are mapped by ``scale`` itself and not by the ratio of the rounded sides.
    """
    if min(x.shape[2:]) * scale < 1:
        return bilinear(x, tuple(max(1, int(side * scale)) for side in x.shape[2:]))
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) maps to ``size``, pixel centres aligned."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross entropy over the pixels that are not 255, and their number.

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) integers.

    Returns:
        Two scalars, float32 and int64.
    """
    labels = labels.long()
    total = F.cross_entropy(logits.float(), labels, ignore_index=UNSURE, reduction="sum")
    return total, (labels != UNSURE).sum()


def mean_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the sum of mean cross entropies.

    An output whose every pixel is 255 gives zero and a zero gradient; the usual mean would be NaN.

    Args:
        sums, counts: (n,), of ``loss_sums``. Of several processes, give ``sums`` times their number
            and the counts of all together: averaged over processes, as data parallel training
            does, the gradient is that of the whole batch.
    """
    return (sums / counts.clamp_min(1)).sum()


@lru_cache(maxsize=256)
def nearest_indices(source: int, target: int) -> np.ndarray:
    """Return the pixels that Pillow's nearest filter picks along one side, int64 (target,).

    Pillow takes floor((i + 1/2) * source / target), and gets there by adding up the step; where
    the exact value is an integer, its rounding decides, so the sum is repeated here.
    """
    steps = np.full(target, source / target)
    steps[0] *= 0.5
    return np.minimum(np.cumsum(steps).astype(np.int64), source - 1)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, *size) labels, picked from (B, H, W) by Pillow's nearest rule."""
    rows, columns = (
        torch.from_numpy(nearest_indices(source, target)).to(labels.device)
        for source, target in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


def group(
    name: str, params: list[nn.Parameter], lr: float, lr_scale: float, weight_decay: float
) -> dict[str, Any]:
    """Return one parameter group of ``torch.optim``; it keeps the two further keys."""
    return {
        **{"name": name, "params": params},
        **{"lr": lr * lr_scale, "lr_scale": lr_scale, "weight_decay": weight_decay},
    }


# ---------------------------------------------------------------------------- weights


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a torchvision ResNet with bottlenecks, and make it take our input.

    torchvision's first convolution w expects RGB, (x / 255 - mean) / std; ours gets BGR - m. With
    w' = w s / (255 std), channels reversed, it gives s times the same, but for the constant sum of
    w' * (m - 255 mean), which goes into the mean of the batch normalisation behind it, as the
    factor s goes into mean and variance. Exact wherever the 7x7 window lies inside the picture;
    outside, zero stands for a mean less than 1.1 grey levels away.

    s = 255 times the mean of std leaves the size of w as it is. With s = 1 the weights would be 58
    times smaller and their gradients 58 times larger: the first step of a training destroys them.

    Args:
        state: of any width and depth; ``fc.*`` and batch counters are dropped.

    Returns:
        ``base.*`` tensors; a name that is not torchvision's is kept, for ``load_weights`` to name.

    Raises:
        InputError: the first convolution or its normalisation is missing.
    """
    named = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith(checkpoint.COUNTER):
            continue
        named[_from_torchvision_name(name)] = value
    stem = "base.layer1.conv1.conv.weight", *(f"base.layer1.conv1.bn.running_{x}" for x in STORED)
    weight, mean, variance = (named.get(name) for name in stem)
    if mean is None or variance is None or weight is None or weight.shape[1:] != (3, 7, 7):
        raise InputError("These weights are not torchvision's: conv1 or bn1 is missing or odd.")
    deviation = torch.tensor(IMAGENET_STD, dtype=torch.float64)
    s = 255 * deviation.mean()
    weight = (weight.double() * (s / (255 * deviation))[:, None, None]).flip(1)
    offset = torch.tensor(MEAN_BGR, dtype=torch.float64)
    offset -= 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64).flip(0)
    shift = (weight.sum((2, 3)) * offset).sum(1)  # (width,)
    mean = s * mean.double() - shift
    variance = s**2 * (variance.double() + EPSILON) - EPSILON
    named.update(zip(stem, (weight.float(), mean.float(), variance.float()), strict=True))
    return named


def _from_torchvision_name(name: str) -> str:
    stem = re.fullmatch(r"(conv|bn)1\.(\w+)", name)
    if stem:
        return f"base.layer1.conv1.{stem[1]}.{stem[2]}"
    match = re.fullmatch(
        r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)", name
    )
    if not match:
        return name
    layer, block, kind, number, shortcut, leaf = match.groups()
    branch = TORCHVISION_NAMES[f"conv{number}"] if kind else "shortcut"
    kind = kind or ("conv", "bn")[int(shortcut)]
    return f"base.layer{int(layer) + 1}.block{int(block) + 1}.{branch}.{kind}.{leaf}"


def from_published(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the tensors of a deeplab-pytorch file, of an initialisation or a trained network.

    Returns:
        named: ``base.*`` tensors without batch counters.
        left_out: names that serve another task: ``fc.*``, the classifier of a ResNet or DeepLab v1.
    """
    named, left_out = {}, []
    for name, value in state.items():
        if name.endswith(checkpoint.COUNTER):
            continue
        ours = DeepLabV2_ResNet101_MSC.canonical_name(name, tuple(value.shape))
        if ours.startswith("base.fc."):
            left_out.append(name)
        else:
            named[ours] = value
    return named, left_out


def read_layout(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    """Recognise a state dict and give its tensors our names.

    Returns:
        layout: ``"torchvision"`` or ``"deeplab"``.
        named: see ``from_torchvision`` and ``from_published``.
        left_out: names that are of no use here.

    Raises:
        InputError: it is neither.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if "conv1.weight" in state:
        left_out = [name for name in state if name.startswith("fc.")]
        return "torchvision", from_torchvision(state), left_out
    named, left_out = from_published(state)
    if "base.layer1.conv1.conv.weight" not in named:
        raise InputError(
            "These weights have neither torchvision's names (conv1.weight) nor deeplab-pytorch's "
            f"(layer1.conv1.conv.weight), but {', '.join(list(state)[:3])}."
        )
    return "deeplab", named, left_out


def architecture_of(named: dict[str, Tensor]) -> dict[str, Any]:
    """Return width, blocks and, where there is a head, n_classes of tensors with our names.

    Raises:
        InputError: they are not those of such a network.
    """
    counts = [0] * len(BLOCKS)
    for name in named:
        match = re.match(r"base\.layer([2-5])\.block(\d{1,3})\.", name)
        if match:
            layer = int(match[1]) - 2
            counts[layer] = max(counts[layer], int(match[2]))
    if min(counts) < 1:
        raise InputError("These weights are not those of a ResNet with four layers of bottlenecks.")
    width = len(named["base.layer1.conv1.conv.weight"])
    head = named.get("base.aspp.c0.weight")
    return {"width": width, "blocks": counts, **({} if head is None else {"n_classes": len(head)})}


def load_except_head(
    net: nn.Module, named: dict[str, Tensor], is_head: Callable[[str], bool]
) -> list[str]:
    """Load weights into ``net``; its head may be absent or made for other classes.

    The head is taken as a whole if every tensor of it is there and fits, else it stays as it is.

    Args:
        net: a network with fresh weights.
        named: tensors with the names of ``net``.
        is_head: tells whether a name belongs to the head.

    Returns:
        Names of the head's tensors that stay fresh; empty if ``named`` held a head that fits.

    Raises:
        InputError: outside the head a tensor is missing, left over or of another shape.
    """
    own = net.state_dict()
    head = [name for name in own if is_head(name) and not name.endswith(checkpoint.COUNTER)]
    if all(name in named and named[name].shape == own[name].shape for name in head):
        head = []
    else:
        named = {name: value for name, value in named.items() if not is_head(name)}
    checkpoint.load_weights(net, {**named, **{name: own[name] for name in head}})
    return head


def build(
    n_classes: int,
    initial: str | Path | None,
    width: int | None = None,
    blocks: Iterable[int] | None = None,
    stride_on: str | None = None,
) -> tuple[DeepLabV2_ResNet101_MSC, dict[str, Any]]:
    """Return a network to train, and a record of what it starts from.

    Args:
        n_classes: with background.
        initial: a file (deeplab-pytorch or torchvision names), ``"imagenet"`` for torchvision's
            ResNet-101 (fetched once, checksum verified), ``None`` or ``"none"`` for random weights.
        width, blocks: read off the weights where None (the published network without any).
        stride_on: None is where the weights had it: ``"conv3x3"`` for torchvision's.

    Returns:
        net: in training mode, on the CPU.
        record: plain values for the log and ``args.json``: ``initial``, ``layout`` ("random",
            "torchvision", "deeplab"), ``fresh`` (names of tensors that start from random numbers,
            "all" without weights), ``left_out`` (names in the file without use), and ``config``.

    Raises:
        InputError: the file is unreadable or does not fit; the message names it.
    """
    blocks = None if blocks is None else tuple(blocks)
    if initial in RANDOM_WEIGHTS:
        net = DeepLabV2_ResNet101_MSC(
            n_classes, width or 64, blocks or BLOCKS, stride_on or STRIDE_ON[0]
        )
        return net, _record(net, "none", "random", "all", [])
    if initial in IMAGENET_WEIGHTS:
        state = _fetch_imagenet()
    else:
        state = checkpoint.state_dict_of(checkpoint.load(initial))
    try:
        layout, named, left_out = read_layout(state)
        found = architecture_of(named)
        net = DeepLabV2_ResNet101_MSC(
            n_classes,
            width or found["width"],
            blocks or found["blocks"],
            stride_on or STRIDE_ON[layout == "torchvision"],
        )
        fresh = load_except_head(net, named, is_head)
    except InputError as error:
        raise InputError(f"{initial}: {error}") from error
    if fresh:
        left_out += [name for name in named if is_head(name)]
    return net, _record(net, str(initial), layout, fresh, left_out)


def _record(
    net: nn.Module, initial: str, layout: str, fresh: list[str] | str, left_out: list[str]
) -> dict[str, Any]:
    return {
        **{"initial": initial, "layout": layout},
        **{"fresh": fresh, "left_out": left_out, "config": net.config},
    }


def restore(content: dict[str, Any]) -> DeepLabV2_ResNet101_MSC:
    """Return the trained network of a checkpoint, ours or one of deeplab-pytorch.

    Args:
        content: of ``tool.checkpoint.load``; the place of the stride comes from its ``config``, and
            is the published one where there is none.

    Raises:
        InputError: there is no such network in it, or a tensor is missing or left over.
    """
    layout, named, _ = read_layout(checkpoint.state_dict_of(content))
    found = architecture_of(named)
    if layout == "torchvision" or "n_classes" not in found:
        raise InputError(
            "These are weights to start training from; a trained network has base.aspp.*"
        )
    config = content.get("config")
    stride_on = config.get("stride_on") if isinstance(config, dict) else STRIDE_ON[0]
    if stride_on not in STRIDE_ON:
        raise InputError(f"The checkpoint's config has stride_on {stride_on!r}, unknown here.")
    net = DeepLabV2_ResNet101_MSC(**found, stride_on=stride_on)
    checkpoint.load_weights(net, named)
    return net.eval()


def _fetch_imagenet() -> dict[str, Tensor]:
    advice = f"Download {IMAGENET_URL} by hand and give its path, or none for random weights."
    try:
        from torchvision.models import ResNet101_Weights  # only needed, and slow to import, here
    except ImportError as error:
        raise InputError(f"torchvision is not installed ({error}). {advice}") from error
    try:
        return ResNet101_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True, progress=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a bad hash a RuntimeError
        raise InputError(f"The ImageNet weights could not be fetched: {error}. {advice}") from error
