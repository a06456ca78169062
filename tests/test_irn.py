"""IRN's network and losses: against gathering, and against the reference's numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from net import resnet50_irn
from net.inputs import normalise
from net.resnet50_irn import (
    LOSS_EPS,
    AffinityDisplacementLoss,
    EdgeDisplacement,
    fused_loss_sums,
    loss_sums,
    loss_terms,
    total_loss,
)
from tests.fill import filled_state
from tool.checkpoint import load_weights
from tool.errors import InputError
from tool.indexing import PathIndex, affinity_labels, search_paths

PARITY = Path(__file__).with_name("parity")
TOLERANCE = 1e-5


def reference(name: str) -> dict[str, torch.Tensor]:
    with np.load(PARITY / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double().reshape(value.shape)
    return float((value.detach().double() - expected).abs().max() / expected.abs().max())


def narrow(cls=AffinityDisplacementLoss, **options):
    """A filled network of width 4."""
    if cls is AffinityDisplacementLoss:
        options["path_index"] = PathIndex(3, (16, 16))
    net = cls(**options, pretrained=None, width=4)
    load_weights(net, filled_state(net))
    return net


def batch(seed: int = 0, size: tuple[int, int, int] = (3, 7, 9)):
    """Edge logits, displacements and labels, float64."""
    generator = torch.Generator().manual_seed(seed)
    b, h, w = size
    edge = torch.randn(b, 1, h, w, generator=generator, dtype=torch.float64)
    displacement = 3 * torch.randn(b, 2, h, w, generator=generator, dtype=torch.float64)
    known = torch.tensor([0, 0, 1, 2, 255], dtype=torch.uint8)
    label = known[torch.randint(5, (b, h, w), generator=generator)]
    return edge.requires_grad_(), displacement.requires_grad_(), label


def plain_losses(edge, displacement, radius):
    """The four losses of every pair, by gathering with index tensors."""
    index = PathIndex(radius, edge.shape[2:])
    width = edge.shape[3]
    probability, displacement = edge.sigmoid().flatten(1), displacement.flatten(2)
    affinity = []
    for path in search_paths(radius):
        steps = torch.tensor([y * width + x for y, x in path.cells])
        affinity.append(1 - probability[:, index.src_indices + steps[:, None]].amax(1))
    p = torch.stack(affinity, 1)  # (B, O, n)
    pairs = displacement[:, :, None, index.src_indices] - displacement[:, :, index.dst_indices]
    target = index.search_dst.T[None, :, :, None]
    positive, negative = -torch.log(p + LOSS_EPS), -torch.log(1 + LOSS_EPS - p)
    return positive, negative, (pairs - target).abs(), pairs.abs()


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, inputs))


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
    net = AffinityDisplacementLoss(PathIndex(10, (24, 24)), pretrained=None)
    load_weights(net, filled_state(net))
    return net


def test_parity_forward_losses_and_gradient(full):
    ref = reference("irn_forward")
    img = normalise(ref["images"].movedim(-1, -3))
    edge, displacement = full.train()(img, False)
    assert relative(edge, ref["edge_logits"]) < TOLERANCE
    assert relative(displacement, ref["displacement"]) < TOLERANCE
    label = ref["reduced_label"]
    maps = loss_sums(full(img, True), affinity_labels(label, 21, 10))
    for sums in (maps, fused_loss_sums(edge, displacement, label, 21, 10)):
        terms = loss_terms(*sums)
        loss = total_loss(terms)
        full.zero_grad()
        loss.backward()
        assert relative(torch.cat([terms, loss[None]]), ref["losses"]) < TOLERANCE
        learning = [p for group in full.trainable_groups(1, 0) for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in learning]).norm()
        assert relative(norm, ref["grad_norm"]) < TOLERANCE


def test_parity_edge(full):
    ref = reference("irn_edge")
    net = EdgeDisplacement(width=64).eval()
    load_weights(net, full.state_dict())
    img = normalise(ref["image"].permute(2, 0, 1))
    with torch.no_grad():
        edge, displacement = net(torch.stack([img, img.flip(2)]))
    assert relative(edge, ref["edge"]) < TOLERANCE
    assert relative(displacement, ref["displacement"]) < TOLERANCE


@pytest.mark.parametrize("cached", [1, 150, 1 << 14])  # pictures at once: 1, 1 or 2, all
@pytest.mark.parametrize(("radius", "size"), [(3, (3, 7, 9)), (5, (2, 8, 13)), (10, (1, 12, 20))])
def test_all_losses_and_gradients_against_gathering(radius, size, cached, monkeypatch):
    monkeypatch.setattr(resnet50_irn, "CACHED", cached)
    edge, displacement, label = batch(size=size)
    weight = torch.arange(1, 6, dtype=torch.float64)
    labels = affinity_labels(label, 3, radius)
    expected = loss_sums(plain_losses(edge, displacement, radius), labels)
    fused = fused_loss_sums(edge, displacement, label, 3, radius)
    assert torch.equal(fused[1], expected[1])
    assert (fused[1] > 0).all()
    assert relative(fused[0], expected[0].detach()) < 1e-12
    plain_grads = gradients((expected[0] * weight).sum(), edge, displacement)
    for grad, plain in zip(
        gradients((fused[0] * weight).sum(), edge, displacement), plain_grads, strict=True
    ):
        torch.testing.assert_close(grad, plain, rtol=1e-10, atol=1e-10)


def test_without_displacements_edges_get_the_same_sums_and_gradient():
    edge, displacement, label = batch(size=(3, 7, 9))
    both, alone = (fused_loss_sums(edge, d, label, 3, 3) for d in (displacement, None))
    assert torch.equal(alone[1], both[1])
    assert relative(alone[0][:3], both[0][:3].detach()) < 1e-12
    assert not alone[0][3:].any()
    losses = [total_loss(loss_terms(*sums)) for sums in (both, alone)]
    assert (losses[0] - losses[1]).item() > 0.1
    of_both, of_alone = (gradients(loss, edge)[0] for loss in losses)
    assert torch.equal(of_alone, of_both)
    assert of_alone.any()


def test_losses_of_every_pair_against_gathering(monkeypatch):
    net = narrow()
    edge, displacement, _ = batch()
    edge, displacement = edge.detach().float(), displacement.detach().float()
    monkeypatch.setattr(net, "resnet50", torch.nn.Identity())
    monkeypatch.setattr(net, "edge_logits", lambda features: edge)
    monkeypatch.setattr(net, "displacements", lambda features: displacement)
    losses = net(torch.zeros(1), True)
    expected = plain_losses(edge.double(), displacement.double(), 3)
    for loss, plain in zip(losses, expected, strict=True):
        assert loss.shape == plain.shape
        torch.testing.assert_close(loss.double(), plain, rtol=1e-4, atol=1e-5)


def test_terms_by_hand():
    terms = loss_terms(torch.tensor([2.0, 6, 5, 8, 3]), torch.tensor([2.0, 2, 1, 4, 1]))
    torch.testing.assert_close(terms, torch.tensor([2.0, 5, 2, 3]), rtol=1e-4, atol=0)
    assert float(total_loss(terms)) == pytest.approx(6, rel=1e-4)


def test_two_processes_learn_from_the_ratios_of_the_whole_batch():
    edge, displacement, label = batch(size=(4, 7, 9))
    label[2:] = torch.where(label[2:] == 1, 255, label[2:])  # unequal shares
    whole = total_loss(loss_terms(*fused_loss_sums(edge, displacement, label, 3, 3)))
    expected = gradients(whole, edge, displacement)
    halves = [slice(0, 2), slice(2, 4)]
    sums = [fused_loss_sums(edge[h], displacement[h], label[h], 3, 3) for h in halves]
    denominators = sums[0][1] + sums[1][1]
    local = [total_loss(loss_terms(2 * numerators, denominators)) for numerators, _ in sums]
    averaged = gradients((local[0] + local[1]) / 2, edge, displacement)
    for grad, plain in zip(averaged, expected, strict=True):
        torch.testing.assert_close(grad, plain, rtol=1e-10, atol=1e-12)
    naive = sum(total_loss(loss_terms(*part)) for part in sums) / 2
    assert float((naive - whole).detach().abs()) > 1e-3


def test_nothing_known_is_no_loss():
    edge, displacement, label = batch()
    numerators, denominators = fused_loss_sums(
        edge, displacement, torch.full_like(label, 255), 3, 3
    )
    loss = total_loss(loss_terms(numerators, denominators))
    assert float(loss.detach()) == 0
    assert not denominators.any()
    assert not any(grad.any() for grad in gradients(loss, edge, displacement))


def test_saturated_edges_stay_finite():
    edge, displacement, label = batch()
    for extreme in (200.0, -200.0):
        logits = torch.full_like(edge, extreme).detach().float().requires_grad_()
        loss = total_loss(loss_terms(*fused_loss_sums(logits, displacement.float(), label, 3, 3)))
        assert loss.isfinite()
        assert gradients(loss, logits)[0].isfinite().all()


def test_small_window_is_refused():
    edge, displacement, label = batch(size=(1, 9, 30))
    with pytest.raises(InputError, match="larger window"):
        fused_loss_sums(edge, displacement, label, 3, 10)


def test_only_the_branches_learn():
    net = narrow().train()
    before = {name: value.clone() for name, value in net.resnet50.state_dict().items()}
    torch.stack([loss.mean() for loss in net(torch.randn(2, 3, 64, 64), True)]).sum().backward()
    edge, displacement = (group["params"] for group in net.trainable_groups(1, 0))
    learning = {id(p) for p in edge + displacement}
    for name, parameter in net.named_parameters():
        branch = name.startswith("fc_")
        assert parameter.requires_grad == branch, name
        assert (id(parameter) in learning) == branch, name
        assert (parameter.grad is not None) == branch, name
    assert {name.split(".")[0] for name, p in net.named_parameters() if id(p) in map(id, edge)} == {
        f"fc_edge{number}" for number in range(1, 7)
    }
    assert all(torch.equal(before[name], v) for name, v in net.resnet50.state_dict().items())


def test_mean_shift_is_for_evaluation():
    net, img = narrow(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        raw, shifted = net.train()(img)[1], net.eval()(img)[1]
    mean = net.mean_shift.running_mean
    assert mean.abs().min() > 0
    torch.testing.assert_close(raw - shifted, mean[None, :, None, None].expand_as(raw))


def test_published_layout_loads_and_indices_are_ignored():
    source = narrow()
    state = published(source)
    for target in (
        narrow(EdgeDisplacement),
        AffinityDisplacementLoss(PathIndex(3, (9, 9)), None, 4),
    ):
        with torch.no_grad():
            for value in (*target.parameters(), *target.buffers()):
                value.zero_()
        load_weights(target, {f"module.{name}": value for name, value in state.items()})
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize("kept", ["resnet50.", "stage", "backbone."])
def test_one_set_of_aliases_is_enough(kept):
    source, target = narrow(), narrow(EdgeDisplacement)
    branches = ("edge_layers.", "dp_layers.")
    state = {name: v for name, v in published(source).items() if name.startswith((kept, *branches))}
    load_weights(target, state)
    with pytest.raises(InputError, match="left over: fc_edge7"):
        load_weights(target, {**state, "fc_edge7.weight": torch.zeros(1)})


def test_every_tensor_has_one_name():
    state = narrow().state_dict()
    pointers = [value.data_ptr() for value in state.values()]
    assert len(pointers) == len(set(pointers))
    assert {name.split(".")[0] for name in state} == {
        *("resnet50", "mean_shift"),
        *(f"fc_edge{number}" for number in range(1, 7)),
        *(f"fc_dp{number}" for number in range(1, 8)),
    }


@pytest.mark.parametrize("size", [(1, 1), (7, 130), (33, 17), (64, 64), (81, 40)])
def test_pictures_of_any_size_are_padded_and_never_cut(size):
    net = narrow(EdgeDisplacement, crop_size=64).eval()
    img = torch.randn(3, *size)
    pair = torch.stack([img, img.flip(2)])
    padded = pair.new_zeros(2, 3, *(max(64, -(-side // 16) * 16) for side in size))
    padded[:, :, : size[0], : size[1]] = pair
    h, w = ((side - 1) // 4 + 1 for side in size)
    with torch.no_grad():
        edge, displacement = net(pair)
        alone = net.edge(pair)
        features = net.resnet50(padded)
        logits = net.edge_logits(features)[:, :, :h, :w]
        whole = net.displacements(features)
    assert edge.shape == (1, h, w)
    assert displacement.shape == (2, h, w)
    assert torch.equal(alone, edge)
    expected = torch.sigmoid((logits[0] + logits[1].flip(2)) / 2)
    torch.testing.assert_close(edge, expected)
    torch.testing.assert_close(displacement, whole[0, :, :h, :w], rtol=1e-4, atol=1e-4)


def test_bf16_keeps_losses_in_float32():
    net = narrow()
    with torch.autocast("cpu", torch.bfloat16):
        img = torch.randn(1, 3, 64, 64)
        losses = net(img, True)
        label = torch.zeros(1, 16, 16, dtype=torch.uint8)
        sums = fused_loss_sums(*net(img), label, 3, 3)
        total_loss(loss_terms(*sums)).backward()
    assert {value.dtype for value in (*losses, *sums)} == {torch.float32}
    assert net.fc_edge1[0].weight.grad.isfinite().all()
