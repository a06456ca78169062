"""Write a trained network as an ONNX file, for programs without PyTorch; it needs no dataset.

Reads   a checkpoint of step 1.1 or 3.1, or a published one
Writes  --out, or the checkpoint's path with the ending .onnx
Try     python export_onnx.py --session_name demo
        python export_onnx.py --session_name exp --ckpt seg_deeplabv2_resnet101.pth

The file takes pictures of any number and size; docs/python.md says what goes in and comes out, and
what stays outside: averages over scales, and the CRF.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.predictor import Predictor
from net.recipes import MODELS
from tool import cli
from tool.onnx_file import write_onnx
from tool.run import run
from tool.session import find_checkpoint

# Sides of what the exporter follows: so large that no tap of a convolution sees padding alone, and
# so small that seeds are compared in one piece. Both decide what the file holds.
SIZE = (433, 449)


class Segmentation(nn.Sequential):
    """Logits (B, C, H, W) of pictures (B, 3, H, W), RGB in 0..255."""

    def forward(self, picture: Tensor) -> tuple[Tensor]:
        (net,) = self
        return (net.predict(net.prepare(picture)).float(),)


class Classifier(nn.Sequential):
    """Logits (B, K), and CAM and IS-CAM (B, C, h, w) of the classes in ``labels``, (B, K) of 0, 1.

    Maps are averaged with those of the mirrored picture, as make_cam.py does at each scale.
    """

    def forward(self, picture: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        (net,) = self
        img = net.prepare(picture)
        pairs = torch.stack([img, img.flip(3)], 1).flatten(0, 1)  # (2B, 3, H, W)
        present = F.pad(labels, (1, 0), value=1)[:, :, None, None]  # (B, C, 1, 1)
        return net.scores(img), *net.localize(pairs, present)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.Parser(__doc__)
    parser.add_shared("session_name", "ckpt", "network", "class_names")
    parser.add_deciding("--model", choices=sorted(MODELS), help="as in predict.py")
    parser.add_argument("--out", type=Path, help="file to write")
    return parser.parse_args(arguments)


def main(arguments: cli.Words = None) -> None:
    """Write the file, and compare it with PyTorch."""
    args = parse_arguments(arguments)
    ckpt = find_checkpoint(Path(args.session_name), args.ckpt)
    predictor = Predictor(ckpt, "cpu", **cli.deciding(args))
    names, whole = predictor.all_names, Segmentation
    inputs, outputs = {"picture": torch.rand(1, 3, *SIZE) * 255}, ["logits"]
    if not predictor.model:
        whole, outputs = Classifier, ["logits", "cam", "is_cam"]
        inputs["labels"] = torch.ones(1, len(names) - 1)
    path = args.out or ckpt.with_suffix(".onnx")
    write_onnx(path, whole(predictor.net).eval(), inputs, outputs, names)


if __name__ == "__main__":
    run(main)
