"""From pictures to masks in one command, with a trained network and without a dataset.

Reads   a checkpoint of step 1.1 or 3.1 (or a published one), and pictures or folders of them
Writes  <out_dir>/<id>_mask.png (class ids), <id>_overlay.png, <id>_heat_<class>.png and <id>.json
Try     python predict.py photo.jpg --session_name demo --labels square,disc
        python predict.py photos --session_name exp --ckpt seg_deeplabv2_resnet101.pth

A classifier of step 1.1 gives IS-CAM of the classes in --labels, and where there are none, of those
that it believes to be there: the output says that they are guessed. Names of classes, sizes and
values of pictures come from the checkpoint. The same from Python:

    from predict import Predictor
    predictor = Predictor("demo/ckpt/final.pth")
    prediction = predictor("photo.jpg", labels=["disc"])
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
from collections.abc import Sequence
from pathlib import Path

from data.lists import PICTURE_ENDINGS, strip_ending, visible
from data.predictor import REFINE, Predictor
from net.recipes import MODELS
from tool import cli
from tool.errors import InputError
from tool.progress import progress
from tool.run import run
from tool.session import find_checkpoint

NO_CLASS = "none"  # in --labels: the picture shows background only

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.StepParser(__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, help="pictures, or folders of them")
    parser.add_argument(
        "--session_name", type=Path, default="exp", help="where --ckpt is looked for"
    )
    parser.add_argument(
        "--ckpt", default="final.pth", help="a path, or a file in <session>/ckpt; released ones too"
    )
    parser.add_argument(
        "--labels",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        help="names of the classes that the pictures show, between commas; none: background only; "
        "without the flag they are guessed",
    )
    parser.add_argument("--out_dir", type=Path, default=Path("predictions"), help="folder to write")
    parser.add_argument(
        "--refine",
        choices=REFINE,
        help="a dense CRF for the masks; None is crf for a segmentation network, else none",
    )
    parser.add_argument(
        "--scales",
        type=cli.above_zero,
        nargs="+",
        help="factors of the sides; None is what make_cam.py or the network's recipe takes",
    )
    parser.add_argument(
        "--threshold", type=cli.fraction, default=0.5, help="probability of guessed classes"
    )
    cli.add_max_pixels_flag(parser, "larger pictures are reduced to this many pixels first")
    parser.add_argument(
        "--model", choices=sorted(MODELS), help="of segmentation networks of other projects"
    )
    parser.add_argument(
        "--class_names",
        type=lambda text: [name.strip() for name in text.split(",")],
        help="between commas, without background, for files that hold none",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda:N")
    args = parser.parse_args(arguments)
    if args.labels == [NO_CLASS]:
        args.labels = []
    return args


def pictures_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Return id -> picture, of pictures and of folders.

    Raises:
        InputError: a path does not exist, a folder has no pictures, or two have one id.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = [p for p in visible(path) if p.suffix.lower() in PICTURE_ENDINGS]
        if path.is_dir() and not inside:
            raise InputError(f"The folder {path} holds no pictures ({', '.join(PICTURE_ENDINGS)}).")
        for picture in inside if path.is_dir() else [path]:
            other = found.setdefault(strip_ending(picture.name), picture)
            if other != picture:
                raise InputError(
                    f"{other} and {picture} would write the same files. Give them one by one, with "
                    "another --out_dir each."
                )
    missing = [str(path) for path in found.values() if not path.is_file()]
    if missing:
        raise InputError(f"There is no picture {missing[0]}.")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Write mask, drawings and JSON of every picture."""
    args = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    pictures = pictures_of(args.pictures)
    predictor = Predictor(
        find_checkpoint(args.session_name, args.ckpt),
        args.device,
        args.refine,
        args.scales,
        args.threshold,
        args.max_pixels,
        args.model,
        args.class_names,
    )
    if args.labels is None:
        log.warning("no --labels: the classes are GUESSED from the pictures, which may be wrong")
    for name, path in progress(pictures.items(), len(pictures), "predict"):
        prediction = predictor(path, args.labels)
        prediction.save(args.out_dir, name)
        shares = [f"{one['name']} {one['area_share']:.1%}" for one in prediction.about()["classes"]]
        guessed = " (guessed)" if prediction.guessed else ""
        log.info("%s: %s%s", path, ", ".join(shares) or "no class", guessed)
    log.info("%d pictures in %s", len(pictures), args.out_dir)


if __name__ == "__main__":
    run(main)
