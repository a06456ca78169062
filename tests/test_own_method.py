"""The methods of docs/own_method.md and of examples/own_method.py, from elsewhere."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import make_cam
import train_resnet50_SIPE as train
from examples import own_method
from net import resnet50_SIPE as sipe
from net.method import import_network
from tool.maps import read_maps

TEXT = (Path(__file__).parent.parent / "docs/own_method.md").read_text()
SNIPPETS = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.S))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The modules of the document in the working directory."""
    for name, snippet in SNIPPETS.items():
        (tmp_path / f"{name}.py").write_text(snippet)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_every_snippet_is_run():
    assert list(SNIPPETS) == ["my_cam", "my_recam"]
    assert TEXT.count("```python") == len(SNIPPETS)


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_methods_of_the_document_train_and_localize(name, home, flags):
    network, backbone = ["--network", name], ["--backbone", "resnet50"]
    amp = ["--amp", "bf16"]
    train.main([*flags["train"], *network, *backbone, *amp, "--loss_weight", "CLS=0.5"])
    maps = [*flags["make_cam"], *network, *amp, "--scales", "1.0", "--save_cam", "--restart"]
    make_cam.main([*maps, "--save_format", "npy"])
    make_cam.main(maps)
    maps = read_maps(home / "run/npy", "d")
    if name == "my_cam":
        np.testing.assert_allclose(maps["IS_CAM"][1:], maps["CAM"], atol=1e-5)
    with open(home / "run/curves.csv") as file:
        losses = [name for name in next(csv.reader(file)) if name.startswith("loss_")]
    expected = {"my_cam": ["cls"], "my_recam": ["cls", "gsc", "rec"]}[name]
    assert losses == [f"loss_{name}" for name in expected]


def test_the_further_loss_of_the_document_by_hand(home):
    torch.manual_seed(0)
    net = import_network("my_recam")(4, None, width=4)
    out = net(torch.randn(2, 3, 64, 64), torch.ones(2, 4, 4, 4))
    assert out["again"].shape == (2, 3, 3)
    label = torch.tensor([[0, 1, 1], [0, 0, 0]])
    rows = out["again"][0].double().log_softmax(1)
    expected = -(rows[1, 1] + rows[2, 2]) / 2  # of two pictures, one without a class
    assert float(net.losses(out, label)["REC"]) == pytest.approx(float(expected), rel=1e-5)


def plain_round(maps, feature, seed_feature):
    """Return the IS-CAM, float64 (C, N), of maps (C, N), among which background counts whole."""
    unit = seed_feature / seed_feature.norm(dim=0)
    similarity = (unit.T @ unit).clamp_min(0)  # (N, N)
    shared = maps @ similarity
    union = similarity.sum(0) + maps.sum(1, keepdim=True) - shared
    winners = (shared / union).argmax(0)
    is_cam = torch.zeros_like(maps)
    for k in winners.unique().tolist():
        prototype = feature[:, winners == k].sum(1)
        is_cam[k] = torch.cosine_similarity(prototype[:, None], feature, dim=0).clamp_min(0)
    return is_cam


def test_own_method_learns_as_sipe_and_explores_its_maps_again():
    torch.manual_seed(0)
    ours, theirs = sipe.Net(4, None, width=4), own_method.Net(4, None, width=4)
    theirs.load_state_dict(ours.state_dict())
    img, mask = torch.randn(2, 3, 96, 96), torch.ones(2, 4, 6, 6)
    out, other = ours(img, mask), theirs(img, mask)
    assert all(torch.equal(out[name], other[name]) for name in out)
    cam, *features = sipe.general_cam(torch.randn(2, 3, 6, 6)), *torch.randn(2, 2, 8, 6, 6)
    theirs.background_weight = 1.0
    found = theirs.eval().explore(cam, torch.ones(2, 4, 1, 1), *features)["IS_cam"]
    for picture, maps in enumerate(cam.double().flatten(2)):
        x4, feature = (x[picture].double().flatten(1) for x in features)
        first = plain_round(maps, feature, x4)
        again = plain_round(first / (first.amax(1, keepdim=True) + 1e-5), feature, x4)
        assert not torch.allclose(first, again, atol=1e-3)
        assert torch.allclose(found[picture].flatten(1).double(), again, atol=1e-4)


def test_own_method_trains_with_a_further_term_and_makes_maps(flags, tmp_path, monkeypatch):
    def losses(net, out, label):
        calm = sum(p.square().sum() for p in net.classifier.parameters())
        return {**sipe.Net.losses(net, out, label), "Calm": 100 * calm}

    monkeypatch.setattr(own_method.Net, "losses", losses, raising=False)
    network = ["--network", "examples.own_method"]
    train.main([*flags["train"], *network])
    make_cam.main([*flags["make_cam"], *network, "--scales", "1.0"])
    log = (tmp_path / "run/run.log").read_text()
    assert re.search(r"step:.*lossCLS:.*lossGSC:.*lossCalm:", log)
    assert np.isfinite(read_maps(tmp_path / "run/npy", "a")["IS_CAM"]).all()
