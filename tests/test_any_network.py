"""A network that shares nothing with ResNet-50, from the user's folder, through every program."""

import csv
import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import start, together

import cam2ir
import eval_cam
import export_onnx
import make_cam
import predict
import train_resnet50_SIPE as train
from data.predictor import Predictor
from log import compare
from log.report import __main__ as report
from net.method import Method, import_network
from tests import foreign
from tests.tiny import KEYS
from tool import checkpoint
from tool.cli import NETWORK
from tool.errors import InputError
from tool.maps import read_maps
from tool.optimizer import make_optimizer, set_learning_rate
from tool.pictures import read_mask

OURS = ["--network", "my_network"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The user's folder, with the module, as the working directory."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(foreign.__file__, home / "my_network.py")
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    return home


@pytest.fixture
def training(flags, home) -> list[str]:
    """Flags of a training, which decide all but its length."""
    return [*flags["train"], *OURS, "--save_freq", "1"]


def weights_of(session: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(session / "ckpt/final.pth")["net"]


def test_any_network_is_killed_and_continued(training, home, tmp_path):
    output, session = tmp_path / "out.txt", tmp_path / "run"
    flags = [*training, "--max_epoches", "16"]
    process = start("train_resnet50_SIPE", flags, output, folder=home)
    while not (session / "ckpt/last.pth").exists() and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9, output.read_text()
    train.main(flags)
    assert "continuing" in (session / "run.log").read_text()
    train.main([*flags, "--session_name", str(tmp_path / "whole")])
    torch.testing.assert_close(weights_of(session), weights_of(tmp_path / "whole"), rtol=0, atol=0)


def test_any_network_goes_through_every_program(training, flags, home, tiny, tmp_path, capsys):
    session, common = tmp_path / "run", [*flags["make_cam"]]
    together("train_resnet50_SIPE", training, 2, tmp_path / "out.txt", folder=home)
    train.main([*training, "--restart", "--val_freq", "2", "--val_list", "train"])
    noted = checkpoint.load(session / "ckpt/final.pth")["config"]
    assert noted == {"num_classes": 4, "features": 6}
    make_cam.main([*common, *OURS, "--save_cam", "--batch_size", "1"])
    alone = read_maps(session / "npy", "d")
    shutil.copy(tiny / "images/d.png", tiny / "images/f.png")  # two of one size
    shutil.copy(tiny / "masks/d.png", tiny / "masks/f.png")
    make_cam.main([*common, *OURS, "--save_cam", "--batch_size", "2", "--visualize"])
    make_cam.main([*common, *OURS, "--save_cam", "--batch_size", "2", "--restart"])
    together_with_f = read_maps(session / "npy", "d")
    for name, maps in alone.items():
        np.testing.assert_allclose(together_with_f[name], maps, atol=1e-5)
    assert alone["CAM"].max() > 0.5
    eval_cam.main(common)
    cam2ir.main(common)
    assert all((session / f"ir_label/{image_id}.png").is_file() for image_id in KEYS)

    output = ["--session_name", str(session), "--out_dir", str(tmp_path / "out"), "--device", "cpu"]
    predict.main([str(tiny / "images/d.png"), *output, *OURS, "--labels", "red,blue"])
    expected = alone["keys"][alone["IS_CAM"].argmax(0)]
    assert np.array_equal(read_mask(tmp_path / "out/d_mask.png"), expected)
    predict.main([str(tiny / "images/d.png"), *output, *OURS])
    assert json.loads((tmp_path / "out/d.json").read_text())["labels"] == "guessed"

    if importlib.util.find_spec("onnx"):
        export_onnx.main(["--session_name", str(session), *OURS])

    report.main([str(session)])
    assert "loss_size" in (session / "report.html").read_text()
    compare.main([str(session)])
    assert "lossSIZE" in capsys.readouterr().out


def test_a_loss_is_weighed_by_its_name(training, tmp_path):
    """A weight of 0 leaves it out, and its curve is that of the term without weight."""
    rows = {}
    for name, weights in (
        ("all", []),
        ("none", ["Size=0"]),
        ("much", ["Size=50", "CLS=2"]),
        ("gsc", ["GSC=0.5"]),
    ):
        session = tmp_path / name
        flags = ["--loss_weight", *weights] if weights else []
        train.main([*training, "--session_name", str(session), *flags])
        with open(session / "curves.csv") as file:
            rows[name] = [float(row["loss_size"]) for row in csv.DictReader(file)]
    assert rows["all"][0] == rows["none"][0] == rows["much"][0]
    assert rows["much"][-1] < rows["none"][-1]
    assert rows["all"] == rows["gsc"]  # there is no such term
    noted = checkpoint.load(tmp_path / "gsc/ckpt/final.pth")["settings"]
    assert (noted["gsc_weight"], noted["loss_weight"]) == (0.5, {})
    noted = checkpoint.load(tmp_path / "much/ckpt/final.pth")["settings"]
    assert noted["loss_weight"] == {"Size": 50, "CLS": 2}
    for weights in (["Other=1"], ["CLS=0", "Size=0"]):
        other = ["--session_name", str(tmp_path / "other"), "--loss_weight", *weights]
        with pytest.raises(InputError, match=r"--loss_weight.*CLS, Size"):
            train.main([*training, *other])
    for odd in ("CLS", "CLS=x", "CLS=-1"):
        with pytest.raises(SystemExit):
            train.main([*training, "--loss_weight", odd])


def test_plain_groups_of_torch_have_the_rates_that_they_say():
    net = torch.nn.Linear(2, 2)
    groups = [
        {"params": net.parameters(), "lr": 0.5},
        {"params": iter([torch.nn.Parameter(torch.zeros(1))])},
    ]
    sgd = make_optimizer(groups, 0.1, 0, torch.device("cpu"), fused=False)
    assert [len(group["params"]) for group in sgd.param_groups] == [2, 1]
    set_learning_rate(sgd, 0.02)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.1, 0.02])
    still = make_optimizer([{"params": net.parameters()}], 0, 0, torch.device("cpu"), fused=False)
    assert still.param_groups[0]["lr_scale"] == 1


def test_rates_of_plain_groups_follow_the_schedule(training, monkeypatch):
    seen = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda sgd: (seen.append([group["lr"] for group in sgd.param_groups]), step(sgd)),
    )
    train.main(training)
    assert seen[0] == pytest.approx([0.01, 0.05])
    assert all(rest == pytest.approx(5 * stem) for stem, rest in seen)
    assert seen[-1][0] < 0.005


@pytest.mark.parametrize("noted", ["my_network", NETWORK])
def test_another_network_than_the_one_of_training_is_refused(noted, flags, home, tmp_path):
    """The default is refused like any other name."""
    train.main([*flags["train"], "--network", noted])
    other = NETWORK if noted == "my_network" else "my_network"
    given = [] if other == NETWORK else ["--network", other]
    ckpt = tmp_path / "run/ckpt/final.pth"
    with pytest.raises(InputError, match=f"final.pth .*--network {noted}"):
        make_cam.main([*flags["make_cam"], *given])
    with pytest.raises(InputError, match=f"final.pth .*--network {noted}"):
        Predictor(ckpt, "cpu", network=other)
    with pytest.raises(InputError, match=f"final.pth .*network {noted}"):
        train.main([*flags["train"], *given])


def test_a_choice_that_the_network_does_not_have_is_refused(training, flags):
    train.main(training)
    weight, auto = ["--background_weight", "1"], ["--background_weight", "auto"]
    for flag in (["--seed_feature", "semantic"], ["--competitors", "all"], weight, auto):
        with pytest.raises(InputError, match=f"{flag[0]}.*my_network"):
            make_cam.main([*flags["make_cam"], *OURS, *flag])
    with pytest.raises(InputError, match=r"--background_weight.*my_network"):
        train.main([*training, *weight, "--restart"])


def test_modules_without_such_a_class_are_refused(home):
    (home / "functions.py").write_text("def Net(*_): pass")
    (home / "plain.py").write_text("import torch\nclass Net(torch.nn.Module): pass")
    for name in ("functions", "plain", "os", "nowhere", "", ".."):
        with pytest.raises(InputError, match="--network"):
            import_network(name)


def test_the_modules_of_the_project_come_before_those_of_the_folder(home):
    (home / "net").mkdir()
    (home / "net/resnet50_SIPE.py").write_text("raise SystemExit")
    assert import_network("net.resnet50_SIPE").__module__ == "net.resnet50_SIPE"


def test_a_file_without_config_is_no_file_of_such_a_network(home, tmp_path):
    net = import_network("my_network")(4, None)
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(InputError, match=r"bare\.pth"):
        Predictor(tmp_path / "bare.pth", "cpu", network="my_network")


def test_defaults_of_the_base_class():
    class Net(Method):
        stride = 8
        mean, std = (0.5, 0.25, 0), (0.5, 1, 1)

        def __init__(self):
            super().__init__(3)
            self.backbone = torch.nn.Conv2d(3, 2, 1)
            self.head = torch.nn.Linear(2, 2)
            self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)

        def forward(self, img, valid_mask):
            maps = torch.cat([img[:, :1], self.backbone(img)], 1)[..., ::8, ::8] * valid_mask
            return {"score": maps[:, 1:].amax((2, 3)), "cam": maps, "IS_cam": 2 * maps}

    net = Net()
    groups = net.trainable_groups(1, 0)
    assert [group["lr"] for group in groups] == [1, 10]
    assert [len(group["params"]) for group in groups] == [2, 2]
    mask = net.valid_mask(torch.tensor([[0, 0, 9, 17]]), 17, torch.tensor([[0, 1]]))
    expected = torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 0, 0]])
    assert torch.equal(mask[0], torch.stack([expected, 0 * expected, expected]))
    img = torch.randn(2, 3, 16, 24)
    assert torch.equal(net.scores(img), net(img, torch.ones(2, 3, 1, 1))["score"])
    pairs = torch.stack([img, img.flip(3)], 1).flatten(0, 1)
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 1]])[..., None, None]
    windows = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    prepared = net.prepare(windows, torch.tensor([[0, 0, 1, 2]]))[0]
    assert prepared.tolist() == [[[one] * 2, [0] * 2] for one in (1, 0.75, 1)]
    cam, is_cam = net.localize(pairs, labels)
    straight, mirrored = net(img, labels)["cam"], net(img.flip(3), labels)["cam"].flip(3)
    torch.testing.assert_close(cam, (straight + mirrored) / 2)
    torch.testing.assert_close(is_cam, 2 * cam)
