"""Train the demo's narrow ResNet-50 to recognise what a picture shows, and write its weights.

Reads   nothing: pictures of heads and bodies in random combinations are drawn on the way
Writes  data/demo_resnet50.pth, float16, 3 MB, torchvision's names
Try     python -m data.demo.pretrain
Expect  six minutes of one core

It stands in for ImageNet, so it learns as ImageNet's networks do, from image-level labels: which
heads there are (four of them are no classes of the demo), which coats, which ground. A head may
come without a body and a body without a head, so that features know bodies in their own right.
Heads show the coat as well as bodies do, so that the features of head and body of a creature are
alike, and unlike those of the ground.
"""

import argparse
import logging
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.demo import Demo, drawing
from net.inputs import normalise
from net.resnet50 import EXPANSION, FixedBatchNorm, ResNet50
from tool import checkpoint, cli
from tool.progress import progress
from tool.run import run

WIDTH = 16
SIDE = 112  # of the pictures drawn, pixels
SIDES = (96, 112, 128)  # they are resized to one of these a step
# What a picture is labelled with: names of heads, coats and grounds.
ATTRIBUTES = drawing.HEADS + tuple(drawing.COATS) + drawing.GROUNDS
WEIGHT_DECAY = 0.05
WARM_UP = 0.1  # share of the steps in which the learning rate rises
STATISTICS = 40  # batches that the stored means and variances are taken from

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of this program."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add, count = parser.add_argument, cli.at_least(1)
    add("--out", type=Path, default=Path(Demo.pretrained), help="file to write")
    add("--pictures", type=count, default=6000, help="how many are drawn")
    add("--steps", type=count, default=650, help="updates of the weights")
    add("--batch_size", type=count, default=32, help="pictures of a step")
    add("--lr", type=float, default=2e-3, help="AdamW's, at the warm-up's end")
    add("--num_workers", type=cli.at_least(0), default=2, help="drawing processes")
    add("--seed", type=int, default=0, help="of pictures, weights and batches")
    add("--amp", choices=("off", "bf16"), default="off", help="bf16 may be faster")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    return parser.parse_args(arguments)


class Scenes(TorchDataset):
    """As many pictures of heads and bodies as asked for, of one seed, with what is in them."""

    def __init__(self, pictures: int, seed: int) -> None:
        self.pictures, self.seed = pictures, seed

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a picture, uint8 (3, SIDE, SIDE), and float32 (A,) in {0, 1} for ATTRIBUTES."""
        rng = random.Random(f"scene {self.seed} {index}")
        ground = rng.choice(drawing.GROUNDS)
        canvas = drawing.draw_ground(rng, ground, SIDE, SIDE)
        present = {ground}
        number = rng.choices((0, 1, 2), (1, 7, 4))[0]
        for coat in rng.sample(list(drawing.COATS), number):
            head, body = rng.choice(drawing.HEADS), True
            if rng.random() < 0.4:  # one of the two is missing
                head, body = (None, True) if rng.random() < 0.6 else (head, False)
            size = rng.uniform(0.65, 1.2 if number == 1 else 0.8)
            drawing.Creature.draw(rng, SIDE, SIDE, size, head, coat, body).paint(canvas)
            present |= {head, coat} if head else {coat}
        label = np.array([name in present for name in ATTRIBUTES], np.float32)
        return drawing.to_image(canvas).transpose(2, 0, 1), label


def with_batch_statistics(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation that only reads its statistics by one that makes them."""
    for name, child in module.named_children():
        if isinstance(child, FixedBatchNorm):
            setattr(module, name, nn.BatchNorm2d(child.num_features))
        else:
            with_batch_statistics(child)
    return module


def random_views(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a batch turned by a quarter, mirrored and resized at random, normalised.

    ``pictures`` are uint8 (B, 3, SIDE, SIDE), the result is float32 (B, 3, S, S) with S of SIDES.
    """
    turned = [torch.rot90(picture, int(rng.integers(4)), (1, 2)) for picture in pictures]
    img = torch.stack([one.flip(2) if rng.random() < 0.5 else one for one in turned])
    side = int(rng.choice(SIDES))
    img = F.interpolate(normalise(img), (side, side), mode="bilinear", antialias=side < SIDE)
    return img.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def store_statistics(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set all stored means and variances to the averages over ``batches``, weights as they are."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average
    for img in batches:
        net(img)


def learning_rate(peak: float, step: int, total: int) -> float:
    """Return the rate of a step: a linear rise, then half a cosine down to zero."""
    rise = max(1, round(WARM_UP * total))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (1 + np.cos(np.pi * (step - rise) / max(1, total - rise))) / 2


def main(arguments: list[str] | None = None) -> None:
    """Draw the pictures, train, average the statistics, write the weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_arguments(arguments)
    device = cli.pick_device(args.device)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    scenes = DataLoader(Scenes(args.pictures, args.seed), 32, num_workers=args.num_workers)
    drawn = list(progress(scenes, len(scenes), "drawing"))
    pictures, labels = (torch.cat(parts).to(device) for parts in zip(*drawn, strict=True))

    backbone = with_batch_statistics(ResNet50(WIDTH, frozen_stages=-1))
    backbone.to(device, memory_format=torch.channels_last).train()
    classifier = nn.Linear(WIDTH * 8 * EXPANSION, len(ATTRIBUTES)).to(device)
    learning = [*backbone.parameters(), *classifier.parameters()]
    # SGD, at the learning rates that ResNets usually take, leaves this narrow network untrained.
    optimizer = torch.optim.AdamW(learning, lr=args.lr, weight_decay=WEIGHT_DECAY)

    def batch() -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(rng.integers(len(pictures), size=args.batch_size)).to(device)
        return random_views(pictures[index], rng), labels[index]

    losses = []
    for step in progress(range(args.steps), args.steps, "pretraining"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args.lr, step, args.steps)
        img, label = batch()
        with cli.autocast(args, device):
            score = classifier(backbone(img)[-1].mean((2, 3))).float()  # (B, A)
        loss = F.binary_cross_entropy_with_logits(score, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            log.info("step %d of %d: loss %.4f", step + 1, args.steps, np.mean(losses[-50:]))

    store_statistics(backbone, (batch()[0] for _ in range(STATISTICS)))
    state = backbone.state_dict()
    names = [name for name in state if not name.endswith(checkpoint.COUNTER)]
    checkpoint.save(args.out, {name: state[name].contiguous().half() for name in names})
    log.info("%s written", args.out)


if __name__ == "__main__":
    run(main)
