"""Compiled networks compute what others do, under the same names; and folded ones too."""

import shutil
from functools import partial
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import infer_seg
import make_cam
import train_resnet50_SIPE
import train_seg
from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.resnet50 import fold_batch_norm
from tests.fill import filled
from tests.tiny import command_lines
from tool import cli
from tool.checkpoint import load, load_state
from tool.errors import InputError

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

    def backend(graph, _):
        found.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return found


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_a_compiled_network_computes_the_same_but_for_rounding():
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, x = Small().eval(), torch.randn(2, 3, 8, 8)
    names = list(net.state_dict())
    with torch.inference_mode():
        expected = net(x)
        cli.place(net, CPU, channels_last=True, compiled=True)
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-6)
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


def die_in_step_three(program, flags: list[str]) -> None:
    """Kill a compiled training, which is none that is not compiled."""
    real, calls = program.mean_loss, []

    def dies(*sums):
        calls.append(sums)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*sums)

    with mock.patch.object(program, "mean_loss", dies), pytest.raises(KeyboardInterrupt):
        program.main([*flags, "--compile"])
    with pytest.raises(InputError, match="compile"):
        program.main(flags)


def test_programs_compile_their_networks_and_continue(graphs, tiny, weights, tmp_path):
    """Compiled or not, files are the same where operators are."""
    lines = command_lines(tiny, tmp_path / "run", weights)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    one = tmp_path / "one.txt"
    one.write_text("a\n")
    more = {
        train_seg: ["--label_dir", str(tiny / "masks"), "--save_freq", "1", "--lr", "1e-3"],
        infer_seg: ["--no-crf", "--infer_list", str(one)],
        train_resnet50_SIPE: ["--max_epochs", "1"],
        make_cam: ["--scales", "1", "--infer_list", str(one)],
    }
    compiled = {}
    for program, flags in more.items():
        flags = [*lines[program.__name__], *flags, "--session_name"]
        program.main([*flags, str(whole)])
        before = len(graphs)
        if program is train_seg:
            die_in_step_three(program, [*flags, str(killed)])
        program.main([*flags, str(killed), "--compile"])
        compiled[program.__name__] = max(graphs[before:], default=0)
    assert all(nodes > 20 for nodes in compiled.values()), compiled
    names = {path.relative_to(whole) for path in whole.glob("*/*.p*")}
    assert len(names) == 1 + 4
    for name in names:
        if name.suffix == ".pth":
            torch.testing.assert_close(load_state(killed / name), load_state(whole / name))
            assert load(killed / name)["net"].keys() == load(whole / name)["net"].keys()
        else:
            assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("network", [DeepLabV1_ResNet38, DeepLabV2_ResNet101_MSC])
def test_folded_segmentation_networks_compute_the_same_but_for_rounding(network):
    net = filled(network(4, **SMALL)).double().eval()
    x = torch.randn(2, 3, 41, 49, dtype=torch.float64)
    before = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    with torch.no_grad():
        expected = net.predict(x)
        found = fold_batch_norm(net).predict(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())
    left = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    # Before the first convolution of a block stands what the shortcut takes too.
    assert len(left) == {DeepLabV1_ResNet38: 7, DeepLabV2_ResNet101_MSC: 0}[network], left
    assert len(left) < before
