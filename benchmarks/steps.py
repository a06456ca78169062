"""One call of every long step of the chain, on random pictures, as the programs make it.

Nothing is tuned here that the programs do not tune: cudnn searches for algorithms in trainings,
whose windows have one size, and never at inference. Pictures are decoded already, and lie on the
device where a loader would bring them while the device works.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import Call
from data.transforms import rescale
from net.deeplabv1_resnet38 import DeepLabV1_ResNet38 as V1
from net.deeplabv2 import DeepLabV2_ResNet101_MSC as V2
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50 import fold_batch_norm
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from net.resnet50_SIPE import Net
from net.segmentation import mean_loss
from tool.crf import crf_inference, crf_inference_label
from tool.maps import fuse
from tool.optimizer import make_optimizer
from tool.walk import refine_by_walk

WINDOW = 512  # pixels of a training window of steps 1 and 2
CROP_V2 = 321  # of those of step 3.1
CROP_V1 = 448
PICTURE = (375, 500)
WIDTH = None  # of the backbone; None is the published one
SHAPE: dict = {}  # of the segmentation networks, likewise
SCALES = (1.0, 0.5, 1.5, 2.0)  # of step 1.2
PARTS = 2  # of a batch of DeepLab v2
PRESENT = [0, 3, 8]  # classes of the pictures of step 1
RADIUS = 10  # of the pairs of step 2.2
# What may be on. On the CPU TF32 and the fused optimiser do nothing.
FLAGS = ("channels_last", "fold", "fused", "tf32", "bf16")


class Job(NamedTuple):
    """How a step is to be made: on a device, with some of FLAGS, of pictures and classes."""

    device: torch.device
    flags: tuple[str, ...] = ()
    batch: int = 1
    classes: int = 21

    def place(self, x):
        """Return a network or pictures on the device, laid out."""
        torch.backends.cudnn.allow_tf32 = "tf32" in self.flags
        layout = torch.channels_last if "channels_last" in self.flags else torch.contiguous_format
        return x.to(self.device, memory_format=layout)

    def for_inference(self, net: nn.Module) -> nn.Module:
        """Return a network that evaluates, on the device."""
        net.eval()
        return self.place(fold_batch_norm(net) if "fold" in self.flags else net)

    def run(self, net: Callable, img: Tensor, *more: Tensor):
        """Return what a network makes of pictures."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled="bf16" in self.flags):
            return net(self.place(img), *more)

    def windows(self, side: int) -> Tensor:
        """Return a batch of noise, uint8 (B, 3, side, side)."""
        size = (self.batch, 3, side, side)
        return torch.randint(256, size, dtype=torch.uint8, device=self.device)

    def labels(self, side: int) -> Tensor:
        """Return areas of four classes, uint8 (B, side, side)."""
        return areas(self.batch, 4, (side, side)).byte().to(self.device)

    def present(self) -> Tensor:
        """Return image labels, float32 (B, C), with background."""
        label = torch.zeros(self.batch, self.classes)
        label[:, PRESENT] = 1
        return label.to(self.device)


def smooth(number: int, size: tuple[int, int]) -> Tensor:
    """Return smooth random maps of about 0 to 1, float32 (number, *size)."""
    return nn.functional.interpolate(torch.rand(1, number, 9, 12), size, mode="bicubic")[0]


def areas(number: int, kinds: int, size: tuple[int, int]) -> Tensor:
    """Return maps of random areas of so many kinds, int64 (number, *size)."""
    return smooth(number * kinds, size).view(number, kinds, *size).argmax(1)


def picture(plain: float = 0.5) -> np.ndarray:
    """Return uint8 (H, W, 3): smooth areas, mostly grey, with noise, below a plain part.

    Without a plain part the CRF's lattice has 100,000 vertices at 375x500; 60 VOC photographs of
    that size have 5,000 to 250,000, half of them more than 97,000. In the plain part thousands of
    pixels share a vertex, as they do in a sky.
    """
    mixed = smooth(1, PICTURE).lerp(smooth(3, PICTURE), 0.15)
    noisy = 255 * mixed + 2 * torch.randn(mixed.shape)
    noisy[:, : int(plain * PICTURE[0])] = 200
    return noisy.clamp(0, 255).byte().permute(1, 2, 0).numpy()


def pixels(job: Job, scale: float = 1) -> Tensor:
    """Return a picture at a scale, uint8 (3, h, w) on the device."""
    scaled = rescale(Image.fromarray(picture()), scale)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).to(job.device)


def training(
    job: Job, net: nn.Module, losses: Callable[[], Iterator[Tensor]], largest_norm: float = 0
) -> Call:
    """Return a training step, which returns its loss.

    Args:
        job: what it is made for.
        net: learns.
        losses: yields those of the parts of a batch.
        largest_norm: of the gradient; 0 does not clip it.
    """
    torch.backends.cudnn.benchmark = True
    groups = net.trainable_groups(1e-6, 1e-4)
    optimizer = make_optimizer(groups, 1e-6, 0.9, job.device, "fused" in job.flags)

    def step():
        torch.manual_seed(0)  # of dropout
        optimizer.zero_grad()
        total = 0
        for loss in losses():
            loss.backward()
            total = total + loss.detach()
        if largest_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), largest_norm)
        optimizer.step()
        return total

    return step


def sipe(job: Job, network: type[Net] = Net) -> Call:
    """Return a training step of 1.1."""
    net = job.place(network(job.classes, None, WIDTH)).train()
    window = job.windows(WINDOW)
    label = job.present()[:, 1:]
    box = torch.tensor([[0, 0, WINDOW, WINDOW]] * job.batch, device=job.device)

    def losses():
        img = net.prepare(window, box)
        mask = net.valid_mask(box, WINDOW, label)
        yield sum(net.losses(job.run(net, img, mask), label).values())

    return training(job, net, losses, largest_norm=1)


def maps(job: Job, network: type[Net] = Net) -> Call:
    """Return the maps of pictures of one size at four scales with mirror (1.2), fused."""
    net = job.for_inference(network(job.classes, None, WIDTH))
    scaled = [pixels(job, scale) for scale in SCALES]
    label = job.present()[:, :, None, None]
    kept = torch.tensor(PRESENT, device=job.device)

    @torch.inference_mode()
    def call():
        found = []
        for one in scaled:
            img = net.prepare(one.expand(job.batch, -1, -1, -1))
            pairs = torch.stack([img, img.flip(3)], 1).flatten(0, 1)
            _, is_cam = job.run(net.localize, pairs, label)
            found.append(is_cam[:, kept].flatten(0, 1))
        return fuse(found, PICTURE).cpu().view(job.batch, len(PRESENT), *PICTURE).argmax(1)

    return call


def crf(job: Job, kinds: int = 3, plain: float = 0.5) -> Call:
    """Return both views of one picture of 2.1, of so many labels, see :func:`picture`."""
    img = picture(plain)
    labels = areas(2, kinds, PICTURE).numpy()

    def call():
        refined = crf_inference_label(img, labels, num_classes=kinds, device=job.device)
        return torch.from_numpy(refined)

    return call


def irn(job: Job) -> Call:
    """Return a training step of 2.2."""
    side = WINDOW // 4
    net = AffinityDisplacementLoss(None, WIDTH)
    net = job.place(net).train()
    window = job.windows(WINDOW)
    label = job.labels(side)

    def losses():
        edge, displacement = job.run(net, net.prepare(window))
        sums = loss_sums(edge, displacement, label, job.classes, RADIUS)
        yield total_loss(loss_terms(*sums))

    return training(job, net, losses)


def walk(job: Job) -> Call:
    """Return edges and walk of one picture with three maps (2.3)."""
    net = job.for_inference(EdgeDisplacement(width=WIDTH))
    one = pixels(job)
    is_cam = torch.rand(3, *PICTURE, device=job.device)

    @torch.inference_mode()
    def call():
        img = net.prepare(one)
        edge = job.run(net.edge, torch.stack([img, img.flip(2)]))
        return refine_by_walk(is_cam, edge, PICTURE)[0].cpu()

    return call


def deeplab(network: type, side: int, parts: int, job: Job) -> Call:
    """Return a training step of 3.1, whose batch comes in so many parts, on a GPU together."""
    net = job.place(network(job.classes, **SHAPE)).train()
    window = net.prepare(job.windows(side))
    label = job.labels(side)
    passes = parts if job.device.type == "cpu" else 1

    def losses():
        for some, labels in zip(window.chunk(passes), label.chunk(passes), strict=True):
            outputs = job.run(net, some)
            yield mean_loss(*net.loss_sums(outputs, labels, parts // passes)) / parts

    return training(job, net, losses)


def segment(job: Job) -> Call:
    """Return a picture of 3.2 with the network and the CRF of DeepLab v2's recipe."""
    net = job.for_inference(V2(job.classes, **SHAPE))
    img = pixels(job)

    @torch.inference_mode()
    def call():
        (logits,) = job.run(net.predict, net.prepare(img[None]))
        colours = img.permute(1, 2, 0).cpu().numpy()
        return crf_inference(colours, logits.float().softmax(0)).argmax(0).cpu()

    return call


class Step(NamedTuple):
    """A step of the chain.

    Attributes:
        make: makes its call.
        voc, coco: pictures that it takes in run_voc.sh and run_coco.sh, whose labels the CRF makes.
        batch: pictures of a call on a GPU.
        with_classes: its time depends on the number of classes.
    """

    make: Callable[[Job], Call]
    voc: int = 0
    coco: int = 0
    batch: int = 1
    with_classes: bool = False


VOC = 10_582  # pictures of the training lists
COCO = 82_081
RECIPE = 20_000 * 10  # of DeepLab v2
STEPS = {
    "1.1 SIPE": Step(sipe, 5 * VOC, 5 * COCO, 16, with_classes=True),
    "1.2 maps": Step(maps, VOC, COCO, 4, with_classes=True),
    "2.1 CRF": Step(crf, VOC, COCO),
    "2.2 IRN": Step(irn, 3 * VOC, batch=32),
    "2.3 walk": Step(walk, VOC),
    "3.1 DeepLab v2": Step(partial(deeplab, V2, CROP_V2, PARTS), RECIPE, RECIPE, 10),
    "3.1 DeepLab v1": Step(partial(deeplab, V1, CROP_V1, 1), batch=10),
    "3.2 segment": Step(segment, 1_449, 40_137),
}
