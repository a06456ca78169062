"""Compiled networks compute what others do, under the same names; and folded ones too."""

import shutil
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import infer_seg
import train_seg
from net import resnet50
from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.recipes import MODELS
from tests.conftest import load_program
from tests.fill import filled
from tests.tiny import command_lines, make_maps, make_weights
from tool import cli
from tool.checkpoint import load, load_state
from tool.errors import InputError

_, V1 = MODELS
CPU = torch.device("cpu")
SMALL = {"width": 4, "blocks": (1, 1, 1, 1)}


class Small(nn.Module):
    """What a classifier has: a backbone, and something behind it that is not compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        return self.backbone(x).mean((2, 3))


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """Numbers of nodes of what was compiled; no compiler of C++ takes its time."""
    found = []

    def backend(graph, _, options=None):
        found.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return found


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_a_compiled_network_computes_the_same_but_for_rounding(monkeypatch):
    torch._dynamo.reset()
    # Which vectors this machine has takes longer to find out than they save here.
    monkeypatch.setattr(torch._inductor.cpu_vec_isa, "valid_vec_isa_list", list)
    torch.manual_seed(0)
    net, x = Small(), torch.randn(2, 3, 8, 8)
    net.backbone.append(nn.Dropout(0.2))
    names = list(net.state_dict())
    found = []
    for compiled in (False, True):
        cli.place(net, CPU, channels_last=True, compiled=compiled)
        torch.manual_seed(0)  # of the values that are dropped
        with torch.inference_mode():
            found.append(net(x))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert list(net.state_dict()) == names


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(InputError, match=r"--compile: .*compiler") as error:
        cli.place(Small(), CPU, channels_last=True, compiled=True)
    assert "\n" not in str(error.value)


def test_processes_share_a_compiled_network(graphs):
    net, x = cli.place(Small(), CPU, channels_last=True, compiled=True), torch.randn(2, 3, 8, 8)
    net(x).sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        DistributedDataParallel(net)(x).sum().backward()
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close([parameter.grad for parameter in net.parameters()], expected)
    assert graphs


# Programs that train and that take the weights, and flags of both, by network.
SEG, IRN = ("train_seg", "infer_seg"), ("train_irn", "make_seg_labels")
SIPE, OWN = ("train_resnet50_SIPE", "make_cam"), "--network tests.foreign"
LABELS = {IRN: "ir_label", SEG: "pseudo_label", SIPE: "none"}  # that are learnt from
NETWORKS = {
    "SIPE": (SIPE, "--max_epochs 1", "--scales 1"),
    "an own method": (SIPE, f"{OWN} --max_epochs 1", f"{OWN} --scales 1"),
    "IRN": (IRN, "--irn_num_epoches 1", ""),
    "DeepLab v1": (SEG, f"--model {V1}", f"--model {V1} --no-crf"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_compiled_or_not_files_are_the_same_where_operators_are(
    network, graphs, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(resnet50, "BLOCKS", (1, 1, 1, 1))
    weights, (programs, *flags) = make_weights(tmp_path / "short.pth"), NETWORKS[network]
    flags[1] += f" --infer_list {list_of_one(tmp_path)}"
    for name, how in (("plain", []), ("compiled", ["--compile"])):
        session = tmp_path / name
        session.mkdir()
        if programs == IRN:
            make_maps(session / "npy", tiny / "masks")
        (session / LABELS[programs]).symlink_to(tiny / "masks")
        lines = command_lines(tiny, session, weights)
        for program, more in zip(programs, flags, strict=True):
            before = len(graphs)
            load_program(program).main([*lines[program], *more.split(), *how])
            assert (len(graphs) > before) == bool(how), program
    check_same(tmp_path / "plain", tmp_path / "compiled")


def list_of_one(folder: Path) -> Path:
    path = folder / "one.txt"
    path.write_text("a\n")
    return path


def check_same(one: Path, other: Path) -> None:
    """Compare the checkpoints, maps and labels in two sessions."""
    for path in one.glob("*/*.*"):
        name = path.relative_to(one)
        if name.suffix == ".pth":
            torch.testing.assert_close(load_state(path), load_state(other / name))
            assert load(path)["net"].keys() == load(other / name)["net"].keys()
        elif name.suffix == ".npz":
            with np.load(path) as plain, np.load(other / name) as compiled:
                np.testing.assert_equal(dict(compiled), dict(plain))
        elif name.suffix == ".png":
            assert (other / name).read_bytes() == path.read_bytes()


def test_a_compiled_training_is_continued_as_one_alone(graphs, tiny, weights, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    lines = command_lines(tiny, killed, weights)
    flags = [*lines["train_seg"], "--save_freq", "1", "--lr", "1e-3"]
    flags += ["--label_dir", str(tiny / "masks")]
    train_seg.main([*flags, "--session_name", str(whole)])
    real, calls = train_seg.mean_loss, []

    def dies(*sums):
        calls.append(sums)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*sums)

    with mock.patch.object(train_seg, "mean_loss", dies), pytest.raises(KeyboardInterrupt):
        train_seg.main([*flags, "--compile"])
    with pytest.raises(InputError, match="compile"):
        train_seg.main(flags)
    train_seg.main([*flags, "--compile"])
    inferring = [*lines["infer_seg"], "--no-crf", "--infer_list", str(list_of_one(tmp_path))]
    infer_seg.main([*inferring, "--session_name", str(whole)])
    before = len(graphs)
    infer_seg.main([*inferring, "--compile"])
    assert len(graphs) > before
    check_same(whole, killed)


@pytest.mark.parametrize("network", [DeepLabV1_ResNet38, DeepLabV2_ResNet101_MSC])
def test_folded_segmentation_networks_compute_the_same_but_for_rounding(network):
    net = filled(network(4, **SMALL)).double().eval()
    x = torch.randn(2, 3, 41, 49, dtype=torch.float64)
    before = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    with torch.no_grad():
        expected = net.predict(x)
        found = resnet50.fold_batch_norm(net).predict(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())
    left = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    # Before the first convolution of a block stands what the shortcut takes too.
    assert len(left) == {DeepLabV1_ResNet38: 7, DeepLabV2_ResNet101_MSC: 0}[network], left
    assert len(left) < before
