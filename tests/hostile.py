"""What can be wrong around a program: files, numbers, words, disks; and how it ended on them.

A *world* is a folder with all that the programs read: a tiny dataset as a folder (``ds``), as VOC
and as COCO, weights, and a session (``run``) in which every step is finished. Tests copy it, do
harm to the copy, and call a program's ``main`` in this process.
"""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from data.coco.dataset import COCO
from tests.conftest import load_program
from tests.tiny import command_lines, make_folder, make_weights
from tool.errors import InputError
from tool.pictures import save_label
from tool.run import sentence_of

STEPS = (
    "train_resnet50_SIPE",
    "make_cam",
    "eval_cam",
    "cam2ir",
    "train_irn",
    "make_seg_labels",
    "eval_seg_labels",
    "train_seg",
    "infer_seg",
)
TOOLS = ("data.voc", "data.coco", "log.compare")
PROGRAMS = (*STEPS, *TOOLS)
MODEL = "deeplabv2_resnet101"
# What a program writes for itself into the session, so that it has something to do without it.
OUTPUTS = {
    "train_resnet50_SIPE": ("ckpt/final.pth", "ckpt/last.pth"),
    "make_cam": ("npy",),
    "eval_cam": ("eval_cam.json",),
    "cam2ir": ("ir_label",),
    "train_irn": ("ckpt/irn.pth", "ckpt/irn_last.pth"),
    "make_seg_labels": ("pseudo_label",),
    "eval_seg_labels": ("eval_pseudo_label.json",),
    "train_seg": (f"ckpt/seg_{MODEL}.pth", f"ckpt/seg_{MODEL}_last.pth"),
    "infer_seg": (f"seg_{MODEL}",),
}


# ------------------------------------------------------------------------------ the world


def lines_of(world: Path) -> dict[str, list[str]]:
    """Return the flags of every program in a world."""
    lines = command_lines(world / "ds", world / "run", world / "weights.pth")
    lines["train_resnet50_SIPE"] += ["--max_epoches", "1"]
    lines["train_irn"] += ["--irn_num_epoches", "1"]
    lines["train_seg"] += ["--iterations", "3"]
    lines["data.voc"] = ["--dataset_root", str(world / "voc")]
    lines["data.coco"] = ["--dataset_root", str(world / "coco"), "--splits", "train"]
    lines["data.coco"] += ["--num_workers", "0"]
    lines["log.compare"] = [str(world / "run/curves.csv")]
    return lines


def make_world(world: Path) -> Path:
    """Make a world, and run every program in it."""
    world.mkdir(parents=True, exist_ok=True)
    make_folder(world / "ds")
    (world / "ds/splits").mkdir()
    (world / "ds/splits/train.txt").write_text("a\nb\nc\nd\ne\nf\n")
    make_weights(world / "weights.pth")
    make_voc(world / "voc")
    make_coco(world / "coco")
    for name, flags in lines_of(world).items():
        outcome = run(name, flags)
        assert outcome.kind == "fine", f"{name}: {outcome}"
    for folder in world.glob("run/runs*"):
        shutil.rmtree(folder)
    return world


def make_voc(root: Path) -> None:
    """Write a devkit of three pictures."""
    lists = root / "ImageSets/Segmentation"
    for folder in (lists, root / "JPEGImages", root / "Annotations", root / "SegmentationClass"):
        folder.mkdir(parents=True)
    content = {"train": "2007_000001\n2007_000002\n", "val": "2009_000004\n"}
    content["trainaug"] = content["train"]
    for name, text in content.items():
        (lists / f"{name}.txt").write_text(text)
        for image_id in text.split():
            Image.new("RGB", (24, 20), (90, 90, 90)).save(root / f"JPEGImages/{image_id}.jpg")
            label = np.zeros((20, 24), np.uint8)
            label[5:15, 5:15] = 8
            save_label(root / f"SegmentationClass/{image_id}.png", label)
            (root / f"Annotations/{image_id}.xml").write_text(
                "<annotation><object><name>cat</name></object></annotation>"
            )


def make_coco(root: Path) -> None:
    """Write the annotations of two pictures, and the pictures."""
    numbers = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
    names = [f"COCO_train2014_{number:012d}" for number in (1, 2)]
    content = {
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(numbers, COCO.class_names, strict=True)
        ],
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "height": 20, "width": 24}
            for number, name in enumerate(names, 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 17,
                "iscrowd": 0,
                "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]],
            }
            for number in (1, 2)
        ],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_train2014.json").write_text(json.dumps(content))
    (root / "images/train2014").mkdir(parents=True)
    for name in names:
        Image.new("RGB", (24, 20), (90, 90, 90)).save(root / f"images/train2014/{name}.jpg")


def restore(copy: Path, world: Path) -> Path:
    """Make ``copy`` a copy of a world, whatever it is, and return it.

    It consists of links to the same files, but for those that grow. Whoever changes a file puts
    another one in its place, as the programs themselves do.
    """
    copy.mkdir(parents=True, exist_ok=True)
    with os.scandir(world) as entries:
        there = {entry.name: entry for entry in entries}
    with os.scandir(copy) as entries:
        here = list(entries)
    kept = set()
    for entry in here:
        twin = there.get(entry.name)
        if entry.is_dir(follow_symlinks=False):
            if twin and twin.is_dir():
                continue
            # A thread of TensorBoard, whose training failed, may still write there.
            shutil.rmtree(entry.path, ignore_errors=True)
        elif twin and twin.is_file() and entry.inode() == twin.inode():
            kept.add(entry.name)
        else:
            os.unlink(entry.path)
    for name, entry in there.items():
        if entry.is_dir():
            restore(copy / name, Path(entry.path))
        elif name.endswith(GROWING[0]):
            shutil.copyfile(entry.path, copy / name)
        elif name not in kept:
            os.link(entry.path, copy / name)
    return copy


def forget(world: Path, program: str) -> None:
    """Delete what a program wrote, so that it has everything to do."""
    for name in OUTPUTS.get(program, ()):
        remove(world / "run" / name)


def remove(path: Path) -> None:
    """Delete whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------ how it ended


class Outcome(NamedTuple):
    """How a program ended.

    Attributes:
        kind: ``fine``, ``sentence`` or ``traceback``.
        text: what the user is told, or the traceback's last line.
        error: that it ended with.
    """

    kind: str
    text: str = ""
    error: BaseException | None = None


def run(program: str, flags: list[str]) -> Outcome:
    """Call a program's ``main`` in this process, and return how it ended."""
    printed = io.StringIO()
    handlers = logging.getLogger().handlers[:]
    grad = torch.is_grad_enabled()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            load_program(program).main([str(flag) for flag in flags])
    except SystemExit as end:
        judges = "--check" in flags and end.code in (1, 2) and not printed.getvalue()
        if end.code in (0, None) or judges:  # a run that does not follow is no fault
            return Outcome("fine")
        text = printed.getvalue().rsplit("error: ", 1)[-1].strip()
        return Outcome("sentence" if end.code == 2 and text else "traceback", text, end)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            return Outcome("traceback", f"{type(error).__name__}: {error}", error)
        return Outcome("sentence", sentence, error)
    finally:
        torch.set_grad_enabled(grad)
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)
                handler.close()
        logging.captureWarnings(False)
    return Outcome("fine")


# What grows by a line a run, and what remembers digests.
GROWING = (".log", ".digests.json", ".made.json")
# What preparations write, evaluations under names of their folders, and every program at its end.
DERIVED = ("coco/prepared", "voc/ImageSets/Segmentation/trainaug.txt", "run/eval_", "run/visual")
DERIVED += ("run/args.json", "run/curves")


@cache
def digest(path: str, *_: int) -> str:
    """Return the SHA-256 of a file; what else is given tells it from others that lay there."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def snapshot(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a failing program must leave as it is."""
    return _digests(folder, "")


def _digests(folder: str | Path, within: str) -> dict[str, str]:
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = within + entry.name
            if entry.is_dir(follow_symlinks=False):
                if "runs" not in entry.name:
                    found |= _digests(entry.path, f"{name}/")
            elif entry.is_file(follow_symlinks=False) and not name.endswith(GROWING):
                about = entry.stat()
                found[name] = digest(entry.path, about.st_ino, about.st_mtime_ns, about.st_size)
    return found


def lost(before: dict[str, str], after: dict[str, str], own: str | None = None) -> list[str]:
    """Return what a program lost, changed, or left half made.

    Args:
        before, after: of :func:`snapshot`, of a world.
        own: the program where it may change what it has written itself.
    """
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    mine = tuple(f"run/{name}" for name in OUTPUTS.get(own, ()))
    kept = [name for name in changed if not (own and name.startswith((*mine, *DERIVED)))]
    return kept + [name for name in after if name.endswith(".tmp")]


# ------------------------------------------------------------------------------ files


def _anew(path: Path) -> Path:
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def missing(path: Path) -> None:
    remove(path)


def empty(path: Path) -> None:
    _anew(path).write_bytes(b"")


def truncated(path: Path) -> None:
    content = path.read_bytes()
    _anew(path).write_bytes(content[: len(content) * 2 // 3])


def garbage(path: Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, 3000).astype(np.uint8).tobytes()
    _anew(path).write_bytes(content)


def zeros(path: Path) -> None:
    _anew(path).write_bytes(bytes(4096))


def directory(path: Path) -> None:
    _anew(path).mkdir()


def loop(path: Path) -> None:
    _anew(path).symlink_to(path.name)


def dangling(path: Path) -> None:
    _anew(path).symlink_to("nowhere")


def pipe(path: Path) -> None:
    os.mkfifo(_anew(path))


def web_page(path: Path) -> None:
    _anew(path).write_text("<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n")


def lfs(path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    _anew(path).write_text(text)


def unreadable(path: Path) -> None:
    """A file that nobody may read, root neither: the memory of a process at its beginning."""
    _anew(path).symlink_to("/proc/self/mem")


def picture(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7)).save(buffer, "PNG")
    _anew(path).write_bytes(buffer.getvalue())


FILES: dict[str, Callable[[Path], None]] = {
    "missing": missing,
    "empty": empty,
    "truncated": truncated,
    "garbage": garbage,
    "zeros": zeros,
    "directory": directory,
    "loop": loop,
    "dangling": dangling,
    "pipe": pipe,
    "web page": web_page,
    "lfs": lfs,
    "unreadable": unreadable,
    "picture": picture,
}


def text(content: str | bytes) -> Callable[[Path], None]:
    """Return a maker of a file with this content."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda path: _anew(path).write_bytes(raw) and None


def tensors(content: Any) -> Callable[[Path], None]:
    """Return a maker of a file that torch saves."""
    return lambda path: torch.save(content, _anew(path))


def arrays(**content: np.ndarray) -> Callable[[Path], None]:
    """Return a maker of an npz file."""
    return lambda path: np.savez(_anew(path), **content)


def mask(label: np.ndarray) -> Callable[[Path], None]:
    """Return a maker of a picture."""
    return lambda path: Image.fromarray(label).save(_anew(path), "PNG")


def redrawn(change: Callable[[Image.Image], Image.Image], **options: Any) -> Callable:
    """Return a maker that changes the picture that is there."""

    def make(path: Path) -> None:
        with Image.open(path) as image:
            image.load()
        options.setdefault("format", "PNG")
        change(image).save(_anew(path), **options)

    return make


# ------------------------------------------------------------------------------ numbers

NOT_NUMBERS = ("", "x", "nan", "inf", "-inf", "1e38", "-1", "1.5.2", "0x10", "1,5")
ODD_NUMBERS = ("0", "1e-9", "9" * 30)


class _Found(Exception):
    pass


@cache
def parser_of(program: str) -> argparse.ArgumentParser:
    """Return the parser that a program's ``main`` makes."""
    real = argparse.ArgumentParser.parse_known_args

    def found(self, *_, **__):
        raise _Found(self)

    argparse.ArgumentParser.parse_known_args = found
    try:
        load_program(program).main([])
    except _Found as end:
        return end.args[0]
    finally:
        argparse.ArgumentParser.parse_known_args = real
    raise AssertionError(f"{program} has no parser")


@cache
def numeric_flags(program: str) -> list[tuple[str, argparse.Action]]:
    """Return the flags of a program whose type takes numbers."""
    found = []
    for action in parser_of(program)._actions:
        if action.type is None or not action.option_strings:
            continue
        for sample in ("1", "0.5", "16"):
            try:
                value = action.type(sample)
            except (ValueError, TypeError, argparse.ArgumentTypeError):
                continue
            if isinstance(value, int | float):
                found.append((action.option_strings[0], action))
                break
    return found


def refused_by(action: argparse.Action, value: str) -> bool:
    """Return whether a flag's own type refuses a value."""
    try:
        action.type(value)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return True
    return False


def words(flag: str, action: argparse.Action, value: str) -> list[str]:
    """Return a flag with as many values as it takes."""
    count = action.nargs if isinstance(action.nargs, int) else 1
    if value.startswith("-") and count == 1 and action.nargs is None:
        return [f"{flag}={value}"]
    return [flag, *[value] * count]


def is_about_input(outcome: Outcome) -> bool:
    """Return whether a program ended with its own sentence, argparse's, or that of a named file."""
    error = outcome.error
    named = isinstance(error, OSError) and error.filename is not None
    return outcome.kind == "sentence" and (named or isinstance(error, InputError | SystemExit))
