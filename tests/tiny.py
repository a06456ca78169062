"""A folder of six tiny pictures, a tiny backbone, and command lines that are quick on them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from net.resnet50 import ResNet50
from tool.maps import write_maps
from tool.pictures import read_mask, save_label

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
LABELS = {"a": "red", "b": "green", "c": "blue", "d": "red blue", "e": "green", "f": "red"}
CLASSES = ("background", *COLOURS)
KEYS = {"a": [0, 1], "b": [0, 2], "c": [0, 3], "d": [0, 1, 3], "e": [0, 2], "f": [0, 1]}


def orientation_tag(orientation: int) -> Image.Exif:
    """Return EXIF tags that say how a picture stands, 1 to 8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def make_folder(root: Path) -> Path:
    """Draw six pictures of about 48x40 with rectangles of three classes, laid out as a folder."""
    (root / "images").mkdir(parents=True)
    names = list(COLOURS)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    rows = [f"{image_id}.png,{labels}" for image_id, labels in LABELS.items()]
    (root / "labels.csv").write_text("image,labels\n" + "\n".join(rows) + "\n")
    rng = np.random.default_rng(0)
    for number, (image_id, labels) in enumerate(LABELS.items()):
        picture = rng.integers(90, 130, (40 + number, 48, 3)).astype(np.uint8)
        mask = np.zeros(picture.shape[:2], np.uint8)
        for place, name in enumerate(labels.split()):
            area = slice(6, 30), slice(4 + 22 * place, 22 + 22 * place)
            picture[area] = COLOURS[name]
            mask[area] = names.index(name) + 1
        Image.fromarray(picture).save(root / "images" / f"{image_id}.png")
        save_label(root / "masks" / f"{image_id}.png", mask)
    return root


def make_weights(path: Path) -> Path:
    """Write random weights of a backbone of width 4."""
    torch.manual_seed(0)
    torch.save(ResNet50(width=4).state_dict(), path)
    return path


def store_maps(path: Path, keys: np.ndarray, is_cam: np.ndarray, *cam: np.ndarray) -> None:
    """Write maps (P, H, W), and plain ones (P - 1, H, W) if given, as those of one scale."""
    maps = torch.from_numpy(np.concatenate([is_cam, *cam]))
    write_maps(path, keys, [maps], is_cam.shape[1:], bool(cam))


def make_maps(folder: Path, masks: Path) -> None:
    """Write blurred masks as maps."""
    for image_id, keys in KEYS.items():
        mask = read_mask(masks / f"{image_id}.png")
        maps = np.stack([mask == key for key in keys]).astype(np.float32) * 0.8 + 0.1
        store_maps(folder / f"{image_id}.npz", np.array(keys), maps)


def command_lines(root: Path, session: Path, weights: Path) -> dict[str, list[str]]:
    """Return the flags of each step script on the folder, by its name."""
    common = ["--dataset", "folder", "--dataset_root", str(root), "--device", "cpu"]
    common += ["--session_name", str(session), "--num_workers", "0"]
    small = ["--batch_size", "2", "--crop_size", "64", "--resize_min", "40", "--resize_max", "80"]
    train = [*common, *small, "--pretrained", str(weights), "--lr", "0.01", "--print_freq", "1"]
    train += ["--val_freq", "0", "--max_epoches", "2"]
    irn = [*common, "--pretrained", str(weights), "--irn_batch_size", "2", "--print_freq", "1"]
    irn += ["--irn_crop_size", "80", "--irn_num_epoches", "2", "--irn_learning_rate", "0.01"]
    seg = [*common, "--pretrained", "none", "--width", "1", "--blocks", "1", "1", "1", "1"]
    seg += ["--crop_size", "33", "--batch_size", "2", "--accumulate", "1", "--iterations", "4"]
    seg += ["--lr", "1e-7", "--print_freq", "1"]
    return {
        "train_resnet50_SIPE": train,
        "make_cam": common,
        "eval_cam": common,
        "cam2ir": common,
        "train_irn": irn,
        "make_seg_labels": [*common, "--irn_crop_size", "80"],
        "eval_seg_labels": common,
        "train_seg": seg,
        "infer_seg": common,
    }


def result_of(counts: list[list[int]], names: tuple[str, ...] = CLASSES, **about: object) -> dict:
    """Return what an evaluation writes of a confusion matrix (C, C + 1), and entries of choice."""
    matrix = np.array(counts)
    hits = matrix.diagonal()
    union = matrix.sum(1) + matrix[:, :-1].sum(0) - hits
    iou = [h / u if u else None for h, u in zip(hits.tolist(), union.tolist(), strict=True)]
    there = [value for value in iou if value is not None]
    return {
        "program": "eval_cam",
        "unit": "fraction",
        "dataset": "voc",
        "list": "train",
        "images": 1464,
        "source": "run/npy",
        "settings": {},
        "digests": {"predictions": "p", "masks": "m"},
        "miou": sum(there) / len(there),
        "iou": dict(zip(names, iou, strict=True)),
        "confusion": [" ".join(map(str, row)) for row in matrix.tolist()],
        **about,
    }


def result_with(miou: float, **about: object) -> dict:
    """Return a result of two classes whose mIoU is that fraction, to four digits."""
    hits = round(10_000 * miou)
    missed = 10_000 - hits
    return result_of([[hits, 0, missed], [0, hits, missed]], ("background", "cat"), **about)


def log_of(curves) -> str:
    """Return :class:`log.curves.Curves` as the released code prints them."""
    lines = []
    for step, loss in curves.of("loss_cls").items():
        losses = f"lossCLS:{loss:.4f} lossGSC:{curves.of('loss_gsc')[step]:.4f}"
        pace = f"imps:36.6 lr: {curves.of('learning_rate')[step]:.4f} etc:Tue Mar  1 12:00:00 2022"
        lines.append(f"step:{step:5d}/{curves.total_steps:5d} {losses} {pace}")
        if step in curves.of("miou"):
            values = [value for name, value in curves.rows[step].items() if name.startswith("iou ")]
            lines.append(f"{{'iou': array({values}), 'miou': {curves.of('miou')[step]}}}")
    return "\n".join(lines)


def table_of(curves) -> str:
    """Return :class:`log.curves.Curves` as a trainer notes them in curves.csv."""
    names = curves.names("loss_", "learning_rate", "miou", "iou ")
    lines = [",".join(["step", "total", *names])]
    for step, row in sorted(curves.rows.items()):
        values = [row.get(name, "") for name in names]
        lines.append(",".join(map(str, [step, curves.total_steps, *values])))
    return "\n".join(lines) + "\n"
