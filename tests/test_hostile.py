"""Every program beside bad input: one sentence that names it, and nothing is lost.

A row takes a copy of a finished world (see :mod:`tests.hostile`), harms it, and calls a program.
What each kind of broken file is refused for is a matter of the reader's own tests.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import hostile, oracle, sweep
from tests.hostile import OUTPUTS, SEG

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries; processes are forked
# Of steps that write: one that trains, and those that write maps, labels of maps, and of pictures.
WRITERS = ("train_seg", "make_cam", "cam2ir", "infer_seg")
# What happens to which file that a program reads.
FILES = {
    "train_resnet50_SIPE": {
        "ds/classes.txt": "zeros",
        "ds/labels.csv": "pipe",
        "run/args.json": "null",
    },
    "make_cam": {"ds/splits/train.txt": "device", "run/ckpt/final.pth": "cut"},
    "eval_cam": {
        "run/npy/c.npz": "cut",
        "ds/masks/c.png": "git-LFS",
        "run/npy/settings.json": "deep",
    },
    "cam2ir": {"run/npy/c.npz": "garbage", "ds/images/c.png": "folder"},
    "train_irn": {
        "run/ir_label/c.png": "zeros",
        "weights.pth": "unreadable",
    },
    "make_seg_labels": {
        "run/ckpt/irn.pth": "pipe",
        "run/npy/c.npz": "missing",
    },
    "eval_seg_labels": {"run/pseudo_label/c.png": "device", "ds/masks/c.png": "dangling"},
    "train_seg": {"run/pseudo_label/c.png": "cut", "ds/classes.txt": "loop"},
    "infer_seg": {f"run/ckpt/{SEG}.pth": "garbage", "ds/images/c.png": "empty"},
    "predict": {"run/ckpt/final.pth": "folder", "ds/images/a.png": "pipe"},
    "predict seg": {f"run/ckpt/{SEG}.pth": "an empty object", "ds/images/a.png": "zeros"},
    "export_labels": {"run/pseudo_label/c.png": "empty", "ds/images/c.png": "dangling"},
    "data.folder": {"ds/images/c.png": "loop", "ds/masks/c.png": "pipe"},
    "data.voc": {
        "voc/Annotations/2007_000001.xml": "a web page",
        "voc/ImageSets/Segmentation/val.txt": "pipe",
    },
    "data.voc halve": {
        "voc/JPEGImages/2007_000001.jpg": "cut",
        "voc/SegmentationClass/2007_000001.png": "a picture",
    },
    "data.coco": {"coco/annotations/instances_train2014.json": "deep"},
    "tool.report": {
        "run/args.json": "null",
        "run/curves.csv": "garbage",
        "run/eval_pseudo_label.json": "a huge number",
        "run/seconds.txt": "pipe",
    },
    "tool.doctor": {"weights.pth": "cut", "ds/images/c.png": "device"},
    "log.compare": {"long.log": "device"},
    "log.compare check": {"long.log": "pipe"},
    "examples.own_pictures": {"demo_data/labels.csv": "zeros", "demo_data/classes.txt": "pipe"},
}
# Files in folders of results, where a.png would not be in the way.
MINE = {"data.voc halve": "JPEGImages/2007_000001.jpg", "data.coco": "masks/a.png"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    place = Path.cwd()
    world = hostile.make_world(tmp_path_factory.mktemp("world") / "w")
    os.chdir(place)
    before = hostile.snapshot(world)
    yield world
    # Copies consist of links, so that whoever wrote into a file instead of replacing it shows.
    assert hostile.snapshot(world) == before


@pytest.fixture
def copy(world, monkeypatch) -> Path:
    """A copy of the world, restored for every test, which is the working directory."""
    copy = hostile.restore(world.with_name("copy"), world)
    monkeypatch.chdir(copy)
    return copy


def run(program: str, copy: Path, *flags: str) -> hostile.Outcome:
    return hostile.run(program, [*hostile.lines_of(copy)[program], *flags], "ascii")


@pytest.mark.parametrize(
    ("program", "file"), [(name, file) for name, files in FILES.items() for file in files]
)
def test_a_file_is_named(program, file, copy):
    hostile.forget(copy, program)
    hostile.harm(copy / file, FILES[program][file])
    before = hostile.snapshot(copy)
    outcome = run(program, copy)
    judges = program.split()[0] in hostile.JUDGES and outcome.kind == "fine"
    assert judges or outcome.kind == "sentence", outcome
    assert Path(file).stem in (outcome.printed if judges else outcome.text)
    assert "\n" not in outcome.text
    assert hostile.lost(before, hostile.snapshot(copy), ["run/args.json"]) == []


def test_every_program_and_every_kind_has_a_row():
    assert FILES.keys() == OUTPUTS.keys()
    kinds = {kind for files in FILES.values() for kind in files.values()}
    assert kinds >= hostile.FILES.keys() - {"UTF-16"}  # which is read


@pytest.mark.parametrize("program", [name for name, outputs in OUTPUTS.items() if outputs])
def test_what_is_somebody_elses_stays(program, copy):
    hostile.forget(copy, program)
    place = copy / OUTPUTS[program][0]
    mine = place if place.suffix else place / MINE.get(program, "a.png")
    hostile.put(mine, b"mine")
    before = hostile.snapshot(copy)
    outcome = run(program, copy)
    assert outcome.kind == "sentence", outcome
    assert mine.read_bytes() == b"mine"
    assert hostile.lost(before, hostile.snapshot(copy), ["run/args.json"]) == []


@pytest.mark.parametrize("program", OUTPUTS)
def test_what_is_no_number_is_refused(program):
    for action in filter(hostile.is_numeric, hostile.options_of(program)):
        for value in ("", "x", "nan", "inf", "1e400", "1.5.2", "0x10", "1,5", "-1"):
            assert not hostile.takes(action.type, value), (action.dest, value)


# ------------------------------------------------------------------------------ disks


@pytest.fixture
def disk(copy, tmp_path) -> Path:
    """The session on a disk of its own, where this is allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=20000k", "none", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    shutil.copytree(copy / "run", tmp_path / "run")
    hostile.remove(copy / "run")
    (copy / "run").symlink_to(tmp_path / "run")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("program", WRITERS)
def test_full_disk(program, world, copy, disk):
    hostile.forget(copy, program)
    before = hostile.snapshot(disk)
    room = os.statvfs(disk)
    filling = disk / "filling.log"
    filling.write_bytes(bytes(max(0, room.f_bavail * room.f_bsize - 16384)))
    outcome = run(program, copy)
    assert outcome.kind == "sentence", outcome
    assert "No space left on device" in outcome.text
    assert hostile.lost(before, hostile.snapshot(disk), ["run/args.json"]) == []
    filling.unlink()
    assert run(program, copy).kind == "fine"
    assert hostile.differences(world / "run", disk / "run") == []


# ------------------------------------------------------------------------------ two at once


@pytest.mark.parametrize("program", WRITERS)
def test_two_runs_in_one_session(program, world, copy):
    """Both end well or with a sentence, and a third one finds everything in order."""
    hostile.forget(copy, program)
    both = [hostile.Running(program, hostile.lines_of(copy)[program]) for _ in range(2)]
    ends = {one.end().kind for one in both}
    assert "fine" in ends
    assert ends <= {"fine", "sentence"}
    assert run(program, copy).kind == "fine"
    assert hostile.differences(world / "run", copy / "run") == []
    assert list((copy / "run").rglob("*.tmp")) == []


# ------------------------------------------------------------------------------ the sweep


def test_accidents_end_well_or_with_a_sentence(world, copy):
    """``python -m tests.sweep`` takes thousands."""
    cases = [sweep.run_case(world, copy, f"7 {number}") for number in range(40)]
    assert [case.about() for case in cases if case.outcome.kind not in sweep.ENDS] == []
    assert {case.outcome.kind for case in cases} == set(sweep.ENDS)


def spoil(path: Path) -> None:
    """Change what a result says."""
    content = path.read_bytes()
    if path.suffix == ".npz":
        content = (path.parent / "b.npz").read_bytes()
    content = content.replace(b"0.", b"0.0").replace(b'": 1', b'": 2')
    if path.suffix != ".png":
        return hostile.put(path, content)
    with Image.open(path) as image:
        spoilt = Image.fromarray(np.asarray(image) ^ 8)
    path.unlink()
    spoilt.save(path)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("traceback", lambda: sys.exit(1)),
        ("hang", lambda: os.kill(os.getpid(), signal.SIGALRM)),
        ("died", lambda: os.kill(os.getpid(), signal.SIGKILL)),
        ("loss", lambda: Path("weights.pth").rename("x.tmp")),
        ("loss", lambda: Path("run/visual/a.png").write_bytes(b"ours")),
        ("wrong", lambda: spoil(Path("run/eval_cam.json"))),
        ("stale", lambda: hostile.put(Path("run/eval_cam.json"), os.urandom(9))),
    ],
)
def test_faults_of_a_case_are_told_apart(kind, act, world, copy, monkeypatch):
    case = sweep.Case(world, copy, "eval_cam", "1")
    case.plant(copy / "run/visual")
    case.kept = kind == "stale"
    monkeypatch.setattr(case, "words", lambda: case.line)
    parser = hostile.parser_of("eval_cam")
    monkeypatch.setattr(hostile, "parser_of", lambda _: parser)
    monkeypatch.setattr(hostile.load_program("eval_cam"), "main", lambda _: act())
    case.run()
    assert case.outcome.kind == kind, case.outcome


# What is spoilt of what a program made.
SPOILT = {
    "make_cam": "run/npy/a.npz",
    "eval_cam": "run/eval_cam.json",
    "cam2ir": "run/ir_label/b.png",
    "make_seg_labels": "run/pseudo_label/b.png",
    "eval_seg_labels": "run/eval_pseudo_label.json",
    "infer_seg": f"run/{SEG}/a.png",
    "predict": "predictions/a_mask.png",
    "export_labels": "exported.json",
    "data.voc halve": "halved/SegmentationClass/2007_000001.png",
    "data.coco": "coco/prepared/masks/COCO_train2014_000000000001.png",
    "tool.report": "run/results.json",
    "log.compare": "long.log",
    "examples.own_pictures": "pictures/masks/train_0001.png",
}


@pytest.mark.parametrize("program", SPOILT)
def test_wrong_values_are_seen(program, copy):
    line = hostile.lines_of(copy)[program]
    hostile.forget(copy, program)
    outcome = hostile.run(program, line)
    args = hostile.parser_of(program).parse_args(line)
    assert oracle.fault_of(program, args, outcome.printed) == ""
    spoil(copy / SPOILT[program])
    assert oracle.fault_of(program, args, outcome.printed)
