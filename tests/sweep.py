"""All programs beside accidents: how each ends is counted, and what it made is compared.

    python -m tests.sweep --cases 5000 --seed 0 [--case '0 17']

A case takes a copy of a finished world (see :mod:`tests.hostile`), puts files of the user's where
results belong, damages up to three files, and calls a program with some random flags, from some
working directory with relative or absolute paths, with an output of UTF-8 or ASCII, and sometimes
beside another program. It is *fine* or ends with a *sentence*; anything else is a fault: a
*traceback*, a *hang* of more than LONGEST seconds, a process that *died*, a *loss* (a file of the
user's that is another one afterwards, or a result of an earlier run where this one was refused), a
*wrong* value (see :mod:`tests.oracle`), or a *stale* one, which a run from nothing does not give.
Some steps are killed at a random moment first; the same command must then end as if undisturbed.
The exit status is 1 where there are faults; ``--case`` runs one case alone, with its traceback.
"""

import argparse
import collections
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests import hostile, oracle
from tests.conftest import STUB
from tests.hostile import OUTPUTS, STEPS, Outcome
from tests.sweep_files import damaged, damaged_within

LONGEST = 60  # seconds of a case on a busy machine
MEMORY = 6 << 30  # bytes of address space that a case may take beyond what the process has
CHUNK = 50  # cases a process
FAULTS = ("traceback", "hang", "died", "loss", "wrong", "stale")
SCRIPTS = ("run_voc.sh", "run_coco.sh", "run_demo.sh")
REPOSITORY = Path(__file__).parents[1]
DEMO = ("data.demo.report", "examples.own_pictures")  # they look for the demo where they run
SLOW = ("train_resnet50_SIPE", "train_irn", "make_seg_labels", "make_cam")
TRAINERS = ("train_resnet50_SIPE", "train_irn", "train_seg")
RECORDS = ("settings.json", "sources.json")  # which grow with every list
# Places that the user's own files may be in.
PLACES = ("new", "new.zip", "new.png", "run/visual", "run/visual_pseudo_label", "run/summary.json")

NUMBERS = ("0", "1", "2", "3", "5", "16", "33", "64", "0.5", "1.5", "-1", "nan", "inf", "x", "")
NUMBERS += ("1e-9", "1e9", "1e400", "2147483647", "9" * 20)
# Words of flags whose large values mean much work, or memory that another machine has.
LONG = ("num", "iterations", "epoches", "times", "width", "blocks", "size", "accumulate")
LONG += ("resize", "scales", "pixels", "shift")
SMALL = ("0", "1", "2", "3", "5", "16", "0.5", "1.5", "-1", "nan", "x")
WORDS = {
    "device": ("cpu", "cpu", "cpu", "cuda:99", "meta", "gpu", ""),
    "network": ("net.resnet50_SIPE", "examples.own_method", "os", "nonsense", "..", ""),
    "dataset": ("folder", "folder", "voc", "coco", "demo", "os:path", "examples.own_dataset:X", ""),
    "dataset_root": ("ds", "ds", "ds", "nowhere", "weights.pth", "run", "voc", "/dev/null"),
    "session_name": ("run", "run", "run", "new", "ds", "weights.pth", "/dev/null/x"),
    "pretrained": ("weights.pth", "none", "nowhere", "run/ckpt/final.pth", "ds"),
    "out_dir": ("new", "run/npy", "run/ir_label", "run/pseudo_label", "ds/masks", "ds/images"),
    "label_dir": ("ds/masks", "run/ir_label", "run/pseudo_label", "ds", "nowhere"),
    "gt_path": ("ds/masks", "ds/images", "run/ir_label", "nowhere"),
    "archive": ("new.zip", "new.tgz", "new", "ds/x.zip", "/dev/null/x.zip"),
    "link_root": ("new", "ds", "coco", "/dev/null/x"),
    "halve": ("new", "halved", "voc", "voc/JPEGImages", "ds", "run"),
    "out": ("new.png", "new", "ds/labels.csv", "ds", "run", "/dev/null/x.png"),
    "save": ("new", "curves", "nowhere/x", "/dev/null/x"),
    "sbd_root": ("nowhere", "voc", "sbd"),
    "labels": ("red", "red,green", "none", "", "grass", "red,red"),
    "class_names": ("a,b,c", "red", "", "red,red,red"),
    "classes": ("red", "background", "grass"),
}
# What may stand beside the picture or session of the command line.
MORE = {
    "predict": ("ds/images", "ds/images/b.png", "ds/labels.csv", "nowhere", "weights.pth"),
    "tool.report": ("run", "demo_run", "nowhere", "ds", "weights.pth"),
}
LISTS = ("train", "val", "ds/splits/train.txt", "ds/labels.csv", "nowhere", "..", "")
CKPTS = ("final.pth", "irn.pth", "last.pth", "weights.pth", "nowhere", "ds", "")
WORDS |= dict.fromkeys(("list", "train_list", "infer_list", "eval_list", "val_list"), LISTS)
WORDS |= dict.fromkeys(("ckpt", "irn_ckpt"), CKPTS)
ODD = ("", "x", "../x", "\u00e9", "a" * 300, "-", "/dev/null", "{}", "%s", "a b", "\U0001f600")
JSON_VALUES = (None, True, 0, -1, 1.5, "x", "", [], [1], {}, {"a": None}, 10**30)
LINES = (b"\xff\xfe", b"\0", b'"', b",", b";", b"\t", b"a,red", b"a.png,red", b"../../x", b"\r")
SETTINGS = {
    "SESSION": ("run", "a session", "-x", "ds/classes.txt", "/dev/null/x", "\u00e9/run"),
    "VOC_ROOT": ("voc", "a b", "nowhere"),
    "COCO_ROOT": ("coco", "", "-c"),
    "REFINE": ("irn", "crf", "x"),
    "SEG_MODEL": ("none", "deeplabv1_resnet38", "x"),
    "NPROC": ("1", "2", "0", "x"),
    "NUM_WORKERS": ("0", "2", "-1"),
    "SEED": ("3", "01", "x", "9" * 30),
    "SEEDS": ("1 2", "1 01", "x", "*"),
    "ABLATION": ("1", "no", "maybe"),
    "DOCTOR": ("0", "no", "1", "x"),
    "DOWNLOAD": ("0", "no", ""),
    "PRESET": ("half", "full", "x"),
    "TRAIN_FLAGS": (
        "--lr 0.1",
        "--pretrained 'a b'",
        "--x 'y",
        "$(touch hacked) `touch hacked`",
        "*",
    ),
    "PYTHON": ("cat", "nowhere"),
}


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
    lines = content.splitlines() or [b""]
    at = rng.randrange(len(lines))
    odd = rng.choice((*LINES, lines[0]))
    lines[at : at + 1] = rng.choice(([], [odd], [lines[at] + odd], [odd, lines[at]]))
    return rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(lines) + b"\n"


def harm(path: Path, others: list[Path], rng: random.Random) -> str:
    """Do something to a file; return what."""
    kind = rng.choice((*hostile.FILES, *hostile.CHANGES))
    content = path.read_bytes()
    if rng.random() < 0.4:
        hostile.harm(path, kind)
        return kind
    if rng.random() < 0.2:
        alike = [one for one in others if one.suffix == path.suffix and not one.is_symlink()]
        other = rng.choice([one for one in alike if one.is_file()])
        hostile.put(path, other.read_bytes())
        return f"that is {other.name}"
    change = damaged
    if path.suffix in (".txt", ".csv", ".xml", ".log"):
        change = other_text
    elif path.suffix in (".npz", ".pth") and rng.random() < 0.7:
        change = damaged_within
    elif path.suffix == ".json":
        change = lambda raw, rng: json.dumps(other_json(json.loads(raw), rng)).encode()  # noqa: E731
    with suppress(ValueError, zipfile.BadZipFile):  # it may be harmed already
        content = change(content, rng)
    hostile.put(path, content)
    return "damaged"


def random_flags(program: str, rng: random.Random) -> list[str]:
    """Return up to four flags of a program with values, mostly such as it takes."""
    numeric = hostile.numeric_flags(program)
    options = [a for a in hostile.parser_of(program)._actions if a.option_strings]
    options = [action for action in options if action.dest != "download"]
    flags = []
    for action in rng.sample(options, min(len(options), rng.choice((0, 0, 1, 1, 2, 4)))):
        flag = rng.choice(action.option_strings)
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            flags.append(flag)
            continue
        words = WORDS.get(action.dest, ODD)
        if action in numeric:
            words = SMALL if any(part in action.dest for part in LONG) else NUMBERS
        words = [*map(str, action.choices or words), *rng.choices(ODD, k=rng.random() < 0.1)]
        count = rng.choice((1, 1, 2)) if action.nargs == "+" else action.nargs or 1
        values = rng.choices(words, k=count)
        flags += [f"{flag}={values[0]}"] if count == 1 else [flag, *values]
    return flags


# ------------------------------------------------------------------------------ one case


class Case:
    """A program in a copy of the world, and all that is done to it, drawn from one seed."""

    def __init__(self, world: Path, folder: Path, seed: str) -> None:
        self.seed, self.rng, self.world = seed, random.Random(seed), world
        self.outcome = Outcome("fine")
        rng = self.rng
        self.copy = copy = hostile.restore(folder, world)
        programs = (*OUTPUTS, *SCRIPTS)
        self.program = rng.choices(programs, [1 if one in SLOW else 3 for one in programs])[0]
        self.own = list(OUTPUTS.get(self.program, ()))
        self.line = hostile.lines_of(copy).get(self.program, [])
        self.kept = self.program in OUTPUTS and rng.random() < 0.35
        self.planted, self.harmed, self.flags = [], [], []
        os.chdir(copy)
        if self.program in OUTPUTS:
            if self.program in MORE and rng.random() < 0.3:
                self.line.insert(1, str(copy / rng.choice(MORE[self.program])))
            if not self.kept:
                hostile.forget(copy, self.program)
            self.flags = random_flags(self.program, rng)
        self.killed = self.program in STEPS and not self.kept and rng.random() < 0.2
        if self.killed:
            self.flags = []
        else:
            if rng.random() < 0.25 and not self.kept:
                self.plant(copy / rng.choice((*self.own, *PLACES)))
            self.damage()

    def plant(self, path: Path) -> None:
        """Put a file of the user's where a result belongs, or a folder of such files."""
        names = ("notes.txt", "a.png", "settings.txt", "0001.JPG", "README.md")
        files = [path] if path.suffix else [path / name for name in names]
        for file in files:
            if not os.path.lexists(file):
                hostile.put(file, b"mine")
                self.planted.append(str(file.relative_to(self.copy)))

    def damage(self) -> None:
        """Do harm to files of the folders that the command line names."""
        inside = [word for word in self.line if word.startswith(f"{self.copy}/")]
        roots = {Path(word).relative_to(self.copy).parts[0] for word in inside} or {"ds"}
        roots |= {"demo_data"} if self.program in DEMO else set()
        files = [path for root in sorted(roots) for path in sorted((self.copy / root).rglob("*"))]
        files = [path for path in [*files, *map(Path, inside)] if path.is_file()]
        # The demo would be drawn whole without its note, which takes long.
        spared = (self.copy / "demo_data/settings.json",)
        files = [path for path in files if path not in spared and path.name != ".lock"]
        kinds = sorted({(path.parent, path.suffix) for path in files})
        for _ in range(self.rng.choice((0, 0, 1, 1, 1, 2, 3)) if kinds else 0):
            kind = self.rng.choice(kinds)
            path = self.rng.choice([one for one in files if (one.parent, one.suffix) == kind])
            name = str(path.relative_to(self.copy))
            if path.is_file() and not path.is_symlink() and name not in self.planted:
                self.harmed.append(f"{name} {harm(path, files, self.rng)}")

    def words(self) -> list[str]:
        """Return the command line, with paths that are relative in some cases."""
        words, rng = [*self.line, *self.flags], self.rng
        places = (self.copy, self.copy, self.copy / "ds", self.copy.parent)
        at_home = self.program in DEMO or any(word.startswith("--data") for word in self.flags)
        place = self.copy if at_home else rng.choice(places)
        os.chdir(place)
        if rng.random() < 0.5:
            begin = f"{self.copy}/"
            words = [os.path.relpath(w) if w.startswith(begin) else w for w in words]
        return words

    def run(self) -> None:
        """Run the program, and perhaps another one at the same time."""
        words = self.words() if self.program in OUTPUTS else []
        if self.killed:
            child = in_a_process(lambda: hostile.run(self.program, words))
            time.sleep(self.rng.uniform(0, 1))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        alone = self.killed or self.program not in STEPS
        beside = 0 if alone or self.rng.random() < 0.9 else self.beside()
        self.before = hostile.snapshot(self.copy)
        signal.alarm(LONGEST)
        try:
            if self.program in SCRIPTS:
                self.outcome = self.run_script()
            else:
                encoding = self.rng.choice(("utf-8", "ascii"))
                self.outcome = hostile.run(self.program, words, encoding)
            if beside and os.waitstatus_to_exitcode(os.waitpid(beside, 0)[1]):
                self.outcome = Outcome("traceback", f"of {self.own[-1]}, which ran beside it")
        except Late:
            self.outcome = Outcome("hang")
        finally:
            signal.alarm(0)
        self.judge(words, bool(beside))

    def beside(self) -> int:
        """Start another program on the same session, and return the number of its process."""
        other = self.rng.choice((*STEPS, self.program))
        self.own += OUTPUTS[other]
        line = hostile.lines_of(self.copy)[other] + random_flags(other, self.rng)
        if self.rng.random() < 0.5:
            hostile.forget(self.copy, other)

        def work() -> None:
            outcome = hostile.run(other, line)
            assert outcome.kind in ("fine", "sentence"), outcome

        return in_a_process(work)

    def run_script(self) -> Outcome:
        """Run a script with settings and an interpreter that only notes how it is called."""
        chosen = self.rng.sample(sorted(SETTINGS), self.rng.choice((0, 1, 1, 2, 3)))
        settings = {name: self.rng.choice(SETTINGS[name]) for name in ("SESSION", *chosen)}
        self.flags = [f"{name}={value}" for name, value in settings.items()]
        stub, calls = self.copy / "stub", self.copy / "calls"
        stub.write_text(STUB)
        stub.chmod(0o755)
        calls.touch()
        own = {"PATH": os.environ["PATH"], "REAL": sys.executable, "PYTHON": str(stub)}
        environment = {**own, "LINES": str(calls), "FAIL": "nothing", **settings}
        command = ["bash", os.path.relpath(REPOSITORY / self.program)]
        end = subprocess.run(command, env=environment, capture_output=True, text=True)
        outcome = _of_script(end)
        words = settings.get("TRAIN_FLAGS", "")
        if outcome.kind == "fine":
            lines = [line.split("\t")[:-1] for line in calls.read_text().splitlines()]
            trainings = [line for line in lines if "train_resnet50_SIPE.py" in line]
            given = all(set(shlex.split(words)) <= set(line) for line in trainings)
            if len(lines) < 5 or not trainings or not given or Path("hacked").exists():
                return Outcome("wrong", f"{len(lines)} programs were called, or without flags")
        return outcome

    def judge(self, words: list[str], beside: bool) -> None:
        """Look for losses and for values that are wrong."""
        if self.outcome.kind in FAULTS:
            return
        fine = self.outcome.kind == "fine"
        mine = tuple(self.own)
        upstream = any(not n.startswith(mine) or "/." in n for n in self.harmed)
        may = ["run/args.json", "new/args.json", "run/seconds.txt", "stub", "calls"]
        if fine or beside or upstream or "--restart" in self.flags:
            may += [*self.own, "run/eval_", "coco/prepared", "run/visual", "halved", "curves"]
        changed = hostile.lost(self.before, after := hostile.snapshot(self.copy), may)
        changed += [name for name in self.planted if after.get(name) != self.before.get(name)]
        fault = None
        if changed:
            self.outcome = Outcome("loss", f"{', '.join(changed[:3])}; {self.outcome.text}")
        elif self.killed and (other := hostile.differences(self.world / "run", self.copy / "run")):
            self.outcome = Outcome("stale", f"{other[:3]} after a kill; {self.outcome.text}")
        elif fine and self.program in OUTPUTS and not beside:
            if any(name.startswith(mine) for name in self.harmed):
                return  # results are not looked at again
            if not {"-h", "--help"} & set(words):
                args = hostile.parser_of(self.program).parse_args(words)
                fault = oracle.fault_of(self.program, args, self.outcome.printed)
            if fault:
                self.outcome = Outcome("wrong", fault)
            elif self.kept and mine and self.program not in TRAINERS:
                self.compare(words, after)

    def compare(self, words: list[str], kept: dict[str, str]) -> None:
        """Compare results that were kept with those of a run from nothing."""
        mine = tuple(self.own)
        hostile.forget(self.copy, self.program)
        again = hostile.run(self.program, words)
        if again.kind == "sentence":  # what is wrong meanwhile was not looked at where all is done
            return
        anew = hostile.snapshot(self.copy)
        other = [name for name, one in anew.items() if name.startswith(mine)]
        other = [name for name in other if kept.get(name) != anew[name]]
        other = [name for name in other if Path(name).name not in RECORDS]
        if other or again.kind == "traceback":
            text = f"{', '.join(other[:3])} {again.text}"
            self.outcome = Outcome("stale", text, again.error)

    def about(self) -> dict[str, str]:
        """Return what the case was and how it ended."""
        text = self.outcome.text
        if self.outcome.kind == "traceback" and self.outcome.error:
            frame = traceback.extract_tb(self.outcome.error.__traceback__)[-1]
            text = f"{text} ({Path(frame.filename).name}:{frame.lineno})"
        parts = (shlex.join(self.flags), "; ".join(self.harmed), f"user's {self.planted[:1]}")
        about = f"{self.program} | {' | '.join(parts)} | kept: {self.kept}"
        text = text.replace(str(self.copy), "")[-300:]
        return {"seed": self.seed, "kind": self.outcome.kind, "text": text, "about": about}


def _of_script(end: subprocess.CompletedProcess) -> Outcome:
    """Return how a script ended."""
    if end.returncode == 0:
        return Outcome("fine")
    told = end.stderr + end.stdout
    has_sentence = end.returncode in (1, 2) and "error: " in told and ": line " not in told
    return Outcome("sentence" if has_sentence else "traceback", told[-300:])


def run_case(world: Path, folder: Path, seed: str) -> Case:
    """Run one case in a copy of the world, and return it."""
    case = Case(world, folder, seed)
    case.run()
    return case


class Late(BaseException):
    """A case took too long."""


def late(*_: Any) -> None:
    """End what takes too long."""
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


def run_cases(world: Path, folder: Path, seeds: list[str], report: Path) -> None:
    """Run cases one after the other, and write a line about each."""
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None  # TensorBoard's threads, whose folders have gone
    signal.signal(signal.SIGALRM, late)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(report, "w") as file:
        for seed in seeds:
            print(json.dumps(run_case(world, folder, seed).about()), file=file, flush=True)


def sweep(folder: Path, seeds: list[str]) -> list[dict[str, str]]:
    """Run cases, some in a process; one that dies costs one case."""
    world, report = hostile.make_world(folder / "world"), folder / "report"
    before, results = hostile.snapshot(world), []
    while len(results) < len(seeds):
        left = seeds[len(results) :][:CHUNK]
        work = partial(run_cases, world, folder / "c\u00f6py", left, report)
        _, status = os.waitpid(in_a_process(work), 0)
        done = [json.loads(line) for line in report.read_text().splitlines()]
        results += done
        if status:
            about = {"kind": "died", "text": f"status {status}", "about": ""}
            results.append({"seed": left[len(done)], **about})
    if changed := hostile.lost(before, hostile.snapshot(world)):
        text = f"{changed} of the world, into which a program wrote instead of replacing it"
        results.append({"seed": "any", "kind": "loss", "text": text, "about": ""})
    return results


def main() -> int:
    """Print the counts and the faults, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="SEED of one case, with its traceback")
    parser.add_argument("--report", type=Path, help="file for a line about every case")
    args = parser.parse_args()
    began = time.monotonic()
    seeds = [f"{args.seed} {number}" for number in range(args.cases)]
    with tempfile.TemporaryDirectory() as folder:
        if args.case:
            return show(Path(folder), args.case)
        results = sweep(Path(folder), seeds)
    if args.report:
        args.report.write_text("".join(f"{json.dumps(result)}\n" for result in results))
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
    signal.signal(signal.SIGALRM, late)
    case = run_case(hostile.make_world(folder / "world"), folder / "c\u00f6py", seed)
    if case.outcome.error:
        traceback.print_exception(case.outcome.error)
    print(case.about())
    return 0


if __name__ == "__main__":
    sys.exit(main())
