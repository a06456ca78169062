"""Every program beside bad input: one sentence that names it, and nothing is lost.

A row takes a copy of a finished world (see :mod:`tests.hostile`), harms it, and calls a program.
What each kind of broken file is refused for is a matter of the reader's own tests.
"""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import hostile, oracle, sweep
from tests.hostile import OUTPUTS, SEG, STEPS
from tool.errors import InputError

pytestmark = [
    # pycocotools' arrays know nothing of numpy 2's copy argument.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # TensorBoard's, of a full disk.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    # Of libraries, that processes are forked beside threads.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]
LONGEST = 120  # seconds of a test on a busy machine
WRITERS = tuple(name for name in STEPS if not name.startswith("eval_"))
# What happens to which file that a program reads.
FILES = {
    "train_resnet50_SIPE": {
        "ds/classes.txt": "zeros",
        "ds/labels.csv": "pipe",
        "ds/images/c.png": "cut",
        "weights.pth": "a web page",
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
        "run/ir_label/settings.json": "a huge number",
        "weights.pth": "unreadable",
    },
    "make_seg_labels": {
        "run/ckpt/irn.pth": "pipe",
        "run/npy/c.npz": "missing",
        "run/npy/settings.json": "null",
    },
    "eval_seg_labels": {"run/pseudo_label/c.png": "device", "ds/masks/c.png": "dangling"},
    "train_seg": {"run/pseudo_label/c.png": "cut", "ds/classes.txt": "loop"},
    "infer_seg": {f"run/ckpt/{SEG}.pth": "garbage", "ds/images/c.png": "empty"},
    "predict": {"run/ckpt/final.pth": "folder", "ds/images/a.png": "pipe"},
    "predict seg": {f"run/ckpt/{SEG}.pth": "an empty object", "ds/images/a.png": "zeros"},
    "export_labels": {"run/pseudo_label/c.png": "empty", "ds/images/c.png": "dangling"},
    "data.folder": {"ds/images/c.png": "cut", "ds/masks/c.png": "pipe"},
    "data.voc": {
        "voc/Annotations/2007_000001.xml": "deep",
        "voc/ImageSets/Segmentation/val.txt": "pipe",
        "sbd/dataset/train.txt": "garbage",
    },
    "data.voc halve": {
        "voc/JPEGImages/2007_000001.jpg": "cut",
        "voc/SegmentationClass/2007_000001.png": "a picture",
    },
    "data.coco": {"coco/annotations/instances_train2014.json": "deep"},
    "data.demo.report": {
        "demo_run/eval_crf_label.json": "a huge number",
        "demo_run/seconds.txt": "pipe",
        "demo_run/npy/train_0000.npz": "cut",
    },
    "tool.report": {
        "run/args.json": "null",
        "run/eval_cam.json": "a huge number",
        "run/curves.csv": "garbage",
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
    before = hostile.snapshot(world)
    yield world
    os.chdir(place)
    # Copies consist of links, so that whoever wrote into a file instead of replacing it shows.
    assert hostile.snapshot(world) == before


@pytest.fixture(autouse=True)
def timer():
    """A program that waits for ever, as for a pipe, fails its test."""
    before = signal.signal(signal.SIGALRM, sweep.late)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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
    for action in hostile.numeric_flags(program):
        for value in ("", "x", "nan", "inf", "1e400", "1.5.2", "0x10", "1,5", "-1"):
            assert not hostile.takes(action.type, value), (action.dest, value)


# ------------------------------------------------------------------------------ disks


@pytest.fixture
def disk(copy, tmp_path):
    """A function that moves the session to a disk of so many KiB, where this is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def move(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system may be mounted here")
        mounted.append(place)
        shutil.copytree(copy / "run", place / "run")
        hostile.remove(copy / "run")
        (copy / "run").symlink_to(place / "run")
        return place

    yield move
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("program", WRITERS)
def test_full_disk(program, world, copy, disk):
    hostile.forget(copy, program)
    place = disk(20_000)
    before = hostile.snapshot(place)
    room = os.statvfs(place)
    filling = place / "filling.log"
    filling.write_bytes(bytes(max(0, room.f_bavail * room.f_bsize - 16384)))
    outcome = run(program, copy)
    assert outcome.kind == "sentence", outcome
    assert "No space left on device" in outcome.text
    assert hostile.lost(before, hostile.snapshot(place), ["run/args.json"]) == []
    filling.unlink()
    assert run(program, copy).kind == "fine"
    assert hostile.differences(world / "run", place / "run") == []


@pytest.mark.parametrize("program", STEPS)
def test_read_only_session(program, copy, disk):
    hostile.forget(copy, program)
    place = disk(9000)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    outcome = run(program, copy)
    assert outcome.kind == "sentence"
    assert f"--session_name {copy / 'run'}: nothing can be written" in outcome.text


# ------------------------------------------------------------------------------ two at once


@pytest.mark.parametrize("program", WRITERS)
def test_two_runs_in_one_session(program, world, copy):
    """Both end well or with a sentence, and a third one finds everything in order."""
    hostile.forget(copy, program)
    ends = {"fine": 0, "sentence": 3}
    both = [
        sweep.in_a_process(lambda: os._exit(ends.get(run(program, copy).kind, 1))) for _ in "ab"
    ]
    codes = {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in both}
    assert codes in ({0}, {0, 3})
    assert run(program, copy).kind == "fine"
    assert hostile.differences(world / "run", copy / "run") == []
    assert list((copy / "run").rglob("*.tmp")) == []


# ------------------------------------------------------------------------------ the sweep


def spoil_json(path: Path) -> None:
    hostile.put(path, path.read_bytes().replace(b"0.", b"0.0").replace(b'": 1', b'": 2'))


def test_accidents_end_well_or_with_a_sentence(world, copy):
    """``python -m tests.sweep`` takes thousands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [sweep.run_case(world, copy, f"7 {number}").about() for number in range(40)]
    assert [case for case in cases if case["kind"] in sweep.FAULTS] == []
    assert {"fine", "sentence"} == {case["kind"] for case in cases}


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("traceback", lambda: {}["x"]),
        ("traceback", lambda: sys.exit(1)),
        ("traceback", lambda: print("Traceback", file=sys.stderr)),
        ("hang", sweep.late),
        ("loss", lambda: Path("ds/classes.txt").unlink()),
        ("loss", lambda: Path("weights.pth").rename("x.tmp")),
        ("loss", lambda: Path("run/visual/a.png").write_bytes(b"ours")),
        ("wrong", lambda: spoil_json(Path("run/eval_cam.json"))),
        ("stale", lambda: hostile.put(Path("run/eval_cam.json"), os.urandom(9))),
        ("sentence", None),
    ],
)
def test_faults_of_a_case_are_told_apart(kind, act, world, copy, monkeypatch):
    def main(_):
        if act is None:
            raise InputError("x")
        act()

    case = sweep.Case(world, copy, "8")
    hostile.restore(copy, world)  # without the accidents of the case
    case.plant(copy / "run/visual")
    case.program, case.own, case.kept = "eval_cam", list(OUTPUTS["eval_cam"]), kind == "stale"
    case.line, case.flags, case.harmed = hostile.lines_of(copy)["eval_cam"], [], []
    monkeypatch.setattr(case, "words", lambda: case.line)
    hostile.parser_of("eval_cam")  # which is remembered
    monkeypatch.setattr(hostile.load_program("eval_cam"), "main", main)
    case.run()
    assert case.outcome.kind == kind, case.outcome


def spoil_picture(path: Path) -> None:
    with Image.open(path) as image:
        spoilt = Image.fromarray(np.asarray(image) ^ 8)
    path.unlink()
    spoilt.save(path)


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
    "data.demo.report": "demo_run/results.json",
    "tool.report": "run/eval_cam.json",
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
    file = copy / SPOILT[program]
    if file.suffix == ".png":
        spoil_picture(file)
    elif file.suffix == ".npz":
        hostile.put(file, (file.parent / "b.npz").read_bytes())
    else:
        spoil_json(file)
    assert oracle.fault_of(program, args, outcome.printed)
