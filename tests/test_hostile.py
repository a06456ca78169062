"""Every program beside every kind of bad input: one sentence that names it, and nothing is lost.

A row takes a copy of a finished world (see :mod:`tests.hostile`), harms it, and calls a program.
``refused`` rows end with a sentence that names the file or the flag, and leave all files as they
were; ``fine`` rows end well, because what looks odd there is right or does not matter.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy as copy_of
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from tests import hostile, soak, sweep
from tests.hostile import FILES, MODEL, PROGRAMS, STEPS
from tests.processes import start
from tool import checkpoint
from tool.errors import InputError

pytestmark = [
    # pycocotools' arrays know nothing of numpy 2's copy argument.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # TensorBoard's, of a full disk.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

LONGEST = 120  # seconds of a row on a busy machine
REFUSED, FINE, EITHER = "refused", "fine", "either"


class Row(NamedTuple):
    """A program, what is done to its world, flags, and how it must end.

    An ``either`` row may end well or with a sentence: a traceback or a loss is what it looks for.
    """

    program: str
    name: str
    file: str = ""  # that is harmed, in the world
    harm: Callable[[Path], object] | None = None
    flags: tuple[str, ...] = ()
    end: str = REFUSED
    names: str = ""  # what the sentence names; the file's own name without it
    keeps: bool = False  # the program's own outputs are there
    before: Callable[[Path], object] | None = None  # done to the world first

    def __str__(self) -> str:
        return f"{self.program} {self.name}"


# ------------------------------------------------------------------------------ files

DATASET = ("ds/classes.txt", "ds/splits/train.txt")
LABELLED = (*DATASET, "ds/labels.csv")
SEG = f"ckpt/seg_{MODEL}"
# What each program reads.
READS = {
    "train_resnet50_SIPE": (*LABELLED, "ds/images/c.png", "weights.pth"),
    "make_cam": (*LABELLED, "ds/images/c.png", "run/ckpt/final.pth"),
    "eval_cam": (*DATASET, "ds/masks/c.png", "run/npy/c.npz"),
    "cam2ir": (*DATASET, "ds/images/c.png", "run/npy/c.npz"),
    "train_irn": (*DATASET, "ds/images/c.png", "run/ir_label/c.png", "weights.pth"),
    "make_seg_labels": (*DATASET, "ds/images/c.png", "run/npy/c.npz", "run/ckpt/irn.pth"),
    "eval_seg_labels": (*DATASET, "ds/masks/c.png", "run/pseudo_label/c.png"),
    "train_seg": (*DATASET, "ds/images/c.png", "run/pseudo_label/c.png"),
    "infer_seg": (*DATASET, "ds/images/c.png", f"run/{SEG}.pth"),
    "data.voc": (
        "voc/ImageSets/Segmentation/trainaug.txt",
        "voc/ImageSets/Segmentation/train.txt",
        "voc/ImageSets/Segmentation/val.txt",
        "voc/Annotations/2007_000001.xml",
    ),
    "data.coco": ("coco/annotations/instances_train2014.json",),
    "log.compare": ("run/curves.csv",),
}
# Notes of the project's own; there may be none.
NOTES = {
    "train_resnet50_SIPE": (),
    "make_cam": ("run/npy/settings.json",),
    "eval_cam": ("run/npy/settings.json",),
    "cam2ir": ("run/npy/settings.json", "run/ir_label/settings.json"),
    "train_irn": ("run/ir_label/settings.json",),
    "make_seg_labels": ("run/npy/settings.json", "run/pseudo_label/settings.json"),
    "eval_seg_labels": ("run/pseudo_label/settings.json", "run/eval_pseudo_label.json"),
    "train_seg": ("run/pseudo_label/settings.json",),
    "infer_seg": (f"run/seg_{MODEL}/settings.json",),
}
LAST = {
    "train_resnet50_SIPE": "run/ckpt/last.pth",
    "train_irn": "run/ckpt/irn_last.pth",
    "train_seg": f"run/{SEG}_last.pth",
}
NOTHING = ("missing", "loop", "dangling")  # there is no such file
FINAL = {name: path.replace("_last", "").replace("last", "final") for name, path in LAST.items()}


def file_rows():
    for program, files in READS.items():
        for file in files:
            for kind, harm in FILES.items():
                # A part of a text may be a text, and another picture is a picture.
                part = file.endswith((".txt", ".csv")) and kind == "truncated"
                other = "/images/" in file and kind == "picture"
                end = EITHER if part or other else REFUSED
                yield Row(program, f"{file} {kind}", file, harm, end=end)
    for program, files in NOTES.items():
        for file in (*files, "run/args.json"):
            for kind, harm in FILES.items():
                own = any(file.startswith(f"run/{name}/") for name in hostile.OUTPUTS[program])
                end = FINE if kind in NOTHING and not own else REFUSED
                keeps = program not in LAST
                yield Row(program, f"{file} {kind}", file, harm, end=end, keeps=keeps)
    for program in LAST:
        for kind, harm in FILES.items():
            file = LAST[program]
            end = FINE if kind in NOTHING else REFUSED
            row = Row(program, f"{file} {kind}", file, harm, end=end, keeps=True)
            yield row._replace(before=lambda world, p=program: hostile.remove(world / FINAL[p]))
            file = FINAL[program]
            yield Row(program, f"{file} {kind}", file, harm, end=end, keeps=True)


def number_rows():
    for program in PROGRAMS:
        for flag, action in hostile.numeric_flags(program):
            for value in (*hostile.NOT_NUMBERS, *hostile.ODD_NUMBERS):
                if flag == "--num_workers" and value in hostile.ODD_NUMBERS:
                    continue  # processes that would only be waited for
                words = tuple(hostile.words(flag, action, value))
                refused = hostile.refused_by(action, value)
                assert refused or value in hostile.ODD_NUMBERS, (program, flag, value)
                end = REFUSED if refused else EITHER
                yield Row(program, f"{flag} {value!r}", flags=words, names=flag, end=end)


# ------------------------------------------------------------------------------ contents

LABELS = "image,labels\na.png,red\nb.png,green\nc.png,blue\n"
LABELS += "d.png,red blue\ne.png,green\nf.png,red\n"
LISTS = {
    "of nothing": ("\n\n", REFUSED),
    "of remarks": ("# a\n#\n", REFUSED),
    "with duplicates": ("a\nb\nc\nd\na\n", REFUSED),
    "with a path in it": ("a\nb\n/x/images/c.png\nd\ne\nf\n", FINE),
    "with two paths a line": ("/i/a.png /m/a.png\n/i/b.png /m/b.png\n/i/c.png /m/c.png\n", FINE),
    "with Windows' lines": ("a\r\nb\r\nc\r\nd\r\n", FINE),
    "with a byte order mark": ("\ufeffa\nb\nc\nd\n", FINE),
    "in UTF-16": ("a\nb\nc\nd\n".encode("utf-16"), FINE),
    "in Latin-1": ("a\nb\xe4r\n".encode("latin-1"), REFUSED),
    "with zero bytes": (b"a\0b\n", REFUSED),
    "with an id not in the dataset": ("a\nb\nc\nzzz\n", REFUSED),
    "with a path out of the dataset": ("a\nb\n../../weights.pth\n", REFUSED),
    "with an endless id": ("a\nb\n" + "x" * 5000 + "\n", REFUSED),
    "with dots": ("a\n..\n", REFUSED),
}
# Ids that there are no files of are named themselves.
MISSING = {
    "with an id not in the dataset": "zzz",
    "with a path out of the dataset": "weights.pth",
    "with an endless id": "xxx",
    "with dots": "..",
}
LABEL_FILES = {
    "with an unknown class": (LABELS.replace("green", "grass"), REFUSED, "grass"),
    "with a missing row": (LABELS.replace("c.png,blue\n", ""), REFUSED, "'c'"),
    "with an open quote": (LABELS.replace("b.png,green", 'b.png,"green'), REFUSED, "labels.csv"),
    "with an empty cell": (LABELS.replace("c.png,blue", "c.png,"), FINE, ""),
    "with a row cut off": (LABELS.replace("c.png,blue", "c.png"), REFUSED, "'c.png'"),
    "with a row twice": (LABELS + "a.png,red\n", REFUSED, "'a'"),
    "with a row of no picture": (LABELS + "z.png,red\n", REFUSED, "'z'"),
    "without a header": (LABELS.split("\n", 1)[1], REFUSED, "labels.csv"),
    "with other columns": (LABELS.replace("image,labels", "a,b"), REFUSED, "labels.csv"),
    "with too many commas": (LABELS.replace("red blue", "red,blue,"), REFUSED, "line 5"),
    "with semicolons": (LABELS.replace(",", ";"), FINE, ""),
    "with tabs": (LABELS.replace(",", "\t"), FINE, ""),
    "with Windows' lines": (LABELS.replace("\n", "\r\n"), FINE, ""),
    "with capitals": (LABELS.replace("green", "Green"), REFUSED, "Green"),
    "in UTF-16": (LABELS.encode("utf-16"), FINE, ""),
    "with a cell of 200,000 letters": (LABELS + "a" * 200_000 + ",red\n", REFUSED, "labels.csv"),
}
CLASSES = {
    "with background": ("background\nred\ngreen\nblue\n", REFUSED),
    "with a class twice": ("red\ngreen\nblue\nred\n", REFUSED),
    "of 300 classes": ("".join(f"c{i}\n" for i in range(300)), REFUSED),
    "with a tab": ("red\tgreen\nblue\n", REFUSED),
    "in Latin-1": ("r\xf6t\n".encode("latin-1"), REFUSED),
    "in another order": ("green\nred\nblue\n", EITHER),
    "with one class more": ("red\ngreen\nblue\nwhite\n", EITHER),
}
# What is no mask of a picture of 48x42 with the ids 0 to 3, and of which program it is none.
SHAPE = (42, 48)
MASKS = {
    "of another size": (hostile.mask(np.zeros((5, 6), np.uint8)), REFUSED),
    "with ids out of range": (hostile.mask(np.full(SHAPE, 77, np.uint8)), REFUSED),
    "in RGB": (hostile.mask(np.zeros((*SHAPE, 3), np.uint8)), EITHER),
    "with alpha": (hostile.mask(np.zeros((*SHAPE, 4), np.uint8)), EITHER),
    "of 255 alone": (hostile.mask(np.full(SHAPE, 255, np.uint8)), FINE),
    "of 1x1": (hostile.mask(np.zeros((1, 1), np.uint8)), REFUSED),
    "of one bit": (hostile.redrawn(lambda image: Image.new("1", image.size)), FINE),
}


def content_rows():
    for program in STEPS:
        for name, (content, end) in LISTS.items():
            yield Row(
                program,
                f"a list {name}",
                "ds/splits/train.txt",
                hostile.text(content),
                end=end,
                names=MISSING.get(name, ""),
            )
        for name, (content, end) in CLASSES.items():
            file = "ds/classes.txt"
            yield Row(program, f"classes {name}", file, hostile.text(content), end=end)
    for program in ("train_resnet50_SIPE", "make_cam"):
        for name, (content, end, names) in LABEL_FILES.items():
            file = "ds/labels.csv"
            yield Row(program, f"labels {name}", file, hostile.text(content), (), end, names)
    for program, file in (
        ("eval_cam", "ds/masks/c.png"),
        ("eval_seg_labels", "ds/masks/c.png"),
        ("eval_seg_labels", "run/pseudo_label/c.png"),
        ("train_seg", "run/pseudo_label/c.png"),
        ("train_irn", "run/ir_label/c.png"),
    ):
        for name, (harm, end) in MASKS.items():
            yield Row(program, f"{file} {name}", file, harm, end=end, names="c.png")
    validates = ("--val_freq", "1", "--val_list", "train")
    for name, (harm, end) in MASKS.items():
        file = "ds/masks/c.png"
        yield Row("train_resnet50_SIPE", f"{file} {name}", file, harm, validates, end)


# ------------------------------------------------------------------------------ pictures

READ_PICTURES = (
    "train_resnet50_SIPE",
    "make_cam",
    "cam2ir",
    "train_irn",
    "make_seg_labels",
    "train_seg",
    "infer_seg",
)


def turned(image: Image.Image) -> Image.Image:
    """Return the picture as a camera on its side stores it."""
    return image.transpose(Image.Transpose.ROTATE_90)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def animated(path: Path) -> None:
    """The picture, and itself on its head after it."""
    with Image.open(path) as image:
        first = image.convert("RGB")
    hostile.missing(path)
    first.save(path, "PNG", save_all=True, append_images=[first.rotate(180)])


IDS = "abcdef"
SAME_SIZE = {
    "grey": hostile.redrawn(lambda image: image.convert("L")),
    "with a palette": hostile.redrawn(lambda image: image.convert("P")),
    "with alpha": hostile.redrawn(lambda image: image.convert("RGBA")),
    "grey with alpha": hostile.redrawn(lambda image: image.convert("LA")),
    "of one bit": hostile.redrawn(lambda image: image.convert("1")),
    "a CMYK JPEG": hostile.redrawn(lambda image: image.convert("CMYK"), format="JPEG"),
    "a grey JPEG": hostile.redrawn(lambda image: image.convert("L"), format="JPEG"),
    "a WebP": hostile.redrawn(lambda image: image, format="WEBP"),
    "a BMP": hostile.redrawn(lambda image: image, format="BMP"),
    "turned by EXIF": hostile.redrawn(turned, exif=exif(6)),
    "with an odd EXIF": hostile.redrawn(lambda image: image, exif=exif(77)),
    "animated": animated,
}
OTHER_SIZE = {
    "of 1x1": hostile.redrawn(lambda image: image.resize((1, 1))),
    "of 1x400": hostile.redrawn(lambda image: image.resize((1, 400))),
    "of 400x1": hostile.redrawn(lambda image: image.resize((400, 1))),
}


def picture_rows():
    file = "ds/images/c.png"
    for program in READ_PICTURES:
        for number in range(0, len(SAME_SIZE), len(IDS)):
            kinds = dict(list(SAME_SIZE.items())[number : number + len(IDS)])

            def harm(folder: Path, kinds: dict = kinds) -> None:
                for image_id, change in zip(IDS, kinds.values(), strict=True):
                    change(folder / f"{image_id}.png")

            yield Row(program, f"pictures {', '.join(kinds)}", "ds/images", harm, end=FINE)
        fits = program in ("train_resnet50_SIPE", "make_cam", "infer_seg")
        for name, harm in OTHER_SIZE.items():
            end = FINE if fits else REFUSED
            yield Row(program, f"a picture {name}", file, harm, end=end, names="c")


# ------------------------------------------------------------------------------ weights

READ_WEIGHTS = {
    "train_resnet50_SIPE": ("weights.pth", ()),
    "make_cam": ("run/ckpt/final.pth", ()),
    "train_irn": ("weights.pth", ()),
    "make_seg_labels": ("run/ckpt/irn.pth", ()),
    "train_seg": ("weights.pth", ("--pretrained", "{world}/weights.pth")),
    "infer_seg": (f"run/{SEG}.pth", ()),
}


def edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return a maker that changes what torch.save wrote."""

    def make(path: Path) -> None:
        content = torch.load(path, weights_only=False)
        new = change(content)
        hostile.tensors(content if new is None else new)(path)

    return make


def poisoned(content: dict) -> dict:
    state = content.get("net", content)
    name = next(n for n in state if n.endswith("weight"))
    state[name] = torch.full_like(state[name], torch.nan)
    return content


def without_one(content: dict) -> dict:
    state = content.get("net", content)
    del state[next(n for n in state if n.endswith("weight"))]
    return content


def reshaped(content: dict) -> dict:
    state = content.get("net", content)
    name = next(n for n in state if n.endswith("weight"))
    state[name] = torch.zeros(3, 3)
    return content


def momenta(value: Any) -> Callable[[dict], None]:
    """Return what puts a value, or a function of the momentum, in the place of every momentum."""

    def change(content: dict) -> None:
        for held in content["optimizer"]["state"].values():
            old = held["momentum_buffer"]
            held["momentum_buffer"] = value(old) if callable(value) else value

    return change


def groups_of(content: dict) -> list[dict]:
    return content["optimizer"]["param_groups"]


class Unknown:
    """A class of whoever made the file."""


WEIGHTS = {
    "of a list": hostile.tensors([1, 2]),
    "of a tensor": hostile.tensors(torch.ones(3)),
    "of nothing": hostile.tensors({}),
    "of a number": hostile.tensors(3),
    "of words": hostile.tensors({"net": {"a": "b"}}),
    "with objects": hostile.tensors({"net": Unknown()}),
    "of a foreign network": hostile.tensors({"net": {"a.weight": torch.ones(3, 3)}}),
    "without a tensor": edited(without_one),
    "with a tensor of another shape": edited(reshaped),
    "with NaN": edited(poisoned),
}
# What continues a training.
BEGUN = {
    **WEIGHTS,
    "without a step": edited(lambda content: content.pop("step") and None),
    "with a negative step": edited(lambda content: content.update(step=-3)),
    "with a step of text": edited(lambda content: content.update(step="3")),
    "with a step beyond the end": edited(lambda content: content.update(step=10**6)),
    "without an optimiser": edited(lambda content: content.pop("optimizer") and None),
    "with an optimiser of nothing": edited(lambda content: content.update(optimizer={})),
    "with an optimiser of other groups": edited(
        lambda content: content["optimizer"].update(param_groups=[])
    ),
    "with momenta of another shape": edited(
        lambda content: content["optimizer"]["state"].update(
            {key: {"momentum_buffer": torch.ones(7)} for key in content["optimizer"]["state"]}
        )
    ),
    "with momenta of text": edited(momenta("x")),
    "with momenta of one number": edited(momenta(torch.ones(()))),
    "with momenta of NaN": edited(momenta(lambda old: old * torch.nan)),
    "with momenta of nothing": edited(momenta(None)),
    "with parameters of tensors": edited(
        lambda content: [g.update(params=[torch.ones(2)]) for g in groups_of(content)] and None
    ),
    "with parameters in another order": edited(
        lambda content: [g["params"].reverse() for g in groups_of(content)] and None
    ),
    "with groups of numbers": edited(lambda content: content["optimizer"].update(param_groups=[1])),
    "with momenta of a parameter too many": edited(
        lambda content: content["optimizer"]["state"].update({9999: {}})
    ),
    "with settings of a list": edited(lambda content: content.update(settings=[1])),
    "with classes of numbers": edited(lambda content: content.update(class_names=[1, 2])),
    "with other classes": edited(lambda content: content.update(class_names=["background", "x"])),
    "with contents of a list": edited(lambda content: content.update(contents=[1])),
    "with another seed": edited(lambda content: content["settings"].update(seed=16)),
}
BEGUN_SEG = {
    "without a config": edited(lambda content: content.pop("config") and None),
    "with a config of text": edited(lambda content: content.update(config="x")),
    "with an odd config": edited(lambda content: content.update(config={"x": 1})),
    "with a config of no classes": edited(lambda content: content["config"].update(num_classes=0)),
    "with a config of text classes": edited(
        lambda content: content["config"].update(num_classes="x")
    ),
    "with a width of 10 million": edited(lambda content: content["config"].update(width=10**7)),
    "with blocks of 10 million": edited(
        lambda content: content["config"].update(blocks=[10**7] * 4)
    ),
    "with a model of text": edited(lambda content: content.update(model="x")),
    "without a record": edited(lambda content: content.pop("record") and None),
    "with a record of text": edited(lambda content: content.update(record="x")),
    "with a record of nothing": edited(lambda content: content.update(record={})),
}


# Networks are made as large as their weights are, and what is not there is not compared.
HARMLESS = ("with a step beyond the end", "with contents of a list", "without a config")
HARMLESS += tuple(name for name in BEGUN_SEG if name.startswith("with") and "record" not in name)


def weight_rows():
    for program, (file, flags) in READ_WEIGHTS.items():
        for name, harm in WEIGHTS.items():
            yield Row(program, f"weights {name}", file, harm, flags)
    for program, file in LAST.items():

        def unfinished(world: Path, program: str = program) -> None:
            hostile.remove(world / FINAL[program])

        kinds = {**BEGUN, **(BEGUN_SEG if program == "train_seg" else {})}
        for name, harm in kinds.items():
            end = EITHER if name in HARMLESS else REFUSED
            row = Row(program, f"a checkpoint {name}", file, harm, end=end, keeps=True)
            yield row._replace(before=unfinished)
    for name, harm in BEGUN_SEG.items():
        end = EITHER if name in HARMLESS or "record" in name else REFUSED
        yield Row("infer_seg", f"a checkpoint {name}", f"run/{SEG}.pth", harm, end=end)


# ------------------------------------------------------------------------------ maps

KEYS = np.array([0, 3])
MAP = np.full((2, *SHAPE), 0.5, np.float32)
MAPS = {
    "of other keys": hostile.arrays(a=KEYS),
    "without keys": hostile.arrays(IS_CAM=MAP),
    "without IS_CAM": hostile.arrays(keys=KEYS),
    "of one class more": hostile.arrays(keys=np.array([0, 1, 3]), IS_CAM=MAP),
    "of text": hostile.arrays(keys=np.array(["a", "b"]), IS_CAM=MAP),
    "of objects": hostile.arrays(keys=np.array([0, None]), IS_CAM=MAP),
    "of a class out of range": hostile.arrays(keys=np.array([0, 99]), IS_CAM=MAP),
    "of a negative class": hostile.arrays(keys=np.array([-1, 0]), IS_CAM=MAP),
    "of a class twice": hostile.arrays(keys=np.array([0, 0]), IS_CAM=MAP),
    "without background": hostile.arrays(keys=np.array([1, 3]), IS_CAM=MAP),
    "with NaN": hostile.arrays(keys=KEYS, IS_CAM=MAP * np.nan),
    "with infinity": hostile.arrays(keys=KEYS, IS_CAM=MAP * np.inf),
    "beyond 1": hostile.arrays(keys=KEYS, IS_CAM=MAP * 9),
    "below 0": hostile.arrays(keys=KEYS, IS_CAM=-MAP),
    "of whole numbers": hostile.arrays(keys=KEYS, IS_CAM=MAP.astype(int)),
    "of four axes": hostile.arrays(keys=KEYS, IS_CAM=MAP[None]),
    "of another picture": hostile.arrays(keys=KEYS, IS_CAM=MAP[:, :9]),
    "of no pixel": hostile.arrays(keys=KEYS, IS_CAM=MAP[:, :0]),
    "of an odd size": hostile.arrays(keys=KEYS, IS_CAM=MAP, size=np.array([0, -3])),
    "of a huge size": hostile.arrays(keys=KEYS, IS_CAM=MAP, size=np.array([10**6, 10**6])),
    "of IRN": hostile.arrays(keys=KEYS, cam=MAP, high_res=MAP),
    "of zeros": hostile.arrays(keys=KEYS, IS_CAM=MAP * 0),
    "of background alone": hostile.arrays(keys=KEYS[:1], IS_CAM=MAP[:1]),
    "in half precision": hostile.arrays(keys=KEYS, IS_CAM=MAP.astype(np.float16)),
    "in double precision": hostile.arrays(keys=KEYS, IS_CAM=MAP.astype(np.float64)),
}
GOOD_MAPS = ("of zeros", "of background alone", "in half precision", "in double precision")


def map_rows():
    for program in ("eval_cam", "cam2ir", "make_seg_labels"):
        for name, harm in MAPS.items():
            end = FINE if name in GOOD_MAPS else REFUSED
            names = "c" if name == "of another picture" else ""
            yield Row(program, f"maps {name}", "run/npy/c.npz", harm, (), end, names)


# ------------------------------------------------------------------------------ notes

JSON = {
    "of null": "null",
    "of a list": "[]",
    "of text": '"x"',
    "of a number": "3",
    "cut off": '{"a": ',
    "of two objects": "{}{}",
    "with a deep nest": "[" * 100_000,
    "of NaN": "NaN",
    "with zero bytes": b"{}\0",
}
ODD_NOTES = {
    "of nothing": "{}",
    "in UTF-16": '{"a": 1}'.encode("utf-16"),
    "with a program of a list": '{"program": [1]}',
    "with a program of an object": '{"program": {"a": 1}}',
    "with classes of a number": '{"class_names": 3}',
    "with classes of text": '{"class_names": "red"}',
    "with classes of null": '{"class_names": null}',
    "with maps of text": '{"program": "x", "maps": "x"}',
    "with a revision of text": '{"revision": "x"}',
    "with a revision of null": '{"revision": null}',
    "with everything null": '{"program": null, "class_names": null, "maps": null, "network": null}',
    "with a network of a list": '{"network": [1], "ckpt_sha256": {"a": 1}}',
}


def note_rows():
    for program, files in NOTES.items():
        for file in (*files, "run/args.json"):
            keeps = program not in LAST
            for name, content in JSON.items():
                yield Row(program, f"{file} {name}", file, hostile.text(content), keeps=keeps)
            for name, content in ODD_NOTES.items():
                end = FINE if file.endswith("args.json") else EITHER
                harm = hostile.text(content)
                yield Row(program, f"{file} {name}", file, harm, (), end, "run", keeps=True)


# ------------------------------------------------------------------------------ words

DEVICES = ("", "gpu", "cuda:99", "cuda:-1", "cuda:x", "meta", "mps", "cpu,cuda", "xla", "CPU", "0")
NETWORKS = {
    "": REFUSED,
    "nonsense": REFUSED,
    "os": REFUSED,
    "net": REFUSED,
    "net.resnet50": REFUSED,
    ".net": REFUSED,
    "..": REFUSED,
    "a b": REFUSED,
    "net.resnet50_SIPE.Net": REFUSED,
    "net/resnet50_SIPE.py": REFUSED,
    "x" * 3000: REFUSED,
}
DATASETS = {
    "": REFUSED,
    "imagenet": REFUSED,
    "VOC": REFUSED,
    "folder:": REFUSED,
    ":Folder": REFUSED,
    "os:path": REFUSED,
    "nonsense:Class": REFUSED,
    "data.folder:Nonsense": REFUSED,
    "data.folder.py:Folder": REFUSED,
    "data.base:Dataset": REFUSED,
    "data.folder:Folder": FINE,
}
ROOTS = ("", "nowhere", "/dev/null", "weights.pth", "x" * 5000)
LIST_FLAGS = {
    "train_resnet50_SIPE": "--train_list",
    "make_cam": "--infer_list",
    "eval_cam": "--eval_list",
    "cam2ir": "--infer_list",
    "train_irn": "--train_list",
    "make_seg_labels": "--infer_list",
    "eval_seg_labels": "--eval_list",
    "train_seg": "--train_list",
    "infer_seg": "--infer_list",
}
LIST_NAMES = ("nowhere", "/dev/null", "{world}", "{world}/weights.pth", "..", "x" * 5000)
PATH_FLAGS = {
    "train_resnet50_SIPE": ("--pretrained",),
    "make_cam": ("--ckpt",),
    "eval_cam": ("--gt_path",),
    "train_irn": ("--pretrained",),
    "make_seg_labels": ("--irn_ckpt",),
    "eval_seg_labels": ("--gt_path", "--label_dir"),
    "train_seg": ("--pretrained", "--label_dir"),
    "infer_seg": ("--ckpt",),
}
PATHS = ("nowhere", "/dev/null", "{world}/ds/classes.txt", "{world}/ds", "x" * 5000)
WRITTEN = {
    "make_seg_labels": ("--out_dir",),
    "infer_seg": ("--out_dir", "--archive"),
    "data.coco": ("--link_root",),
    "log.compare": ("--out",),
}
PREPARED = {
    "data.voc": ("--dataset_root", "--sbd_root"),
    "data.coco": ("--dataset_root", "--link_root"),
    "log.compare": ("--out",),
}
SESSIONS = ("/dev/null", "/dev/null/x", "/proc/x", "{world}/weights.pth", "x" * 300)


def word_rows():
    for program in STEPS:
        for device in DEVICES:
            yield Row(program, f"--device {device!r}", flags=("--device", device), names="--device")
        for root in ROOTS:
            flags = ("--dataset_root", root)
            names = root[:9]
            yield Row(program, f"--dataset_root {root[:9]!r}", flags=flags, names=names)
        for session in SESSIONS:
            flags = ("--session_name", session)
            name = f"--session_name {session[:16]!r}"
            yield Row(program, name, flags=flags, names="--session_name")
        for name in LIST_NAMES:
            flags = (LIST_FLAGS[program], name)
            shown = name.replace("{world}", "")[:9]
            yield Row(program, f"{flags[0]} {name[:16]!r}", flags=flags, names=shown)
        for flag in PATH_FLAGS.get(program, ()):
            for name in PATHS:
                shown = name.replace("{world}", "")[:9]
                yield Row(program, f"{flag} {name[:16]!r}", flags=(flag, name), names=shown)
    for program in WRITTEN:
        for flag in WRITTEN[program]:
            places = ("/dev/null/x", "x" * 300, "/proc/x", "{world}/weights.pth/x")
            for name in places[: 2 if flag == "--out" else 4]:  # drawing takes its time
                ending = {"--archive": ".zip", "--out": ".png"}.get(flag, "")
                row = Row(program, f"{flag} {name[:16]!r}", flags=(flag, name + ending))
                yield row._replace(names=name[-3:])
    for program in STEPS:
        own = (*PATH_FLAGS.get(program, ()), *WRITTEN.get(program, ()), LIST_FLAGS[program])
        for flag in ("--dataset_root", "--session_name", *own):
            yield Row(program, f"{flag} with a zero byte", flags=(flag, "a\0b"), names="zero byte")
    for program, flags in PREPARED.items():
        for flag in flags:
            yield Row(program, f"{flag} with a zero byte", flags=(flag, "a\0b"), names="byte")
    for program in LAST:  # TensorBoard writes names of UTF-8 alone
        flags = ("--session_name", "{world}/new\udcff")
        end = REFUSED if program == "train_resnet50_SIPE" else EITHER  # others miss what they need
        yield Row(program, "--session_name not in UTF-8", flags=flags, end=end, names="/runs")
    for program in ("train_resnet50_SIPE", "make_cam", "cam2ir"):
        for network, end in NETWORKS.items():
            row = Row(program, f"--network {network[:30]!r}", flags=("--network", network), end=end)
            yield row._replace(names="" if program == "cam2ir" else "--network")
    for program in STEPS:
        for dataset, end in DATASETS.items():
            flags = ("--dataset", dataset)
            names = "--dataset"
            yield Row(program, f"--dataset {dataset!r}", flags=flags, end=end, names=names)


# ------------------------------------------------------------------------------ places

PLACES = {
    "make_cam": ("run/npy", "run/ckpt"),
    "eval_cam": ("run/npy", "run/eval_cam.json"),
    "cam2ir": ("run/npy", "run/ir_label"),
    "train_irn": ("run/ir_label", "run/runs_irn"),
    "make_seg_labels": ("run/npy", "run/ckpt", "run/pseudo_label"),
    "eval_seg_labels": ("run/pseudo_label",),
    "train_resnet50_SIPE": ("run/runs", "run/ckpt", "run/run.log"),
    "train_seg": ("run/pseudo_label", f"run/runs_seg_{MODEL}", "run/run.log"),
    "infer_seg": ("run/ckpt", f"run/seg_{MODEL}"),
}
FOLDERS = {
    "an empty file": hostile.empty,
    "a loop": hostile.loop,
    "a dangling link": hostile.dangling,
}


def place_rows():
    for program, places in PLACES.items():
        for place in places:
            for name, harm in FOLDERS.items():
                row = Row(program, f"{place} is {name}", place, harm, end=EITHER, names="run")
                yield row


# ------------------------------------------------------------------------------ VOC and COCO

OTHER_DATASETS = {
    "voc": ("ImageSets/Segmentation/trainaug.txt", "Annotations/2007_000001.xml"),
    "coco": ("prepared/train.txt", "prepared/train_labels.npz"),
}


def dataset_rows():
    for dataset, files in OTHER_DATASETS.items():
        flags = ("--dataset", dataset, "--dataset_root", f"{{world}}/{dataset}")
        flags += ("--session_name", "{world}/new")
        yield Row("train_resnet50_SIPE", f"on {dataset}", flags=flags, end=FINE)
        for file in files:
            for kind, harm in FILES.items():
                row = Row("train_resnet50_SIPE", f"{dataset}/{file} {kind}", f"{dataset}/{file}")
                part = file.endswith(".txt") and kind in ("truncated", *NOTHING)
                end = EITHER if part else REFUSED
                yield row._replace(harm=harm, flags=flags, end=end)


ALL_ROWS = [
    *file_rows(),
    *number_rows(),
    *content_rows(),
    *picture_rows(),
    *weight_rows(),
    *map_rows(),
    *note_rows(),
    *word_rows(),
    *place_rows(),
    *dataset_rows(),
]


# Programs by the time that they take.
CHEAPEST = (
    "data.voc",
    "data.coco",
    "log.compare",
    "eval_seg_labels",
    "eval_cam",
    "cam2ir",
    "train_seg",
    "infer_seg",
    "make_cam",
    "make_seg_labels",
    "train_irn",
    "train_resnet50_SIPE",
)


def representative(rows: list[Row]) -> list[Row]:
    """Return rows in which every file and flag meets all its harms, and every program all of FILES.

    Programs share what reads a list, a checkpoint to continue from, or a number, so that the others
    tell little more; the one that takes the least time stands for them.
    """
    seen, chosen = set(), []
    for row in sorted(rows, key=lambda row: CHEAPEST.index(row.program)):
        subject = row.file or row.flags[0]
        harm = row.name.removeprefix(subject).strip()
        if subject in LAST.values() and harm not in FILES:
            subject = "a checkpoint"
        pairs = {(subject, harm), (row.program if harm in FILES else subject, harm)}
        if not pairs <= seen:
            chosen.append(row)
        seen |= pairs
    return chosen


# HOSTILE_ROWS=all runs every row, in some minutes.
ROWS = ALL_ROWS if os.environ.get("HOSTILE_ROWS") == "all" else representative(ALL_ROWS)


def test_the_table_is_large_and_has_no_row_twice():
    assert len({str(row) for row in ALL_ROWS}) == len(ALL_ROWS) > 2500
    assert len(representative(ALL_ROWS)) > 1000
    assert {row.program for row in representative(ALL_ROWS)} == set(PROGRAMS)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    world = hostile.make_world(tmp_path_factory.mktemp("world") / "w")
    SNAPSHOTS[world] = hostile.snapshot(world)
    return world


SNAPSHOTS: dict[Path, dict[str, str]] = {}


@pytest.fixture(autouse=True, scope="module")
def weights_are_read_once():
    """Weights need not be read again for every row."""
    unpack = checkpoint._unpack_torch
    contents: dict[bytes, dict] = {}

    def unpack_once(packed: bytes) -> dict:
        if packed not in contents:
            contents[packed] = unpack(packed)
        return copy_of(contents[packed])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_unpack_torch", unpack_once)
        yield


@pytest.fixture(autouse=True)
def timer():
    """A program that waits for ever, as for a pipe, fails its test."""
    before = signal.signal(signal.SIGALRM, sweep.late)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def copy(world) -> Path:
    """A copy of the world, restored for every test."""
    return hostile.restore(world.with_name("copy"), world)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row, world, copy):
    if not row.keeps:
        hostile.forget(copy, row.program)
    if row.before:
        row.before(copy)
    if row.harm:
        row.harm(copy / row.file)
    words = [word.replace("{world}", str(copy)) for word in row.flags]
    before = hostile.snapshot(copy)
    outcome = hostile.run(row.program, [*hostile.lines_of(copy)[row.program], *words])
    assert outcome.kind != "traceback", outcome.error
    if row.end == FINE:
        assert outcome.kind == "fine", outcome
    elif row.end == EITHER:
        assert outcome.kind == "fine" or hostile.is_about_input(outcome), outcome
    else:
        assert hostile.is_about_input(outcome), outcome
        assert (row.names or Path(row.file).stem) in outcome.text
        assert "\n" not in outcome.text or row.program == "log.compare"  # it shows a line
    own = row.program if outcome.kind == "fine" else None
    assert hostile.lost(before, hostile.snapshot(copy), own) == []


# ------------------------------------------------------------------------------ disks


@pytest.fixture
def mounted(tmp_path):
    """Return a function that mounts a folder of a size in KiB, where this is allowed."""
    folders = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"there is no mount ({error})")
        if done.returncode:
            pytest.skip(f"no file system may be mounted here ({done.stderr.strip()})")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file that takes what room there is, but for some KiB."""
    disk = os.statvfs(path.parent)
    path.write_bytes(bytes(max(0, disk.f_bavail * disk.f_bsize - 16384)))


WRITERS = tuple(name for name in STEPS if not name.startswith("eval_"))


@pytest.mark.parametrize("program", WRITERS)
def test_full_disk(program, world, copy, mounted):
    hostile.forget(copy, program)
    disk = mounted(20_000)
    shutil.copytree(copy / "run", disk / "run")
    hostile.remove(copy / "run")
    (copy / "run").symlink_to(disk / "run")
    before = hostile.snapshot(disk)
    fill(disk / "filling.log")
    outcome = hostile.run(program, hostile.lines_of(copy)[program])
    assert outcome.kind == "sentence", outcome
    assert "No space left on device" in outcome.text
    assert hostile.lost(before, hostile.snapshot(disk)) == []
    (disk / "filling.log").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert hostile.run(program, hostile.lines_of(copy)[program]).kind == "fine"
    assert soak.differences(world / "run", disk / "run") == []


def test_full_disk_of_tensorboard(world, copy, mounted):
    """Its thread fails while the checkpoint could still be written; the same command goes on."""
    hostile.forget(copy, "train_resnet50_SIPE")
    flags = [*hostile.lines_of(copy)["train_resnet50_SIPE"], "--tf_freq", "1"]
    hostile.missing(copy / "run/runs")
    (copy / "run/runs").symlink_to(mounted(4))
    before = hostile.snapshot(copy)
    outcome = hostile.run("train_resnet50_SIPE", flags)
    assert outcome.kind == "sentence", outcome
    assert f"{copy}/run/runs could not be written: No space left on device" in outcome.text
    assert hostile.lost(before, hostile.snapshot(copy)) == []
    hostile.missing(copy / "run/runs")
    assert hostile.run("train_resnet50_SIPE", flags).kind == "fine"
    assert soak.differences(world / "run", copy / "run") == []


@pytest.mark.parametrize("limit", [1_000, 20_000])
@pytest.mark.parametrize("program", ["make_cam", "make_seg_labels", "train_seg"])
def test_files_that_cannot_grow(program, limit, world, copy):
    """As on a full disk or beyond a quota: no file may have more bytes than the limit."""
    hostile.forget(copy, program)
    before = hostile.snapshot(copy)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        outcome = hostile.run(program, hostile.lines_of(copy)[program])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert outcome.kind != "traceback", outcome.error
    assert outcome.kind == "fine" or "File too large" in outcome.text
    assert hostile.lost(before, hostile.snapshot(copy)) == []
    assert hostile.run(program, hostile.lines_of(copy)[program]).kind == "fine"
    assert soak.differences(world / "run", copy / "run") == []


@pytest.mark.parametrize("program", STEPS)
def test_read_only_session(program, world, copy, mounted):
    hostile.forget(copy, program)
    if os.geteuid():
        for path in (copy / "run", *(copy / "run").rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
    else:
        disk = mounted(9000)
        shutil.copytree(copy / "run", disk / "run")
        hostile.remove(copy / "run")
        (copy / "run").symlink_to(disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    outcome = hostile.run(program, hostile.lines_of(copy)[program])
    assert hostile.is_about_input(outcome), outcome
    assert f"--session_name {copy / 'run'}: nothing can be written" in outcome.text


# ------------------------------------------------------------------------------ two at once


@pytest.mark.parametrize("program", WRITERS)
def test_two_runs_in_one_session(program, world, copy):
    """Both end well or with a sentence, and a third one finds everything in order."""
    hostile.forget(copy, program)
    flags = hostile.lines_of(copy)[program]
    outputs = [copy / "out0", copy / "out1"]
    both = [start(program, flags, output) for output in outputs]
    for process, output in zip(both, outputs, strict=True):
        process.join(60)
        assert process.exitcode in (0, 2), output.read_text()
        assert "Traceback" not in output.read_text()
    assert 0 in [process.exitcode for process in both]
    assert hostile.run(program, flags).kind == "fine"
    assert soak.differences(world / "run", copy / "run") == []
    assert soak.unfinished(copy / "run") == []


# ------------------------------------------------------------------------------ a short sweep


def test_random_accidents_end_well_or_with_a_sentence(world, copy, monkeypatch):
    """``python -m tests.sweep`` takes thousands."""
    monkeypatch.chdir(copy)
    results = [sweep.run_case(world, copy, f"7 {number}") for number in range(40)]
    assert [result for result in results if result["kind"] in sweep.FAULTS] == []
    assert {"fine", "sentence"} == {result["kind"] for result in results}


@pytest.mark.parametrize(
    ("kind", "does"),
    [
        ("traceback", lambda world: {}["x"]),
        ("traceback", lambda world: sys.exit(1)),
        ("hang", lambda world: sweep.late()),
        ("lost", lambda world: (world / "ds/classes.txt").unlink()),
        ("lost", lambda world: (world / "weights.pth").rename(world / "x.tmp")),
        ("sentence", None),
    ],
)
def test_faults_of_a_case_are_told_apart(kind, does, world, copy, monkeypatch):
    def main(arguments):
        if does is None:
            raise InputError("x")
        does(copy)

    for program in PROGRAMS:
        monkeypatch.setattr(hostile.load_program(program), "main", main)
    monkeypatch.setattr(sweep, "random_flags", lambda program, rng: [])
    monkeypatch.chdir(copy)
    assert sweep.run_case(world, copy, "8")["kind"] == kind


def test_no_row_wrote_into_the_world(world):
    """Links lead to its files, so that whoever writes into one instead of replacing it shows."""
    assert hostile.snapshot(world) == SNAPSHOTS[world]
