"""examples/own_method.py runs through step 1 and computes something else than SIPE."""

import re

import numpy as np
import torch

import make_cam
import train_resnet50_SIPE as train
from examples import own_method
from net import resnet50_SIPE as sipe
from tool.maps import read_maps


def test_own_method_is_the_method_with_one_idea_changed():
    torch.manual_seed(0)
    ours = sipe.Net(4, None, width=4)
    theirs = own_method.Net(4, None, width=4)
    theirs.load_state_dict(ours.state_dict())
    img, mask = torch.randn(2, 3, 96, 96), torch.ones(2, 4, 6, 6)
    out, other = ours(img, mask), theirs(img, mask)
    assert torch.equal(out["seeds"], other["seeds"])
    assert not torch.equal(out["prototypes"], other["prototypes"])
    weighed = (out["seeds"] * out["cam"]).detach()
    ones = torch.ones(2, 5, 6, 6)
    expected = weighed.mean((2, 3))[..., None].expand(-1, -1, 5)
    assert torch.allclose(sipe.get_prototype(weighed, ones)[..., 0, 0], expected)


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
