"""DeepLab v1 on ResNet-38, the second of the two networks of step 3.

Backbone: Wu et al., "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", 2016.
Head and training: "seamv1" of YudeWang/semantic-segmentation-codebase; tensors carry that project's
names. Letters in shapes: B pictures, C classes with background at index 0, H x W the picture, h x w
the map at stride 8.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import normalise
from net.segmentation import Blocks, SegmentationNetwork, activated, conv
from tool.errors import InputError

BLOCKS = (3, 3, 6, 3)  # of b2, b3, b4, b5; b6 and b7 are one bottleneck each
HEAD_DILATION = 12
HEAD_DROPOUT = 0.5
BN_MOMENTUM = 3e-4  # share of a batch in the running statistics
# Of the published MXNet file, where res2a is b2, res2b1 is b2_1, and gamma is the scale, and of
# files of the backbone alone, which lack the first part.
ALIASES = (
    (r"^(arg|aux):", ""),
    (r"^(conv1a|bn7)_", r"\1."),
    (r"^(res|bn)(\d)a_(branch\w+?)_", r"b\2.\1_\3."),
    (r"^(res|bn)(\d)b(\d+)_(branch\w+?)_", r"b\2_\3.\1_\4."),
    (r"\.res_", ".conv_"),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"\.moving_", ".running_"),
    (r"^(?!backbone\.|conv_fov|bn_fov|cls_conv\.)", "backbone."),
)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalisation by batch statistics in training; scale and shift stay."""
    return nn.BatchNorm2d(channels, momentum=BN_MOMENTUM).requires_grad_(False)


class BatchDropout(nn.Module):
    """Dropout by masks that depend on torch's seed alone, not on the number of processes.

    Processes share the pictures of a batch among themselves. Each has the same seed
    (``train_seg.py``), draws the mask of the whole batch, and uses the rows of the
    pictures that it has; so every picture loses the same values as if one process had them all. It
    drops with probability ``p``, whole ``channels`` or single values.

    Attributes:
        batch_size: pictures on all processes together; None stands for those of the input.
        rows: which of them the input holds; ``DeepLabV1_ResNet38.share_batch`` sets both.
    """

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.batch_size: int | None = None
        self.rows = slice(None)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        one = (x.shape[1], 1, 1) if self.channels else x.shape[1:]
        kept = x.new_empty(self.batch_size or len(x), *one).bernoulli_(1 - self.p)
        return x * (kept[self.rows] / (1 - self.p))


class Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions, with channels before, between and after them.

    ``stride`` is that of the first convolution and the shortcut.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, dilations: tuple = (1, 1)
    ) -> None:
        super().__init__()
        self.bn_branch2a = batch_norm(inputs)
        self.conv_branch2a = conv(inputs, middle, 3, stride, dilations[0])
        self.bn_branch2b1 = batch_norm(middle)
        self.conv_branch2b1 = conv(middle, outputs, 3, 1, dilations[1])
        self.conv_branch1 = None
        if stride != 1 or inputs != outputs:
            self.conv_branch1 = conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = activated(x, self.bn_branch2a)
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(out)
        out = activated(self.conv_branch2a(out), self.bn_branch2b1)
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
        out = activated(x, self.bn_branch2a)
        shortcut = self.conv_branch1(out)
        out = activated(self.conv_branch2a(out), self.bn_branch2b1)
        out = self.conv_branch2b1(self.dropout_2b1(out))
        out = activated(out, self.bn_branch2b2)
        return self.conv_branch2b2(self.dropout_2b2(out)) + shortcut


class ResNet38(nn.Sequential):
    """ResNet-38 at stride 8: conv1a, b2..b7, bn7. The output has 64 times ``width`` channels."""

    def __init__(self, width: int, blocks: Blocks) -> None:
        super().__init__()
        self.conv1a = conv(3, width, 3)
        inputs = width
        for stage, count in enumerate(blocks, start=2):
            outputs = 2 * inputs
            middle, stride, dilation = (inputs, 1, 2) if stage == 5 else (outputs, 2, 1)
            self.add_module(f"b{stage}", Block(inputs, middle, outputs, stride, (1, dilation)))
            for i in range(1, count):
                block = Block(outputs, middle, outputs, dilations=(dilation, dilation))
                self.add_module(f"b{stage}_{i}", block)
            inputs = outputs
        self.b6 = WideBottleneck(inputs, 2 * inputs, dilation=4, dropout=0.3)
        self.b7 = WideBottleneck(2 * inputs, 4 * inputs, dilation=4, dropout=0.5)
        self.bn7 = batch_norm(4 * inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)  # (B, 64 width, h, w)


class DeepLabV1_ResNet38(SegmentationNetwork):
    """ResNet-38, a 3x3 convolution of dilation 12, two 1x1 convolutions.

    Batch normalisation is decided in ``batch_norm``: statistics of the batch while training
    (``torch.nn.SyncBatchNorm`` may replace it), scale and shift frozen. Every convolution learns.
    The arguments are those of the base class.
    """

    align_corners = True
    normalise = staticmethod(normalise)  # with the ImageNet mean and deviation
    head = ("conv_fov.", "bn_fov.", "conv_fov2.", "bn_fov2.", "cls_conv.")
    aliases = ALIASES
    # The classifiers of ImageNet, and those of AffinityNet and SEAM.
    ignored = ("arg:linear1000_", "linear1000.", "fc8.", "f8_3.", "f8_4.", "f9.")
    stem, classifier = "backbone.conv1a.weight", "cls_conv.weight"
    block = r"backbone\.b([2-5])(?:_\d+)?\."

    def __init__(self, num_classes: int = 21, width: int = 64, blocks: Blocks = BLOCKS) -> None:
        super().__init__(num_classes, width, blocks)
        channels = 8 * width
        self.backbone = ResNet38(width, self.config["blocks"])
        self.conv_fov = conv(64 * width, channels, 3, dilation=HEAD_DILATION)
        self.bn_fov = batch_norm(channels)
        self.conv_fov2 = conv(channels, channels, 1)
        self.bn_fov2 = batch_norm(channels)
        self.dropout = BatchDropout(HEAD_DROPOUT, channels=False)
        self.cls_conv = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.cls_conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at pixels, (B, C, H, W), of (B, 3, H, W) from ``prepare``."""
        out = self.backbone(x)
        out = activated(self.conv_fov(out), self.bn_fov)
        out = activated(self.conv_fov2(out), self.bn_fov2)
        logits = self.cls_conv(self.dropout(out))  # (B, C, h, w)
        return self.resize(logits, x.shape[2:])

    @staticmethod
    def architecture(blocks: Blocks | None) -> str:
        """Raise an InputError: there is no file of ImageNet's weights that a program can fetch."""
        raise InputError(
            "ResNet-38's ImageNet weights cannot be fetched by a program: get "
            "ilsvrc-cls_rna-a1_cls1000_ep-0001.params from github.com/itijyou/ademxapp and give "
            "its path."
        )

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
