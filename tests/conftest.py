"""A folder of tiny pictures and a tiny backbone, for the tests that run whole programs."""

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.tiny import command_lines as command_lines_of
from tests.tiny import make_folder, make_maps, make_weights

torch.set_num_threads(1)  # threads that wait for each other slow tiny tensors down


@pytest.fixture(autouse=True)
def loggers():
    """Put the handlers back, whatever a session did to them: its log goes with the folder."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers
    logging.captureWarnings(False)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Six pictures of about 48x40 with rectangles of three classes, laid out as a folder."""
    return make_folder(tmp_path / "tiny")


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A file with random weights of a backbone of width 4."""
    return make_weights(tmp_path_factory.mktemp("weights") / "narrow.pth")


@pytest.fixture
def flags(tiny: Path, weights: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Command lines of the three programs of step 1 on the tiny folder."""
    lines = command_lines_of(tiny, tmp_path / "run", weights)
    names = ("train_resnet50_SIPE", "make_cam", "eval_cam")
    return {name.removesuffix("_resnet50_SIPE"): lines[name] for name in names}


@pytest.fixture
def run(tiny: Path, weights: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Command lines of steps 2.1 to 2.4; the session has blurred masks as maps."""
    make_maps(tmp_path / "run/npy", tiny / "masks")
    lines = command_lines_of(tiny, tmp_path / "run", weights)
    names = ("cam2ir", "train_irn", "make_seg_labels", "eval_seg_labels")
    return {name: lines[name] for name in names}


# The variable whose flags a program gets.
FLAGS = {
    "train_resnet50_SIPE": "TRAIN_FLAGS",
    "make_cam": "CAM_FLAGS",
    "eval_cam": "EVAL_FLAGS",
    "cam2ir": "CAM2IR_FLAGS",
    "train_irn": "IRN_FLAGS",
    "make_seg_labels": "LABEL_FLAGS",
    "eval_seg_labels": "SCORE_FLAGS",
    "train_seg": "SEG_FLAGS",
    "infer_seg": "INFER_FLAGS",
}
# An interpreter that notes how it is called, and fails where a word of the line is $FAIL.
STUB = """#!/usr/bin/env bash
[ "$1" != - ] || exit 0 # tool/setup.sh asks for the requirements
[ "$1" != -c ] || exec "$REAL" "$@" # and splits flags into words
if [ "${2:-}" = data.folder.settings ]; then printf "%s" "${SETTINGS:-}"; fi
printf '%s\\t' "$@" >> "$LINES"
echo >> "$LINES"
for word in "$@"; do
    [ "$word" != "$FAIL" ] || exit 3
done
"""


def run_script(
    folder: Path, script: str, cwd: Path | None = None, **settings: str
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Run a script with settings, and return its end and the command lines it came to."""
    stub, lines = folder / "python", folder / "lines"
    stub.write_text(STUB)
    stub.chmod(0o755)
    lines.write_text("")
    own = {
        "PATH": os.environ["PATH"],
        "FAIL": "nothing",
        "REAL": sys.executable,
        "PYTHON": str(stub),
        "LINES": str(lines),
        "SESSION": str(folder / "run"),
    }
    command = ["bash", os.path.relpath(Path(__file__).parent.parent / script, cwd or Path())]
    env = {**own, **settings}
    end = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)
    return end, [line.split("\t")[:-1] for line in lines.read_text().splitlines()]


@pytest.fixture
def command_lines(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess, list]]:
    """Run a script with its files in a folder of the test."""
    return partial(run_script, tmp_path)


# Programs under a short name, which run those.
FORWARDED = {"tool.doctor": "data.doctor", "tool.report": "log.report"}


def play(lines: list[list[str]]) -> None:
    """Do in this process what command lines say."""
    for line in lines:
        module, arguments = (line[1], line[2:]) if line[0] == "-m" else (line[0], line[1:])
        load_program(module).main(arguments)


def load_program(name: str) -> ModuleType:
    """Return the module that python runs for NAME.py or for -m NAME."""
    name = FORWARDED.get(name, name)
    module = importlib.import_module(name.removesuffix(".py"))
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module
