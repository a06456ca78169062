"""What can be wrong around a program, and how it ended on it.

A *world* is a folder with all that the programs read: a tiny dataset as a folder (``ds``), as VOC
and as COCO, the demo, weights, logs, and a session (``run``) in which every step is finished. Tests
copy it, do harm to the copy, and call a program's ``main`` in a process of its own.
"""

import argparse
import codecs
import hashlib
import io
import json
import logging
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.coco.dataset import COCO
from data.demo import dataset as demo
from log.curves import read_recorded
from tests.conftest import load_program
from tests.tiny import command_lines, log_of, make_folder, make_weights
from tool import checkpoint
from tool.pictures import save_label
from tool.run import run as run_program

LONGEST = 60  # seconds of a program on a busy machine
MEMORY = 6 << 30  # bytes of address space that a program may take beyond what the process has
SEG = "seg_deeplabv2_resnet101"
# Programs that print what they think of what they read; an exit status may say it too.
JUDGES = ("data.folder", "tool.doctor", "tool.report", "log.compare")
BLUE = "bl\u00e5"  # a class, so that not all that is printed is ASCII
# What a program writes, below the world; a word behind its name tells its command lines apart.
OUTPUTS = {
    "train_resnet50_SIPE": ("run/ckpt/final.pth", "run/ckpt/last.pth", "run/curves.csv"),
    "make_cam": ("run/npy",),
    "eval_cam": ("run/eval_cam.json", "run/eval_cam.csv"),
    "cam2ir": ("run/ir_label",),
    "train_irn": ("run/ckpt/irn.pth", "run/ckpt/irn_last.pth", "run/curves_irn.csv"),
    "make_seg_labels": ("run/pseudo_label",),
    "eval_seg_labels": ("run/eval_pseudo_label.json", "run/eval_pseudo_label.csv"),
    "train_seg": (f"run/ckpt/{SEG}.pth", f"run/ckpt/{SEG}_last.pth", f"run/curves_{SEG}.csv"),
    "infer_seg": (f"run/{SEG}",),
    "predict": ("predictions",),
    "predict seg": ("segmented",),
    "export_labels": ("exported.json",),
    "data.folder": (),
    "data.voc": ("voc/ImageSets/Segmentation/trainaug.txt",),
    "data.voc halve": ("halved",),
    "data.coco": ("coco/prepared",),
    "tool.report": ("run/report.html", "run/README.md", "run/results.json", "run/report.png"),
    "tool.doctor": (),
    "log.compare": ("curves.csv",),
    "log.compare check": (),
    "examples.own_pictures": ("pictures",),
}
STEPS = tuple(OUTPUTS)[:9]
# What a program keeps for itself, beside what it is run for.
NOTES = (".log", "digests.json", ".made.json", ".lock", "seconds.txt")


def lines_of(world: Path) -> dict[str, list[str]]:
    """Return the flags of every command line of OUTPUTS."""
    run, ds, voc = world / "run", world / "ds", ["--dataset_root", world / "voc"]
    lines = command_lines(ds, run, world / "weights.pth")
    lines["train_resnet50_SIPE"] += ["--max_epoches", "1", "--save_freq", "1"]
    lines["train_irn"] += ["--irn_num_epoches", "1", "--save_freq", "1"]
    lines["train_seg"] += ["--iterations", "3", "--save_freq", "1"]
    folder = ["--dataset", "folder", "--dataset_root", ds]
    coco = ["--dataset_root", world / "coco", "--splits", "train", "--num_workers", "0"]
    export = ["--label_dir", run / "pseudo_label", "--format", "coco"]
    small = ["--pretrained", world / "weights.pth", "--batch_size", "2", "--crop_size", "64"]
    sipe = ["--ckpt", run / "ckpt/final.pth", "--out_dir", world / "predictions"]
    seg = ["--ckpt", run / f"ckpt/{SEG}.pth", "--out_dir", world / "segmented"]
    lines |= {
        "predict": [ds / "images/a.png", *sipe, "--labels", "red"],
        "predict seg": [ds / "images", *seg],
        "export_labels": [*folder, *export, "--out", world / "exported.json"],
        "data.folder": ["--dataset_root", ds],
        "data.voc": [*voc, "--sbd_root", world / "sbd"],
        "data.voc halve": [*voc, "--halve", world / "halved", "--num_workers", "0"],
        "data.coco": coco,
        "tool.report": [run, *folder],
        "tool.doctor": [*folder, *small, "--session_name", run, "--num_workers", "0"],
        "log.compare": [world / "long.log", "--save", world / "curves.csv"],
        "log.compare check": [world / "long.log", "--check"],
        "examples.own_pictures": ["--out", world / "pictures"],
    }
    for name in ("predict", "predict seg", "tool.doctor"):
        lines[name] += ["--device", "cpu"]
    return {name: [str(word) for word in lines[name]] for name in OUTPUTS}


# ------------------------------------------------------------------------------ the world


def make_world(world: Path) -> Path:
    """Make a world, and run every program in it."""
    world.mkdir(parents=True)
    make_folder(world / "ds")
    for name in ("classes.txt", "labels.csv"):
        file = world / "ds" / name
        file.write_text(file.read_text().replace("blue", BLUE), encoding="utf-8")
    (world / "ds/splits").mkdir()
    (world / "ds/splits/train.txt").write_text("a\nb\nc\nd\ne\nf\n")
    make_weights(world / "weights.pth")
    _make_voc(world)
    _make_coco(world / "coco")
    (world / "long.log").write_text(log_of(read_recorded("voc_repository_run")))
    demo.generate(world / "demo_data", 12, 4)
    os.chdir(world)  # where the demo is looked for
    for name, flags in lines_of(world).items():
        outcome = run(name, flags)
        assert outcome.kind == "fine", f"{name}: {outcome}"
    for folder in world.glob("*/runs*"):
        shutil.rmtree(folder)
    return world


def _make_voc(world: Path) -> None:
    """Write a devkit of three pictures without trainaug, and the lists of SBD."""
    root, names = world / "voc", {"train": ["2007_000001"], "val": ["2009_000004"]}
    lists, sbd = root / "ImageSets/Segmentation", world / "sbd/dataset"
    for folder in (lists, sbd, root / "JPEGImages", root / "Annotations"):
        folder.mkdir(parents=True)
    for name, ids in names.items():
        (lists / f"{name}.txt").write_text(f"{ids[0]}\n")
        (sbd / f"{name}.txt").write_text("2007_000002\n2009_000004\n")
    cat = "<annotation><object><name>cat</name></object></annotation>"
    label = np.zeros((20, 24), np.uint8)
    label[5:15, 5:15] = 8
    for image_id in ("2007_000001", "2007_000002", "2009_000004"):
        Image.new("RGB", (24, 20), (90, 90, 90)).save(root / f"JPEGImages/{image_id}.jpg")
        save_label(root / f"SegmentationClass/{image_id}.png", label)
        (root / f"Annotations/{image_id}.xml").write_text(cat)


def _make_coco(root: Path) -> None:
    """Write the annotations of a picture with a cat, and the picture."""
    name, box = "COCO_train2014_000000000001.jpg", [[2, 2, 12, 2, 12, 12, 2, 12]]
    cat = {"id": 1, "image_id": 1, "category_id": 16, "iscrowd": 0, "segmentation": box}
    content = {
        "categories": [{"id": n, "name": title} for n, title in enumerate(COCO.class_names, 1)],
        "images": [{"id": 1, "file_name": name, "height": 20, "width": 24}],
        "annotations": [cat],
    }
    for folder in ("annotations", "images/train2014"):
        (root / folder).mkdir(parents=True)
    (root / "annotations/instances_train2014.json").write_text(json.dumps(content))
    Image.new("RGB", (24, 20), (90, 90, 90)).save(root / "images/train2014" / name)


def restore(copy: Path, world: Path) -> Path:
    """Make ``copy`` a copy of a world, whatever it is, and return it.

    It consists of links to the same files, but for those that grow. Whoever changes a file puts
    another one in its place, as the programs themselves do.
    """
    for path in copy.iterdir() if copy.exists() else ():
        remove(path)
    return shutil.copytree(world, copy, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    shutil.copyfile(source, target) if source.endswith(NOTES) else os.link(source, target)


def forget(world: Path, program: str) -> None:
    """Delete what a program wrote, so that it has everything to do."""
    for name in OUTPUTS.get(program, ()):
        remove(world / name)


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
        kind: ``fine``, ``sentence``, ``traceback``, ``hang`` or ``died``.
        text: what the user is told, or the traceback.
        printed: on standard output.
    """

    kind: str
    text: str = ""
    printed: str = ""


class Running:
    """A program that runs in a copy of this process.

    Args:
        program: its name, and perhaps a word behind it.
        flags: its command line.
        encoding: of standard output and standard error.
    """

    def __init__(self, program: str, flags: list[str], encoding: str = "utf-8") -> None:
        self.program, self.encoding = program, encoding
        self.streams = [os.memfd_create(name) for name in ("stdout", "stderr")]
        main = load_program(program.split()[0]).main
        self.process = os.fork()
        if not self.process:
            self._work(lambda: main([str(flag) for flag in flags]))

    def _work(self, main: Callable[[], None]) -> None:
        for number, stream in enumerate(self.streams, 1):
            os.dup2(stream, number)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), self.encoding)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), self.encoding, "backslashreplace")
        logging.getLogger().handlers.clear()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST)
        status = 0
        try:
            run_program(main)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else bool(end.code)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def end(self) -> Outcome:
        """Wait for the program, and return how it ended."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        texts = []
        for stream in self.streams:
            with open(stream, encoding=self.encoding, errors="replace") as file:
                file.seek(0)
                texts.append(file.read())
        return judged(status, *texts, self.program.split()[0] in JUDGES)


def run(program: str, flags: list[str], encoding: str = "utf-8") -> Outcome:
    """Run a program, and return how it ended."""
    return Running(program, flags, encoding).end()


def judged(status: int, printed: str, complaint: str, judges: bool = False) -> Outcome:
    """Return how a program ended that printed this on standard output and standard error."""
    if status < 0:
        kind = "hang" if status == -signal.SIGALRM else "died"
        return Outcome(kind, f"signal {-status}; {complaint[-300:]}")
    told = complaint if "error: " in complaint else printed
    if "Traceback" in complaint:  # of logging, or of a thread
        return Outcome("traceback", complaint)
    if status == 0 or (judges and printed and "error: " not in told):
        return Outcome("fine", printed=printed)
    text = told.split("error: ", 1)[-1].strip()
    return Outcome("sentence" if status == 2 and text != told.strip() else "traceback", text)


def snapshot(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but what programs keep for themselves."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        kept = name.endswith(NOTES) or "/runs" in name
        if not kept and path.is_file() and not path.is_symlink():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def lost(before: dict[str, str], after: dict[str, str], own: Iterable[str] = ()) -> list[str]:
    """Return what a program lost, changed, or left half made.

    Args:
        before, after: of :func:`snapshot`.
        own: beginnings of the names of what it may change.
    """
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    cleared = [name for name in changed if name.endswith(".tmp") and name not in after]
    kept = [name for name in changed if not name.startswith((*own, *cleared))]
    return kept + [name for name in after if name.endswith(".tmp")]


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of files that differ between sessions, or that only one of them has."""
    ours, theirs = (_contents(session) for session in (one, other))
    names = sorted(ours.keys() | theirs.keys())
    return [name for name in names if ours.get(name) != theirs.get(name)]


def _contents(session: Path) -> dict[str, Any]:
    """Return what the steps of a session have made, to the last bit."""
    made = (".npz", ".png", "cam.csv", "label.csv")
    found = {name: one for name, one in snapshot(session).items() if name.endswith(made)}
    for path in session.glob("ckpt/*.pth"):
        found[path.name] = {k: v.tolist() for k, v in checkpoint.load(path)["net"].items()}
    return found


# ------------------------------------------------------------------------------ files


def _content(raw: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(raw)


# What may stand in the place of any file.
FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": _content(b""),
    "garbage": _content(np.random.default_rng(1).bytes(3000)),
    "zeros": _content(bytes(4096)),
    "deep": _content(b"[" * 100_000),
    "null": _content(b"null"),
    "an empty object": _content(b"{}"),
    "a huge number": _content(b'{"miou": 1' + b"0" * 5000 + b"}"),
    "a web page": _content(b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"),
    "git-LFS": _content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "UTF-16": _content("a\nb\n".encode("utf-16")),
    "a picture": lambda path: Image.new("RGB", (9, 7)).save(path, "PNG"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "unreadable": lambda path: path.symlink_to("/proc/self/mem"),  # even by root
}
# What may happen to its bytes.
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda raw: raw[: len(raw) * 2 // 3],
    "marked": lambda raw: codecs.BOM_UTF8 + raw,
    "recoded": lambda raw: raw.decode("latin-1").encode("utf-16"),
    "twice": lambda raw: raw * 2,
}


def put(path: Path, raw: bytes) -> None:
    """Put another file in the place of one."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def harm(path: Path, kind: str) -> None:
    """Do to a file what FILES or CHANGES call so."""
    if kind in CHANGES:
        put(path, CHANGES[kind](path.read_bytes()))
    else:
        remove(path)
        FILES[kind](path)


class _Found(Exception):
    pass


def parser_of(program: str) -> argparse.ArgumentParser:
    """Return the parser that a program's ``main`` makes."""
    real = argparse.ArgumentParser.parse_known_args

    def found(self, *_, **__):
        raise _Found(self)

    argparse.ArgumentParser.parse_known_args = found
    try:
        load_program(program.split()[0]).main([])
    except _Found as end:
        return end.args[0]
    finally:
        argparse.ArgumentParser.parse_known_args = real
    raise AssertionError(f"{program} has no parser")


def options_of(program: str) -> list[argparse.Action]:
    """Return the flags of a program."""
    return [action for action in parser_of(program)._actions if action.option_strings]


def is_numeric(action: argparse.Action) -> bool:
    """Return whether a flag's type takes numbers alone."""
    samples = ("1", "0.5", "16")
    numbers = action.type and any(takes(action.type, sample) for sample in samples)
    return bool(numbers) and not takes(action.type, "x")


def takes(type_: Callable, word: str) -> bool:
    """Return whether a flag's type takes a word."""
    try:
        type_(word)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True
