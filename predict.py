"""From pictures to masks in one command, with a trained network and without a dataset.

Reads   a checkpoint of step 1.1 or 3.1 (or a published one), and pictures or folders of them
Writes  <out_dir>/<id>_mask.png (class ids), <id>_overlay.png, <id>_heat_<class>.png and <id>.json,
        with --explain <id>_explain.png, the steps of the method, and areas.csv; a folder of its
        own, where what is there of the same picture and settings is kept
Try     python predict.py demo_data/images/train_0009.png --session_name demo --labels checks,dots
        python predict.py photos --session_name exp --ckpt seg_deeplabv2_resnet101.pth

A classifier of step 1.1 gives IS-CAM of the classes in --labels, and where there are none, of those
that it believes to be there: the output says that they are guessed. Names of classes, sizes and
values of pictures come from the checkpoint. The same from Python:

    from predict import Predictor
    predictor = Predictor("demo/ckpt/final.pth")
    prediction = predictor("photo.jpg", labels=["dots"])
    predictor.explain("photo.jpg", labels=["dots"]).draw().savefig("explained.png")
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.label_formats import write_area_table
from data.lists import OWN, PICTURE_ENDINGS, listed, pictures_among, strip_ending, visible
from data.predictor import REFINE, Predictor
from net.method import CHOICES
from net.recipes import MODELS
from tool import cli
from tool.errors import InputError, naming
from tool.pictures import stored
from tool.progress import progress
from tool.reader import check_exist, read_json
from tool.record import SOURCES, Outputs
from tool.run import run
from tool.session import find_checkpoint

ABOUT = {"height": int, "width": int, "classes": [{"name": str, "area": int}]}  # of a JSON
NO_CLASS = "none"  # in --labels: the picture shows background only

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.Parser(__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, help="pictures, or folders of them")
    parser.add_shared("session_name", "ckpt", "network", "class_names", "max_pixels")
    parser.add_shared("restart", "device")
    parser.add_argument(
        "--labels",
        type=cli.names,
        help="of the classes that the pictures show, between commas; none: background only; "
        "without the flag they are guessed",
    )
    explain = "draw the steps of the method, too; the mask is refined by the CRF"
    parser.add_argument("--explain", action="store_true", help=explain)
    parser.add_argument(
        "--explain_at",
        type=cli.at_least(0),
        nargs=2,
        metavar=("X", "Y"),
        help="draw them, and what is alike to this pixel of the picture, column and row from 0; "
        "None is where the CAM of the first class is largest",
    )
    parser.add_argument("--out_dir", type=Path, default=Path("predictions"), help="folder to write")
    parser.add_deciding(
        "--refine",
        choices=REFINE,
        help="a dense CRF for the masks; None is crf for a segmentation network, else none",
    )
    parser.add_deciding(
        "--scales",
        type=cli.above_zero,
        nargs="+",
        help="factors of the sides; None is what make_cam.py or the network's recipe takes",
    )
    parser.add_deciding(
        "--threshold", type=cli.fraction, default=0.5, help="probability of guessed classes"
    )
    parser.add_deciding(
        "--model", choices=sorted(MODELS), help="of segmentation networks of other projects"
    )
    args = parser.parse_args(arguments)
    if args.labels == [NO_CLASS]:
        args.labels = []
    return args


def pictures_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Return id -> picture, of pictures and of folders, and log what is left out.

    What this project made is left out, such as what this program wrote within a folder of pictures.

    Raises:
        InputError: a path does not exist or is no picture, a folder has no pictures, or two have
            one id.
    """
    found: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in paths:
        pictures, left = pictures_among(visible(path) if path.is_dir() else [path])
        if not path.is_dir() and not left[OWN]:
            pictures, left = [path], Counter()  # whatever its ending
        others += left
        if not pictures and not left[OWN]:
            raise InputError(f"The folder {path} holds no pictures ({', '.join(PICTURE_ENDINGS)}).")
        for picture in pictures:
            other = found.setdefault(strip_ending(picture.name), picture)
            if other != picture:
                raise InputError(
                    f"{other} and {picture} would write the same files. Give them one by one, with "
                    "another --out_dir each."
                )
    if others:
        log.warning("left out: %s", listed(others))
    if not found:
        raise InputError(f"{paths[0]} holds no pictures but those that this project made.")
    check_exist(list(found.values()), "pictures", "Name others")
    for picture in found.values():
        stored(picture)
    return found


def write_areas(folder: Path) -> None:
    """Write areas.csv: what the masks of all pictures in a folder cover, by their JSONs."""
    areas = []
    for image_id in read_json(folder / SOURCES, "Delete it.", {str: str}):
        path = folder / f"{image_id}.json"
        if path.exists():
            about = read_json(path, "Delete it, and predict again.", ABOUT)
            pixels = {one["name"]: one["area"] for one in about["classes"]}
            background = about["height"] * about["width"] - sum(pixels.values())
            areas.append((image_id, {"background": background, **pixels}))
    write_area_table(folder / "areas.csv", areas)


def main(arguments: cli.Words = None) -> None:
    """Write mask, drawings and JSON of every picture."""
    args = parse_arguments(arguments)
    pictures = pictures_of(args.pictures)
    how = cli.deciding(args)
    ckpt = find_checkpoint(Path(args.session_name), args.ckpt)
    predictor = Predictor(ckpt, args.device, **how)
    if args.labels is None:
        log.warning("no --labels: the classes are GUESSED from the pictures, which may be wrong")
    else:
        predictor.label_of(args.labels)  # an unknown name ends the program here
    explain = args.explain_at or args.explain
    if explain:
        predictor.check_stages()
    chosen = [getattr(predictor.net, name, None) for name in CHOICES]
    settings = f"{predictor.digest} {predictor.all_names} {args.labels} {explain} {how} {chosen}"
    paths = list(pictures.values())
    sources = {"picture": paths, "settings": [settings] * len(paths)}
    outputs = Outputs(
        args.out_dir, args.out_dir, "predict", {}, (), list(pictures), ".json", sources
    )
    todo = outputs.open(args.restart, predictor.device)
    predict = partial(predictor.explain, at=args.explain_at) if explain else predictor
    for image_id in progress(todo, len(todo), "predict"):
        with naming(pictures[image_id]):
            prediction = predict(pictures[image_id], args.labels)
        log.info("%s: %s", pictures[image_id], ", ".join(prediction.names[1:]) or "no class")
        prediction.save(args.out_dir, image_id)
    outputs.finish()
    write_areas(args.out_dir)


if __name__ == "__main__":
    run(main)
