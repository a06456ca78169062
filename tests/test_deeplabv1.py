"""DeepLab v1 on ResNet-38: against the reference's numbers, and files in the published names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from net.deeplabv1_resnet38 import (
    BatchDropout,
    Block,
    DeepLabV1_ResNet38,
    WideBottleneck,
)
from net.segmentation import build
from tests.fill import filled, filled_state, tensors
from tests.mxnet import write_params
from tests.reference import parity, relative
from tool import checkpoint
from tool.errors import InputError

TOLERANCE = 1e-5
SMALL = (2, 1, 2, 2)
is_head = DeepLabV1_ResNet38.is_head


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def full_size() -> nn.Module:
    with torch.device("meta"):  # nothing is drawn or stored
        return DeepLabV1_ResNet38(21)


def small(num_classes: int = 3) -> DeepLabV1_ResNet38:
    return filled(DeepLabV1_ResNet38(num_classes, width=2, blocks=SMALL), prefix="")


LEAVES = {"bias": "beta", "weight": "gamma"}
LEAVES |= {"running_mean": "moving_mean", "running_var": "moving_var"}


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
        leaf = LEAVES[rest[-1]]
        if block == "bn7":
            layer = "bn7"
        else:
            stage, _, number = block[1:].partition("_")
            kind, branch = rest[0].split("_")
            kind, leaf = ("bn", leaf) if kind == "bn" else ("res", "weight")
            layer = f"{kind}{stage}{'b' + number if number else 'a'}_{branch}"
        arrays[f"{'aux' if 'moving' in leaf else 'arg'}:{layer}_{leaf}"] = value.numpy()
    classifier = {"arg:linear1000_weight": np.zeros((7, 128), np.float32)}
    return {**arrays, **classifier, "arg:linear1000_bias": np.zeros(7, np.float32)}


def test_logits_equal_the_reference():
    ref = parity("deeplabv1_resnet38")
    net = full_size()
    state = filled_state(net, prefix="")
    net = net.to_empty(device="cpu").eval()
    checkpoint.load_weights(net, state)
    x = net.prepare(ref["image"].permute(2, 0, 1)[None])
    with torch.no_grad():
        logits = net(x)
    assert logits.shape == (1, 21, 81, 97)
    assert relative(logits[:, :, ::4, ::4], ref["logits_every_4th_pixel"]) < TOLERANCE


def test_strides_and_dilations():
    settings = {
        name: (module.stride[0], module.dilation[0])
        for name, module in full_size().backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3
    }
    special = {f"b{stage}.conv_branch2a": (2, 1) for stage in (2, 3, 4)}
    for block in ("b5_1", "b5_2"):
        special |= {f"{block}.conv_branch2a": (1, 2), f"{block}.conv_branch2b1": (1, 2)}
    special |= {"b5.conv_branch2b1": (1, 2)}
    special |= {"b6.conv_branch2b1": (1, 4), "b7.conv_branch2b1": (1, 4)}
    assert {name: value for name, value in settings.items() if value != (1, 1)} == special


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
    dropout, x = BatchDropout(0.3, channels=True), torch.ones(1, 2000, 3, 3)
    out = dropout(x)
    dropped = (out == 0).all(3).all(2)[0]
    assert 0.25 < float(dropped.float().mean()) < 0.35
    torch.testing.assert_close(out[:, ~dropped], x[:, ~dropped] / 0.7)
    assert torch.equal(dropout.eval()(x), x)
    block = WideBottleneck(8, 16, dilation=4, dropout=1 - 1e-9)  # nothing but the shortcut is left
    x = torch.randn(1, 8, 3, 3)
    assert torch.equal(block(x), block.conv_branch1(F.relu(block.bn_branch2a(x))))


def test_dropout_rates():
    net = full_size()
    rates = {n: m.p for n, m in net.named_modules() if isinstance(m, BatchDropout)}
    expected = {f"backbone.b6.dropout_2b{i}": 0.3 for i in (1, 2)}
    expected |= {f"backbone.b7.dropout_2b{i}": 0.5 for i in (1, 2)}
    assert rates == {**expected, "dropout": 0.5}


def test_normalisation_uses_the_batch_and_learns_only_statistics():
    net = small().train()
    x = torch.randn(2, 3, 32, 32)
    norm = net.backbone.b2.bn_branch2a
    old = norm.running_mean.clone()
    mean = net.backbone.conv1a(x).mean((0, 2, 3)).detach()
    net(x)
    torch.testing.assert_close(norm.running_mean, old + 3e-4 * (mean - old))


def test_convolutions_start_by_fan_out():
    torch.manual_seed(0)
    net = DeepLabV1_ResNet38(3, width=8, blocks=(1, 1, 1, 1))
    for conv in (net.backbone.b4.conv_branch2a, net.backbone.b4.conv_branch1, net.conv_fov):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not net.cls_conv.bias.any()


def test_predict_resizes_between_the_centres_of_corners():
    net = small().eval()
    x = net.prepare(torch.randint(0, 256, (1, 3, 17, 9), dtype=torch.uint8))
    with torch.no_grad():
        assert torch.equal(net.predict(x), net(x))
        torch.testing.assert_close(net.predict(x, (33, 17))[..., ::2, ::2], net(x))


# ---------------------------------------------------------------------------- weights


def test_the_mxnet_file_initialises_the_backbone(tmp_path):
    source = small()
    arrays = mxnet_names(tensors(source))
    published = {"arg:res2b1_branch2a_weight", "aux:bn5a_branch2b1_moving_var", "arg:bn7_gamma"}
    assert published < set(arrays)
    write_params(tmp_path / "rna.params", arrays)
    net, record = build(DeepLabV1_ResNet38, 21, tmp_path / "rna.params")
    assert net.config == {"num_classes": 21, "width": 2, "blocks": list(SMALL)}
    assert record["fresh"] == "head"
    for name, value in tensors(net).items():
        if not is_head(name):
            assert torch.equal(value, source.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("aux:bn7_moving_var"), "missing: backbone.bn7.running_var"),
        (lambda a: a.pop("arg:conv1a_weight"), "missing: backbone.conv1a.weight"),
    ],
)
def test_mxnet_files_that_do_not_fit_are_named(tmp_path, change, message):
    arrays = mxnet_names(tensors(small()))
    change(arrays)
    write_params(tmp_path / "rna.params", arrays)
    with pytest.raises(InputError, match=rf"rna\.params.*{message}"):
        build(DeepLabV1_ResNet38, 3, tmp_path / "rna.params")


def test_imagenet_says_where():
    with pytest.raises(InputError, match=r"ilsvrc-cls_rna-a1_cls1000_ep-0001\.params"):
        build(DeepLabV1_ResNet38, 3, "imagenet")


def test_fewer_blocks_are_another_network_unless_their_number_is_given(tmp_path):
    arrays = mxnet_names(tensors(small()))
    removed = [name for name in arrays if "res2b1_" in name or "bn2b1_" in name]
    write_params(tmp_path / "rna.params", {n: a for n, a in arrays.items() if n not in removed})
    net, _ = build(DeepLabV1_ResNet38, 3, tmp_path / "rna.params")
    assert net.config["blocks"] == [1, *SMALL[1:]]
    with pytest.raises(InputError, match=r"rna\.params.*missing: backbone\.b2_1\."):
        build(DeepLabV1_ResNet38, 3, tmp_path / "rna.params", blocks=SMALL)
