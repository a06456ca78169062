"""docs/python.md: every snippet runs, from a folder that is not the project's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import play
from PIL import Image

from data.predictor import Predictor
from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.resnet50_SIPE import Net
from tests.tiny import make_folder, make_maps, make_weights

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "docs/python.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
COMMANDS = [shlex.split(line) for line in re.findall(r"^ {4}python (.*)$", TEXT, re.M)]
NAMES = ["background", "cat", "sofa", "dog"]
RUN = "import runpy, sys; [runpy.run_path(path, run_name='__main__') for path in sys.argv[1:]]"


def save(path: Path, net: torch.nn.Module, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"net": net.state_dict(), "config": net.config, "class_names": NAMES}
    torch.save({**content, **more}, path)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with what the document speaks of."""
    pictures = make_folder(tmp_path / "my_pictures")
    table = (pictures / "labels.csv").read_text()
    for ours, theirs in zip(("red", "green", "blue"), NAMES[1:], strict=True):
        table = re.sub(rf"\b{ours}\b", theirs, table)
    (pictures / "labels.csv").write_text(table)
    (pictures / "classes.txt").write_text("\n".join(NAMES[1:]))
    make_weights(tmp_path / "resnet50.pth")
    save(tmp_path / "exp/ckpt/final.pth", Net(4, None, width=4))
    model = "deeplabv2_resnet101"
    small = DeepLabV2_ResNet101_MSC(4, 4, (1, 1, 1, 1))
    save(tmp_path / f"exp/ckpt/seg_{model}.pth", small, model=model)
    make_maps(tmp_path / "exp/npy", pictures / "masks")
    (tmp_path / "exp/npy/d.npz").rename(tmp_path / "exp/npy/2007_000033.npz")
    (tmp_path / "exp/pseudo_label").mkdir()
    (pictures / "masks/d.png").rename(tmp_path / "exp/pseudo_label/2007_000033.png")
    (tmp_path / "holiday").mkdir()
    for name in ("photo.jpg", "holiday/beach.jpg"):
        Image.open(pictures / "images/a.png").save(tmp_path / name)
    (tmp_path / "sipe").symlink_to(REPOSITORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_snippet_runs_in_the_order_of_the_page(folder):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    for number, snippet in enumerate(SNIPPETS):
        (folder / f"{number}.py").write_text(snippet)
    play(COMMANDS)
    command = [sys.executable, "-c", RUN, *(f"{number}.py" for number in range(len(SNIPPETS)))]
    end = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not end.returncode, end.stderr
    assert "['background', 'cat']" in end.stdout
    assert (folder / "predictions/beach_mask.png").is_file()
    assert "[0 1 3]" in end.stdout
    assert Predictor("own.pth", "cpu").all_names == NAMES
