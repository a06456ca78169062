"""A folder of tiny pictures and a tiny backbone, for the tests that run whole programs."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from net.resnet50 import ResNet50
from tool.maps import write_maps
from tool.pictures import read_mask, save_label

torch.set_num_threads(1)  # threads that wait for each other slow tiny tensors down

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
LABELS = {"a": "red", "b": "green", "c": "blue", "d": "red blue", "e": "green", "f": "red"}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Six pictures of about 48x40 with rectangles of three classes, laid out as a folder."""
    root = tmp_path / "tiny"
    (root / "images").mkdir(parents=True)
    names = list(COLOURS)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    rows = [f"{image_id}.png,{labels}" for image_id, labels in LABELS.items()]
    (root / "labels.csv").write_text("image,labels\n" + "\n".join(rows) + "\n")
    rng = np.random.default_rng(0)
    for number, (image_id, labels) in enumerate(LABELS.items()):
        picture = rng.integers(90, 130, (40 + number, 48, 3)).astype(np.uint8)
        mask = np.zeros(picture.shape[:2], np.uint8)
        for place, name in enumerate(labels.split()):
            area = slice(6, 30), slice(4 + 22 * place, 22 + 22 * place)
            picture[area] = COLOURS[name]
            mask[area] = names.index(name) + 1
        Image.fromarray(picture).save(root / "images" / f"{image_id}.png")
        save_label(root / "masks" / f"{image_id}.png", mask)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A file with random weights of a backbone of width 4."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "narrow.pth"
    torch.save(ResNet50(width=4).state_dict(), path)
    return path


@pytest.fixture
def flags(tiny: Path, weights: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Command lines of the three programs of step 1 on the tiny folder."""
    common = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
    common += ["--session_name", str(tmp_path / "run"), "--num_workers", "0"]
    small = ["--batch_size", "2", "--crop_size", "64", "--resize_min", "40", "--resize_max", "80"]
    train = [*common, *small, "--pretrained", str(weights), "--lr", "0.01", "--print_freq", "1"]
    train += ["--val_freq", "0", "--max_epoches", "2"]
    return {"train": train, "make_cam": common, "eval_cam": common}


KEYS = {"a": [0, 1], "b": [0, 2], "c": [0, 3], "d": [0, 1, 3], "e": [0, 2], "f": [0, 1]}


@pytest.fixture
def run(tiny: Path, weights: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Command lines of steps 2.1 to 2.4; the session has blurred masks as maps."""
    session = tmp_path / "run"
    for image_id, keys in KEYS.items():
        mask = read_mask(tiny / "masks" / f"{image_id}.png")
        maps = np.stack([mask == key for key in keys]).astype(np.float32) * 0.8 + 0.1
        content = {"keys": np.array(keys), "IS_CAM": maps}
        write_maps(session / "npy" / f"{image_id}.npz", content)
    common = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
    common += ["--session_name", str(session), "--num_workers", "0"]
    train = [*common, "--pretrained", str(weights), "--irn_batch_size", "2", "--print_freq", "1"]
    train += ["--irn_crop_size", "80", "--irn_num_epoches", "2", "--irn_learning_rate", "0.01"]
    labels = [*common, "--irn_crop_size", "80"]
    return {
        "cam2ir": common,
        "train_irn": train,
        "make_seg_labels": labels,
        "eval_seg_labels": common,
    }


# An interpreter that notes how it is called, and fails where a word of the line is $FAIL.
STUB = """#!/usr/bin/env bash
[ "$1" != - ] || exit 0 # tool/setup.sh asks for the requirements
[ "$1" != -c ] || exec "$REAL" "$@" # and splits flags into words
printf '%s\\t' "$@" >> "$LINES"
echo >> "$LINES"
for word in "$@"; do
    [ "$word" != "$FAIL" ] || exit 3
done
"""


@pytest.fixture
def command_lines(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess, list]]:
    """Run a script with settings, and return its end and the command lines it came to."""
    stub, lines = tmp_path / "python", tmp_path / "lines"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(
        script: str, cwd: Path | None = None, **settings: str
    ) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        lines.write_text("")
        own = {
            "REAL": sys.executable,
            "PYTHON": str(stub),
            "LINES": str(lines),
            "SESSION": str(tmp_path / "run"),
        }
        env = {"PATH": os.environ["PATH"], "FAIL": "nothing", **own, **settings}
        command = ["bash", os.path.relpath(Path(__file__).parent.parent / script, cwd or Path())]
        end = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)
        return end, [line.split("\t")[:-1] for line in lines.read_text().splitlines()]

    return run


def play(lines: list[list[str]]) -> None:
    """Do in this process what command lines say."""
    for line in lines:
        module, arguments = (line[1], line[2:]) if line[0] == "-m" else (line[0], line[1:])
        load_program(module).main(arguments)


def load_program(name: str) -> ModuleType:
    """Return the module that python runs for NAME.py or for -m NAME."""
    module = importlib.import_module(name.removesuffix(".py"))
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module
