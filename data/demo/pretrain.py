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

import logging
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import update_bn

from data.demo import Demo, drawing
from data.loaders import one_by_one
from net.inputs import normalise
from net.resnet50 import EXPANSION, FixedBatchNorm, ResNet50
from tool import checkpoint
from tool.cli import Parser, Words
from tool.progress import progress
from tool.run import run

WIDTH = 16
SEED = 0  # of pictures and weights
SIDE = 112  # of the pictures drawn, pixels
SIDES = (96, 112, 128)  # they are resized to one of these a step
# What a picture is labelled with: names of heads, coats and grounds.
ATTRIBUTES = (*drawing.HEADS, *drawing.COATS, *drawing.GROUNDS)
STEPS = 650
BATCH = 32
PEAK = 2e-3  # learning rate at the warm-up's end
WARM_UP = 0.1  # share of the steps in which the learning rate rises
WEIGHT_DECAY = 0.05
STATISTICS = 40  # batches that the stored means and variances are taken from

log = logging.getLogger(__name__)


def draw_scenes(seeds: list[str]) -> tuple[Tensor, Tensor]:
    """Draw B pictures of heads and bodies, one a seed, and resize them to S of SIDES pixels.

    Returns float32 (B, 3, S, S), normalised, and (B, A) in {0, 1}, which ATTRIBUTES they show.
    """
    pictures, labels = [], []
    for seed in seeds:
        rng = random.Random(seed)
        ground = rng.choice(drawing.GROUNDS)
        canvas = drawing.draw_ground(rng, ground, SIDE, SIDE)
        present = {ground}
        number = rng.choices((0, 1, 2), (1, 7, 4))[0]
        for coat in rng.sample(drawing.COATS, number):
            head, body = rng.choice(drawing.HEADS), True
            if rng.random() < 0.4:  # one of the two is missing
                head, body = (None, True) if rng.random() < 0.6 else (head, False)
            size = rng.uniform(0.65, 1.2 if number == 1 else 0.8)
            drawing.Creature(rng, SIDE, SIDE, size, head, coat, body).paint(canvas)
            present |= {head, coat}
        pictures.append(drawing.to_image(canvas).transpose(2, 0, 1))
        labels.append([name in present for name in ATTRIBUTES])
    img, side = normalise(torch.from_numpy(np.stack(pictures))), rng.choice(SIDES)
    img = F.interpolate(img, (side, side), mode="bilinear", antialias=side < SIDE)
    return img, torch.tensor(labels, dtype=torch.float32)


def main(arguments: Words = None) -> None:
    """Draw the pictures, train, average the statistics, write the weights."""
    parser = Parser(__doc__)
    parser.add_argument("--out", default=Demo.pretrained, help="file to write")
    args = parser.parse_args(arguments)
    torch.manual_seed(SEED)
    seeds = [f"scene {SEED} {number}" for number in range(BATCH * (STEPS + STATISTICS))]
    batches = iter(one_by_one(draw_scenes, seeds, 2, BATCH))

    backbone = ResNet50(WIDTH, frozen_stages=-1)
    for name, module in list(backbone.named_modules()):
        if isinstance(module, FixedBatchNorm):
            backbone.set_submodule(name, nn.BatchNorm2d(module.num_features))
    backbone.to(memory_format=torch.channels_last).train()
    classifier = nn.Linear(WIDTH * 8 * EXPANSION, len(ATTRIBUTES))
    learning = [*backbone.parameters(), *classifier.parameters()]
    # SGD, at the learning rates that ResNets usually take, leaves this narrow network untrained.
    optimizer = torch.optim.AdamW(learning, lr=PEAK, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(
        optimizer, PEAK, total_steps=STEPS, pct_start=WARM_UP, cycle_momentum=False
    )

    steps = progress(range(STEPS), STEPS, "pretraining")
    for step, (img, label) in zip(steps, batches, strict=False):
        score = classifier(backbone(img)[-1].mean((2, 3)))  # (B, A)
        loss = F.binary_cross_entropy_with_logits(score, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            log.info("step %d of %d: loss %.4f", step, STEPS, loss.item())

    update_bn(batches, backbone)
    state = backbone.state_dict()
    names = [name for name in state if not name.endswith(checkpoint.COUNTER)]
    checkpoint.save(args.out, {name: state[name].contiguous().half() for name in names})
    log.info("%s written", args.out)


if __name__ == "__main__":
    run(main)
