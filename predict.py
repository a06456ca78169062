"""From pictures to masks in one command, with a trained network and without a dataset.

Reads   a checkpoint of step 1.1 or 3.1 (or a published one), and pictures or folders of them
Writes  <out_dir>/<id>_mask.png (class ids), <id>_overlay.png, <id>_heat_<class>.png and <id>.json;
        a folder of its own, where what is there of the same picture and settings is kept
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
from functools import partial
from pathlib import Path

from data.lists import PICTURE_ENDINGS, strip_ending, visible
from data.picture_loop import write_every
from data.predictor import REFINE, Prediction, Predictor
from net.recipes import MODELS
from tool import cli
from tool.errors import InputError
from tool.pictures import stored_size
from tool.record import Outputs
from tool.run import run
from tool.session import find_checkpoint

NO_CLASS = "none"  # in --labels: the picture shows background only

log = logging.getLogger(__name__)


def names(text: str) -> list[str]:
    """An argparse type: one or more names between commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ValueError
    return found


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
        type=names,
        help="of the classes that the pictures show, between commas; none: background only; "
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
        type=names,
        help="between commas, without background, for files that hold none",
    )
    parser.add_argument(
        "--network",
        default=cli.NETWORK,
        help="module of the classifier, see make_cam.py; what a checkpoint names is not imported",
    )
    parser.add_argument("--restart", action="store_true", help="make every file again")
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
    missing = [str(path) for path in found.values() if not path.exists()]
    if missing:
        raise InputError(f"There is no picture {missing[0]}.")
    return found


def predict(predictor: Predictor, labels: list[str] | None, item: dict) -> tuple[Prediction]:
    """Return what the network says of the picture at ``path`` of an item, and log it."""
    prediction = predictor(item["path"], labels)
    shares = [f"{one['name']} {one['area_share']:.1%}" for one in prediction.about()["classes"]]
    guessed = " (guessed)" if prediction.guessed else ""
    log.info("%s: %s%s", item["path"], ", ".join(shares) or "no class", guessed)
    return (prediction,)


def save(path: Path, prediction: Prediction) -> None:
    """Write what a prediction is shown by, the JSON of this path last."""
    prediction.save(path.parent, path.name.removesuffix(".json"))


def main(arguments: list[str] | None = None) -> None:
    """Write mask, drawings and JSON of every picture."""
    args = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    pictures = pictures_of(args.pictures)
    if args.out_dir.resolve() in {path.resolve().parent for path in pictures.values()}:
        raise InputError(f"--out_dir {args.out_dir} holds the pictures. Give another folder.")
    predictor = Predictor(
        find_checkpoint(args.session_name, args.ckpt),
        args.device,
        args.refine,
        args.scales,
        args.threshold,
        args.max_pixels,
        args.model,
        args.class_names,
        args.network,
    )
    if args.labels is None:
        log.warning("no --labels: the classes are GUESSED from the pictures, which may be wrong")
    else:
        predictor.ids_of(args.labels)  # an unknown name ends the program here
    how = (predictor.digest, predictor.all_names, predictor.by_crf, args.labels, args.scales)
    how = f"{how} {args.threshold} {args.max_pixels}"
    sources = {"picture": list(pictures.values()), "settings": [how] * len(pictures)}
    outputs = Outputs(
        args.out_dir, args.out_dir, "predict", {}, (), list(pictures), ".json", sources
    )
    todo = outputs.open(args.restart, predictor.device)
    photos = [{"id": i, "path": pictures[i], "size": stored_size(pictures[i])} for i in todo]
    compute = partial(predict, predictor, args.labels)
    write_every(outputs, photos, compute, save, num_workers=0, max_pixels=args.max_pixels)
    outputs.finish()


if __name__ == "__main__":
    run(main)
