"""IPE, a whole training step and a whole ``make_cam`` picture: ours, the plain form, and the parts.

    python -m benchmarks.step1 [--classes 21 81] [--device cuda]
    python -m benchmarks.step1 --classes 21 --backbones resnet50 timm:convnext_tiny

IPE: seeds, prototypes and IS-CAM of batch 4 at 32x32, with the backward pass. Training: batch 4,
window 512, from decoded bytes on the device to updated weights. Inference: a 375x500 picture at
four scales with mirror, from the scaled pictures to maps of full size. What is compared are the
mean of IS-CAM, the first loss, and the class of the largest map at every pixel. Weights are random,
and results of several backbones differ as these do.
"""

import pickle
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.profiler import profile

from benchmarks import plain
from benchmarks.measure import Bench, Call, Make
from benchmarks.steps import FLAGS, WINDOW, Job, maps, picture, sipe
from data.transforms import random_pair
from net import resnet50_SIPE as fast
from net.backbones import RESNET50, build

BATCH = 4
WAYS = {"ours": fast, "plain": plain}


def ipe(way: str, job: Job) -> Call:
    """Return forward and backward pass of IPE, which return the mean of IS-CAM."""
    form, side = WAYS[way], WINDOW // 16
    cam, x4, feature = (
        torch.rand(job.batch, channels, side, side, device=job.device)
        for channels in (job.classes, 2048, sum(fast.SIDES))
    )
    label = job.present()[:, :, None, None]
    feature.requires_grad_()

    def call():
        seeds, _ = form.get_seed(cam, label, x4)
        is_cam = form.reactivate(form.get_prototype(seeds, feature), feature)
        fast.consistency_loss(cam, is_cam).backward()
        return is_cam.detach().mean()

    return call


def where_time_goes(make: Make, threads: int) -> str:
    """Return a table of the operators that take most of a call."""
    torch.set_num_threads(threads)
    call = make()
    call()
    with profile() as found:
        call()
    return found.key_averages().table(row_limit=12, max_name_column_width=40)


def main() -> None:
    """Print the tables."""
    bench = Bench(__doc__, repeats=2, classes=[21, 81], backbones=[RESNET50])
    for name in bench.args.backbones:
        weights = list(build(name, None).parameters())
        learn = sum(weight.numel() for weight in weights if weight.requires_grad)
        print(f"{name}: {sum(w.numel() for w in weights) / 1e6:.1f} M, {learn / 1e6:.1f} M learn")
    for classes in bench.args.classes:
        job = Job(bench.device, FLAGS[:3], BATCH, classes)
        bench.compare(f"IPE, {classes} classes", {way: partial(ipe, way, job) for way in WAYS})
        for step, make, batch in ("training step", sipe, BATCH), ("make_cam picture", maps, 1):
            job = job._replace(batch=batch)
            ways = {
                name: partial(make, job, partial(fast.Net, backbone=name))
                for name in bench.args.backbones
            }
            slow = {"plain": partial(make, job._replace(flags=()), plain.Net)}
            bench.compare(f"{step}, {classes} classes", ways | slow)
            for name, way in ways.items():
                print(f"\nwhere the time of {name} goes")
                print(where_time_goes(way, bench.args.threads))
    rng = np.random.default_rng(0)
    view = random_pair(Image.fromarray(picture()), None, rng, 1.0, WINDOW)
    floats = (3 + 21) * WINDOW**2 * 4
    print(
        f"bytes to the trainer: {len(pickle.dumps(view)):,}, of float masks and picture {floats:,}"
    )


if __name__ == "__main__":
    main()
