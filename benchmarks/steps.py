"""One call of every long step of the chain, on random pictures, as the programs make it.

Nothing is tuned here that the programs do not tune: cudnn searches for algorithms in trainings,
whose windows have one size, and never at inference. Pictures are decoded already, and lie on the
device where a loader would bring them while the device works.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import infer_seg
import make_cam
import train_seg
from benchmarks.measure import peak_bytes, seconds
from data.inference import infer, mean_logits, refine
from data.transforms import rescale
from net.inputs import normalise, prepare
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.recipes import MODELS
from net.resnet50 import fold_batch_norm
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from net.resnet50_SIPE import CAM, Net, valid_mask
from tool.cli import pick_device
from tool.crf import crf_inference_views
from tool.indexing import PathIndex
from tool.maps import fuse, pack
from tool.optimizer import make_optimizer
from tool.walk import refine_by_walk

# Which of the flags are on. On the CPU TF32 and the fused optimiser do nothing.
FLAGS = ("channels_last", "fold", "fused", "tf32", "bf16")
VARIANTS = {
    "float32": (),
    "fp32": FLAGS[:3],
    "defaults": FLAGS[:4],
    "bf16": FLAGS,
}
RADIUS = 10
PRESENT = (3, 8)  # classes of the pictures of step 1.2
V2, V1 = MODELS
WIDE, TINY = (512, (375, 500), None), (96, (60, 80), 4)  # window of step 1 and 2, picture, width


class Job(NamedTuple):
    """How a step is to be made: on a device, in a variant, of so many pictures and classes."""

    device: torch.device
    variant: str
    batch: int
    classes: int
    tiny: bool

    @property
    def sizes(self) -> tuple[int, tuple[int, int], int | None]:
        return TINY if self.tiny else WIDE

    def has(self, flag: str) -> bool:
        return flag in VARIANTS[self.variant]

    @property
    def format(self) -> torch.memory_format:
        return torch.channels_last if self.has("channels_last") else torch.contiguous_format

    def place(self, x):
        """Return a network or pictures on the device, laid out."""
        return x.to(self.device, memory_format=self.format)

    def for_inference(self, net: nn.Module) -> nn.Module:
        return self.place(fold_batch_norm(net.eval()) if self.has("fold") else net.eval())

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.has("bf16"))

    def training(self, net: nn.Module, groups, momentum: float = 1e-4) -> torch.optim.Optimizer:
        """Return an optimiser as a trainer has it, with its search for the fastest algorithms."""
        torch.backends.cudnn.benchmark = True
        return make_optimizer(groups, momentum, self.device, self.has("fused"))

    def windows(self, side: int) -> Tensor:
        pixels = torch.randint(256, (self.batch, 3, side, side), dtype=torch.uint8)
        return pixels.to(self.device)

    def labels(self, side: int) -> np.ndarray:
        """Return uint8 (B, side, side): squares of background, one class and 255."""
        rng = np.random.default_rng(0)
        cell = -(-side // 8)
        squares = rng.choice([0, 0, 5, 255], (self.batch, 8, 8)).astype(np.uint8)
        return squares.repeat(cell, 1).repeat(cell, 2)[:, :side, :side]

    def picture(self) -> Image.Image:
        """Return a smooth picture with noise."""
        height, width = self.sizes[1]
        rng = np.random.default_rng(0)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + rng.integers(-8, 9, smooth.shape)
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


Step = Callable[[], Tensor]  # returns a loss, or a label


def sipe(job: Job) -> Step:
    """Return a training step of 1.1."""
    side, _, width = job.sizes
    net = job.place(Net(job.classes, None, width)).train()
    groups = net.trainable_groups(1e-6, 1e-4)
    learning = [parameter for group in groups for parameter in group["params"]]
    optimizer = job.training(net, groups)
    window = job.windows(side)
    box = torch.tensor([[0, 0, side, side]] * job.batch, device=job.device)
    label = torch.zeros(job.batch, job.classes - 1, device=job.device)
    label[:, list(PRESENT)] = 1

    def step() -> Tensor:
        img, mask = prepare(window, box), valid_mask(box, side, label)
        with job.autocast():
            out = net(img.contiguous(memory_format=job.format), mask)
        loss = sum(net.losses(out, label).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        return loss.detach()

    return step


def maps(job: Job) -> Step:
    """Return the maps of pictures of one size, at four scales with mirror (1.2)."""
    net = job.for_inference(CAM(job.classes, None, job.sizes[2]))
    scaled = [np.array(rescale(job.picture(), scale)) for scale in make_cam.SCALES]
    pictures = [
        torch.from_numpy(x).permute(2, 0, 1).expand(job.batch, -1, -1, -1).to(job.device)
        for x in scaled
    ]
    labels = torch.zeros(job.batch, job.classes)
    labels[:, [0, *(k + 1 for k in PRESENT)]] = 1

    @torch.inference_mode()
    def step() -> list[np.ndarray]:
        with job.autocast():
            return [pack(one) for one in infer(net, pictures, labels, job.format)]

    def label() -> Tensor:
        flat, shapes = step()[0]
        scales = torch.from_numpy(flat[:3]).split(shapes.prod(1).tolist(), 1)
        stacked = [m.unflatten(1, shape) for m, shape in zip(scales, shapes.tolist(), strict=True)]
        return fuse(stacked, job.sizes[1]).argmax(0)

    step.result = label
    return step


def crf(job: Job) -> Step:
    """Return both views of one picture of 2.1, three labels."""
    img = np.array(job.picture())
    height, width = img.shape[:2]
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 3, (2, 6, 8)).repeat(-(-height // 6), 1).repeat(-(-width // 8), 2)
    labels = squares[:, :height, :width]

    def step() -> Tensor:
        return torch.from_numpy(crf_inference_views(img, labels, num_classes=3, device=job.device))

    return step


def irn(job: Job) -> Step:
    """Return a training step of 2.2."""
    side, _, width = job.sizes
    index = PathIndex(RADIUS, (side // 4, side // 4))
    net = job.place(AffinityDisplacementLoss(index, None, width)).train()
    optimizer = job.training(net, net.trainable_groups(1e-6, 1e-4))
    window = job.windows(side)
    label = torch.from_numpy(job.labels(side)[:, 2::4, 2::4].copy()).to(job.device)

    def step() -> Tensor:
        with job.autocast():
            edge, displacement = net(normalise(window).contiguous(memory_format=job.format))
        loss = total_loss(loss_terms(*loss_sums(edge, displacement, label, job.classes, RADIUS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def walk(job: Job) -> Step:
    """Return edges and walk of one picture with three maps (2.3)."""
    _, size, width = job.sizes
    net = job.for_inference(EdgeDisplacement(width=width))
    picture = torch.from_numpy(np.array(job.picture())).permute(2, 0, 1).to(job.device)
    is_cam = torch.rand(3, *size).to(job.device)

    @torch.inference_mode()
    def step() -> Tensor:
        img = normalise(picture)
        pair = torch.stack([img, img.flip(2)]).contiguous(memory_format=job.format)
        with job.autocast():
            edge = net.edge(pair)
        return refine_by_walk(is_cam, edge, size)[0].cpu()

    return step


def _network(job: Job, model: str) -> tuple[nn.Module, object]:
    small = ["--width", "4", "--blocks", "1", "1", "1", "1"] if job.tiny else []
    args = train_seg.parse_arguments(["--model", model, "--pretrained", "none", *small])
    args.amp = "bf16" if job.has("bf16") else "off"
    args.channels_last = job.has("channels_last")
    net, _ = MODELS[model].module.build(job.classes, "none", width=args.width, blocks=args.blocks)
    return job.place(net), args


def segmentation(model: str) -> Callable[[Job], Step]:
    """Return what makes a training step of 3.1, of the recipe's batch in its parts."""

    def make(job: Job) -> Step:
        net, args = _network(job, model)
        net.train()
        args.accumulate = min(args.accumulate, job.batch)
        optimizer = job.training(
            net, net.trainable_groups(1e-7, args.weight_decay, args.head_lr), args.momentum
        )
        side = 65 if job.tiny else args.crop_size
        batch = {
            "window": normalise(job.windows(side)).cpu().numpy(),
            "label": job.labels(side),
        }

        def step() -> Tensor:
            optimizer.zero_grad()
            torch.manual_seed(0)  # of dropout
            loss = train_seg.accumulated_step(net, net, batch, args, job.device)
            optimizer.step()
            return loss.detach()

        return step

    return make


def segment(job: Job) -> Step:
    """Return a picture of 3.2 with the network and the CRF of DeepLab v2's recipe."""
    net, training = _network(job, V2)
    net.eval()
    args = infer_seg.parse_arguments(["--model", V2])
    args.amp, args.channels_last = training.amp, training.channels_last
    picture = np.array(job.picture())

    @torch.inference_mode()
    def step() -> Tensor:
        scores = mean_logits(net, picture, args, job.device).softmax(0)
        return refine(picture, scores, args).argmax(0).cpu()

    return step


class Kind(NamedTuple):
    """A step of the table.

    Attributes:
        make: returns its call.
        on_gpu, on_cpu: pictures of a call.
        with_classes: it depends on the number of classes.
        trains: it returns a loss, else a label.
    """

    make: Callable[[Job], Step]
    on_gpu: int = 1
    on_cpu: int = 1
    with_classes: bool = False
    trains: bool = False


STEPS = {
    "1.1 SIPE": Kind(sipe, 16, 4, with_classes=True, trains=True),
    "1.2 maps": Kind(maps, make_cam.GPU_BATCH, 1, with_classes=True),
    "2.1 CRF": Kind(crf),
    "2.2 IRN": Kind(irn, 32, 2, trains=True),
    "2.3 walk": Kind(walk),
    "3.1 DeepLab v2": Kind(segmentation(V2), 10, 2, trains=True),
    "3.1 DeepLab v1": Kind(segmentation(V1), 10, 1, trains=True),
    "3.2 segment": Kind(segment),
}


class Measured(NamedTuple):
    """What a call took, and gave at first."""

    pictures: int
    seconds: float
    bytes: int
    result: np.ndarray  # loss or label


def batch_of(name: str, device: torch.device) -> int:
    """Return how many pictures a call takes."""
    return STEPS[name].on_gpu if device.type == "cuda" else STEPS[name].on_cpu


def measure(name: str, classes: int, variant: str, settings) -> Measured | None:
    """Return what a step takes, or None where the GPU's memory does not suffice.

    Args:
        name: a key of STEPS.
        classes: with background.
        variant: a key of VARIANTS.
        settings: has device, threads, repeats, batch (None is the usual one) and tiny.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    device = pick_device(settings.device)
    torch.backends.cudnn.allow_tf32 = "tf32" in VARIANTS[variant]
    usual = batch_of(name, device)
    job = Job(
        device, variant, (settings.batch or usual) if usual > 1 else 1, classes, settings.tiny
    )
    try:
        step = STEPS[name].make(job)
        result = getattr(step, "result", step)().cpu().numpy()
        memory = peak_bytes(step, device)
        return Measured(job.batch, seconds(step, device, settings.repeats), memory, result)
    except torch.OutOfMemoryError:
        return None


# Pictures that the steps of a whole run take.
CLASSES = {"voc": 21, "coco": 81}
LISTED = {"voc": 10582, "coco": 82081}  # of the training list
TESTED = {"voc": 1449, "coco": 40137}
EPOCHS, IRN_EPOCHS = 5, 3


def work(dataset: str) -> dict[str, float]:
    """Return how many pictures each step of ``run_voc.sh`` or ``run_coco.sh`` takes."""
    listed = LISTED[dataset]
    refined = {"2.1 CRF": listed}  # COCO's labels are made by one view of it
    if dataset == "voc":
        refined |= {"2.2 IRN": listed * IRN_EPOCHS, "2.3 walk": listed}
    recipe = MODELS[V2].training
    trained = recipe.iterations * recipe.batch_size * recipe.accumulate
    return {
        "1.1 SIPE": listed * EPOCHS,
        "1.2 maps": listed,
        **refined,
        "3.1 DeepLab v2": trained,
        "3.2 segment": TESTED[dataset],
    }


def hours(rates: dict[tuple[str, int], float], dataset: str) -> dict[str, float]:
    """Return the hours of the steps of a whole run, from pictures a second of (step, classes)."""
    classes = CLASSES[dataset]
    found = {}
    for name, pictures in work(dataset).items():
        rate = rates.get((name, classes)) or rates.get((name, CLASSES["voc"]))
        if rate:
            found[name] = pictures / rate / 3600
    return found
