"""DeepLab v1 on ResNet-38, the second of the two networks of step 3.

Backbone: Wu et al., "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", 2016.
Head and training: "seamv1" of YudeWang/semantic-segmentation-codebase; tensors carry that project's
names. Letters in shapes: B pictures, C classes with background at index 0, H x W the picture, h x w
the map at stride 8.

Where weights come from is an explicit choice, see ``build``: the published MXNet file, a PyTorch
file with the same names, or random numbers.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.deeplabv2 import cross_entropy_sum, group, load_except_head
from net.inputs import normalise, within
from net.resnet50 import IMAGENET_WEIGHTS, RANDOM_WEIGHTS
from tool import checkpoint, mxnet_params
from tool.errors import InputError

BLOCKS = (3, 3, 6, 3)  # of b2, b3, b4, b5; b6 and b7 are one bottleneck each
HEAD_DILATION = 12
HEAD_DROPOUT = 0.5
BN_MOMENTUM = 3e-4  # share of a batch in the running statistics
HEAD = ("conv_fov.", "bn_fov.", "conv_fov2.", "bn_fov2.", "cls_conv.")
# Classifiers of projects that share the backbone: ImageNet's, and those of AffinityNet and SEAM.
OTHER_HEADS = ("linear1000.", "fc8.", "f8_3.", "f8_4.", "f9.")
MXNET_LEAVES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
IMAGENET_FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"


def conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size where its stride is 1."""
    return nn.Conv2d(
        inputs, outputs, size, stride, dilation * (size // 2), dilation=dilation, bias=False
    )


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalisation by batch statistics in training; scale and shift stay."""
    return nn.BatchNorm2d(channels, momentum=BN_MOMENTUM).requires_grad_(False)


class BatchDropout(nn.Module):
    """Dropout whose masks depend on torch's seed alone, and not on who computes which pictures.

    The mask of the whole batch is drawn; a process that has some of its pictures takes their rows.
    Processes with the same seed (:func:`tool.training.seed_step`) so drop what one would drop.

    Args:
        p: probability to drop.
        channels: whole channels instead of single values.
    """

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.batch_size, self.rows = None, slice(None)  # see ``share_batch``; None: the input's own

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        batch_size = self.batch_size or len(x)
        size = (batch_size, x.shape[1], 1, 1) if self.channels else (batch_size, *x.shape[1:])
        kept = x.new_empty(size).bernoulli_(1 - self.p)
        return x * (kept[self.rows] / (1 - self.p))


class Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions.

    Args:
        inputs, middle, outputs: channels before, between and after the convolutions.
        stride: of the first convolution and the shortcut.
        first_dilation, dilation: of the two convolutions.
    """

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.bn_branch2a = batch_norm(inputs)
        self.conv_branch2a = conv(inputs, middle, 3, stride, first_dilation)
        self.bn_branch2b1 = batch_norm(middle)
        self.conv_branch2b1 = conv(middle, outputs, 3, 1, dilation)
        self.conv_branch1 = None
        if stride != 1 or inputs != outputs:
            self.conv_branch1 = conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_branch2a(x), inplace=True)
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(out)
        out = F.relu(self.bn_branch2b1(self.conv_branch2a(out)), inplace=True)
        return self.conv_branch2b1(out) + shortcut


class WideBottleneck(nn.Module):
    """Pre-activation 1x1, 3x3 dilated, 1x1, each wider than the last; dropout takes channels."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = batch_norm(inputs)
        self.conv_branch2a = conv(inputs, outputs // 4, 1)
        self.bn_branch2b1 = batch_norm(outputs // 4)
        self.dropout_2b1 = BatchDropout(dropout, channels=True)
        self.conv_branch2b1 = conv(outputs // 4, outputs // 2, 3, 1, dilation)
        self.bn_branch2b2 = batch_norm(outputs // 2)
        self.dropout_2b2 = BatchDropout(dropout, channels=True)
        self.conv_branch2b2 = conv(outputs // 2, outputs, 1)
        self.conv_branch1 = conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_branch2a(x), inplace=True)
        shortcut = self.conv_branch1(out)
        out = F.relu(self.bn_branch2b1(self.conv_branch2a(out)), inplace=True)
        out = self.conv_branch2b1(self.dropout_2b1(out))
        out = F.relu(self.bn_branch2b2(out), inplace=True)
        return self.conv_branch2b2(self.dropout_2b2(out)) + shortcut


class ResNet38(nn.Module):
    """ResNet-38 at stride 8: conv1a, b2..b7, bn7.

    Args:
        width: channels after conv1a; 64 is the published network. The output has 64 times as many.
        blocks: of b2, b3, b4 and b5.
    """

    def __init__(self, width: int, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1a = conv(3, width, 3)
        self.names = []  # of the blocks, in the order of computation
        inputs = width
        for number, count in zip((2, 3, 4), blocks, strict=False):
            outputs = 2 * inputs
            for i in range(count):
                block = Block(inputs, outputs, outputs, stride=2 if i == 0 else 1)
                self._append(f"b{number}", i, block)
                inputs = outputs
        middle, outputs = inputs, 2 * inputs
        for i in range(blocks[3]):
            block = Block(inputs, middle, outputs, first_dilation=1 if i == 0 else 2, dilation=2)
            self._append("b5", i, block)
            inputs = outputs
        self._append("b6", 0, WideBottleneck(inputs, 2 * inputs, dilation=4, dropout=0.3))
        self._append("b7", 0, WideBottleneck(2 * inputs, 4 * inputs, dilation=4, dropout=0.5))
        self.bn7 = batch_norm(4 * inputs)

    def _append(self, stage: str, i: int, block: nn.Module) -> None:
        self.names.append(f"{stage}_{i}" if i else stage)
        self.add_module(self.names[-1], block)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1a(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return F.relu(self.bn7(x), inplace=True)  # (B, 64 width, h, w)


class DeepLabV1_ResNet38(nn.Module):
    """ResNet-38, a 3x3 convolution of dilation 12, two 1x1 convolutions.

    Batch normalisation is decided in ``batch_norm``: statistics of the batch while training
    (``torch.nn.SyncBatchNorm`` may replace it), scale and shift frozen. Every convolution learns.

    Args:
        n_classes: with background, C.
        width: channels after the first convolution; 64 is the published network.
        blocks: of b2, b3, b4 and b5.
    """

    def __init__(self, n_classes: int, width: int = 64, blocks: Iterable[int] = BLOCKS) -> None:
        super().__init__()
        blocks = tuple(blocks)
        if len(blocks) != len(BLOCKS) or min(blocks) < 1:
            raise ValueError(f"blocks are {len(BLOCKS)} counts of at least 1, not {blocks}")
        # What rebuilds this network; a checkpoint should keep it.
        self.config = {"n_classes": n_classes, "width": width, "blocks": list(blocks)}
        channels = 8 * width
        self.backbone = ResNet38(width, blocks)
        self.conv_fov = conv(64 * width, channels, 3, dilation=HEAD_DILATION)
        self.bn_fov = batch_norm(channels)
        self.conv_fov2 = conv(channels, channels, 1)
        self.bn_fov2 = batch_norm(channels)
        self.dropout = BatchDropout(HEAD_DROPOUT, channels=False)
        self.cls_conv = nn.Conv2d(channels, n_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.cls_conv.bias)

    @staticmethod
    def prepare(pictures: Tensor, box: Tensor | None = None) -> Tensor:
        """Return what the network takes: RGB normalised with the ImageNet mean and deviation.

        Args:
            pictures: (B, 3, H, W) RGB of 0..255, any dtype.
        """
        img = normalise(pictures)
        return img if box is None else within(img, box)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at pixels, (B, C, H, W).

        Args:
            x: (B, 3, H, W) from ``prepare``.
        """
        out = self.backbone(x)
        out = F.relu(self.bn_fov(self.conv_fov(out)), inplace=True)
        out = F.relu(self.bn_fov2(self.conv_fov2(out)), inplace=True)
        logits = self.cls_conv(self.dropout(out))  # (B, C, h, w)
        return bilinear(logits, x.shape[2:])

    def predict(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return logits at ``size``, (B, C, *size), by way of the size of ``x`` as published.

        Raises:
            RuntimeError: the network is in training mode.
        """
        if self.training:
            raise RuntimeError("predict needs the evaluation mode: call eval() first")
        logits = self(x)
        return logits if size is None else bilinear(logits, size)

    @staticmethod
    def loss_sums(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross entropy over the pixels that are not 255 as a sum, and their number.

        Args:
            outputs: (B, C, H, W) logits.
            labels: (B, H, W) integers.

        Returns:
            (1,) sum and (1,) count for :func:`net.deeplabv2.mean_loss`.
        """
        total, count = cross_entropy_sum(outputs, labels)
        return total[None], count[None]

    def share_batch(self, batch_size: int, rows: slice) -> None:
        """Make dropout draw for a whole batch of which only ``rows`` pass through this network."""
        for module in self.modules():
            if isinstance(module, BatchDropout):
                module.batch_size, module.rows = batch_size, rows

    def freeze_statistics(self) -> None:
        """Let batch normalisation use its stored statistics in training too; call after train()."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def trainable_groups(
        self, lr: float, weight_decay: float, head_lr: float = 10
    ) -> list[dict[str, Any]]:
        """Return the optimiser's groups: backbone 1x, head ``head_lr`` x, its biases twice that.

        The recipe's fourth group, biases of the backbone at 2x, has no members. Each group has
        ``name``, ``params``, ``lr_scale``, ``lr`` (times its scale) and ``weight_decay``; the
        biases do not decay.
        """
        backbone = [m.weight for m in self.backbone.modules() if isinstance(m, nn.Conv2d)]
        head = [self.conv_fov.weight, self.conv_fov2.weight, self.cls_conv.weight]
        return [
            group("backbone", backbone, lr, 1, weight_decay),
            group("head weights", head, lr, head_lr, weight_decay),
            group("head biases", [self.cls_conv.bias], lr, 2 * head_lr, 0.0),
        ]

    @staticmethod
    def canonical_name(name: str, shape: tuple[int, ...]) -> str:
        """Return our name of a tensor; files of the backbone alone lack ``backbone.``."""
        ours = ("backbone.", *HEAD, *OTHER_HEADS)
        return name if name.startswith(ours) else f"backbone.{name}"


def is_head(name: str) -> bool:
    """Return whether a tensor belongs to the segmentation head."""
    return name.startswith(HEAD)


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) maps to ``size``, corners aligned; maps of that size are returned."""
    size = tuple(size)
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


# ---------------------------------------------------------------------------- weights


def from_mxnet(arrays: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the arrays of the published MXNet file.

    ``arg:res2a_branch2a_weight`` is b2's first convolution, ``arg:res2b1_...`` b2_1's,
    ``aux:bn2a_branch2a_moving_mean`` a running mean; gamma is the scale, beta the shift.

    Args:
        arrays: of ``tool.mxnet_params.load``.

    Returns:
        named: ``backbone.*`` tensors, float32; a name of another kind is kept, for
            ``load_weights`` to name.
        left_out: the ImageNet classifier.
    """
    named, left_out = {}, []
    for name, array in arrays.items():
        if name.startswith("arg:linear1000_"):
            left_out.append(name)
        else:
            named[_from_mxnet_name(name)] = torch.from_numpy(array).float()
    return named, left_out


def _from_mxnet_name(name: str) -> str:
    leaves = "|".join(MXNET_LEAVES)
    match = re.fullmatch(rf"(?:arg|aux):(conv1a|bn7)_({leaves})", name)
    if match:
        return f"backbone.{match[1]}.{MXNET_LEAVES[match[2]]}"
    match = re.fullmatch(rf"(?:arg|aux):(res|bn)([2-7])(?:a|b(\d+))_(branch\w+?)_({leaves})", name)
    if not match:
        return name
    kind, stage, number, branch, leaf = match.groups()
    block = f"b{stage}" if number is None else f"b{stage}_{number}"
    kind = "conv" if kind == "res" else "bn"
    return f"backbone.{block}.{kind}_{branch}.{MXNET_LEAVES[leaf]}"


def from_published(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the tensors of a PyTorch file: a trained network, or the backbone of one.

    Returns:
        named: ``backbone.*`` and the head's tensors, without batch counters.
        left_out: names of classifiers of other projects.
    """
    named, left_out = {}, []
    for name, value in state.items():
        ours = name.removeprefix("module.")
        if ours.endswith(checkpoint.COUNTER):
            continue
        if ours.startswith(OTHER_HEADS):
            left_out.append(name)
        else:
            named[DeepLabV1_ResNet38.canonical_name(ours, tuple(value.shape))] = value
    return named, left_out


def architecture_of(named: dict[str, Tensor]) -> dict[str, Any]:
    """Return width, blocks and, where there is a head, n_classes of tensors with our names.

    Raises:
        InputError: they are not those of a ResNet-38.
    """
    counts = [0] * len(BLOCKS)
    for name in named:
        match = re.match(r"backbone\.b([2-5])(?:_(\d{1,3}))?\.", name)
        if match:
            stage = int(match[1]) - 2
            counts[stage] = max(counts[stage], 1 + int(match[2] or 0))
    stem = named.get("backbone.conv1a.weight")
    if min(counts) < 1 or stem is None:
        raise InputError(
            "These weights are not those of a ResNet-38, which has conv1a and b2 to b7, but "
            f"{', '.join(list(named)[:3])}."
        )
    head = named.get("cls_conv.weight")
    return {
        **{"width": len(stem), "blocks": counts},
        **({} if head is None else {"n_classes": len(head)}),
    }


def build(
    n_classes: int,
    initial: str | Path | None,
    width: int | None = None,
    blocks: Iterable[int] | None = None,
) -> tuple[DeepLabV1_ResNet38, dict[str, Any]]:
    """Return a network to train, and a record of what it starts from.

    Args:
        n_classes: with background.
        initial: a file (the MXNet ``.params``, or PyTorch with the published names), ``None`` or
            ``"none"`` for random weights.
        width, blocks: read off the weights where None (the published network without any).

    Returns:
        net: in training mode, on the CPU.
        record: plain values for the log and ``args.json``: ``initial``, ``layout`` ("random",
            "mxnet", "pytorch"), ``fresh`` (names of tensors that start from random numbers, "all"
            without weights), ``left_out`` (names in the file without use), and ``config``.

    Raises:
        InputError: the file is unreadable or does not fit; the message names it.
    """
    if initial in RANDOM_WEIGHTS:
        net = DeepLabV1_ResNet38(n_classes, width or 64, BLOCKS if blocks is None else blocks)
        layout, fresh, left_out = "random", "all", []
        initial = "none"
    else:
        if initial in IMAGENET_WEIGHTS:
            raise InputError(
                f"ResNet-38's ImageNet weights cannot be fetched by a program: get {IMAGENET_FILE} "
                "from github.com/itijyou/ademxapp and give its path."
            )
        layout, given = _read(initial)
        try:
            named, left_out = from_mxnet(given) if layout == "mxnet" else from_published(given)
            found = architecture_of(named)
            net = DeepLabV1_ResNet38(
                n_classes,
                width or found["width"],
                found["blocks"] if blocks is None else blocks,
            )
            fresh = load_except_head(net, named, is_head)
        except InputError as error:
            raise InputError(f"{initial}: {error}") from error
        if fresh:
            left_out += [name for name in named if is_head(name)]
    record = {
        **{"initial": str(initial), "layout": layout},
        **{"fresh": fresh, "left_out": left_out, "config": net.config},
    }
    return net, record


def _read(path: str | Path) -> tuple[str, dict[str, Any]]:
    if mxnet_params.is_params(path):
        return "mxnet", mxnet_params.load(path)
    return "pytorch", checkpoint.state_dict_of(checkpoint.load(path))


def restore(content: dict[str, Any]) -> DeepLabV1_ResNet38:
    """Return the trained network of a checkpoint, ours or the published one, evaluating.

    Args:
        content: of ``tool.checkpoint.load``.

    Raises:
        InputError: there is no such network in it, or a tensor is missing or left over.
    """
    named, _ = from_published(checkpoint.state_dict_of(content))
    found = architecture_of(named)
    if "n_classes" not in found:
        raise InputError(
            "These are weights to start training from; a trained network has cls_conv.*"
        )
    net = DeepLabV1_ResNet38(**found)
    checkpoint.load_weights(net, named)
    return net.eval()
