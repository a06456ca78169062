"""Right values from an independent and plain way, for what programs made of a world.

Files are read by numpy, PIL and json alone, as they lie there when a program has ended well.
"""

import csv
import json
import re
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as run_lengths

UNSURE = 255


class Unknown(Exception):
    """The right value cannot be computed in a plain way."""


def pixels(path: Path) -> np.ndarray:
    """Return the class ids of a label picture, or of the largest of maps, or a picture's values."""
    if path.suffix == ".npz":
        return label_of(path)
    with Image.open(path) as image:
        return np.asarray(image)


def known(holds: bool) -> None:
    """Raise Unknown where something is not as the plain way needs it."""
    if not holds:
        raise Unknown


def ids_of(args: Namespace, flag: str) -> list[str]:
    """Return the ids of the training list of the folder."""
    known(args.dataset == "folder" and getattr(args, flag) in (None, "train"))
    return (Path(args.dataset_root) / "splits/train.txt").read_text().split()


def label_of(path: Path) -> np.ndarray:
    """Return the class ids of the largest IS-CAM, in double precision."""
    with np.load(path) as file:
        maps = {name: file[name] for name in file}
    known("shapes" in maps)
    total, begin = 0, 0
    for h, w in maps["shapes"]:
        scale = torch.from_numpy(maps["IS_CAM"][:, begin : begin + h * w]).double()
        scale = scale.reshape(1, -1, h, w)
        total = total + F.interpolate(scale, tuple(maps["size"]), mode="bilinear")[0]
        begin += h * w
    fused = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    return maps["keys"][fused.argmax(0).numpy()]


def iou(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Return the IoU of every class, NaN where it does not occur."""
    counts = np.zeros((classes, classes + 1))
    for truth, label in pairs:
        judged = truth != UNSURE
        np.add.at(counts, (truth[judged], np.minimum(label[judged], classes)), 1)
    right = counts[:, :classes].diagonal()
    with np.errstate(invalid="ignore"):
        return right / (counts.sum(1) + counts.sum(0)[:classes] - right)


def evaluation(args: Namespace, _: str) -> None:
    """Compare with the IoU of the masks and of the labels, or of the largest maps."""
    ids = ids_of(args, "eval_list")
    session = Path(args.session_name)
    labels = {i: session / f"pseudo_label/{i}.png" for i in ids}
    file = session / "eval_pseudo_label.json"
    if hasattr(args, "label_dir"):
        known(args.label_dir is None)
    else:
        labels = {i: session / f"npy/{i}.npz" for i in ids}
        file = session / "eval_cam.json"
    result = json.loads(file.read_text())
    masks = Path(args.gt_path or f"{args.dataset_root}/masks")
    pairs = ((pixels(masks / f"{i}.png"), pixels(path)) for i, path in labels.items())
    right = iou(pairs, len(result["iou"]))
    found = [np.nan if value is None else value for value in result["iou"].values()]
    assert np.allclose(found, right, atol=2e-3, equal_nan=True), f"IoU {found}, not {right}"
    assert abs(result["miou"] - np.nanmean(right)) < 2e-3, f"mIoU {result['miou']}"
    assert result["images"] == len(ids)
    with open(file.with_suffix(".csv"), newline="", encoding="utf-8") as table:
        assert [row["id"] for row in csv.DictReader(table)] == ids


def make_cam(args: Namespace, _: str) -> None:
    """Compare the classes of maps with the table of labels."""
    names = (Path(args.dataset_root) / "classes.txt").read_text("utf-8").split()
    with open(f"{args.dataset_root}/labels.csv", newline="", encoding="utf-8-sig") as file:
        table = {row["image"]: row["labels"].split() for row in csv.DictReader(file)}
    for image_id in ids_of(args, "infer_list"):
        right = sorted(names.index(name) + 1 for name in table[f"{image_id}.png"])
        with np.load(f"{args.session_name}/npy/{image_id}.npz") as maps:
            assert maps["keys"].tolist() == [0, *right], f"classes of {image_id}"
            assert np.isfinite(maps["IS_CAM"]).all()


def labels(args: Namespace, _: str) -> None:
    """Compare sizes with the pictures, and ids with those of the maps or of the network."""
    known(getattr(args, "out_dir", None) is None)
    session, folder, more = Path(args.session_name), "ir_label", {UNSURE}
    if hasattr(args, "model"):
        folder, more = f"seg_{args.model}", set(range(4))
    elif hasattr(args, "refine"):
        folder, more = "pseudo_label", set()
    for image_id in ids_of(args, "infer_list"):
        label = pixels(session / folder / f"{image_id}.png")
        shape = pixels(Path(args.dataset_root) / f"images/{image_id}.png").shape[:2]
        assert label.shape == shape, f"the label of {image_id} is {label.shape}"
        with np.load(session / f"npy/{image_id}.npz") as maps:
            allowed = {*maps["keys"].tolist(), *more}
        assert set(np.unique(label).tolist()) <= allowed, f"classes of {image_id}"


def predict(args: Namespace, _: str) -> None:
    """Compare areas and boxes with the mask."""
    for path in args.pictures:
        names = [path] if path.is_file() else list(path.glob("*.png"))
        for picture in names:
            about = json.loads((args.out_dir / f"{picture.stem}.json").read_text())
            mask = pixels(args.out_dir / f"{picture.stem}_mask.png")
            assert mask.shape == pixels(picture).shape[:2] == (about["height"], about["width"])
            assert set(np.unique(mask)) <= {0, *(one["id"] for one in about["classes"])}
            whole = args.max_pixels >= mask.size
            for one in about["classes"] if whole else ():
                rows, columns = (mask == one["id"]).nonzero()
                assert one["area"] == len(rows)
                assert np.isclose(one["area_share"], len(rows) / mask.size, atol=1e-6)
                ends = None
                if len(rows):
                    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert one["box"] == ends, f"the box of {one['name']}"


def export_labels(args: Namespace, _: str) -> None:
    """Read what is exported back, as the tools do."""
    ids = ids_of(args, "list")
    known(args.format == "coco" and not args.polygons)
    content = json.loads(args.out.read_text())
    assert [Path(one["file_name"]).stem for one in content["images"]] == ids
    for image in content["images"]:
        label = pixels(args.label_dir / f"{Path(image['file_name']).stem}.png").copy()
        label[label == UNSURE] = 0
        drawn = np.zeros_like(label)
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                drawn[run_lengths.decode(one["segmentation"]) > 0] = one["category_id"]
        assert np.array_equal(drawn, label), f"the labels of {image['file_name']}"


def data_voc(args: Namespace, _: str) -> None:
    """Compare the list with those of the devkit and of SBD, and halved masks with every second."""
    lists = Path(args.dataset_root) / "ImageSets/Segmentation"
    words = {name: (lists / f"{name}.txt").read_text().split() for name in ("trainaug", "val")}
    assert not set(words["trainaug"]) & set(words["val"])
    for image_id in words["trainaug"] if args.halve else ():
        mask = pixels(Path(args.dataset_root) / f"SegmentationClass/{image_id}.png")
        rows, columns = (np.minimum(np.arange(-(-n // 2)) * 2 + 1, n - 1) for n in mask.shape)
        half = pixels(args.halve / f"SegmentationClass/{image_id}.png")
        assert half.shape == (len(rows), len(columns))
        known(mask.shape == (20, 24))
        assert np.array_equal(half, mask[np.ix_(rows, columns)])


def data_coco(args: Namespace, _: str) -> None:
    """Compare the masks with the square that the annotations draw: cat is class 16."""
    root = Path(args.link_root or args.dataset_root)
    content = json.loads((root / "annotations/instances_train2014.json").read_text())
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    known(all(one["segmentation"] == square for one in content["annotations"]))
    known({one["category_id"] for one in content["annotations"]} == {16})
    for image_id in (root / "prepared/train.txt").read_text().split():
        mask = pixels(root / f"prepared/masks/{image_id}.png")
        assert (mask[3:12, 3:12] == 16).all(), f"the mask of {image_id}"
        assert (mask > 0).sum() <= 121


def tool_report(args: Namespace, printed: str) -> None:
    """Look for the figures of the evaluations in what is printed and written."""
    (session,) = args.sessions
    known(not args.classes)
    result = json.loads((session / "eval_cam.json").read_text())
    figure = f"{100 * result['miou']:.2f}"
    for text in (printed, *((session / n).read_text() for n in ("README.md", "report.html"))):
        assert figure in text, f"{figure} of eval_cam.json is missing"
    found = json.loads((session / "results.json").read_text())["miou"]["is_cam"]
    assert found == result["miou"], f"is_cam is {found}, not {result['miou']}"


def log_compare(args: Namespace, printed: str) -> None:
    """Compare the last mIoU with the lines of the log."""
    known(not args.check)
    found = re.findall(r"^step: *(\d+)/.*\n.*'miou': ([\d.]+)", args.run.read_text(), re.M)
    figures = {step: f"{100 * float(value):.2f}" for step, value in found}
    for row in re.findall(r"^ +(\d+) .* ([\d.]+) +[\d.]+$", printed, re.M):
        assert figures[row[0]] == row[1], f"mIoU at step {row[0]}"


def own_pictures(args: Namespace, _: str) -> None:
    """Compare the table with the masks."""
    names = (args.out / "classes.txt").read_text().split()
    with open(args.out / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            ids = np.unique(pixels(args.out / "masks" / row["image"]))
            found = [names.index(name) + 1 for name in row["labels"].split()]
            assert found == [i for i in ids if i], f"labels of {row['image']}"


CHECKS: dict[str, Callable[[Namespace, str], None]] = {
    "make_cam": make_cam,
    "eval_cam": evaluation,
    "cam2ir": labels,
    "make_seg_labels": labels,
    "eval_seg_labels": evaluation,
    "infer_seg": labels,
    "predict": predict,
    "export_labels": export_labels,
    "data.voc": data_voc,
    "data.coco": data_coco,
    "tool.report": tool_report,
    "log.compare": log_compare,
    "examples.own_pictures": own_pictures,
}


def fault_of(program: str, args: Namespace, printed: str) -> str | None:
    """Return what is wrong with what a program made, "" for nothing, and None for unknown."""
    try:
        CHECKS[program.split()[0]](args, printed)
    except AssertionError as error:
        return str(error).split("\n")[0] or f"a value of {program}"
    except Exception:  # what is read by plain means may be as odd as a sweep makes it
        return None
    return ""
