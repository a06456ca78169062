"""IPE (seeds, prototypes, IS-CAM) with its backward pass, ours against the plain formulation.

    python -m benchmarks.ipe [--classes 21 81] [--device cuda]

Both run in this one command, each in a fresh process; memory is the peak beyond the inputs.
"""

import argparse

import torch

from benchmarks import plain
from benchmarks.measure import in_fresh_process, peak_bytes, seconds, table
from net import resnet50_SIPE as fast

BATCH, SIDE, X4_CHANNELS, FEATURE_CHANNELS = 4, 32, 2048, 768


def measure(variant: str, classes: int, device_name: str, threads: int) -> dict[str, float]:
    """Return seconds, bytes and the mean of IS-CAM (the variants must agree in it)."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    module = {"ours": fast, "plain": plain}[variant]
    torch.manual_seed(0)
    cam = torch.rand(BATCH, classes, SIDE, SIDE, device=device)
    label = (torch.rand(BATCH, classes, 1, 1, device=device) < 0.2).float()
    x4 = torch.rand(BATCH, X4_CHANNELS, SIDE, SIDE, device=device)
    feature = torch.randn(BATCH, FEATURE_CHANNELS, SIDE, SIDE, device=device, requires_grad=True)
    target = torch.rand(BATCH, classes, SIDE, SIDE, device=device)

    def ipe() -> float:
        with torch.no_grad():
            seeds, _ = module.get_seed(cam, label, x4)
        is_cam = module.reactivate(module.get_prototype(seeds, feature), feature)
        fast.consistency_loss(target, is_cam).backward()
        return float(is_cam.detach().mean())

    memory = peak_bytes(ipe, device)
    mean = ipe()
    return {"seconds": seconds(ipe, device, 3), "bytes": memory, "mean": mean}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 81])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    rows = []
    for classes in args.classes:
        ours, slow = (
            in_fresh_process(measure, variant, classes, args.device, args.threads)
            for variant in ("ours", "plain")
        )
        if abs(ours["mean"] - slow["mean"]) > 1e-4 * abs(slow["mean"]):
            raise SystemExit(f"the results differ: {ours['mean']} and {slow['mean']}")
        rows.append(
            [
                f"{classes} classes",
                *(f"{run['seconds'] * 1e3:.0f} ms" for run in (ours, slow)),
                f"{slow['seconds'] / ours['seconds']:.1f} x",
                *(f"{run['bytes'] / 2**20:.0f} MiB" for run in (ours, slow)),
                f"1/{slow['bytes'] / ours['bytes']:.1f}",
            ]
        )
    print(f"batch {BATCH}, {SIDE}x{SIDE}, {args.device}, {args.threads} threads")
    print(table(["", "ours", "plain", "faster", "ours", "plain", "memory"], rows))


if __name__ == "__main__":
    main()
