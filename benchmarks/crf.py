"""Dense CRF of both label views of one picture, ours against ``pydensecrf2``, one core.

    python -m benchmarks.crf [--labels 3 21] [--device cuda]

They must agree on 99.9 % of the pixels; ``pip install pydensecrf2`` (it needs a compiler) for the
comparison. One picture is as rich as a photograph, of the other one half is plain. The Gaussian
lattice is kept between pictures of a size. Eight sizes are kept (``tool.crf.CACHED_SIZES``), which
spared 61 % of the builds on 700 VOC pictures in their order; 16 would spare 69 %, all sizes 78 %.
"""

import importlib.util
from functools import partial

import numpy as np
import torch

from benchmarks.measure import Bench, Call
from benchmarks.steps import PICTURE, Job, areas, crf, picture
from tool.crf import LABEL_KERNELS

ITERATIONS = 10  # defaults of tool.crf
GT_PROB = 0.7


def pydensecrf(job: Job, kinds: int, plain: float) -> Call:
    """Return what ``benchmarks.steps.crf`` returns, from one call of pydensecrf a view."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_labels

    img = picture(plain)
    labels = areas(2, kinds, PICTURE).numpy()

    def refined(view: np.ndarray):
        model = DenseCRF2D(view.shape[1], view.shape[0], kinds)
        model.setUnaryEnergy(unary_from_labels(view, kinds, GT_PROB, zero_unsure=False))
        gaussian_sxy, gaussian_weight, sxy, srgb, weight = LABEL_KERNELS
        model.addPairwiseGaussian(gaussian_sxy, gaussian_weight)
        model.addPairwiseBilateral(sxy, srgb, img.copy(), weight)  # which has to be writable
        return np.argmax(model.inference(ITERATIONS), axis=0).reshape(view.shape)

    def call():
        return torch.from_numpy(np.stack([refined(view) for view in labels]))

    return call


def main() -> None:
    """Print the table."""
    bench = Bench(__doc__, tolerance=1e-3, threads=1, repeats=5, labels=[3])
    ways = {"ours": crf}
    if importlib.util.find_spec("pydensecrf"):
        ways["pydensecrf2"] = pydensecrf
    for kinds in bench.args.labels:
        for plain, name in ((0.0, "a rich picture"), (0.5, "one half plain")):
            some = {
                way: partial(make, Job(bench.device), kinds, plain) for way, make in ways.items()
            }
            bench.compare(f"CRF, {kinds} labels, {name}", some)


if __name__ == "__main__":
    main()
