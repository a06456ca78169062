"""IRN's random walk against the dense walk, and its training losses against gathering.

    python -m benchmarks.walk [--device cuda]

walk    3 maps at four sizes, of which 94x125 is that of a 375x500 picture: cells a second stay
        level; at the smallest, against T squared as a dense (N, N) matrix (20 s on a CPU)
losses  losses and gradients of 2 pictures, offset by offset, against paths gathered; the published
        batch of 32 would gather some 14 GiB

Steps of the walk last some 10 microseconds, too short for threads to wait for each other. Splitting
them over two threads made them 20 times slower on a busy machine and 10 % faster on an idle one, so
``tool.walk.BLOCK`` keeps a step on one thread.
"""

import math
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import Bench, Call
from benchmarks.steps import RADIUS, Job, smooth
from net.irn_loss import loss_sums, loss_terms, total_loss
from tests import reference
from tool.walk import WALK_BETA, WALK_EXP_TIMES, WALK_RADIUS, propagate_to_edge

MAPS = 3
SIDE = 128
SIZES = ((48, 64), (94, 125), (188, 250), (376, 500))


def walk(job: Job, function: Callable, size: tuple[int, int]) -> Call:
    """Return a walk of maps (P, h, w) on an edge map with closed contours."""
    maps = smooth(MAPS + 1, size).clamp(0, 1).to(job.device)
    edge = torch.exp(-60 * (maps[:1] - 0.5).abs())
    return lambda: function(maps[1:], edge, WALK_RADIUS, WALK_BETA, WALK_EXP_TIMES)


def losses(job: Job, sums_of: Callable) -> Call:
    """Return losses and gradients of random maps."""
    edge = torch.randn(job.batch, 1, SIDE, SIDE, device=job.device, requires_grad=True)
    displacement = torch.randn(job.batch, 2, SIDE, SIDE, device=job.device, requires_grad=True)
    label = job.labels(SIDE)

    def call():
        loss = total_loss(loss_terms(*sums_of(edge, displacement, label, job.classes, RADIUS)))
        torch.autograd.grad(loss, (edge, displacement))
        return loss.detach()

    return call


def main() -> None:
    """Print the table."""
    bench = Bench(__doc__, tolerance=1e-4)
    job = Job(bench.device, batch=2)
    for size in SIZES:
        ways = {"ours": partial(walk, job, propagate_to_edge, size)}
        if size == SIZES[0]:  # the larger ones take gigabytes and minutes
            ways["dense"] = partial(walk, job, reference.dense_walk, size)
        bench.compare(f"walk, {size}", ways, math.prod(size))
    forms = {"ours": loss_sums, "gathered": reference.loss_sums}
    ways = {way: partial(losses, job, sums_of) for way, sums_of in forms.items()}
    bench.compare(f"losses, {job.batch} maps of {SIDE}x{SIDE}", ways, job.batch)


if __name__ == "__main__":
    main()
