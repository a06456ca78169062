"""All programs beside accidents: how each ends is counted, and what it made is compared.

    python -m tests.sweep --cases 5000 --seed 0 [--case '0 17'] [--files 3000]

A case takes a copy of a finished world (see :mod:`tests.hostile`), puts files of the user's where
results belong, damages up to three files, and calls a program with some random flags, from some
working directory with relative or absolute paths, with an output of UTF-8 or ASCII, and sometimes
beside another program. It is *fine* or ends with a *sentence*; anything else is a fault: a
*traceback*, a *hang* of more than LONGEST seconds, a process that *died*, a *loss* (a file of the
user's that is another one afterwards, or a result of an earlier run where this one was refused), a
*wrong* value (see :mod:`tests.oracle`), or a *stale* one, which a run from nothing does not give.
Some steps are killed at a random moment first; the same command must then end as if undisturbed.
``--case`` runs one case alone, and ``--files`` damages files of weights and maps in so many ways
(see :mod:`tests.sweep_files`). The exit status is 1 where there are faults.
"""

import argparse
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import hostile, oracle, sweep_files
from tests.conftest import run_script
from tests.hostile import OUTPUTS, STEPS, Outcome, Running
from tests.sweep_files import damaged, damaged_within

ENDS = ("fine", "sentence")
FAULTS = ("traceback", "hang", "died", "loss", "wrong", "stale")
SCRIPTS = ("run_voc.sh", "run_coco.sh", "run_demo.sh")
DEMO = ("examples.own_pictures",)  # it looks for the demo where it runs
TRAINERS = ("train_resnet50_SIPE", "train_irn", "train_seg")
SLOW = (*TRAINERS[:2], "make_seg_labels", "make_cam")
# Flags with which kept results differ from new ones in their rounding.
ROUNDING = {"--no-fold_bn", "--no-channels_last"}
RECORDS = ("settings.json", "sources.json")  # which grow with every list
# Places that the user's own files may be in, and that flags may name.
PLACES = ("new", "new.zip", "new.png", "run/visual", "run/visual_pseudo_label", "run/summary.json")
PATHS = (*PLACES, "ds", "run", "voc", "voc/JPEGImages", "coco", "sbd", "halved", "nowhere")
PATHS += ("ds/masks", "ds/images", "run/npy", "run/ir_label", "run/pseudo_label", "/dev/null/x")
PATHS += ("ds/labels.csv", "ds/splits/train.txt", "weights.pth", "final.pth", "irn.pth", "train")
NAMES = ("red", "red,green", "none", "", "grass", "red,red", "a,b,c", "background")
ODD = ("", "x", "../x", "\u00e9", "a" * 300, "-", "/dev/null", "{}", "%s", "a b", "\U0001f600")
SMALL = ("0", "1", "2", "3", "5", "16", "0.5", "1.5", "-1", "nan", "x")
NUMBERS = (*SMALL, "64", "inf", "1e-9", "1e9", "1e400", "2147483647", "9" * 20)
# Words of flags whose large values mean much work, or memory that another machine has.
LONG = ("num", "iterations", "epoches", "times", "width", "blocks", "size", "accumulate")
LONG += ("resize", "scales", "pixels", "shift")
WORDS = dict.fromkeys(("labels", "class_names", "classes"), NAMES)
WORDS |= {
    "device": ("cpu", "cpu", "cpu", "cuda:99", "meta", "gpu", ""),
    "loss_weight": ("GSC=0.5", "CLS=2", "CLS=0", "OTHER=1", "x", "=", "=1"),
    "network": ("net.resnet50_SIPE", "examples.own_method", "os", "nonsense", "..", ""),
    "dataset": ("folder", "folder", "voc", "coco", "demo", "os:path", "examples.own_dataset:X", ""),
    "dataset_root": ("ds", "ds", "ds", *PATHS),
    "session_name": ("run", "run", "run", *PATHS),
}
# What may stand beside the picture or session of the command line.
MORE = {"predict": PATHS, "tool.report": PATHS}
JSON_VALUES = (None, True, 0, -1, 1.5, "x", "", [], [1], {}, {"a": None}, 10**30)
LINES = (b"\xff\xfe", b"\0", b'"', b",", b";", b"\t", b"a,red", b"a.png,red", b"../../x", b"\r")
# Settings of scripts, and their values.
VALUES = ("0", "1", "2", "01", "-1", "9" * 30, "1 2", "1 01", "no", "", "x", "*", "a b", "-c")
VALUES += ("voc", "coco", "irn", "crf", "none", "deeplabv1_resnet38", "half", "full")
VALUES += ("--lr 0.1", "--pretrained 'a b'", "--x 'y", "$(touch hacked) `touch hacked`")
ORDINARY = ("VOC_ROOT", "COCO_ROOT", "REFINE", "SEG_MODEL", "NPROC", "SEED", "SEEDS", "ABLATION")
ORDINARY += ("DOCTOR", "PRESET", "NUM_WORKERS", "TRAIN_FLAGS")
SETTINGS = dict.fromkeys(ORDINARY, VALUES) | {
    "SESSION": ("run", "a session", "-x", "ds/classes.txt", "/dev/null/x", "\u00e9/run"),
    "DOWNLOAD": ("0", "no", ""),
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


def changed(path: Path, rng: random.Random) -> bytes:
    """Return the content of a file after an accident that its format may have."""
    content, within = path.read_bytes(), rng.random() < 0.7
    with suppress(ValueError, RecursionError, zipfile.BadZipFile):  # it may be harmed already
        if path.suffix == ".json":
            return json.dumps(other_json(json.loads(content), rng)).encode()
        if path.suffix in (".npz", ".pth") and within:
            return damaged_within(content, rng)
    is_text = path.suffix in (".txt", ".csv", ".xml", ".log")
    return (other_text if is_text else damaged)(content, rng)


def harm(path: Path, others: list[Path], rng: random.Random) -> str:
    """Do something to a file; return what."""
    way = rng.random()
    if way < 0.4:
        kind = rng.choice((*hostile.FILES, *hostile.CHANGES))
        hostile.harm(path, kind)
        return kind
    other = rng.choice([one for one in others if one.suffix == path.suffix])
    if way < 0.5 and other.is_file() and not other.is_symlink():
        hostile.put(path, other.read_bytes())
        return f"that is {other.name}"
    hostile.put(path, changed(path, rng))
    return "damaged"


def random_flags(program: str, rng: random.Random) -> list[str]:
    """Return up to four flags of a program with values, mostly such as it takes."""
    slow = ("download", "compile")
    options = [action for action in hostile.options_of(program) if action.dest not in slow]
    flags = []
    for action in rng.sample(options, min(len(options), rng.choice((0, 0, 1, 1, 2, 4)))):
        flag = rng.choice(action.option_strings)
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            flags.append(flag)
            continue
        words = WORDS.get(action.dest, PATHS)
        if hostile.is_numeric(action):
            words = SMALL if any(part in action.dest for part in LONG) else NUMBERS
        words = [*map(str, action.choices or words), *rng.choices(ODD, k=rng.random() < 0.1)]
        count = rng.choice((1, 1, 2)) if action.nargs == "+" else action.nargs or 1
        values = rng.choices(words, k=count)
        flags += [f"{flag}={values[0]}"] if count == 1 else [flag, *values]
    return flags


# ------------------------------------------------------------------------------ one case


class Case:
    """A program in a copy of the world, and what is done to it.

    Attributes:
        line, flags: the words of the command line.
        own: beginnings of the names of what the program may write.
        kept: whether what it wrote before lies there.
        killed: whether it is killed first.
        planted, harmed: files of the user's, and what happened to files of the copy.
    """

    def __init__(self, world: Path, copy: Path, program: str, seed: str = "") -> None:
        self.world, self.copy, self.program = world, hostile.restore(copy, world), program
        self.seed, self.rng = seed, random.Random(seed)
        self.outcome = Outcome("fine")
        self.own = OUTPUTS.get(program, ())
        self.line = hostile.lines_of(copy).get(program, [])
        self.flags, self.planted, self.harmed = [], [], []
        self.kept = self.killed = False
        os.chdir(copy)

    def draw(self) -> None:
        """Choose what happens, from the seed."""
        rng, program = self.rng, self.program
        self.kept = program in OUTPUTS and rng.random() < 0.35
        if not self.kept:
            hostile.forget(self.copy, program)
        self.killed = program in STEPS and not self.kept and rng.random() < 0.2
        if self.killed:
            return
        if program in OUTPUTS:
            if program in MORE and rng.random() < 0.3:
                self.line.insert(1, str(self.copy / rng.choice(MORE[program])))
            self.flags = random_flags(program, rng)
        if rng.random() < 0.25 and not self.kept:
            self.plant(self.copy / rng.choice((*self.own, *PLACES)))
        self.damage()

    def plant(self, path: Path) -> None:
        """Put a file of the user's where a result belongs, or a folder of such files."""
        names = ("notes.txt", "a.png", "settings.txt", "0001.JPG", "README.md")
        for file in [path] if path.suffix else [path / name for name in names]:
            if not os.path.lexists(file):
                hostile.put(file, b"mine")
                self.planted.append(file.relative_to(self.copy).as_posix())

    def damage(self) -> None:
        """Do harm to files of the folders that the command line names."""
        inside = [Path(word) for word in self.line if word.startswith(f"{self.copy}/")]
        roots = {path.relative_to(self.copy).parts[0] for path in inside} or {"ds"}
        roots |= {"demo_data"} if self.program in DEMO else set()
        files = [path for root in sorted(roots) for path in sorted((self.copy / root).rglob("*"))]
        # The demo would be drawn whole without its note, which takes long.
        spared = [*map(self.copy.joinpath, self.planted), self.copy / "demo_data/settings.json"]
        files = [
            path for path in [*files, *inside] if path.is_file() and not path.name.endswith(".lock")
        ]
        for _ in range(self.rng.choice((0, 0, 1, 1, 1, 2, 3))):
            kinds = sorted({(path.parent, path.suffix) for path in files})
            kind = self.rng.choice(kinds)
            path = self.rng.choice([one for one in files if (one.parent, one.suffix) == kind])
            if path.is_file() and not path.is_symlink() and path not in spared:
                name = path.relative_to(self.copy).as_posix()
                self.harmed.append(f"{name} {harm(path, files, self.rng)}")

    def words(self) -> list[str]:
        """Return the command line, with paths that are relative in some cases."""
        words, rng = [*self.line, *self.flags], self.rng
        places = (self.copy, self.copy, self.copy / "ds", self.copy.parent)
        at_home = self.program in DEMO or any(word.startswith("--data") for word in self.flags)
        os.chdir(self.copy if at_home else rng.choice(places))
        if rng.random() < 0.5:
            begin = f"{self.copy}/"
            words = [os.path.relpath(w) if w.startswith(begin) else w for w in words]
        return words

    def run(self) -> None:
        """Run the program, and perhaps another one at the same time."""
        if self.program in SCRIPTS:
            before = hostile.snapshot(self.copy)
            self.outcome = self.run_script()
            return self.judge([], before)
        words = self.words()
        if self.killed:
            first = Running(self.program, words)
            time.sleep(self.rng.uniform(0, 1))
            os.kill(first.process, signal.SIGKILL)
            first.end()
        before = hostile.snapshot(self.copy)
        alone = self.killed or self.program not in STEPS
        beside = None if alone or self.rng.random() < 0.9 else self.beside()
        self.outcome = hostile.run(self.program, words, self.rng.choice(("utf-8", "ascii")))
        other = beside.end() if beside else self.outcome
        if self.outcome.kind in ENDS and other.kind not in ENDS:
            self.outcome = other
        self.judge(words, before, bool(beside))

    def beside(self) -> Running:
        """Start another program on the same session."""
        other = self.rng.choice((*STEPS, self.program))
        self.own += OUTPUTS[other]
        if self.rng.random() < 0.5:
            hostile.forget(self.copy, other)
        return Running(other, hostile.lines_of(self.copy)[other] + random_flags(other, self.rng))

    def run_script(self) -> Outcome:
        """Run a script with settings and an interpreter that only notes how it is called."""
        chosen = self.rng.sample(sorted(SETTINGS), self.rng.choice((0, 1, 1, 2, 3)))
        settings = {name: self.rng.choice(SETTINGS[name]) for name in ("SESSION", *chosen)}
        self.flags = [f"{name}={value}" for name, value in settings.items()]
        end, lines = run_script(self.copy, self.program, **settings)
        told = end.stderr + end.stdout
        if end.returncode:
            a_sentence = end.returncode in (1, 2) and "error: " in told and ": line " not in told
            return Outcome("sentence" if a_sentence else "traceback", told[-300:])
        trainings = [line for line in lines if "train_resnet50_SIPE.py" in line]
        flags = set(shlex.split(settings.get("TRAIN_FLAGS", "")))
        given = trainings and all(flags <= set(line) for line in trainings)
        if len(lines) < 5 or not given or Path("hacked").exists():
            return Outcome("wrong", f"{len(lines)} programs were called, or without flags")
        return Outcome("fine")

    def judge(self, words: list[str], before: dict[str, str], beside: bool = False) -> None:
        """Look for losses and for values that are wrong."""
        if self.outcome.kind not in ENDS:
            return
        fine = self.outcome.kind == "fine"
        upstream = any(not n.startswith(self.own) or "/." in n for n in self.harmed)
        may = ["run/args.json", "new/args.json", "run/seconds.txt", "python", "lines"]
        if fine or beside or upstream or "--restart" in self.flags:
            may += [*self.own, "run/eval_", "coco/prepared", "run/visual", "halved", "curves"]
        after = hostile.snapshot(self.copy)
        lost = hostile.lost(before, after, may)
        lost += [name for name in self.planted if after.get(name) != before.get(name)]
        if lost:
            self.outcome = Outcome("loss", f"{', '.join(lost[:3])}; {self.outcome.text}")
        elif self.killed:
            if other := hostile.differences(self.world / "run", self.copy / "run"):
                self.outcome = Outcome("stale", f"{other[:3]} after a kill; {self.outcome.text}")
        elif fine and self.program in OUTPUTS and not beside:
            self.compare(words, after)

    def compare(self, words: list[str], kept: dict[str, str]) -> None:
        """Compare what was made with plain values, and what was kept with a run from nothing."""
        own = OUTPUTS[self.program]
        if any(name.startswith(own) for name in self.harmed):
            return  # results are not looked at again
        if not {"-h", "--help"} & set(words):
            args = hostile.parser_of(self.program).parse_args(words)
            if fault := oracle.fault_of(self.program, args, self.outcome.printed):
                self.outcome = Outcome("wrong", fault)
                return
        if not self.kept or not own or self.program in TRAINERS or ROUNDING & set(words):
            return
        hostile.forget(self.copy, self.program)
        again = hostile.run(self.program, words)
        if again.kind == "sentence":  # what is wrong meanwhile was not looked at where all is done
            return
        anew = hostile.snapshot(self.copy)
        names = [n for n in anew if n.startswith(own) and Path(n).name not in RECORDS]
        other = [name for name in names if kept.get(name) != anew[name]]
        if other or again.kind != "fine":
            self.outcome = Outcome("stale", f"{', '.join(other[:3])} {again.text}")

    def about(self) -> str:
        """Return what the case was and how it ended."""
        parts = (shlex.join(self.flags), "; ".join(self.harmed), f"user's {self.planted[:1]}")
        about = f"{self.program} | {' | '.join(parts)} | kept: {self.kept}"
        text = self.outcome.text.replace(str(self.copy), "")[-1000:]
        return f"{self.outcome.kind} --case '{self.seed}' {text}\n    {about}"


def run_case(world: Path, copy: Path, seed: str) -> Case:
    """Run one case in a copy of the world, and return it."""
    programs = (*OUTPUTS, *SCRIPTS)
    weights = [1 if one in SLOW else 3 for one in programs]
    (program,) = random.Random(f"{seed} program").choices(programs, weights)
    case = Case(world, copy, program, seed)
    case.draw()
    case.run()
    return case


def sweep(folder: Path, seeds: list[str]) -> Counter:
    """Run cases, print the faults, and return how many cases ended in which way."""
    world = hostile.make_world(folder / "world")
    before, counts = hostile.snapshot(world), Counter()
    for seed in seeds:
        case = run_case(world, folder / "c\u00f6py", seed)
        counts[case.outcome.kind] += 1
        if case.outcome.kind in FAULTS or len(seeds) == 1:
            print(case.about(), flush=True)
    if hostile.snapshot(world) != before:
        print("A program wrote into a file of the world instead of replacing it.")
        counts["loss"] += 1
    return counts


def main() -> int:
    """Print the counts and the faults, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="SEED of one case")
    parser.add_argument("--files", type=int, help="damaged files a format and way, and no cases")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = [args.case] if args.case else [f"{args.seed} {n}" for n in range(args.cases)]
    with tempfile.TemporaryDirectory() as folder:
        if args.files:
            counts, well = sweep_files.sweep(Path(folder), args.files, args.seed), sweep_files.WELL
        else:
            counts, well = sweep(Path(folder), seeds), ENDS
    for kind, number in sorted(counts.items()):
        print(f"{number:6} {kind}")
    return int(any(kind.split(": ")[-1] not in well for kind in counts))


if __name__ == "__main__":
    sys.exit(main())
