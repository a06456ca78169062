"""torch.hub finds the project from a folder whose modules have the names of ours."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from net.resnet50_SIPE import Net
from tests.tiny import CLASSES

REPOSITORY = Path(__file__).parent.parent
LOADS = """
import sys
import torch

def load(name, *args, **options):
    return torch.hub.load(sys.argv[1], name, *args, source="local", **options)

predictor = load("sipe", "final.pth", device="cpu", threshold=0.25)
print(predictor.all_names, predictor.threshold)
print(type(load("sipe_resnet50", 5, "none", width=4)).__module__)
net = load("deeplabv2_resnet101", 7, "none", width=4, blocks=(1, 1, 1, 1))
print(net.config["num_classes"], net.training)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a checkpoint, and with modules called net, data and tool."""
    net = Net(len(CLASSES), None, width=4)
    content = {"net": net.state_dict(), "config": net.config, "class_names": list(CLASSES)}
    torch.save(content, tmp_path / "final.pth")
    (tmp_path / "net.py").write_text("THEIRS = True\n")
    (tmp_path / "tool.py").write_text("THEIRS = True\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/photo.txt").write_text("a folder that Python takes for a package\n")
    return tmp_path


def run(folder: Path, program: str) -> subprocess.CompletedProcess:
    (folder / "theirs.py").write_text(program)
    command = [sys.executable, "theirs.py", str(REPOSITORY)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_entry_points_load_beside_modules_of_those_names(folder):
    end = run(folder, LOADS)
    assert not end.returncode, end.stderr
    assert end.stdout.splitlines() == [f"{list(CLASSES)} 0.25", "net.resnet50_SIPE", "7 True"]


NAMED = """
import sys
import torch

for name in ("net", "data", "tool"):
    __import__(name)
    try:
        torch.hub.load(sys.argv[1], "sipe", "final.pth", source="local")
    except ImportError as error:
        print(error)
    del sys.modules[name]
"""


def test_a_module_that_is_already_another_one_is_named(folder):
    messages = run(folder, NAMED).stdout.splitlines()
    for name, message in zip(("net", "data", "tool"), messages, strict=True):
        assert f" {name}, " in message
        assert "rename" in message.lower()
