"""The demo: the same pixels everywhere, consistent files, weights that load, their making."""

import hashlib
import os
import shutil

import numpy as np
import pytest

from data.demo import Demo, dataset, drawing, pretrain
from net.resnet50 import build_backbone
from tests.tiny import make_folder
from tool import distributed
from tool.errors import InputError
from tool.pictures import read_mask
from tool.writer import write_json

# SHA-256 of picture and mask, by seed: a change here changes every figure of the demo.
PIXELS = {
    0: ("0b5634c3f33e3f01", "97e1f904f7edf030"),
    1: ("d5136152a9d1cff0", "7fe5cd77ca330614"),
    5: ("90b97ba88df14b95", "30c607b0468279a3"),
    301: ("c23ebf4ab5f2335a", "775c4294cc81be58"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The demo with 12 pictures and 4 for validation, for speed."""
    root = tmp_path_factory.mktemp("demo") / "demo_data"
    dataset.generate(root, 12, 4)
    return root


@pytest.mark.parametrize("seed", PIXELS)
def test_pixels_are_the_same_on_every_machine(seed):
    image, mask = drawing.make_picture(seed)
    made = tuple(hashlib.sha256(a.tobytes()).hexdigest()[:16] for a in (image, mask))
    assert made == PIXELS[seed]


def test_hash_noise_by_hand():
    v = 5  # position (0, 0) of seed 5
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1)):
        v = ((v ^ (v >> shift)) * factor) % 2**32
    noise = drawing.hash_noise(5, 40, 30)
    assert noise[0, 0] == (v >> 8) / 2**24


def test_a_half_made_folder_is_noticed_and_made_whole(root, tmp_path, monkeypatch):
    folder = shutil.copytree(root, tmp_path / "demo")
    write_json(folder / dataset.NOTE, {"program": dataset.PROGRAM})
    monkeypatch.setattr(dataset.generate, "__defaults__", (1, 1))
    assert len(Demo(folder).ids("train")) == 1
    monkeypatch.setattr(dataset, "generate", None)
    assert len(Demo(folder).ids("train")) == 1  # it is not drawn again


def test_the_demo_overwrites_nobodys_pictures(tmp_path):
    mine = make_folder(tmp_path / "mine")
    write_json(mine / dataset.NOTE, {"program": "make_cam"})
    before = {path: path.read_bytes() for path in mine.rglob("*.*")}
    with pytest.raises(InputError, match="mine"):
        Demo(mine)
    assert before == {path: path.read_bytes() for path in mine.rglob("*.*")}


def test_of_several_processes_one_draws(root, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "barrier", lambda: shutil.copytree(root, folder))
    demo = Demo(folder)
    ids = demo.ids("train")
    assert len(ids) == 12
    for image_id, label in zip(ids, demo.labels(ids), strict=True):
        assert {0, *(np.flatnonzero(label) + 1)} == {*read_mask(demo.mask_path(image_id)).flat}


def test_weights_file_is_small_and_loads():
    assert os.path.getsize(Demo.pretrained) < 4e6
    backbone = build_backbone(Demo.pretrained, None, frozen_stages=2)
    assert backbone.width == pretrain.WIDTH == 16
    assert (backbone.bn1.running_var != 1).all()


def test_pretraining_learns_and_writes(tmp_path, monkeypatch):
    small = {"WIDTH": 4, "STATISTICS": 2, "SIDE": 48, "SIDES": (48,), "STEPS": 2, "BATCH": 4}
    for name, value in small.items():
        monkeypatch.setattr(pretrain, name, value)
    pretrain.main(["--out", str(tmp_path / "weights.pth")])
    norm = build_backbone(tmp_path / "weights.pth", None, frozen_stages=2).layer4[2].bn3
    assert (norm.running_var != 1).any()  # the statistics
    assert (norm.weight != 1).any()  # and what learns
