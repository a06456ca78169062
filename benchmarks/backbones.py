"""Step 1 with ResNet-50 and with networks of timm: parameters, seconds and memory.

    python -m benchmarks.backbones [--names timm:convnext_tiny ...] [--device cuda]

Training: batch 4, window 512, from decoded bytes on the device to updated weights. Inference: a
375x500 picture at four scales with mirror, from the scaled pictures to maps of full size. Weights
are random. Results are those of different networks, so that they differ.
"""

from functools import partial

from benchmarks.measure import Bench
from benchmarks.steps import FLAGS, Job, maps, sipe
from net.backbones import RESNET50, build
from net.resnet50_SIPE import Net

NAMES = [
    "timm:resnext50_32x4d",
    "timm:tf_efficientnet_b0",
    "timm:convnext_tiny",
    "timm:swin_tiny_patch4_window7_224",
    "timm:vit_small_patch16_224",
]


def main() -> None:
    """Print the tables."""
    bench = Bench(__doc__, names=NAMES)
    names = [RESNET50, *bench.args.names]
    for name in names:
        weights = list(build(name, None).parameters())
        learn = sum(weight.numel() for weight in weights if weight.requires_grad)
        print(f"{name}: {sum(w.numel() for w in weights) / 1e6:.1f} M, {learn / 1e6:.1f} M learn")
    for step, make, batch in ("training step", sipe, 4), ("make_cam picture", maps, 1):
        job = Job(bench.device, FLAGS[:3], batch)
        ways = {name: partial(make, job, partial(Net, backbone=name)) for name in names}
        bench.compare(step, ways, batch)


if __name__ == "__main__":
    main()
