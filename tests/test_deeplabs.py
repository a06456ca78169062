"""What both segmentation networks keep: names, groups, frozen parts, first and trained weights."""

from itertools import chain
from typing import NamedTuple

import pytest
import torch
from torch import nn

from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.segmentation import build, mean_loss
from net.weights import restore
from tests.fill import filled, tensors
from tests.reference import parity
from tool.errors import InputError


class Kind(NamedTuple):
    """A network and its published names."""

    network: type[nn.Module]
    parity: str
    size: dict
    head_weights: list[str]
    head_biases: list[str]


ASPP = [f"base.aspp.c{number}" for number in range(4)]
V1_HEAD = ["conv_fov.weight", "conv_fov2.weight", "cls_conv.weight"]
V1 = Kind(
    DeepLabV1_ResNet38,
    "deeplabv1_resnet38",
    {"width": 2, "blocks": [2, 1, 2, 2]},
    V1_HEAD,
    ["cls_conv.bias"],
)
V2 = Kind(
    DeepLabV2_ResNet101_MSC,
    "deeplabv2_resnet101",
    {"width": 4, "blocks": [1, 2, 2, 1], "stride_on": "conv3x3"},
    [f"{name}.weight" for name in ASPP],
    [f"{name}.bias" for name in ASPP],
)
both = pytest.mark.parametrize("kind", [V1, V2], ids=["v1", "v2"])


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def small(kind: Kind, num_classes: int = 3) -> nn.Module:
    return filled(kind.network(num_classes, **kind.size), prefix="")


def first_part(kind: Kind) -> str:
    """What the names of a network's backbone begin with."""
    return f"{kind.network.stem.split('.')[0]}."


@both
def test_names_and_shapes_are_the_published_ones(kind):
    with torch.device("meta"):  # nothing is drawn or stored
        net = kind.network(21)
    own = [(name, str(tuple(value.shape))) for name, value in tensors(net).items()]
    ref = parity(kind.parity)
    published = zip(ref["state_dict_keys"], ref["state_dict_shapes"], strict=True)
    assert own == [(str(name), str(shape)) for name, shape in published]


@both
def test_convolutions_alone_learn_each_in_one_group(kind):
    net = small(kind).train()
    groups = net.trainable_groups(lr=1e-3, weight_decay=5e-4)
    names = {id(p): n for n, p in net.named_parameters()}
    members = [[names[id(p)] for p in group["params"]] for group in groups]
    convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    learning = [f"{name}.weight" for name in convolutions] + kind.head_biases
    assert sorted(chain(*members)) == sorted(learning)
    assert members[1:] == [kind.head_weights, kind.head_biases]
    settings = [(group["lr_scale"], group["lr"], group["weight_decay"]) for group in groups]
    assert settings == [(1, 1e-3, 5e-4), (10, 1e-2, 5e-4), (20, 2e-2, 0)]
    before = tensors(net)
    labels = torch.randint(0, 3, (2, 41, 41), dtype=torch.uint8)
    mean_loss(*net.loss_sums(net(torch.randn(2, 3, 41, 41) * 50), labels)).backward()
    torch.optim.SGD(groups, lr=1).step()
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(learning)


@both
def test_prepare_puts_zeros_outside_of_the_box(kind):
    pictures = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    x = kind.network.prepare(pictures, torch.tensor([[1, 0, 4, 5], [0, 2, 5, 3]]))
    expected, whole = torch.zeros(2, 3, 5, 5), kind.network.prepare(pictures)
    assert torch.equal(whole, kind.network.normalise(pictures))
    expected[0, :, 1:4], expected[1, :, :, 2:3] = whole[0, :, 1:4], whole[1, :, :, 2:3]
    assert torch.equal(x, expected)


@both
@pytest.mark.parametrize("size", [(1, 9), (33, 20)])
def test_predict_gives_logits_at_pixels_in_evaluation_mode(kind, size):
    net = small(kind).eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert net.predict(x).shape == (1, 3, *size)
        assert net.predict(x, (7, 5)).shape == (1, 3, 7, 5)


@both
def test_impossible_architectures_are_refused(kind):
    with pytest.raises(InputError, match="blocks"):
        kind.network(3, 2, (1, 1, 1, 0))


@both
def test_a_head_of_other_classes_is_left_out_and_a_fitting_one_is_taken(kind, tmp_path):
    source = small(kind)
    torch.save({"net": tensors(source)}, tmp_path / "trained.pth")
    _, record = build(kind.network, 4, tmp_path / "trained.pth")
    assert record == {"fresh": "head"}
    net, record = build(kind.network, 3, tmp_path / "trained.pth")
    assert record["fresh"] == "nothing"
    assert all(torch.equal(v, source.state_dict()[name]) for name, v in tensors(net).items())


@both
@pytest.mark.parametrize("prefix", ["", "module.own."])
def test_published_backbones_in_half_precision(kind, tmp_path, prefix):
    source, own = small(kind), first_part(kind)
    backbone = {n: v.half() for n, v in tensors(source).items() if not kind.network.is_head(n)}
    prefix = prefix.replace("own.", own)
    state = {prefix + n.removeprefix(own): value for n, value in backbone.items()}
    other = f"{kind.network.ignored[0]}weight"
    torch.save({"state_dict": {**state, other: torch.zeros(91, 8)}}, tmp_path / "init.pth")
    net, record = build(kind.network, 21, tmp_path / "init.pth")
    assert record["fresh"] == "head"
    assert {name: kind.size[name] for name in ("width", "blocks")}.items() <= net.config.items()
    for name, value in backbone.items():
        assert torch.equal(net.state_dict()[name], value.float()), name


@both
@pytest.mark.parametrize("change", ["missing", "left over", "a stage", "a stem"])
def test_first_weights_fit_wholly(kind, tmp_path, change):
    state = tensors(small(kind))
    name = next(n for n in state if n.endswith("running_var") and not kind.network.is_head(n))
    if change == "left over":
        state["extra"] = torch.zeros(1)
    elif change == "a stage":
        stage = ("base.layer5", "backbone.b5")
        state = {n: value for n, value in state.items() if not n.startswith(stage)}
    else:
        del state[name if change == "missing" else kind.network.stem]
    torch.save(state, tmp_path / "odd.pth")
    expected = {"left over": "extra", "a stage": "blocks", "a stem": kind.network.stem}
    with pytest.raises(InputError, match=rf"odd\.pth.*({expected.get(change, name)})"):
        build(kind.network, 3, tmp_path / "odd.pth")


@both
def test_trained_networks_come_back(kind):
    source = small(kind, 5).eval()
    x = torch.randn(1, 3, 30, 30) * 50
    prefix = first_part(kind)
    state = {f"module.{n}": value for n, value in tensors(source).items()}
    net = restore(kind.network, {"net": state, "config": source.config})
    assert net.config == source.config
    assert not net.training
    assert torch.equal(net(x), source(x))
    plain = {n.removeprefix(prefix): value for n, value in tensors(source).items()}
    published = restore(kind.network, {**plain, f"{kind.network.ignored[0]}bias": torch.ones(1)})
    expected = {**source.config, **({"stride_on": "reduce"} if kind is V2 else {})}
    assert published.config == expected
    assert all(torch.equal(v, source.state_dict()[n]) for n, v in tensors(published).items())
    with pytest.raises(InputError, match="missing"):
        restore(kind.network, {n: v for n, v in state.items() if not kind.network.is_head(n[7:])})


@both
@pytest.mark.parametrize(
    "change",
    [
        {"blocks": [10**7] * 4},
        {"stride_on": "both"},
        {"stride": 7},
        {"stride": []},
    ],
)
def test_odd_configs_are_refused(kind, change):
    source = small(kind)
    content = {"net": tensors(source), "config": {**source.config, **change}}
    with pytest.raises(InputError, match=r"config|stride"):
        restore(kind.network, content)
