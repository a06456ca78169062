"""Dense CRF of both label views of one picture, ours against ``pydensecrf2``, one core.

    python -m benchmarks.crf [--picture FILE] [--labels 3 21] [--device cuda]

Both run in this one command and must agree on 99.9 % of the pixels; ``pip install pydensecrf2``
(it needs a compiler) for the comparison. Without ``--picture`` a picture of smooth colours and
noise is made, with about as many lattice vertices as a photograph. "build" is the bilateral
lattice; the Gaussian one is kept between pictures of a size, and its build stands apart. Eight
sizes are kept (``tool.crf.CACHED_SIZES``), which spared 61 % of the builds on 700 VOC pictures in
their order; 16 would spare 69 %, and all sizes 78 %.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import seconds, table
from tool import crf
from tool.cli import pick_device
from tool.lattice import Lattice
from tool.pictures import read_rgb
from tool.run import run

VIEWS, ITERATIONS, GT_PROB = 2, 10, 0.7
# Chosen for 100,000 vertices at 375x500; 60 VOC photographs of that size have 5,000 to 250,000,
# half of them more than 97,000.
COLOUR, NOISE = 0.15, 2  # share of the contrast; grey levels


def make_picture(height: int, width: int) -> np.ndarray:
    """Return (H, W, 3) uint8: smooth random areas, mostly grey, with noise."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(1, 1, 9, 12, generator=generator)
    colour = torch.rand(1, 3, 9, 12, generator=generator)
    mixed = grey.lerp(colour, COLOUR) * 255
    smooth = F.interpolate(mixed, size=(height, width), mode="bicubic")[0]
    noise = torch.randn(3, height, width, generator=generator)
    return (smooth + NOISE * noise).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def make_labels(height: int, width: int, num_classes: int) -> np.ndarray:
    """Return (VIEWS, H, W) int64: random areas."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(VIEWS, num_classes, 6, 8, generator=generator)
    scores = F.interpolate(scores, size=(height, width), mode="bicubic")
    return scores.argmax(1).numpy()


def pydensecrf_views(img: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return what ``crf.crf_inference_views`` returns, from one ``pydensecrf`` call a view."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_labels

    refined = []
    for view in labels:
        model = DenseCRF2D(view.shape[1], view.shape[0], num_classes)
        model.setUnaryEnergy(unary_from_labels(view, num_classes, GT_PROB, zero_unsure=False))
        model.addPairwiseGaussian(sxy=crf.GAUSSIAN_SXY, compat=crf.GAUSSIAN_WEIGHT)
        model.addPairwiseBilateral(
            sxy=crf.BILATERAL_SXY,
            srgb=crf.BILATERAL_SRGB,
            rgbim=img.copy(),  # its wrapper takes writable arrays only
            compat=crf.BILATERAL_WEIGHT,
        )
        refined.append(np.argmax(model.inference(ITERATIONS), axis=0).reshape(view.shape))
    return np.stack(refined)


def measure(
    img: np.ndarray, num_classes: int, device: torch.device, repeats: int, compare: bool
) -> list[str]:
    """Return a row of the table."""
    height, width = img.shape[:2]
    labels = make_labels(height, width, num_classes)

    def build() -> Lattice:
        return crf.bilateral_kernel(img, crf.BILATERAL_SXY, crf.BILATERAL_SRGB, device)

    def ours(t: int = ITERATIONS) -> np.ndarray:
        return crf.crf_inference_views(img, labels, t, num_classes, GT_PROB, device)

    build_time = seconds(build, device, repeats)
    none, total = seconds(lambda: ours(0), device, repeats), seconds(ours, device, repeats)
    row = [f"{height}x{width}", str(num_classes), f"{len(build().starts) - 1:,}"]
    row += [f"{value:.3f}" for value in (build_time, (total - none) / ITERATIONS, total)]
    if not compare:
        return [*row, "-", "-", "-"]
    theirs = seconds(lambda: pydensecrf_views(img, labels, num_classes), device, repeats)
    agreement = (ours() == pydensecrf_views(img, labels, num_classes)).mean()
    if agreement < 0.999:
        raise SystemExit(f"the labels differ: only {agreement:.4%} are equal")
    return [*row, f"{theirs:.3f}", f"{total / theirs:.2f}", f"{agreement:.4%}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", help="a picture of your own")
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500], metavar=("H", "W"))
    parser.add_argument("--labels", type=int, nargs="+", default=[3], help="labels a picture has")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(args.device)
    img = np.asarray(read_rgb(args.picture)) if args.picture else make_picture(*args.size)
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        compare = False
        print("pydensecrf2 is not installed: ours alone is measured.")
    else:
        compare = True

    def build_gaussian() -> Lattice:
        crf.gaussian_kernel.cache_clear()
        return crf.gaussian_kernel(*img.shape[:2], crf.GAUSSIAN_SXY, device)

    print(f"Gaussian lattice: {seconds(build_gaussian, device, args.repeats):.3f} s a size")
    header = ["picture", "labels", "vertices", "build s", "iteration s", "ours s"]
    header += ["pydensecrf2 s", "ratio", "equal labels"]
    rows = [measure(img, labels, device, args.repeats, compare) for labels in args.labels]
    print(table(header, rows))


if __name__ == "__main__":
    run(main)
