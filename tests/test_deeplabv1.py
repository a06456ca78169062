"""DeepLab v1 on ResNet-38: against the reference's numbers, and files in the published names."""

import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from net.deeplabv1_resnet38 import (
    BN_MOMENTUM,
    BatchDropout,
    Block,
    DeepLabV1_ResNet38,
    WideBottleneck,
)
from net.deeplabv1_weights import build, recognise, restore
from net.inputs import normalise, within
from net.segmentation import mean_loss
from tests.fill import filled_state
from tests.test_mxnet_params import write_params
from tool import checkpoint
from tool.errors import InputError

PARITY = Path(__file__).with_name("parity") / "deeplabv1_resnet38.npz"
TOLERANCE = 1e-5
SMALL = (2, 1, 2, 2)
is_head = DeepLabV1_ResNet38.is_head


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(PARITY) as file:
        return dict(file)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def full_size() -> nn.Module:
    with torch.device("meta"):  # nothing is drawn or stored
        return DeepLabV1_ResNet38(21)


def small(num_classes: int = 3) -> DeepLabV1_ResNet38:
    net = DeepLabV1_ResNet38(num_classes, width=2, blocks=SMALL)
    checkpoint.load_weights(net, filled_state(net, prefix=""))
    return net


def tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: v.clone() for n, v in net.state_dict().items() if not n.endswith("tracked")}


def mxnet_names(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Lay out a backbone as the MXNet file names it, with its classifier."""
    arrays = {}
    for name, value in state.items():
        if is_head(name):
            continue
        _, block, *rest = name.split(".")
        if block == "conv1a":
            arrays["arg:conv1a_weight"] = value.numpy()
            continue
        leaf = {
            **{"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"},
            **{"weight": "gamma"},
        }[rest[-1]]
        if block == "bn7":
            layer = "bn7"
        else:
            stage, _, number = block[1:].partition("_")
            kind, branch = rest[0].split("_")
            kind, leaf = ("bn", leaf) if kind == "bn" else ("res", "weight")
            layer = f"{kind}{stage}{'b' + number if number else 'a'}_{branch}"
        arrays[f"{'aux' if 'moving' in leaf else 'arg'}:{layer}_{leaf}"] = value.numpy()
    arrays["arg:linear1000_weight"] = np.zeros((7, 128), np.float32)
    arrays["arg:linear1000_bias"] = np.zeros(7, np.float32)
    return arrays


def test_names_and_shapes_are_the_published_ones(reference):
    own = [(n, str(tuple(v.shape))) for n, v in tensors(full_size()).items()]
    published = zip(reference["state_dict_keys"], reference["state_dict_shapes"], strict=True)
    assert own == [(str(name), str(shape)) for name, shape in published]


def test_logits_equal_the_reference(reference):
    net = full_size()
    state = filled_state(net, prefix="")
    net = net.to_empty(device="cpu").eval()
    checkpoint.load_weights(net, state)
    del state
    x = net.prepare(torch.from_numpy(reference["image"]).permute(2, 0, 1)[None])
    with torch.no_grad():
        logits = net(x)
    assert logits.shape == (1, 21, 81, 97)
    ours, theirs = logits[:, :, ::4, ::4].double(), reference["logits_every_4th_pixel"]
    assert ours.shape == theirs.shape
    assert float((ours - torch.from_numpy(theirs)).abs().max()) < TOLERANCE * np.abs(theirs).max()


def test_strides_and_dilations():
    backbone = full_size().backbone
    names = [name for name, _ in backbone.named_children()]
    assert names[:5] == ["conv1a", "b2", "b2_1", "b2_2", "b3"]
    settings = {
        name: (module.stride[0], module.dilation[0])
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3
    }
    special = {f"b{i}.conv_branch2a": (2, 1) for i in (2, 3, 4)}
    special |= dict.fromkeys(
        ["b5.conv_branch2b1", "b5_1.conv_branch2a", "b5_1.conv_branch2b1"], (1, 2)
    )
    special |= dict.fromkeys(["b5_2.conv_branch2a", "b5_2.conv_branch2b1"], (1, 2))
    special |= {"b6.conv_branch2b1": (1, 4), "b7.conv_branch2b1": (1, 4)}
    assert settings == {name: special.get(name, (1, 1)) for name in settings}


def test_blocks_by_hand():
    block = Block(2, 2, 2).eval()
    nn.init.zeros_(block.conv_branch2b1.weight)
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(block(x), x)  # the plain shortcut starts before the first normalisation
    block = Block(2, 4, 4, stride=2).eval()
    nn.init.zeros_(block.conv_branch2b1.weight)
    activated = F.relu(block.bn_branch2a(x))
    assert torch.equal(block(x), block.conv_branch1(activated))  # the convolved one after it


def test_dropout_takes_whole_channels_in_training_only():
    torch.manual_seed(0)
    block = WideBottleneck(8, 4000, dilation=4, dropout=0.3)
    seen = {}
    for name in ("conv_branch2b1", "conv_branch2b2"):
        conv = getattr(block, name)
        conv.weight = nn.Parameter(torch.ones(1, 1, 1, 1).expand_as(conv.weight))
        conv.forward = lambda x, name=name: seen.setdefault(name, x)[:, :1].expand(
            -1, {"conv_branch2b1": 2000, "conv_branch2b2": 4000}[name], -1, -1
        )
    nn.init.ones_(block.bn_branch2b1.bias)
    nn.init.zeros_(block.bn_branch2b1.weight)  # every channel is 1 before the dropout
    nn.init.ones_(block.bn_branch2b2.bias)
    nn.init.zeros_(block.bn_branch2b2.weight)
    x = torch.randn(1, 8, 3, 3)
    with torch.no_grad():
        block(x)
    for out in seen.values():
        dropped = (out == 0).all(3).all(2)[0]
        kept = out[0, ~dropped]
        assert 0.25 < float(dropped.float().mean()) < 0.35
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))
    seen.clear()
    with torch.no_grad():
        block.eval()(x)
    assert all(torch.equal(out, torch.ones_like(out)) for out in seen.values())


def test_dropout_rates():
    net = full_size()
    rates = {n: m.p for n, m in net.named_modules() if isinstance(m, BatchDropout)}
    expected = {f"backbone.b6.dropout_2b{i}": 0.3 for i in (1, 2)}
    expected |= {f"backbone.b7.dropout_2b{i}": 0.5 for i in (1, 2)}
    assert rates == {**expected, "dropout": 0.5}


def test_normalisation_uses_the_batch_and_learns_only_statistics():
    net = small().train()
    x = torch.randn(2, 3, 32, 32)
    old = net.backbone.b2.bn_branch2a.running_mean.clone()
    mean = net.backbone.conv1a(x).mean((0, 2, 3)).detach()
    net(x)
    new = net.backbone.b2.bn_branch2a.running_mean
    torch.testing.assert_close(new, old + BN_MOMENTUM * (mean - old))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.momentum == 3e-4 and m.training for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())


def test_every_learning_tensor_is_in_one_group_and_moves():
    net = small().train()
    groups = net.trainable_groups(lr=1e-3, weight_decay=5e-4)
    names = {id(p): n for n, p in net.named_parameters()}
    members = [[names[id(p)] for p in group["params"]] for group in groups]
    learning = [n for n, p in net.named_parameters() if p.requires_grad]
    assert sorted(chain(*members)) == sorted(learning)
    assert members[0][0] == "backbone.conv1a.weight"
    assert all(re.fullmatch(r"backbone\..*conv\w+\.weight", n) for n in members[0])
    assert members[1] == ["conv_fov.weight", "conv_fov2.weight", "cls_conv.weight"]
    assert members[2] == ["cls_conv.bias"]
    assert [g["lr_scale"] for g in groups] == [1, 10, 20]
    assert [g["lr"] for g in groups] == pytest.approx([1e-3, 1e-2, 2e-2])
    assert [g["weight_decay"] for g in groups] == [5e-4, 5e-4, 0]
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    labels = torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)
    mean_loss(*net.loss_sums(net(torch.randn(2, 3, 32, 32)), labels)).backward()
    torch.optim.SGD(groups, lr=1).step()
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(learning)


def test_convolutions_start_by_fan_out():
    torch.manual_seed(0)
    net = DeepLabV1_ResNet38(3, width=8, blocks=(1, 1, 1, 1))
    for conv in (net.backbone.b4.conv_branch2a, net.backbone.b4.conv_branch1, net.conv_fov):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not net.cls_conv.bias.any()


def test_prepare_and_predict():
    net = small().eval()
    picture = torch.randint(0, 256, (1, 3, 17, 9), dtype=torch.uint8)
    x = net.prepare(picture)
    assert torch.equal(x, normalise(picture))
    window, box = picture[..., :9, :], torch.tensor([[0, 2, 7, 9]])
    assert torch.equal(net.prepare(window, box), within(normalise(window), box))
    with torch.no_grad():
        assert torch.equal(net.predict(x), net(x))
        resized = net.predict(x, (33, 17))
        assert net.predict(x[..., :1, :1]).shape == (1, 3, 1, 1)
        torch.testing.assert_close(resized[..., ::2, ::2], net(x))  # corners are aligned
    with pytest.raises(RuntimeError, match="eval"):
        net.train().predict(x)


# ---------------------------------------------------------------------------- weights


@pytest.mark.parametrize("version", [0, 2])
def test_the_mxnet_file_initialises_the_backbone(tmp_path, version):
    source = small()
    arrays = mxnet_names(tensors(source))
    assert {"arg:res2b1_branch2a_weight", "aux:bn5a_branch2b1_moving_var"} < set(arrays)
    assert {"arg:bn7_gamma", "arg:res6a_branch2b2_weight", "arg:res4a_branch1_weight"} < set(arrays)
    write_params(tmp_path / "rna.params", arrays, version)
    net, record = build(21, tmp_path / "rna.params")
    assert record["layout"] == "mxnet"
    assert record["config"] == {"num_classes": 21, "width": 2, "blocks": list(SMALL)}
    assert record["left_out"] == ["arg:linear1000_weight", "arg:linear1000_bias"]
    assert len(record["fresh"]) == 12
    assert all(is_head(name) for name in record["fresh"])
    for name, value in tensors(net).items():
        if not is_head(name):
            assert torch.equal(value, source.state_dict()[name]), name


def test_mxnet_names_cover_the_published_network():
    state = {n: v for n, v in tensors(small()).items() if not is_head(n)}
    arrays = mxnet_names(state)
    named = recognise({name: torch.from_numpy(array) for name, array in arrays.items()}).tensors
    assert set(named) == set(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("aux:bn7_moving_var"), "missing: backbone.bn7.running_var"),
        (lambda a: a.update({"arg:extra": np.zeros(1)}), "left over: arg:extra"),
        (lambda a: a.pop("arg:conv1a_weight"), "conv1a and b2 to b7"),
    ],
)
def test_mxnet_files_that_do_not_fit_are_named(tmp_path, change, message):
    arrays = mxnet_names(tensors(small()))
    change(arrays)
    write_params(tmp_path / "rna.params", arrays)
    with pytest.raises(InputError, match=rf"rna\.params.*{message}"):
        build(3, tmp_path / "rna.params")


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_pytorch_files_of_the_backbone(tmp_path, prefix):
    source = small()
    state = {
        prefix + n.removeprefix("backbone."): v
        for n, v in tensors(source).items()
        if not is_head(n)
    }
    state["fc8.weight"] = torch.zeros(20, 128, 1, 1)
    torch.save(state, tmp_path / "res38.pth")
    net, record = build(4, tmp_path / "res38.pth")
    assert record["layout"] == "pytorch"
    assert record["left_out"] == ["fc8.weight"]
    assert len(record["fresh"]) == 12
    assert torch.equal(net.backbone.bn7.bias, source.backbone.bn7.bias)


def test_a_head_of_other_classes_is_left_out_and_a_fitting_one_is_taken(tmp_path):
    torch.save({"net": tensors(small(3))}, tmp_path / "trained.pth")
    net, record = build(4, tmp_path / "trained.pth")
    assert len(record["fresh"]) == len(record["left_out"]) == 12
    assert len(net.cls_conv.bias) == 4
    net, record = build(3, tmp_path / "trained.pth")
    assert record["fresh"] == record["left_out"] == []
    assert torch.equal(net.cls_conv.bias, small(3).cls_conv.bias)


def test_random_weights_are_said_and_imagenet_says_where():
    _, record = build(3, None, width=2, blocks=SMALL)
    assert (record["pretrained"], record["layout"], record["fresh"]) == ("none", "random", "all")
    with pytest.raises(InputError, match=r"ilsvrc-cls_rna-a1_cls1000_ep-0001\.params"):
        build(3, "imagenet")
    with pytest.raises(InputError, match="no checkpoint"):
        build(3, "nowhere.params")
    with pytest.raises(InputError, match="blocks"):
        DeepLabV1_ResNet38(3, 2, (1, 1))


def test_trained_networks_come_back():
    source = small(5).eval()
    x = torch.randn(1, 3, 30, 30)
    state = {f"module.{n}": v for n, v in tensors(source).items()}
    net = restore({"net": state})
    assert net.config == source.config
    assert torch.equal(net(x), source(x))
    checkpoint.load_weights(net, state)
    with pytest.raises(InputError, match="start training from"):
        restore({n: v for n, v in tensors(source).items() if not is_head(n)})


def test_fewer_blocks_are_another_network_unless_their_number_is_given(tmp_path):
    arrays = mxnet_names(tensors(small()))
    removed = [name for name in arrays if "res2b1_" in name or "bn2b1_" in name]
    write_params(tmp_path / "rna.params", {n: a for n, a in arrays.items() if n not in removed})
    net, _ = build(3, tmp_path / "rna.params")
    assert net.config["blocks"] == [1, *SMALL[1:]]
    with pytest.raises(InputError, match=r"rna\.params.*missing: backbone\.b2_1\."):
        build(3, tmp_path / "rna.params", blocks=SMALL)
