"""IRN's network: its parts, its names, and the released code's numbers."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from tests import reference
from tests.fill import filled
from tests.reference import parity, relative
from tool.checkpoint import load_weights
from tool.errors import InputError
from train_irn import top_left_windows

TOLERANCE = 1e-5


def narrow(cls=AffinityDisplacementLoss, **options):
    """A filled network of width 4."""
    return filled(cls(**options, pretrained=None, width=4))


def published(net) -> dict[str, torch.Tensor]:
    """Lay out weights as the released code saves them: every tensor under all its names."""
    state = {"path_indices0": torch.zeros(2, 2, 9), "path_indices12": torch.zeros(3)}
    state["disp_target"] = torch.zeros(1, 2, 5, 1)
    for name, value in net.state_dict().items():
        state[name] = value
        first, rest = name.split(".", 1)
        if first == "resnet50":
            if rest.startswith("layer"):
                number, alias = int(rest[5]), f"0.{rest[7:]}"
            else:
                module, leaf = rest.split(".")
                number, alias = 0, f"{['conv1', 'bn1'].index(module)}.{leaf}"
            state[f"backbone.{number}.{alias}"] = state[f"stage{number + 1}.{alias}"] = value
        elif match := re.match(r"fc_(edge|dp)(\d)$", first):
            state[f"{match[1]}_layers.{int(match[2]) - 1}.{rest}"] = value
        else:
            state["fc_dp7.4.running_mean"] = state["dp_layers.6.4.running_mean"] = value
    return state


@pytest.fixture(scope="module")
def full():
    """The published size with the reference's weights."""
    return filled(AffinityDisplacementLoss(pretrained=None))


def test_parity_forward_losses_and_gradient(full):
    ref = parity("irn_forward")
    img = full.prepare(ref["images"].movedim(-1, -3))
    edge, displacement = full.train()(img)
    assert relative(edge, ref["edge_logits"]) < TOLERANCE
    assert relative(displacement, ref["displacement"]) < TOLERANCE
    label = ref["reduced_label"]
    of_every_pair = reference.loss_sums(edge, displacement, label, 21, 10)
    for sums in (of_every_pair, loss_sums(edge, displacement, label, 21, 10)):
        terms = loss_terms(*sums)
        loss = total_loss(terms)
        full.zero_grad()
        loss.backward(retain_graph=True)
        assert relative(torch.cat([terms, loss[None]]), ref["losses"]) < TOLERANCE
        learning = [p for group in full.trainable_groups(1, 0) for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in learning]).norm()
        assert relative(norm, ref["grad_norm"]) < TOLERANCE


def test_parity_edge(full):
    ref = parity("irn_edge")
    net = EdgeDisplacement(width=64).eval()
    load_weights(net, full.state_dict())
    img = net.prepare(ref["image"].permute(2, 0, 1))
    with torch.no_grad():
        edge, displacement = net(torch.stack([img, img.flip(2)]))
    assert relative(edge, ref["edge"]) < TOLERANCE
    assert relative(displacement, ref["displacement"]) < TOLERANCE


def test_only_the_branches_learn():
    net = narrow().train()
    before = {name: value.clone() for name, value in net.resnet50.state_dict().items()}
    torch.stack([out.abs().mean() for out in net(torch.randn(2, 3, 64, 64))]).sum().backward()
    edge, displacement = (set(group["params"]) for group in net.trainable_groups(0.1, 1e-4))
    for name, parameter in net.named_parameters():
        assert (parameter in edge) == name.startswith("fc_edge"), name
        assert (parameter in displacement) == name.startswith("fc_dp"), name
        learns = {parameter.requires_grad, parameter.grad is not None}
        assert learns == {name.startswith("fc_")}, name
    torch.testing.assert_close(net.resnet50.state_dict(), before, rtol=0, atol=0)


def test_groups_of_the_optimiser():
    groups = narrow().trainable_groups(0.1, 1e-4)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    assert settings == [
        {"name": "edges", "lr": 0.1, "lr_scale": 1, "weight_decay": 1e-4},
        {"name": "displacements", "lr": 1.0, "lr_scale": 10, "weight_decay": 1e-4},
    ]
    alone, empty = AffinityDisplacementLoss(None, 4, edge_only=True).trainable_groups(0.1, 1e-4)
    assert (alone["name"], empty["params"]) == ("edges", [])


def test_mean_shift_is_for_evaluation():
    net, img = narrow(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        raw, shifted = net.train()(img)[1], net.eval()(img)[1]
    mean = net.mean_shift.running_mean
    assert mean.abs().min() > 0
    torch.testing.assert_close(raw - shifted, mean[None, :, None, None].expand_as(raw))


@pytest.mark.parametrize(("limit", "sides"), [(2400, [40, 60]), (600, [20, 30])])
def test_the_mean_displacement_is_of_pictures_as_large_as_those_of_the_training(limit, sides):
    dataset = SimpleNamespace(read=lambda _: Image.new("RGB", (60, 40), "white"))
    windows, _ = top_left_windows(dataset, 64, limit, ["a", "b"])
    expected = np.zeros((2, 3, 64, 64), np.uint8)
    expected[..., : sides[0], : sides[1]] = 255
    assert np.array_equal(windows, expected)


@pytest.mark.parametrize("kept", ["", "resnet50.", "stage", "backbone."])
def test_published_layout_loads_whole_and_by_one_set_of_aliases(kept):
    source, target = narrow(), AffinityDisplacementLoss(None, 4)
    branches = ("edge_layers.", "dp_layers.", "path_indices")
    state = {n: v for n, v in published(source).items() if n.startswith((kept, *branches))}
    load_weights(target, {f"module.{name}": value for name, value in state.items()})
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    with pytest.raises(InputError, match="left over: fc_edge7"):
        load_weights(target, {**state, "fc_edge7.weight": torch.zeros(1)})


@pytest.mark.parametrize("size", [(1, 1), (7, 130), (81, 40)])
def test_pictures_of_any_size_are_padded_and_never_cut(size):
    net = narrow(EdgeDisplacement, crop_size=64).eval()
    img = torch.randn(3, *size)
    pair = torch.stack([img, img.flip(2)])
    padded = pair.new_zeros(2, 3, *(max(64, -(-side // 16) * 16) for side in size))
    padded[:, :, : size[0], : size[1]] = pair
    h, w = ((side - 1) // 4 + 1 for side in size)
    with torch.no_grad():
        edge, displacement = net(pair)
        features = net.resnet50(padded)
        logits = net.edge_logits(features)[:, :, :h, :w]
        whole = net.displacements(features)[0, :, :h, :w]
        assert torch.equal(net.edge(pair), edge)
    torch.testing.assert_close(edge, torch.sigmoid((logits[0] + logits[1].flip(2)) / 2))
    torch.testing.assert_close(displacement, whole, rtol=1e-4, atol=1e-4)


def test_bf16_keeps_losses_in_float32():
    net = narrow()
    with torch.autocast("cpu", torch.bfloat16):
        img = torch.randn(1, 3, 64, 64)
        label = torch.zeros(1, 16, 16, dtype=torch.uint8)
        sums = loss_sums(*net(img), label, 3, 3)
        total_loss(loss_terms(*sums)).backward()
    assert {value.dtype for value in sums} == {torch.float32}
    assert net.fc_edge1[0].weight.grad.isfinite().all()
