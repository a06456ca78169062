"""Whole training step and whole ``make_cam`` picture: ours, the plain formulation, and the parts.

    python -m benchmarks.step1 [--classes 21 81] [--device cuda] [--amp bf16]

Training: batch 4, crop 512, from decoded bytes on the device to updated weights. Inference: a
375x500 picture at four scales with mirror, from the scaled pictures to maps of full size. The
loader is measured beside them, in this process: seconds and bytes for each picture.
"""

import argparse
import io
import pickle
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import make_cam
from benchmarks import plain
from benchmarks.measure import in_fresh_process, peak_bytes, seconds, synchronise, table
from data.transforms import random_view, rescale
from net import resnet50_SIPE as fast
from net.inputs import normalise, prepare
from net.resnet50 import fold_batch_norm
from tool.maps import fuse

CROP = 512
SIZE = (375, 500)
REPEATS = 2
FORMATS = {"ours": torch.channels_last, "plain": torch.contiguous_format}
PRESENT = (5, 12)  # classes of the picture


def photograph() -> bytes:
    """Return a JPEG of 375x500 that is about as hard to decode as a photograph."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    rough.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def photograph_pixels() -> Image.Image:
    """Return the decoded photograph, RGB."""
    return Image.open(io.BytesIO(photograph())).convert("RGB")


def random_batch(batch: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return window, box and label of a batch, as the loader hands them over."""
    rng = np.random.default_rng(0)
    image = photograph_pixels()
    views = [random_view(image, rng, 320, 640, CROP) for _ in range(batch)]
    window, box = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
    label = torch.zeros(batch, classes - 1)
    label[:, PRESENT] = 1
    return window.to(device), box.to(device), label.to(device)


class Clock:
    """Seconds between calls, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts, self.last = device, {}, time.perf_counter()

    def __call__(self, name: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0) + now - self.last
        self.last = now


def training(variant: str, classes: int, args: argparse.Namespace) -> dict:
    """Return seconds and peak bytes of a training step; for ours also the seconds of its parts."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    net = fast.Net(classes, pretrained=None) if variant == "ours" else plain.Net(classes)
    net.to(device, memory_format=FORMATS[variant]).train()
    learning = [p for group in net.trainable_groups(1e-6, 1e-4) for p in group["params"]]
    optimizer = torch.optim.SGD(learning, lr=1e-6, momentum=1e-4, weight_decay=1e-4)
    window, box, label = random_batch(args.batch_size, classes, device)
    if variant == "plain":  # its loader makes float pictures and masks of full size
        img, small = prepare(window, box), fast.valid_mask(box, CROP, label)
        mask = F.interpolate(small, window.shape[2:])  # (B, C, S, S)
        ready = (img.cpu(), mask.cpu())
    amp = torch.autocast(device.type, torch.bfloat16, enabled=args.amp == "bf16")

    def step() -> None:
        if variant == "ours":
            img, mask = prepare(window, box), fast.valid_mask(box, CROP, label)
        else:
            img, mask = (x.to(device, copy=True) for x in ready)
        with amp:
            out = net(img.contiguous(memory_format=FORMATS[variant]), mask)
        loss = sum(net.losses(out, label).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    memory = peak_bytes(step, device)
    result = {"seconds": seconds(step, device, args.repeats), "bytes": memory, "parts": {}}
    if variant == "plain":
        return result

    clock = Clock(device)
    img, mask = prepare(window, box), fast.valid_mask(box, CROP, label)
    clock("normalise and mask")
    with amp:
        outputs = net.forward_features(img.contiguous(memory_format=FORMATS["ours"]))
    clock("forward: backbone and heads")
    leaves = [x.detach().requires_grad_() for x in outputs]
    cam = fast.general_cam(leaves[0]) * mask
    seeds, _ = fast.get_seed(cam, mask, leaves[2])
    is_cam = fast.reactivate(fast.get_prototype(seeds, leaves[1]), leaves[1])
    loss = fast.classification_loss(leaves[0].mean((2, 3)), label)
    loss = loss + fast.consistency_loss(cam, is_cam)
    clock("forward: CAM, IPE, losses")
    loss.backward()
    clock("backward: CAM, IPE, losses")
    torch.autograd.backward(outputs[:2], [x.grad for x in leaves[:2]])
    clock("backward: backbone and heads")
    torch.nn.utils.clip_grad_norm_(learning, 1.0)
    optimizer.step()
    clock("clipping and update")
    return {**result, "parts": clock.parts}


@torch.inference_mode()
def inference(variant: str, classes: int, args: argparse.Namespace) -> dict:
    """Return seconds and peak bytes of a picture in make_cam; for ours also those of its parts."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    net = fast.CAM(classes, pretrained=None) if variant == "ours" else plain.CAM(classes)
    net.eval()
    if variant == "ours":
        fold_batch_norm(net)
    net.to(device, memory_format=FORMATS[variant])
    image = photograph_pixels()
    scaled = [rescale(image, scale) for scale in make_cam.SCALES]
    pictures = [torch.from_numpy(np.array(x)).permute(2, 0, 1).to(device) for x in scaled]
    label = torch.zeros(classes, device=device)
    label[[0, *(k + 1 for k in PRESENT)]] = 1
    amp = torch.autocast(device.type, torch.bfloat16, enabled=args.amp == "bf16")

    def picture() -> None:
        with amp:
            if variant == "ours":
                batch = [one[None] for one in pictures]
                (of_scales,) = make_cam.infer(net, batch, label[None], FORMATS["ours"])
            else:
                total = 0
                for one in pictures:
                    img = normalise(one)
                    _, maps = net(torch.stack([img, img.flip(2)]), label[:, None, None])
                    total = total + F.interpolate(maps[None], SIZE, mode="bilinear")[0]
                is_cam = total[label > 0]
                is_cam = is_cam / (is_cam.amax((1, 2), keepdim=True) + fast.CAM_EPS)
        (fuse(of_scales, SIZE) if variant == "ours" else is_cam).cpu()

    memory = peak_bytes(picture, device)
    result = {"seconds": seconds(picture, device, args.repeats), "bytes": memory, "parts": {}}
    if variant == "plain":
        return result
    clock = Clock(device)
    for one in pictures:
        img = normalise(one)
        clock("normalise")
        with amp:
            pair = torch.stack([img, img.flip(2)]).contiguous(memory_format=FORMATS["ours"])
            features = net.forward_features(pair)
        clock("backbone and heads")
        logits, feature, _ = (x[:1] + x[1:].flip(3) for x in features)
        cam = fast.general_cam(logits)
        seeds, _ = fast.get_seed(cam, label[:, None, None], feature)
        is_cam = fast.reactivate(fast.get_prototype(seeds, feature), feature)
        clock("CAM and IPE")
        F.interpolate(is_cam[:, label > 0], SIZE, mode="bilinear").cpu()
        clock("resize")
    return {**result, "parts": clock.parts}


def loading() -> str:
    """Return seconds and bytes for each picture that the loaders hand over."""
    data = photograph()
    start, runs = time.perf_counter(), 10
    for run in range(runs):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        window, box = random_view(image, np.random.default_rng(run), 320, 640, CROP)
    each = (time.perf_counter() - start) / runs
    sample = {"window": window, "box": box, "label": np.zeros(20, np.uint8)}
    size = len(pickle.dumps(sample))
    masks = (3 + 21) * CROP * CROP * 4
    return (
        f"loader: {each * 1e3:.0f} ms a training picture and process; {size:,} bytes go to the "
        f"trainer (float picture and 21 masks: {masks:,}, {masks / size:.0f} x)"
    )


STEPS = {"training step": training, "make_cam picture": inference}


def where_time_goes(runs: dict[tuple[str, int], dict]) -> str:
    """Return a table of the parts of our steps; ``runs`` by (one of STEPS, classes)."""
    rows = []
    for (what, classes), run in runs.items():
        whole = sum(run["parts"].values())
        rows += [
            [f"{what}, {classes} classes: {name}", f"{part * 1e3:.0f} ms", f"{part / whole:.0%}"]
            for name, part in run["parts"].items()
        ]
    return table(["where our time goes", "", ""], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 81])
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="of both variants")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    print(f"{args.device}, {args.threads} threads, amp {args.amp}")
    rows, runs = [], {}
    for what, function in STEPS.items():
        for classes in args.classes:
            print(f"measuring: {what}, {classes} classes", file=sys.stderr, flush=True)
            ours, slow = (
                in_fresh_process(function, variant, classes, args) for variant in ("ours", "plain")
            )
            rows.append(
                [
                    f"{what}, {classes} classes",
                    *(f"{run['seconds']:.3f} s" for run in (ours, slow)),
                    f"{slow['seconds'] / ours['seconds']:.2f} x",
                    *(f"{run['bytes'] / 2**20:.0f} MiB" for run in (ours, slow)),
                ]
            )
            runs[what, classes] = ours
    print(table(["", "ours", "plain", "faster", "ours", "plain"], rows))
    print()
    print(where_time_goes(runs))
    print()
    print(loading())


if __name__ == "__main__":
    main()
