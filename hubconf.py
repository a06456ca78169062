"""What ``torch.hub.load`` finds here, for programs that start in other folders.

    predictor = torch.hub.load("path/of/this/folder", "sipe", "final.pth", source="local")

The modules of this project keep the names net, data and tool in that program.
"""

from importlib.util import find_spec
from pathlib import Path

dependencies = ["torch", "torchvision", "numpy", "PIL", "cv2", "tqdm", "tensorboard"]
dependencies += ["matplotlib", "jinja2", "pycocotools", "safetensors", "tifffile"]

for name in ("net", "data", "tool"):
    found = find_spec(name)  # what is imported already, else what comes first on the path
    file = Path(__file__).parent / name / "__init__.py"
    if not found.has_location or not file.samefile(found.origin):
        where = found.origin or found.name
        raise ImportError(
            f"{where} is a module of yours called {name}, as one of this project is. Rename yours, "
            "or call torch.hub.load in a process that does not import it."
        )


def sipe(ckpt, **options):
    """Return a :class:`data.predictor.Predictor` of a checkpoint, with its options."""
    from data.predictor import Predictor

    return Predictor(ckpt, **options)


def sipe_resnet50(num_classes=21, pretrained="imagenet", **options):
    """Return the classifier to train, :class:`net.resnet50_SIPE.Net`; classes with background."""
    from net.resnet50_SIPE import Net

    return Net(num_classes, pretrained, **options)


def deeplabv2_resnet101(num_classes=21, pretrained="imagenet", **options):
    """Return the network of step 3 to train, :func:`net.segmentation.build`, with background."""
    from net.deeplabv2 import DeepLabV2_ResNet101_MSC
    from net.segmentation import build

    net, _ = build(DeepLabV2_ResNet101_MSC, num_classes, pretrained, **options)
    return net
