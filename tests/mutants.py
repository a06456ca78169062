"""Whether the tests notice faults: ``python -m tests.mutants`` plants them one after the other.

A fault is one that a careless change could make: a piece of a file, what stands in its place, and
the tests that should fail then. It is planted into a copy of the project's tracked files, never
here. The end is a list of the faults that no test noticed, and status 1 if there are any. All of
them take some twelve minutes of a processor; ``--only TEXT`` takes those whose file, piece or tests
hold the text.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.mutants_table import FAULTS

REPOSITORY = Path(__file__).parent.parent
LIMIT = 180  # seconds for the tests of one fault; a fault that keeps them longer is noticed
# What tests import and no fault is in: loaded once, and there in every process that runs tests.
SLOW_TO_LOAD = ("torch", "torchvision", "cv2", "hypothesis", "torch.utils.tensorboard")
PASSED, FAILED, INTERRUPTED, NO_TESTS = 0, 1, 2, 5  # of pytest's exit statuses

Fault = tuple[str, str, str, str]  # file, piece, what stands in its place, tests


def faults_of(text: str) -> list[Fault]:
    """Return the faults that hold a text.

    Raises:
        SystemExit: a piece of any fault does not occur exactly once in its file, or what stands in
            its place is no Python.
    """
    faults = [(file, *row) for file, rows in FAULTS.items() for row in rows]
    for file, piece, instead, _ in faults:
        source = (REPOSITORY / file).read_text(encoding="utf-8")
        if source.count(piece) != 1:
            sys.exit(f"{file} holds {source.count(piece)} times what should be there once: {piece}")
        compile(source.replace(piece, instead), file, "exec")
    return [fault for fault in faults if any(text in part for part in fault)]


def copy_project(folder: str) -> None:
    """Copy the tracked files into a folder of this process, and work there from now on."""
    copy = Path(folder) / str(os.getpid())
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, copy / name)
    os.chdir(copy)
    sys.path[0] = str(copy)
    for module in SLOW_TO_LOAD:
        importlib.import_module(module)


def status_of(tests: str) -> int:
    """Return the exit status of pytest; FAILED where the time does not suffice.

    ``tests`` are ``NAME`` of tests/test_NAME.py and, behind a space, pytest's ``-k``.
    """
    process = multiprocessing.Process(target=_run, args=tests.split(" ", 1))
    process.start()
    process.join(LIMIT)
    if process.exitcode is not None:
        return process.exitcode
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return FAILED


def _run(name: str, some: str = "") -> None:
    os.setsid()  # what tests start ends with them
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    words = ["-x", "-q", "-p", "no:cacheprovider", f"tests/test_{name}.py", "-k", some]
    sys.exit(pytest.main(words))


def lives(fault: Fault) -> bool:
    """Tell whether the tests of a fault pass although it is there, or there are none."""
    file, piece, instead, tests = fault
    source = Path(file).read_text(encoding="utf-8")
    Path(file).write_text(source.replace(piece, instead), encoding="utf-8")
    status = status_of(tests)
    Path(file).write_text(source, encoding="utf-8")
    if status not in (PASSED, FAILED, INTERRUPTED, NO_TESTS):
        raise RuntimeError(f"pytest ended with status {status} for: {tests}")
    return status in (PASSED, NO_TESTS)


def main() -> None:
    """Plant the faults, and list those that live."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a text in the file, the piece or the tests")
    parser.add_argument("--jobs", type=int, default=1, help="faults at the same time")
    args = parser.parse_args()
    faults = faults_of(args.only)
    names = defaultdict(set)
    for *_, tests in faults:
        name, _, some = tests.partition(" ")
        names[name].add(some)
    whole = [f"{name} {'' if '' in some else ' or '.join(some)}" for name, some in names.items()]
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True  # a copy's file changes twice within a second
    with tempfile.TemporaryDirectory() as folder:
        prepare = partial(copy_project, folder)
        with ProcessPoolExecutor(args.jobs, initializer=prepare) as pool:
            for tests, status in zip(whole, pool.map(status_of, whole), strict=True):
                if status != PASSED:
                    sys.exit(f"These tests fail without any fault: {tests}")
            living = []
            for fault, lived in zip(faults, pool.map(lives, faults), strict=True):
                print("lives" if lived else "dies ", *fault, sep=" | ", flush=True)
                living += [fault] * lived
    print(f"{len(faults)} faults, {len(living)} of them live")
    for fault in living:
        print(*fault, sep=" | ")
    sys.exit(bool(living))


if __name__ == "__main__":
    main()
