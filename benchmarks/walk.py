"""IRN's random walk against the dense walk, and its training losses against gathering.

    python -m benchmarks.walk [--part walk growth dense train labels] [--device cuda]

walk    3 maps on 94x125, the size of a 375x500 picture: seconds and memory
growth  four sizes: seconds, and seconds a million cells, which stays level
dense   against T squared as a dense (N, N) matrix, in this same command (20 s on a CPU)
train   losses and gradients of a batch: by offset (ours), every pair kept, paths gathered
labels  what a loader spends on the kinds of all pairs, against one uint8 map: 7 to 18 ms and 6 MB
        a picture against 16 kB

Steps of the walk last some 10 microseconds, too short for threads to wait for each other. Splitting
them over two threads made them 20 times slower on a busy machine and 10 % faster on an idle one, so
``tool.walk.BLOCK`` keeps a step on one thread.

Every measurement runs in a fresh process; memory is the peak beyond the inputs. Times are medians.
"""

import argparse
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import in_fresh_process, peak_bytes, seconds, table
from net.irn_loss import loss_sums, loss_terms, total_loss
from tests import reference
from tool.walk import WALK_BETA, WALK_EXP_TIMES, WALK_RADIUS, propagate_to_edge

PARTS = ("walk", "growth", "dense", "train", "labels")
MAPS = 3
PICTURE = (94, 125)  # 375x500 at stride 4
GROWTH = ((48, 64), (94, 125), (188, 250), (376, 500))
TRAIN_SIDE, TRAIN_RADIUS, CLASSES = 128, 10, 21
MIB = 2**20


def walk_inputs(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return maps (P, h, w) and an edge map (1, h, w) with closed contours."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, MAPS + 1, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 1)
    edge = torch.exp(-60 * (smooth[:1] - 0.5).abs())
    return smooth[1:].to(device), edge.to(device)


def measure_walk(which: str, size: tuple[int, int], settings: tuple[str, int], repeats: int):
    """Return (seconds, bytes, result on the CPU)."""
    device = torch.device(settings[0])
    torch.set_num_threads(settings[1])
    x, edge = walk_inputs(size, device)
    walk = {"ours": propagate_to_edge, "dense": reference.dense_walk}[which]
    propagate_to_edge(*walk_inputs((8, 8), device))  # what a first call sets up
    walked = []

    def call() -> None:
        walked[:] = [walk(x, edge, WALK_RADIUS, WALK_BETA, WALK_EXP_TIMES)]

    memory = peak_bytes(call, device)
    if repeats:
        return seconds(call, device, repeats), memory, walked[0].cpu()
    return None, memory, walked[0].cpu()


def train_inputs(batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return edge logits, displacements and labels; half of the pixels are unknown."""
    generator = torch.Generator().manual_seed(0)
    side = TRAIN_SIDE
    edge = torch.randn(batch, 1, side, side, generator=generator)
    displacement = torch.randn(batch, 2, side, side, generator=generator)
    cells = torch.tensor([0, 0, 5, 255, 255, 255])[
        torch.randint(6, (batch, 8, 8), generator=generator)
    ]
    label = cells.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2).to(torch.uint8)
    return edge.to(device).requires_grad_(), displacement.to(device).requires_grad_(), label


def measure_training(which: str, batch: int, settings: tuple[str, int]):
    """Return (seconds, bytes, loss) of a forward and backward pass from maps to map gradients."""
    device = torch.device(settings[0])
    torch.set_num_threads(settings[1])
    edge, displacement, label = train_inputs(batch, device)
    label = label.to(device)
    losses = []

    def call() -> None:
        if which == "by offset":
            sums = loss_sums(edge, displacement, label, CLASSES, TRAIN_RADIUS)
        else:
            probability = edge[:, 0].sigmoid()
            if which == "every pair":
                affinity = reference.pair_affinity(probability, TRAIN_RADIUS)
            else:
                affinity = 1 - reference.gathered_maxima(probability, TRAIN_RADIUS)
            kinds = reference.affinity_labels(label, CLASSES, TRAIN_RADIUS)
            sums = reference.loss_sums(
                reference.pair_losses(affinity, displacement, TRAIN_RADIUS), kinds
            )
        loss = total_loss(loss_terms(*sums))
        torch.autograd.grad(loss, (edge, displacement))
        losses[:] = [float(loss.detach())]

    memory = peak_bytes(call, device)
    return seconds(call, device, 3), memory, losses[0]


def measure_labels(which: str, settings: tuple[str, int]) -> tuple[float, int]:
    """Return the seconds and bytes of what a loader hands over for one picture."""
    torch.set_num_threads(settings[1])
    label = train_inputs(1, torch.device("cpu"))[2]

    def all_kinds() -> bytes:
        kinds = reference.affinity_labels(label, CLASSES, TRAIN_RADIUS)
        return pickle.dumps([kind.numpy() for kind in kinds])

    def one_map() -> bytes:
        return pickle.dumps(label.numpy())

    call: Callable[[], bytes] = {"kinds of all pairs": all_kinds, "uint8 map": one_map}[which]
    return seconds(call, torch.device("cpu"), 5), len(call())


def show_walk(settings: tuple[str, int]) -> None:
    """Print seconds and memory of one picture."""
    time, memory, _ = in_fresh_process(measure_walk, "ours", PICTURE, settings, 9)
    print(f"walk of {MAPS} maps on {PICTURE[0]}x{PICTURE[1]}: {time:.3f} s, {memory / MIB:.0f} MiB")


def show_growth(settings: tuple[str, int]) -> None:
    """Print seconds and memory at four sizes."""
    rows = []
    for size in GROWTH:
        time, memory, _ = in_fresh_process(measure_walk, "ours", size, settings, 5)
        cells = size[0] * size[1]
        row = [f"{size[0]}x{size[1]}", f"{time:.3f}", f"{time / cells * 1e6:.1f}"]
        rows.append([*row, f"{memory / MIB:.0f}"])
    print(table(["map", "s", "s / 1e6 cells", "MiB"], rows))


def show_dense(settings: tuple[str, int]) -> None:
    """Print both walks at the sizes that the dense one can do."""
    cuda = settings[0].startswith("cuda")
    rows = []
    for size in ((48, 64), PICTURE, (128, 128)) if cuda else ((48, 64),):
        time, memory, ours = in_fresh_process(measure_walk, "ours", size, settings, 9)
        dense = in_fresh_process(measure_walk, "dense", size, settings, 3 if cuda else 1)
        difference = float((ours - dense[2]).abs().max() / dense[2].abs().max())
        same = float((ours.argmax(0) == dense[2].argmax(0)).double().mean())
        row = [f"{size[0]}x{size[1]}", f"{dense[0]:.3f}", f"{time:.4f}", f"{dense[0] / time:.0f}"]
        row += [f"{dense[1] / MIB:.0f}", f"{memory / MIB:.0f}", f"{difference:.1e}"]
        rows.append([*row, f"{100 * same:.2f} %"])
    header = ["map", "dense s", "ours s", "ratio", "dense MiB", "ours MiB", "rel. diff.", "argmax"]
    print(table(header, rows))


def show_training(settings: tuple[str, int], batch: int) -> None:
    """Print the three ways to the losses of a batch."""
    rows, losses = [], []
    for which in ("by offset", "every pair", "gathered"):
        time, memory, loss = in_fresh_process(measure_training, which, batch, settings)
        losses.append(loss)
        rows.append([which, f"{time:.3f}", f"{time / batch:.3f}", f"{memory / MIB:.0f}"])
    if max(losses) - min(losses) > 1e-4 * max(losses):
        raise SystemExit(f"the losses differ: {losses}")
    print(f"losses and gradients, {batch} maps of {TRAIN_SIDE}x{TRAIN_SIDE}, radius {TRAIN_RADIUS}")
    print(table(["way", "s", "s / picture", "MiB"], rows))


def show_labels(settings: tuple[str, int]) -> None:
    """Print what a loader would spend on one picture."""
    rows = []
    for which in ("uint8 map", "kinds of all pairs"):
        time, size = in_fresh_process(measure_labels, which, settings)
        rows.append([which, f"{time * 1e3:.2f}", f"{size / 1024:.0f}"])
    print(table(["from a loader", "ms", "KiB"], rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--batch", type=int, default=2, help="of train; the published 32 gathers some 14 GiB"
    )
    args = parser.parse_args()
    settings = args.device, args.threads
    shows = {"walk": show_walk, "growth": show_growth, "dense": show_dense, "labels": show_labels}
    for part in args.part:
        if part == "train":
            show_training(settings, args.batch)
        else:
            shows[part](settings)
        print()


if __name__ == "__main__":
    main()
