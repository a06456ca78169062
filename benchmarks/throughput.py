"""Pictures a second and memory of every long step, and the hours of a whole run they make.

    python -m benchmarks.throughput [--device cuda] [--also bf16]

Each step runs twice in this command: as float32 without any of the speed flags, and with the
defaults of the programs (channels-last, normalisation folded into convolutions at inference; on
CUDA also TF32 convolutions, the fused optimiser and several pictures at once). Numbers are those of
the device alone, with pictures already decoded; reading takes some 15 ms a picture and process
beside it. The last table says where the time goes inside the two steps that take most of it, as
float32 with channels-last; ``python -m benchmarks.step1`` lays them beside the plain formulation.

Batches are the published ones on CUDA and small ones on the CPU, see --batch.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import make_cam
from benchmarks import step1
from benchmarks.measure import in_fresh_process, peak_bytes, seconds, table
from benchmarks.step1 import CROP, PRESENT, SIZE, photograph_pixels, random_batch
from data.transforms import rescale
from net.inputs import normalise, prepare
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50 import fold_batch_norm
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from net.resnet50_SIPE import CAM, Net, valid_mask
from tool.cli import pick_device
from tool.crf import crf_inference_views
from tool.indexing import PathIndex
from tool.maps import pack
from tool.optimizer import make_optimizer
from tool.run import run
from tool.walk import refine_by_walk

FLAGS = ("channels_last", "tf32", "fused", "fold", "bf16")
VARIANTS = {  # which of the speed flags are on
    "float32": (),
    "defaults": FLAGS[:4],
    "bf16": FLAGS,
}
CLASSES = {"voc": 21, "coco": 81}
TRAINED = {"voc": 3305 * 16, "coco": 25650 * 16}  # pictures that step 1.1 takes
LISTED = {"voc": 10582, "coco": 82081}  # pictures of the training list
IRN_EPOCHS = 3
RADIUS = 10


class Speed:
    """How a step computes: one of VARIANTS on a device."""

    def __init__(self, device: str, variant: str) -> None:
        self.device = pick_device(device)
        self.flags = {flag: flag in VARIANTS[variant] for flag in FLAGS}
        torch.backends.cudnn.allow_tf32 = self.flags["tf32"]
        torch.backends.cudnn.benchmark = True
        last = self.flags["channels_last"]
        self.format = torch.channels_last if last else torch.contiguous_format

    def place(self, x):
        """Return a network or pictures on the device, laid out."""
        return x.to(self.device, memory_format=self.format)

    def for_inference(self, net: nn.Module) -> nn.Module:
        """Return a network on the device, evaluating."""
        return self.place(fold_batch_norm(net.eval()) if self.flags["fold"] else net.eval())

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.flags["bf16"])

    def optimizer(self, groups) -> torch.optim.SGD:
        return make_optimizer(groups, 1e-4, self.device, self.flags["fused"])


def sipe(speed: Speed, batch: int, classes: int) -> Callable[[], None]:
    """Return a training step of 1.1."""
    net = speed.place(Net(classes, pretrained=None)).train()
    groups = net.trainable_groups(1e-6, 1e-4)
    learning = [parameter for group in groups for parameter in group["params"]]
    optimizer = speed.optimizer(groups)
    window, box, label = random_batch(batch, classes, speed.device)

    def step() -> None:
        img, mask = prepare(window, box), valid_mask(box, CROP, label)
        with speed.autocast():
            out = net(speed.place(img), mask)
        loss = sum(net.losses(out, label).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    return step


def maps(speed: Speed, batch: int, classes: int) -> Callable[[], None]:
    """Return the maps of ``batch`` pictures of one size, at four scales with mirror (1.2)."""
    net = speed.for_inference(CAM(classes, pretrained=None))
    image = photograph_pixels()
    scaled = [np.array(rescale(image, scale)) for scale in make_cam.SCALES]
    pictures = [
        torch.from_numpy(x).permute(2, 0, 1).expand(batch, -1, -1, -1).to(speed.device)
        for x in scaled
    ]
    labels = torch.zeros(batch, classes, device=speed.device)
    labels[:, [0, *(k + 1 for k in PRESENT)]] = 1

    @torch.inference_mode()
    def step() -> None:
        with speed.autocast():
            for of_scales in make_cam.infer(net, pictures, labels, speed.format):
                pack(of_scales)

    return step


def crf(speed: Speed, batch: int, classes: int) -> Callable[[], None]:
    """Return both views of one picture of 2.1, three labels."""
    img = np.asarray(photograph_pixels())
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (2, 6, 8)).repeat(63, 1).repeat(63, 2)[:, : SIZE[0], : SIZE[1]]

    def step() -> None:
        crf_inference_views(img, labels, num_classes=3, device=speed.device)

    return step


def irn(speed: Speed, batch: int, classes: int) -> Callable[[], None]:
    """Return a training step of 2.2."""
    index = PathIndex(RADIUS, (CROP // 4, CROP // 4))
    net = speed.place(AffinityDisplacementLoss(index, None)).train()
    optimizer = speed.optimizer(net.trainable_groups(1e-6, 1e-4))
    window, _, _ = random_batch(batch, classes, speed.device)
    rng = np.random.default_rng(0)
    label = rng.choice([0, 0, 5, 255], (batch, 8, 8)).repeat(CROP // 32, 1).repeat(CROP // 32, 2)
    label = torch.from_numpy(label.astype(np.uint8)).to(speed.device)

    def step() -> None:
        with speed.autocast():
            edge, displacement = net(speed.place(normalise(window)))
        sums = loss_sums(edge, displacement, label, classes, RADIUS)
        optimizer.zero_grad()
        total_loss(loss_terms(*sums)).backward()
        optimizer.step()

    return step


def walk(speed: Speed, batch: int, classes: int) -> Callable[[], None]:
    """Return edges and walk of one picture with three maps (2.3)."""
    net = speed.for_inference(EdgeDisplacement())
    picture = torch.from_numpy(np.array(photograph_pixels())).permute(2, 0, 1).to(speed.device)
    is_cam = torch.rand(3, *SIZE, device=speed.device)

    @torch.inference_mode()
    def step() -> Tensor:
        img = normalise(picture)
        with speed.autocast():
            edge = net.edge(speed.place(torch.stack([img, img.flip(2)])))
        return refine_by_walk(is_cam, edge, SIZE)[0].cpu()

    return step


STEPS = {"1.1 SIPE": sipe, "1.2 maps": maps, "2.1 CRF": crf, "2.2 IRN": irn, "2.3 walk": walk}
WITH_CLASSES = ("1.1 SIPE", "1.2 maps")  # the others hardly depend on the number of classes
SINGLE = ("2.1 CRF", "2.3 walk")  # a picture at a time
PUBLISHED_BATCH = {"1.1 SIPE": 16, "1.2 maps": make_cam.GPU_BATCH, "2.2 IRN": 32}
CPU_BATCH = {"1.1 SIPE": 4, "1.2 maps": 1, "2.2 IRN": 2}


def default_batches(device: torch.device) -> dict[str, int]:
    """Return how many pictures a step takes."""
    return PUBLISHED_BATCH if device.type == "cuda" else CPU_BATCH


def measure(name: str, classes: int, variant: str, args: argparse.Namespace):
    """Return pictures a step, seconds a step and peak bytes, or None for lack of GPU memory."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    speed = Speed(args.device, variant)
    batch = 1 if name in SINGLE else args.batch or default_batches(speed.device)[name]
    try:
        step = STEPS[name](speed, batch, classes)
        memory = peak_bytes(step, speed.device)
        return batch, seconds(step, speed.device, args.repeats), memory
    except torch.cuda.OutOfMemoryError:
        return None


def hours(rates: dict[tuple[str, int], float], dataset: str) -> list[tuple[str, float]]:
    """Return the hours of the steps of a whole run, from pictures a second of each."""
    classes = CLASSES[dataset]
    work = {
        "1.1 SIPE": TRAINED[dataset],
        "1.2 maps": LISTED[dataset],
        "2.1 CRF": LISTED[dataset],
        "2.2 IRN": LISTED[dataset] * IRN_EPOCHS,
        "2.3 walk": LISTED[dataset],
    }
    found = []
    for name, pictures in work.items():
        rate = rates.get((name, classes)) or rates.get((name, 0))
        if rate:
            found.append((name, pictures / rate / 3600))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--classes", type=int, nargs="+", default=list(CLASSES.values()))
    parser.add_argument("--also", nargs="*", choices=["bf16"], default=[], help="more variants")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, help="of every step that takes several pictures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    variants = ["float32", "defaults", *args.also]
    where = pick_device(args.device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    print(f"{name}, {args.threads} threads, PyTorch {torch.__version__}")
    rows, rates = [], {variant: {} for variant in variants}
    for step in args.steps:
        for classes in args.classes if step in WITH_CLASSES else args.classes[:1]:
            key = step, classes if step in WITH_CLASSES else 0
            row, plain = [f"{step}, {classes} classes" if key[1] else step], None
            for variant in variants:
                print(f"measuring: {row[0]}, {variant}", file=sys.stderr, flush=True)
                found = in_fresh_process(measure, step, classes, variant, args)
                if found is None:
                    row += ["out of memory", "-", "-"]
                    continue
                batch, each, memory = found
                rates[variant][key] = batch / each
                plain = plain or batch / each
                row += [f"{batch / each:.2f}", f"{batch / each / plain:.2f} x"]
                row.append(f"{memory / 2**20:.0f}")
            rows.append([*row[:1], str(batch), *row[1:]])
    header = ["", "pictures"]
    for variant in variants:
        header += [f"{variant}: a second", "", "MiB"]
    print(table(header, rows))
    print("\nhours of a whole run on this device, without reading and writing")
    rows = []
    for dataset in CLASSES:
        for variant in variants:
            parts = hours(rates[variant], dataset)
            text = ", ".join(f"{step} {value:.2f}" for step, value in parts)
            rows.append([dataset, variant, f"{sum(value for _, value in parts):.2f}", text])
    print(table(["", "", "together", "steps"], rows))
    args.device, args.amp = str(where), "off"
    args.batch_size = args.batch or default_batches(where)["1.1 SIPE"]
    runs = {}
    for what, function in step1.STEPS.items():
        for classes in args.classes:
            print(f"measuring: parts of {what}, {classes} classes", file=sys.stderr, flush=True)
            runs[what, classes] = in_fresh_process(function, "ours", classes, args)
    print()
    print(step1.where_time_goes(runs))


if __name__ == "__main__":
    run(main)
