"""Programs beside accidents: random flags, damaged files, odd words; how each ends is counted.

    python -m tests.sweep --cases 3000 --seed 0 [--jobs 2] [--case 17]

A case takes a copy of a finished world (see :mod:`tests.hostile`), replaces or damages up to three
of its files, gives a program some random flags, and calls its ``main``. It is *fine*, or ends with
a *sentence*; anything else is a fault: a *traceback*, a *hang* of more than ``LONGEST`` seconds, a
process that *died*, or *lost* files: files that the program had no business to change, and results
of an earlier run where the program ended with a sentence. The exit status is 1 where there are
faults; ``--case`` runs one case alone, with its traceback. :mod:`tests.sweep_files` damages files
of weights and maps more thoroughly.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import hostile
from tests.sweep_files import damaged, damaged_within

LONGEST = 20  # seconds of a case
MEMORY = 6 << 30  # bytes of address space that a case may take beyond what the process has
CHUNK = 50  # cases a process
FAULTS = ("traceback", "hang", "died", "lost")

NUMBERS = ("0", "1", "2", "3", "5", "16", "33", "64", "0.5", "1.5", "-1", "nan", "inf", "x", "")
NUMBERS += ("1e-9", "1e9", "1e400", "2147483647", "9" * 20)
# Flags whose large values mean much work, or memory that another machine has.
LONG = (
    "num_workers",
    "iterations",
    "max_epoches",
    "irn_num_epoches",
    "crf_iterations",
    "exp_times",
    "width",
    "blocks",
    "batch_size",
    "irn_batch_size",
    "accumulate",
    "crop_size",
    "irn_crop_size",
    "resize_min",
    "resize_max",
    "scales",
    "max_pixels",
    "hsv_shift",
)
SMALL = ("0", "1", "2", "3", "5", "16", "0.5", "1.5", "-1", "nan", "x")
WORDS = {
    "device": ("cpu", "cpu", "cpu", "cuda:99", "meta", "gpu", ""),
    "network": ("net.resnet50_SIPE", "examples.own_method", "os", "nonsense", "..", ""),
    "dataset": ("folder", "folder", "voc", "coco", "demo", "os:path", "data.folder:Folder", "x:Y"),
    "dataset_root": ("ds", "ds", "ds", "nowhere", "weights.pth", "run", "/dev/null"),
    "session_name": ("run", "run", "run", "new", "ds", "weights.pth", "/dev/null/x"),
    "pretrained": ("weights.pth", "none", "nowhere", "run/ckpt/final.pth", "ds"),
    "out_dir": ("new", "run/npy", "run/ir_label", "run/pseudo_label", "ds/masks", "ds/images"),
    "label_dir": ("ds/masks", "run/ir_label", "run/pseudo_label", "ds", "nowhere"),
    "gt_path": ("ds/masks", "ds/images", "run/ir_label", "nowhere"),
    "archive": ("new.zip", "new.tgz", "new", "ds/x.zip", "/dev/null/x.zip"),
    "link_root": ("new", "ds", "/dev/null/x"),
    "out": ("new.png", "new", "/dev/null/x.png"),
    "sbd_root": ("nowhere", "voc", "ds"),
}
LISTS = ("train", "val", "ds/splits/train.txt", "ds/labels.csv", "nowhere", "..", "")
CKPTS = ("final.pth", "irn.pth", "last.pth", "weights.pth", "nowhere", "ds", "")
ODD = ("", "x", "../x", "é", "a" * 300, "-", "/dev/null", "{}", "%s", "a b")
JSON_VALUES = (None, True, 0, -1, 1.5, "x", "", [], [1], {}, {"a": None}, 10**30)
LINES = (b"\xff\xfe", b"\0", b'"', b",", b";", b"\t", b"a,red", b"a.png,red", b"../../x", b"\r")
TEXTS = (".txt", ".csv", ".xml", ".log")


# ------------------------------------------------------------------------------ accidents


def other_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value after an accident somewhere in it."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(JSON_VALUES)
    value = value.copy()
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    if rng.random() < 0.3:
        del value[key]
    else:
        value[key] = other_json(value[key], rng)
    return value


def other_text(content: bytes, rng: random.Random) -> bytes:
    """Return a text after an accident in some line."""
    lines = content.splitlines()
    at = rng.randrange(len(lines) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        lines.insert(at, rng.choice(LINES))
    elif kind == 1:
        lines.insert(at, rng.choice(lines or [b""]))
    elif kind == 2:
        del lines[at : at + 1]
    elif kind == 3:
        rng.shuffle(lines)
    else:
        lines[at : at + 1] = [line + rng.choice(LINES) for line in lines[at : at + 1]]
    return rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(lines) + b"\n"


def harm(path: Path, others: list[Path], rng: random.Random) -> str:
    """Do something to a file; return what."""
    if rng.random() < 0.4:
        name, make = rng.choice(list(hostile.FILES.items()))
        make(path)
        return name
    content = path.read_bytes()
    if rng.random() < 0.2:
        other = rng.choice([p for p in others if p.is_file()] or [path])
        hostile.text(other.read_bytes())(path)
        return f"that is {other.name}"
    if path.suffix == ".json" and rng.random() < 0.8:
        with contextlib.suppress(ValueError):  # it may be harmed already
            content = json.dumps(other_json(json.loads(content), rng)).encode()
    elif path.suffix in TEXTS and rng.random() < 0.8:
        content = other_text(content, rng)
    elif content.startswith(b"PK") and rng.random() < 0.6:
        with contextlib.suppress(zipfile.BadZipFile):  # likewise
            content = damaged_within(content, rng)
    else:
        content = damaged(content, rng)
    hostile.text(content)(path)
    return "damaged"


def random_value(action: argparse.Action, numeric: bool, rng: random.Random) -> str:
    """Return a word for a flag: mostly one that it takes."""
    if rng.random() < 0.05:
        return rng.choice(ODD)
    if action.choices:
        return rng.choice([*map(str, action.choices)])
    if numeric:
        return rng.choice(SMALL if action.dest in LONG else NUMBERS)
    if action.dest.endswith("_list"):
        return rng.choice(LISTS)
    if action.dest.endswith("ckpt"):
        return rng.choice(CKPTS)
    return rng.choice(WORDS.get(action.dest, ODD))


def random_flags(program: str, rng: random.Random) -> list[str]:
    """Return up to four flags of a program with values."""
    parser = hostile.parser_of(program)
    numeric = {flag for flag, _ in hostile.numeric_flags(program)}
    options = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    flags = []
    for action in rng.sample(options, min(len(options), rng.choice((0, 0, 1, 1, 2, 4)))):
        flag = rng.choice(action.option_strings)
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            flags.append(flag)
            continue
        is_numeric = action.option_strings[0] in numeric
        count = rng.choice((1, 1, 2)) if action.nargs == "+" else action.nargs or 1
        values = [random_value(action, is_numeric, rng) for _ in range(count)]
        flags += [f"{flag}={values[0]}"] if count == 1 else [flag, *values]
    return flags


# ------------------------------------------------------------------------------ one case


def run_case(world: Path, folder: Path, seed: str) -> dict[str, str]:
    """Run one case in a copy of the world, and return what it was and how it ended."""
    rng = random.Random(seed)
    program = rng.choice(hostile.PROGRAMS)
    copy = hostile.restore(folder, world)
    if rng.random() < 0.7:
        hostile.forget(copy, program)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    harmed = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        path = rng.choice(files)
        if path.is_file() and not path.is_symlink():
            harmed.append(f"{path.relative_to(copy)} {harm(path, files, rng)}")
    flags = random_flags(program, rng)
    before = hostile.snapshot(copy)
    os.chdir(copy)
    signal.alarm(LONGEST)
    try:
        outcome = hostile.run(program, [*hostile.lines_of(copy)[program], *flags])
        kind, text = outcome.kind, outcome.text
        if kind == "traceback" and outcome.error:
            frame = traceback.extract_tb(outcome.error.__traceback__)[-1]
            text = f"{text} ({Path(frame.filename).name}:{frame.lineno})"
    except Late:
        kind, text = "hang", ""
    finally:
        signal.alarm(0)
    # Results are made again where the user says so, or where labels have changed since.
    again = kind == "fine" or "--restart" in flags or any("labels.csv" in h for h in harmed)
    lost = hostile.lost(before, hostile.snapshot(copy), program if again else None)
    if lost and kind not in FAULTS:
        kind, text = "lost", f"{', '.join(lost[:3])}; {text}"
    about = f"{program} {' '.join(flags)} | {'; '.join(harmed)}"
    return {"seed": seed, "kind": kind, "text": text.replace(str(copy), "")[:300], "about": about}


class Late(BaseException):
    """A case took too long."""


def late(*_: Any) -> None:
    raise Late


# ------------------------------------------------------------------------------ many cases


def in_a_process(work: Callable[[], None]) -> int:
    """Start ``work`` in a copy of this process; return its number."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run_chunk(world: Path, folder: Path, seeds: list[str], report: Path) -> None:
    """Run cases one after the other, and write a line about each."""
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None  # TensorBoard's threads, whose folders have gone
    signal.signal(signal.SIGALRM, late)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(report, "a") as file:
        for seed in seeds:
            result = run_case(world, folder / f"copy{os.getpid()}", seed)
            file.write(json.dumps(result) + "\n")
            file.flush()


def sweep(folder: Path, seeds: list[str], jobs: int) -> list[dict[str, str]]:
    """Run cases in ``jobs`` processes at once; a process that dies costs one case."""
    world = hostile.make_world(folder / "world")
    before = hostile.snapshot(world)
    todo = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    running: dict[int, tuple[list[str], Path]] = {}
    results: list[dict[str, str]] = []
    while todo or running:
        while todo and len(running) < jobs:
            chunk = todo.pop(0)
            report = folder / f"{time.monotonic_ns()}.jsonl"
            report.touch()
            child = in_a_process(
                lambda chunk=chunk, report=report: run_chunk(world, folder, chunk, report)
            )
            running[child] = chunk, report
        child, status = os.wait()
        chunk, report = running.pop(child)
        done = [json.loads(line) for line in report.read_text().splitlines()]
        results += done
        if len(done) < len(chunk):
            seed = chunk[len(done)]
            about = {"seed": seed, "kind": "died", "text": f"status {status}", "about": ""}
            results.append(about)
            if chunk[len(done) + 1 :]:
                todo.append(chunk[len(done) + 1 :])
    assert hostile.snapshot(world) == before  # no program writes into a file that is there
    return results


def main() -> int:
    """Print the counts and the faults, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--case", help="SEED of one case, with its traceback")
    args = parser.parse_args()
    began = time.monotonic()
    seeds = [f"{args.seed} {n}" for n in range(args.first, args.first + args.cases)]
    with tempfile.TemporaryDirectory() as folder:
        if args.case:
            return show(Path(folder), args.case)
        results = sweep(Path(folder), seeds, args.jobs)
    counts = collections.Counter(result["kind"] for result in results)
    for kind in ("fine", "sentence", *FAULTS):
        print(f"{kind:10} {counts[kind]:5}")
    for result in sorted(results, key=lambda result: result["text"]):
        if result["kind"] in FAULTS:
            print(f"{result['kind']} --case '{result['seed']}' {result['text']}")
            print(f"    {result['about']}")
    print(f"{len(results)} cases, {time.monotonic() - began:.0f} s")
    return int(any(counts[kind] for kind in FAULTS))


def show(folder: Path, seed: str) -> int:
    """Run one case, and print its traceback."""
    real = hostile.run

    def run(program: str, flags: list[str]) -> hostile.Outcome:
        outcome = real(program, flags)
        if outcome.error:
            traceback.print_exception(outcome.error)
        return outcome

    hostile.run = run
    signal.signal(signal.SIGALRM, late)
    print(run_case(hostile.make_world(folder / "world"), folder / "case", seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
