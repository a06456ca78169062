"""IPE (seeds, prototypes, IS-CAM) with its backward pass, ours against the plain formulation.

python -m benchmarks.ipe [--classes 21 81] [--device cuda]
"""

from functools import partial

import torch

from benchmarks import plain
from benchmarks.measure import Bench, Call
from net import resnet50_SIPE as fast

BATCH = 4
SIDE = 32
X4_CHANNELS = 2048
FEATURE_CHANNELS = 768
WAYS = {"ours": fast, "plain": plain}


def ipe(way: str, classes: int, device: torch.device) -> Call:
    """Return forward and backward pass, which return the mean of IS-CAM."""
    form = WAYS[way]
    cam = torch.rand(BATCH, classes, SIDE, SIDE, device=device)
    label = (torch.rand(BATCH, classes, 1, 1, device=device) < 0.2).float()
    x4 = torch.rand(BATCH, X4_CHANNELS, SIDE, SIDE, device=device)
    feature = torch.randn(BATCH, FEATURE_CHANNELS, SIDE, SIDE, device=device).requires_grad_()

    def call():
        with torch.no_grad():
            seeds, _ = form.get_seed(cam, label, x4)
        is_cam = form.reactivate(form.get_prototype(seeds, feature), feature)
        fast.consistency_loss(cam, is_cam).backward()
        return is_cam.detach().mean()

    return call


def main() -> None:
    """Print the table."""
    bench = Bench(__doc__, tolerance=1e-4, classes=[21, 81])
    for classes in bench.args.classes:
        ways = {way: partial(ipe, way, classes, bench.device) for way in WAYS}
        bench.compare(f"IPE, batch {BATCH}, {SIDE}x{SIDE}, {classes} classes", ways)


if __name__ == "__main__":
    main()
